#include <stdlib.h>
#include "suites.h"

int main(void)
{
    Suite *s = suite_create("bench");
    suite_add_tcase(s, reader_case());
    suite_add_tcase(s, numbers_case());
    suite_add_tcase(s, load_case());
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
