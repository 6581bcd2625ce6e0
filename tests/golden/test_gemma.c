/* A real quantised model, where it has been fetched (tools/fetch-model): mean negative log-likelihood of two
 * texts and greedy continuations against the same file dequantised and run in fp32. Skipped (77) without the
 * file. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common.h"
#include "log.h"
#include "rig.h"

static char path[4096];
static cJSON *golden;
static struct rig rig;

static bool find_model(void)
{
    const char *given = getenv("INFERD_TEST_GEMMA"), *home = getenv("HOME");
    if (given)
        snprintf(path, sizeof path, "%s", given);
    else
        snprintf(path, sizeof path, "%s/.cache/inferd/models/gemma-3-270m-q4_k_m.gguf", home ? home : "");
    return !access(path, R_OK);
}

static void setup(void)
{
    struct err e = {0};
    struct backend *be = NULL, *next;
    for (int i = 1; (next = rig_backend(i)); i++)
        be = next; /* the best level; the reference is too slow here */
    ck_assert_msg(!json_load(GOLDEN_DATA "/gemma-3-270m-q4_k_m.json", 16u << 20, &golden, &e), "%s", e.msg);
    ck_assert_msg(!rig_open(&rig, path, be, &(struct model_options){0}, 1, 1040, &e), "%s", e.msg);
}

static void teardown(void)
{
    rig_close(&rig);
    cJSON_Delete(golden);
}

START_TEST(test_nll)
{
    const cJSON *text;
    struct err e = {0};
    float *logits;
    int seq = 0, max = runner_logits_max(rig.r), vocab = rig.m->arch.vocab;
    cJSON_ArrayForEach(text, json_get(golden, "ppl"))
    {
        int32_t ids[1024];
        int n = golden_ids(json_get(text, "ids"), ids, 1024);
        double sum = 0;
        rig_start(&rig, 0, ids, n);
        for (int at = 0; at < n; at += max) {
            ck_assert_msg(!rig_step(&rig, &seq, 1, max, max, &e), "%s", e.msg);
            int rows = n - at < max ? n - at : max;
            ck_assert_msg(!runner_logits(rig.r, 0, rows, &logits, &e), "%s", e.msg);
            for (int i = 0; i < rows && at + i + 1 < n; i++)
                sum -= log_prob(logits + (size_t)i * vocab, vocab, ids[at + i + 1]);
        }
        double nll = sum / (n - 1), want = json_get(text, "nll")->valuedouble;
        printf("%s: nll %.4f, reference %.4f\n", json_get_cstr(text, "file"), nll, want);
        ck_assert_msg(fabs(nll - want) < 0.02, "%s: nll %g, not %g", json_get_cstr(text, "file"), nll, want);
    }
}
END_TEST

START_TEST(test_greedy)
{
    const cJSON *p;
    struct err e = {0};
    float *logits;
    int seq = 0, vocab = rig.m->arch.vocab;
    cJSON_ArrayForEach(p, json_get(golden, "prompts"))
    {
        int32_t ids[512];
        int n = golden_ids(json_get(p, "ids"), ids, 512), steps = cJSON_GetArraySize(json_get(p, "greedy"));
        rig_start(&rig, 0, ids, n);
        for (int t = 0; t < steps; t++) {
            ck_assert_msg(!rig_step(&rig, &seq, 1, 512, 1, &e), "%s", e.msg);
            ck_assert_msg(!runner_logits(rig.r, 0, 1, &logits, &e), "%s", e.msg);
            int got = argmax(logits, vocab), want = (int)golden_num(p, "greedy", t);
            double gap = golden_num(p, "gap", t);
            ck_assert_msg(got == want || gap <= 0.6, "'%s', token %d: %d, not %d (gap %g)",
                          json_get_cstr(p, "text"), t, got, want, gap);
            rig_push(&rig, 0, want); /* stay on the reference's path */
        }
    }
}
END_TEST

int main(void)
{
    log_setup(LOG_WARN, LOG_TEXT);
    if (!find_model()) return 77;
    Suite *s = suite_create("gemma");
    TCase *t = tcase_create("gemma-3-270m");
    tcase_set_timeout(t, 900);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_nll);
    tcase_add_test(t, test_greedy);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
