#include <check.h>
#include <math.h>
#include <stdlib.h>
#include "sampler.h"
#include "sampler_vec.h"
#include "suites.h"

static uint64_t rng_state = 12345;

static uint64_t rng(void) { return sampler_random(rng_state++, 7); }

static float rng_normal(void)
{
    double u = ((double)(rng() >> 11) + 1) * 0x1p-53, v = (double)(rng() >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* The textbook sampler: sorts everything, in double. keep[i] is set for the ids that may come; p[i] their
 * probability. */
struct ranked {
    double w;
    int id;
};

static int by_weight(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->w != y->w ? (x->w < y->w ? 1 : -1) : x->id - y->id;
}

static void naive(const float *x, int n, const struct gen_params *g, double *p)
{
    struct ranked *r = calloc((size_t)n, sizeof *r);
    double max = -INFINITY, total = 0, cum = 0, kept_mass = 0;
    for (int i = 0; i < n; i++) max = fmax(max, x[i]);
    for (int i = 0; i < n; i++) {
        r[i] = (struct ranked){exp((x[i] - max) / g->temperature), i};
        if (r[i].w < g->min_p) r[i].w = 0;
        p[i] = 0;
    }
    qsort(r, (size_t)n, sizeof *r, by_weight);
    int k = g->top_k > 0 && g->top_k < n ? g->top_k : n;
    for (int i = 0; i < k; i++) total += r[i].w;
    for (int i = 0; i < k && (!i || cum < (double)g->top_p * total); i++) {
        cum += r[i].w;
        p[r[i].id] = r[i].w;
    }
    for (int i = 0; i < n; i++) kept_mass += p[i];
    for (int i = 0; i < n; i++) p[i] /= kept_mass;
    free(r);
}

/* Draws at 2^11 evenly spaced random numbers measure the distribution to 2^-11 of probability. */
static void compare(struct sampler *s, const float *x, int n, const struct gen_params *g)
{
    enum { DRAWS = 1 << 11 };
    double *p = calloc((size_t)n, sizeof *p);
    int *seen = calloc((size_t)n, sizeof *seen);
    naive(x, n, g, p);
    for (int d = 0; d < DRAWS; d++) {
        int32_t t = sampler_pick(s, x, g, ((uint64_t)d << 53) + (1ull << 52));
        if (t < 0 || t >= n) ck_abort_msg("token %d of %d", t, n);
        seen[t]++;
    }
    for (int i = 0; i < n; i++)
        if ((p[i] == 0 && seen[i]) || fabs(seen[i] - p[i] * DRAWS) > 1.5)
            ck_abort_msg("id %d: %d draws, not %g (T %g, top_k %d, top_p %g, min_p %g)", i, seen[i],
                         p[i] * DRAWS, g->temperature, g->top_k, g->top_p, g->min_p);
    free(p);
    free(seen);
}

START_TEST(filters_equal_the_sorted_reference)
{
    static const int sizes[] = {1, 2, 17, 300, 700};
    static const int top_k[] = {0, 1, 3, 40, -1};
    static const float top_p[] = {1, 0.9f, 0.3f, 0.01f}, min_p[] = {0, 0.05f, 1};
    for (int z = 0; z < 5; z++) {
        int n = sizes[z];
        struct sampler *s;
        ck_assert_int_eq(sampler_open(n, 64, &s, NULL), 0);
        float *x = calloc((size_t)n, sizeof *x);
        for (int c = 0; c < 5 * 4 * 3; c++) {
            struct gen_params g;
            gen_params_init(&g);
            for (int i = 0; i < n; i++) x[i] = 3 * rng_normal();
            g.temperature = c % 2 ? 0.7f : 1.3f;
            g.top_k = top_k[c % 5];
            g.top_p = top_p[c / 5 % 4];
            g.min_p = min_p[c / 20];
            compare(s, x, n, &g);
        }
        free(x);
        sampler_close(s);
    }
}
END_TEST

/* Equal logits: what is cut is the highest ids. */
START_TEST(ties_go_to_low_ids)
{
    struct sampler *s;
    float x[600];
    struct gen_params g;
    ck_assert_int_eq(sampler_open(600, 64, &s, NULL), 0);
    gen_params_init(&g);
    for (int i = 0; i < 600; i++) x[i] = i == 50 ? 2.0f : 1.0f;
    g.top_k = 4; /* 50, 0, 1, 2 */
    for (uint64_t d = 0; d < 4096; d++) {
        int32_t t = sampler_pick(s, x, &g, d << 52);
        if (t != 50 && t > 2) ck_abort_msg("token %d", t);
    }
    g.top_k = 0;
    for (int i = 0; i < 600; i++) x[i] = 1;
    g.top_p = 0.25f; /* 150 of 600 */
    int last = 0;
    for (uint64_t d = 0; d < 4096; d++) {
        int32_t t = sampler_pick(s, x, &g, d << 52);
        if (t > last) last = t;
    }
    ck_assert_int_eq(last, 149);
    g.temperature = 0;
    ck_assert_int_eq(sampler_pick(s, x, &g, 0), 0);
    x[7] = 1.5f;
    x[599] = 1.5f;
    ck_assert_int_eq(sampler_pick(s, x, &g, 0), 7);
    sampler_close(s);
}
END_TEST

/* 100,000 seeded draws follow the softmax: chi-square over 20 tokens, 19 degrees of freedom, p > 1e-4. */
START_TEST(draws_follow_the_softmax)
{
    struct sampler *s;
    float x[20], y[20];
    struct gen_params g;
    double p[20], chi = 0;
    int seen[20] = {0}, n = 100000;
    gen_params_init(&g);
    ck_assert_int_eq(sampler_open(20, 64, &s, NULL), 0);
    for (int i = 0; i < 20; i++) x[i] = rng_normal();
    naive(x, 20, &g, p);
    for (int d = 0; d < n; d++) {
        struct sample_in in = {.p = &g, .position = d % 100};
        struct sample_out o;
        g.seed = (uint64_t)(d / 100);
        for (int i = 0; i < 20; i++) y[i] = x[i];
        if (sampler_row(s, y, &in, &o, NULL)) ck_abort();
        seen[o.token]++;
    }
    for (int i = 0; i < 20; i++) chi += (seen[i] - p[i] * n) * (seen[i] - p[i] * n) / (p[i] * n);
    ck_assert_double_lt(chi, 50);
    sampler_close(s);
}
END_TEST

START_TEST(logprobs_are_those_of_the_raw_logits)
{
    enum { N = 5000 };
    static float x[N], y[N];
    struct sampler *s;
    struct gen_params g;
    struct logit_bias bias[] = {{3, 100}};
    ck_assert_int_eq(sampler_open(N, 64, &s, NULL), 0);
    gen_params_init(&g);
    g.logprobs = 5;
    g.bias = bias;
    g.n_bias = 1;
    double sum = 0;
    for (int i = 0; i < N; i++) y[i] = x[i] = (float)(i * 37 % 101) * 0.1f; /* many ties */
    for (int i = 0; i < N; i++) sum += exp(x[i]);
    struct sample_in in = {.p = &g};
    struct sample_out o;
    ck_assert_int_eq(sampler_row(s, y, &in, &o, NULL), 0);
    ck_assert_int_eq(o.token, 3);
    ck_assert_double_eq_tol(o.logprob, x[3] - log(sum), 1e-6);
    int rank = 1;
    for (int i = 0; i < N; i++) rank += x[i] > x[3] || (x[i] == x[3] && i < 3);
    ck_assert_int_eq(o.rank, rank);
    ck_assert_int_eq(o.n_top, 5);
    int next = 0; /* value 10.0 at ids i with i * 37 % 101 == 100 */
    for (int k = 0; k < 5; k++, next++) {
        while (x[next] != 10.0f) next++;
        ck_assert_int_eq(o.top[k].token, next);
        ck_assert_double_eq_tol(o.top[k].logprob, 10.0 - log(sum), 1e-6);
    }
    ck_assert_mem_eq(x, y, sizeof x); /* the bias was taken back */
    sampler_close(s);
}
END_TEST

START_TEST(penalties_and_bans)
{
    struct sampler *s;
    struct gen_params g;
    struct penalty_set seen;
    void *mem = calloc(1, penalty_set_bytes(8));
    ck_assert_int_eq(sampler_open(4, 64, &s, NULL), 0);
    gen_params_init(&g);
    g.temperature = 0;
    penalty_set_init(&seen, 8, mem);
    penalty_set_add(&seen, 0, false);
    penalty_set_add(&seen, 0, false);
    penalty_set_add(&seen, 1, true);
    penalty_set_add(&seen, 1, true);
    ck_assert_int_eq(seen.n, 2);
    ck_assert_int_eq(seen.entry[0].n_out, 0);
    ck_assert_int_eq(seen.entry[1].n_out, 2);
    struct sample_in in = {.p = &g, .seen = &seen};
    struct sample_out o;

    g.repetition_penalty = 2; /* 4 / 2, 3.9 / 2, -1 stays: 2.5 wins */
    ck_assert_int_eq(sampler_row(s, (float[]){4, 3.9f, 2.5f, -1}, &in, &o, NULL), 0);
    ck_assert_int_eq(o.token, 2);
    ck_assert_int_eq(sampler_row(s, (float[]){-1, -1, -1.9f, -9}, &in, &o, NULL), 0); /* -2, -2 */
    ck_assert_int_eq(o.token, 2);
    g.repetition_penalty = 1;
    g.frequency_penalty = 0.5f; /* only the answer's token 1: -1.0 */
    ck_assert_int_eq(sampler_row(s, (float[]){1, 1.9f, 0, 0}, &in, &o, NULL), 0);
    ck_assert_int_eq(o.token, 0);
    g.frequency_penalty = 0;
    g.presence_penalty = 0.5f;
    ck_assert_int_eq(sampler_row(s, (float[]){1, 1.6f, 0, 0}, &in, &o, NULL), 0);
    ck_assert_int_eq(o.token, 1);
    in.ban[1] = (int32_t[]){1, 0};
    in.n_ban[1] = 2;
    ck_assert_int_eq(sampler_row(s, (float[]){1, 1.6f, 0, 0.5f}, &in, &o, NULL), 0);
    ck_assert_int_eq(o.token, 3);
    free(mem);
    sampler_close(s);
}
END_TEST

START_TEST(hopeless_logits_are_an_error)
{
    struct sampler *s;
    struct gen_params g;
    struct sample_out o;
    struct sample_in in = {.p = &g};
    gen_params_init(&g);
    ck_assert_int_eq(sampler_open(3, 64, &s, NULL), 0);
    for (int lp = -1; lp < 2; lp++) {
        g.logprobs = lp;
        ck_assert_int_ne(sampler_row(s, (float[]){NAN, NAN, NAN}, &in, &o, NULL), 0);
        ck_assert_int_ne(sampler_row(s, (float[]){-INFINITY, -INFINITY, -INFINITY}, &in, &o, NULL), 0);
        ck_assert_int_ne(sampler_row(s, (float[]){0, INFINITY, 0}, &in, &o, NULL), 0);
        ck_assert_int_eq(sampler_row(s, (float[]){NAN, 1, -INFINITY}, &in, &o, NULL), 0);
        ck_assert_int_eq(o.token, 1);
    }
    sampler_close(s);
}
END_TEST

START_TEST(random_numbers_differ_by_seed_and_position)
{
    uint64_t or = 0, and = UINT64_MAX;
    for (int i = 0; i < 64; i++) {
        ck_assert_uint_ne(sampler_random(1, i), sampler_random(2, i));
        ck_assert_uint_ne(sampler_random(1, i), sampler_random(1, i + 1));
        ck_assert_uint_ne(sampler_random(1, i + 1), sampler_random(2, i));
        or |= sampler_random(0, i);
        and &= sampler_random(0, i);
    }
    ck_assert_uint_eq(or, UINT64_MAX);
    ck_assert_uint_eq(and, 0);
    ck_assert_uint_eq(sampler_random(5, 9), sampler_random(5, 9));
}
END_TEST

/* Baseline and AVX2 give the same bits, for every length of the tail; exp is good to 3e-7. */
START_TEST(vectors_agree)
{
    float x[BLOCK];
    int32_t q[2][BLOCK], top[2];
    const struct vec_ops *v[2] = {&vec_base, vec_ops()};
    for (int n = 1; n <= BLOCK; n++) {
        double sum = 0;
        for (int i = 0; i < n; i++) x[i] = 5 * rng_normal();
        float m = v[0]->max(x, n), s = v[0]->sum(x, n, m);
        for (int i = 0; i < n; i++) sum += exp((double)x[i] - (double)m);
        ck_assert(m == v[1]->max(x, n) && s == v[1]->sum(x, n, m));
        ck_assert_double_eq_tol(s, sum, 1e-6 * sum);
        ck_assert_int_eq(v[0]->rank(x, n, x[n / 2], n / 2), v[1]->rank(x, n, x[n / 2], n / 2));
        int64_t w = v[0]->weights(x, n, m, 0.5f, q[0], &top[0]), check = 0;
        ck_assert_int_eq(w, v[1]->weights(x, n, m, 0.5f, q[1], &top[1]));
        ck_assert_mem_eq(q[0], q[1], (size_t)n * sizeof **q);
        ck_assert_int_eq(top[0], SAMPLER_ONE);
        ck_assert_int_eq(top[1], SAMPLER_ONE);
        for (int i = 0; i < n; i++) {
            check += q[0][i];
            double exact = exp(((double)x[i] - (double)m) * 0.5) * SAMPLER_ONE;
            if (fabs(q[0][i] - exact) > 1 + 5e-7 * exact) ck_abort_msg("exp: %d, not %g", q[0][i], exact);
        }
        ck_assert_int_eq(w, check);
    }
}
END_TEST

Suite *sampler_suite(void)
{
    Suite *s = suite_create("sampler");
    TCase *t = tcase_create("sampler");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, vectors_agree);
    tcase_add_test(t, filters_equal_the_sorted_reference);
    tcase_add_test(t, ties_go_to_low_ids);
    tcase_add_test(t, draws_follow_the_softmax);
    tcase_add_test(t, logprobs_are_those_of_the_raw_logits);
    tcase_add_test(t, penalties_and_bans);
    tcase_add_test(t, hopeless_logits_are_an_error);
    tcase_add_test(t, random_numbers_differ_by_seed_and_position);
    suite_add_tcase(s, t);
    return s;
}
