/* Tiny models of every architecture against what transformers computed, on every back end of this machine. */
#include <check.h>
#include "golden.h"
#include "log.h"

static const char *const names[] = {"llama2", "llama3", "qwen2", "qwen3", "mistral",
                                    "gemma2", "gemma3", "phi3",  "olmo2", "granite"};

START_TEST(test_model)
{
    struct backend *be;
    for (int i = 0; (be = rig_backend(i)); i++)
        for (int k = 0; k < GOLDEN_CACHES; k++) golden_check(names[_i], be, NULL, golden_limits(be, k));
}
END_TEST

int main(void)
{
    log_setup(LOG_WARN, LOG_TEXT);
    Suite *s = suite_create("golden");
    TCase *t = tcase_create("models");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_model, 0, (int)(sizeof names / sizeof *names));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
