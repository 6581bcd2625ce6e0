#include "weights_tests.h"

int main(void)
{
    Suite *s = suite_create("weights");
    suite_add_tcase(s, gguf_tests());
    suite_add_tcase(s, safetensors_tests());
    suite_add_tcase(s, store_tests());
    suite_add_tcase(s, quantize_tests());
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
