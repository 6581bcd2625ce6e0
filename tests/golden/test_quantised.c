/* Tiny models quantised at load: their predictions stay near the original's, and a model from the cache is
 * the one that was quantised without it. On the best level of this machine. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common.h"
#include "log.h"
#include "pool.h"
#include "recipe.h"
#include "rig.h"

#define LEN 64
static const char *const names[] = {"llama3", "gemma3", "phi3", "qwen2"};

/* Logits [LEN][vocab] of a fixed text; the caller frees them. */
static float *logits_of(const char *name, const char *recipe, const char *cache, int threads, int *vocab)
{
    char path[512];
    struct err e = {0};
    struct rig g;
    struct pool *pool = NULL;
    struct backend *be = NULL, *next;
    int32_t ids[LEN];
    int seq = 0;
    float *x;
    for (int i = 0; (next = rig_backend(i)); i++) be = next;
    snprintf(path, sizeof path, "%s/%s", GOLDEN_DATA, name);
    ck_assert(!pool_open(threads, &pool, &e));
    const struct model_options o = {.quantization = recipe, .quant_cache = cache, .pool = pool};
    ck_assert_msg(!rig_open(&g, path, be, &o, 1, LEN, &e), "%s: %s", name, e.msg);
    *vocab = g.m->arch.vocab;
    for (int i = 0; i < LEN; i++) ids[i] = i * 37 % (*vocab - 10) + 5;
    rig_start(&g, 0, ids, LEN);
    ck_assert_msg(!rig_step(&g, &seq, 1, LEN, LEN, &e), "%s", e.msg);
    float *all = malloc(sizeof *all * LEN * (size_t)*vocab);
    int max = runner_logits_max(g.r);
    for (int at = 0; at < LEN; at += max) {
        int n = LEN - at < max ? LEN - at : max;
        ck_assert_msg(!runner_logits(g.r, at, n, &x, &e), "%s", e.msg);
        memcpy(all + (size_t)at * *vocab, x, sizeof *x * (size_t)n * *vocab);
    }
    rig_close(&g);
    pool_close(pool);
    return all;
}

/* Error of the logits relative to their spread. Random weights give such sharp predictions that a divergence
 * would say more of that than of the error. */
static double nmse(const float *p, const float *q, int n)
{
    double mean = 0, err = 0, var = 0;
    for (int i = 0; i < n; i++) mean += (double)p[i] / n;
    for (int i = 0; i < n; i++) err += pow((double)p[i] - q[i], 2), var += pow(p[i] - mean, 2);
    return err / var;
}

START_TEST(test_near)
{
    int vocab;
    float *f = logits_of(names[_i], NULL, NULL, 1, &vocab), *q8 = logits_of(names[_i], "q8", NULL, 2, &vocab),
          *q4 = logits_of(names[_i], "q4", NULL, 2, &vocab);
    double e8 = nmse(f, q8, LEN * vocab), e4 = nmse(f, q4, LEN * vocab);
    printf("%s: NMSE %.2g (q8), %.2g (q4)\n", names[_i], e8, e4);
    ck_assert_msg(e8 > 0 && e8 < 0.02, "%s: q8 %g", names[_i], e8);
    ck_assert_msg(e4 > e8 && e4 < 0.3, "%s: q4 %g", names[_i], e4);
    free(f);
    free(q8);
    free(q4);
}
END_TEST

START_TEST(test_cached_is_same)
{
    char dir[] = "/tmp/inferd-golden-XXXXXX", line[64];
    int vocab;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    float *a = logits_of(names[_i], "q4", NULL, 1, &vocab), *b = logits_of(names[_i], "q4", dir, 2, &vocab),
          *c = logits_of(names[_i], "q4", dir, 1, &vocab);
    ck_assert(!memcmp(a, b, sizeof *a * LEN * (size_t)vocab));
    ck_assert(!memcmp(a, c, sizeof *a * LEN * (size_t)vocab));
    free(a);
    free(b);
    free(c);
    snprintf(line, sizeof line, "rm -r %s", dir);
    ck_assert_int_eq(system(line), 0);
}
END_TEST

/* The mixture of real shapes: Gemma 3 270M, whose table is most of it, Qwen2.5 0.5B, Llama 3.2 1B. */
START_TEST(test_mixture)
{
    static const struct {
        int layers, dim, heads, kv_heads, head_dim, ffn, vocab;
        enum dtype table, q, v, down;
    } cases[] = {{18, 640, 4, 1, 256, 2048, 262144, DT_Q5_1, DT_Q8_0, DT_Q8_0, DT_Q8_0},
                 {24, 896, 14, 2, 64, 4864, 151936, DT_Q8_0, DT_Q5_0, DT_Q8_0, DT_Q6_K},
                 {16, 2048, 32, 8, 64, 8192, 128256, DT_Q6_K, DT_Q4_K, DT_Q6_K, DT_Q6_K}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct arch a = {.n_layer = cases[i].layers,
                               .dim = cases[i].dim,
                               .n_head = cases[i].heads,
                               .n_kv_head = cases[i].kv_heads,
                               .head_dim = cases[i].head_dim,
                               .ffn_dim = cases[i].ffn,
                               .vocab = cases[i].vocab,
                               .tied = true};
        ck_assert_int_eq(recipe_type(RECIPE_Q4, &a, "token_embd", -1, a.dim), cases[i].table);
        ck_assert_int_eq(recipe_type(RECIPE_Q4, &a, "attn_q", 0, a.dim), cases[i].q);
        ck_assert_int_eq(recipe_type(RECIPE_Q4, &a, "attn_v", 0, a.dim), cases[i].v);
        ck_assert_int_eq(recipe_type(RECIPE_Q4, &a, "ffn_down", 0, a.ffn_dim), cases[i].down);
        ck_assert_int_eq(recipe_type(RECIPE_Q8, &a, "attn_v", 0, a.dim), DT_Q8_0);
        ck_assert_int_eq(recipe_type(RECIPE_NONE, &a, "attn_v", 0, a.dim), DT_COUNT);
    }
}
END_TEST

int main(void)
{
    log_setup(LOG_WARN, LOG_TEXT);
    int n = (int)(sizeof names / sizeof *names);
    Suite *s = suite_create("quantised");
    TCase *t = tcase_create("quantised");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_near, 0, n);
    tcase_add_loop_test(t, test_cached_is_same, 0, n);
    tcase_add_test(t, test_mixture);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
