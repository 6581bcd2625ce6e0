/* Tiny models of every architecture against what transformers computed, on every back end of this machine. */
#include <check.h>
#include <string.h>
#include "golden.h"
#include "log.h"

static const char *const names[] = {"llama2", "llama3", "qwen2", "qwen3", "mistral",
                                    "gemma2", "gemma3", "phi3",  "olmo2", "granite"};

/* Int8 costs about three times as much as bfloat16 does here. What multiplies bfloat16, a device or a
 * processor's level of that name, rounds every input of a matrix to 8 bits. */
enum { CACHES = 2 };
static const struct golden_limits exact[CACHES] = {{DT_F32, 1e-3, 1e-4, 0.03}, {DT_I8, 1, 0.2, 0.5}},
                                  rounded[CACHES] = {{DT_BF16, 1, 0.1, 0.5}, {DT_I8, 1, 0.2, 0.5}},
                                  device[CACHES] = {{DT_BF16, 1, 0.1, 0.5}, {DT_E4M3, 4, 0.7, 2}};

static const struct golden_limits *limits_of(const struct backend *be)
{
    return be->mat == DT_BF16 ? device : strcmp(be->isa, "bf16") ? exact : rounded;
}

START_TEST(test_model)
{
    struct backend *be;
    for (int i = 0; (be = rig_backend(i)); i++)
        for (int k = 0; k < CACHES; k++) golden_check(names[_i], be, NULL, limits_of(be) + k);
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
