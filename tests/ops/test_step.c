/* Norms, rotary embedding, the cache's writes and the soft cap: each level against the scalar reference, and
 * the same bits for a row alone, in a batch, and on any number of threads. Copies and elementwise formulas
 * without exp are exact. */
#include "ops_test.h"
#include <math.h>
#include "kv_store.h"

enum { N = 37, HEADS = 4, KV_HEADS = 2, BLOCK = 16 };
static const int dims[] = {8, 20, 33, 64, 128, 576, 1024};
enum { DIMS = sizeof dims / sizeof *dims };

struct norm_case {
    int dim;
    bool delta, post, pre;
};

/* x, then y, of rows done in calls of `chunk` rows */
static float *norm_run(struct backend *be, const struct norm_case *c, int chunk)
{
    size_t n = (size_t)N * c->dim;
    float *x = floats(2 * n), *d = floats(n), *w = floats((size_t)2 * c->dim);
    seed = 5;
    fill(x, n);
    fill(d, n);
    fill(w, (size_t)2 * c->dim);
    for (int r = 0; r < N; r += chunk) {
        size_t at = (size_t)r * c->dim;
        struct norm_args a = {.n = N - r < chunk ? N - r : chunk,
                              .dim = c->dim,
                              .x = x + at,
                              .delta = c->delta ? d + at : NULL,
                              .scale = 0.22f,
                              .post_w = c->post ? w : NULL,
                              .pre_w = c->pre ? w + c->dim : NULL,
                              .y = x + n + at,
                              .eps = 1e-6f};
        be->ops->add_norm(be, &a);
    }
    free(d);
    free(w);
    return x;
}

START_TEST(add_norm_is_right_and_invariant)
{
    struct device d1, d3;
    int level = _i / DIMS;
    if (!device_open(&d1, level, 1)) return;
    device_open(&d3, level, 3);
    for (int form = 0; form < 8; form++) {
        struct norm_case c = {dims[_i % DIMS], form & 1, form & 2, form & 4};
        size_t n = (size_t)2 * N * c.dim;
        float *want = norm_run(ref_backend(), &c, N), *a = norm_run(d1.be, &c, N),
              *b = norm_run(d3.be, &c, N), *e = norm_run(d3.be, &c, 1);
        ck_assert_mem_eq(a, b, n * sizeof *a);
        ck_assert_mem_eq(a, e, n * sizeof *a);
        ck_assert_double_lt(nmse(a, want, n / 2), 1e-13);
        ck_assert_double_lt(nmse(a + n / 2, want + n / 2, n / 2), 1e-12);
        free(want), free(a), free(b), free(e);
    }
    device_close(&d1);
    device_close(&d3);
}
END_TEST

START_TEST(row_norm_leaves_gaps_alone)
{
    enum { STRIDE = 1100 };
    int level = _i / DIMS, dim = dims[_i % DIMS];
    struct device d;
    if (!device_open(&d, level, 2)) return;
    float *w = floats((size_t)dim), *x = floats((size_t)N * STRIDE), *y = floats((size_t)N * STRIDE);
    fill(w, (size_t)dim);
    fill(x, (size_t)N * STRIDE);
    memcpy(y, x, (size_t)N * STRIDE * sizeof *x);
    d.be->ops->row_norm(d.be, x, N, dim, STRIDE, w, 1e-5f);
    ref_backend()->ops->row_norm(ref_backend(), y, N, dim, STRIDE, w, 1e-5f);
    ck_assert_double_lt(nmse(x, y, (size_t)N * STRIDE), 1e-12);
    for (int r = 0; r < N; r++)
        ck_assert_mem_eq(x + (size_t)r * STRIDE + dim, y + (size_t)r * STRIDE + dim,
                         (size_t)(STRIDE - dim) * sizeof *x);
    device_close(&d);
    free(w), free(x), free(y);
}
END_TEST

START_TEST(rope_angles_are_the_reference)
{
    struct device d;
    int32_t pos[N];
    float freq[24], a[N * 24 * 2], b[N * 24 * 2];
    if (!device_open(&d, _i, 2)) return;
    for (int i = 0; i < N; i++) pos[i] = i * i * 97;
    for (int i = 0; i < 24; i++) freq[i] = powf(10000, -(float)i / 24);
    struct batch s = {.n = N, .pos = pos};
    d.be->ops->rope_angles(d.be, &s, freq, 24, 1.1f, a);
    ref_backend()->ops->rope_angles(ref_backend(), &s, freq, 24, 1.1f, b);
    ck_assert_mem_eq(a, b, sizeof a);
    ck_assert_float_eq(b[0], 1.1f);
    ck_assert_double_lt(fabs(b[24 * 2 * 3] - 1.1 * cos(3 * 3 * 97)), 1e-6);
    device_close(&d);
}
END_TEST

struct prep {
    int dim, rot, block;
    enum dtype type;
    enum rope_style style;
    bool norm, wild;       /* wild: values that no float is too strange for */
    float *q, *k, *v, *cs; /* [N][...] */
    struct kv_store *kv;
};

/* Rows as two sequences, in calls of `chunk` rows. */
static void prep_run(struct backend *be, struct prep *p, int chunk)
{
    static const int len[2] = {20, 17}, pos[2] = {0, 40};
    int32_t table[2][64];
    struct kv_geom g = {128, p->block, 2, KV_HEADS, p->dim, p->type};
    float *w = floats((size_t)2 * p->dim);
    struct err e;
    seed = 9;
    fill(p->q = floats((size_t)N * HEADS * p->dim), (size_t)N * HEADS * p->dim);
    fill(p->k = floats((size_t)N * KV_HEADS * p->dim), (size_t)N * KV_HEADS * p->dim);
    fill(p->v = floats((size_t)N * KV_HEADS * p->dim), (size_t)N * KV_HEADS * p->dim);
    fill(p->cs = floats((size_t)N * p->rot), (size_t)N * p->rot);
    fill(w, (size_t)2 * p->dim);
    p->v[3] = 1e38f, p->v[4] = -70000, p->k[5] = 1e-7f; /* f16: saturated, subnormal */
    if (p->wild) {
        size_t head = (size_t)p->dim;
        p->v[9 * head + 1] = INFINITY;
        p->v[10 * head + 2] = NAN;
        for (size_t i = 0; i < head; i++) {
            p->v[11 * head + i] = 0;
            p->v[12 * head + i] *= 1e-38f;
            p->v[13 * head + i] = (float)((int)i % 255 - 127) / 2; /* of absmax 63.5: ties */
        }
        p->v[14 * head] = -INFINITY;
    }
    ck_assert_int_eq(be->ops->kv_alloc(be, &g, &p->kv, &e), 0);
    for (int i = 0; i < 128; i++) table[i / 64][i % 64] = 127 - i;
    for (int s = 0, row = 0; s < 2; row += len[s++])
        for (int i = 0; i < len[s]; i += chunk) {
            int n = len[s] - i < chunk ? len[s] - i : chunk, r = row + i;
            struct attn_item it = {0, n, pos[s] + i, table[s]};
            struct batch b = {.n = n, .n_list = 1, .list = {{&it, 1, 0}}};
            struct qkv_args a = {.n = n,
                                 .n_head = HEADS,
                                 .n_kv_head = KV_HEADS,
                                 .head_dim = p->dim,
                                 .q = p->q + (size_t)r * HEADS * p->dim,
                                 .q_stride = HEADS * p->dim,
                                 .k = p->k + (size_t)r * KV_HEADS * p->dim,
                                 .k_stride = KV_HEADS * p->dim,
                                 .v = p->v + (size_t)r * KV_HEADS * p->dim,
                                 .v_stride = KV_HEADS * p->dim,
                                 .q_norm = p->norm ? w : NULL,
                                 .k_norm = p->norm ? w + p->dim : NULL,
                                 .eps = 1e-6f,
                                 .rot = p->rot,
                                 .style = p->style,
                                 .cs = p->cs + (size_t)r * p->rot,
                                 .kv = p->kv,
                                 .slot = 1,
                                 .b = &b};
            be->ops->qkv_prep(be, &a);
        }
    free(w);
}

static void prep_free(struct backend *be, struct prep *p)
{
    be->ops->kv_free(be, p->kv);
    free(p->q), free(p->k), free(p->v), free(p->cs);
}

static void same_prep(const struct prep *a, const struct prep *b)
{
    ck_assert_mem_eq(a->q, b->q, (size_t)N * HEADS * a->dim * sizeof *a->q);
    ck_assert_mem_eq(a->k, b->k, (size_t)N * KV_HEADS * a->dim * sizeof *a->k);
    ck_assert_mem_eq(a->kv->mem, b->kv->mem, a->kv->bytes);
}

/* Without norms everything is exact; with them q and k are close, and what is stored is what k became. */
START_TEST(qkv_prep_is_right_and_invariant)
{
    static const struct prep cases[] = {
        {.dim = 16, .rot = 16, .block = 16, .type = DT_F32},
        {.dim = 64, .rot = 64, .block = 8, .type = DT_F16},
        {.dim = 80, .rot = 20, .block = 16, .type = DT_BF16, .style = ROPE_PAIRS},
        {.dim = 12, .rot = 6, .block = 4, .type = DT_BF16},
        {.dim = 128, .rot = 0, .block = 32, .type = DT_F16},
        {.dim = 128, .rot = 128, .block = 64, .type = DT_BF16, .norm = true},
        {.dim = 36, .rot = 36, .block = 2, .type = DT_F32, .style = ROPE_PAIRS, .norm = true},
        {.dim = 64, .rot = 64, .block = 16, .type = DT_I8, .wild = true},
        {.dim = 72, .rot = 36, .block = 8, .type = DT_I8},
        {.dim = 1024, .rot = 0, .block = 64, .type = DT_I8},
        {.dim = 128, .rot = 128, .block = 32, .type = DT_I8, .norm = true},
    };
    struct device d1, d2;
    int level = _i;
    if (!device_open(&d1, level, 1)) return;
    device_open(&d2, level, 3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct prep ref = cases[i], a = ref, b = ref;
        prep_run(ref_backend(), &ref, N);
        prep_run(d1.be, &a, N);
        prep_run(d2.be, &b, 1);
        same_prep(&a, &b);
        if (!ref.norm) {
            same_prep(&a, &ref);
        } else {
            ck_assert_double_lt(nmse(a.q, ref.q, (size_t)N * HEADS * ref.dim), 1e-12);
            ck_assert_double_lt(nmse(a.k, ref.k, (size_t)N * KV_HEADS * ref.dim), 1e-12);
        }
        prep_free(ref_backend(), &ref);
        prep_free(d1.be, &a);
        prep_free(d2.be, &b);
    }
    device_close(&d1);
    device_close(&d2);
}
END_TEST

/* The reference's codes are what the layout says: absmax becomes 127, others round to the nearest, ties to
 * even. A key of one number is spread over all dimensions. */
START_TEST(int8_values_are_rounded)
{
    enum { DIM = 16 };
    static const float in[DIM] = {-254, 254, 1, 3, 5, -1, -3, 0.99f, 0, 1.01f, 100, -100, 2, 251, 253, 7};
    static const int8_t code[DIM] = {-127, 127, 0, 2, 2, 0, -2, 0, 0, 1, 50, -50, 1, 126, 126, 4};
    static const float one[DIM] = {[5] = 254};
    struct kv_geom g = {2, 16, 1, 1, DIM, DT_I8};
    struct kv_store *kv;
    struct err e;
    ck_assert_int_eq(kv_store_alloc(&g, &kv, &e), 0);
    kv_store_k(kv, 1, 0, 0, 10, one);
    kv_store_v(kv, 1, 0, 0, 13, in);
    const unsigned char *key = kv_tile(kv, 1, 0, 0, 10), *value = kv_tile(kv, 1, 0, 0, 13) + kv->half;
    ck_assert_float_eq(((const float *)(const void *)key)[10 % 8], 2);
    ck_assert_float_eq(((const float *)(const void *)value)[13 % 8], 2);
    for (int d = 0; d < DIM; d++) {
        ck_assert_int_eq((int8_t)key[kv->head + kv_key_at(kv, d, 10 % 8)],
                         __builtin_popcount(d & 5u) % 2 ? -127 : 127);
        ck_assert_int_eq((int8_t)value[kv->head + kv_value_at(kv, d, 13 % 8)], code[d]);
    }
    ck_assert_uint_eq(kv_block_bytes(&g), 2 * 16 * (DIM + 4));
    kv_store_free(kv);
}
END_TEST

START_TEST(scale_cap_is_right_and_invariant)
{
    enum { LOGITS = 9001 };
    struct device d;
    float x[LOGITS], y[LOGITS], z[LOGITS];
    if (!device_open(&d, _i, 2)) return;
    for (int form = 0; form < 2; form++) {
        float cap = form ? 30 : 0;
        fill(x, LOGITS);
        for (int i = 0; i < LOGITS; i++) x[i] = powf(10, 6 * x[i]) * (i % 2 ? 1.0f : -1.0f);
        x[0] = 0;
        memcpy(y, x, sizeof x);
        memcpy(z, x, sizeof x);
        d.be->ops->scale_cap(d.be, x, LOGITS, 0.5f, cap);
        ref_backend()->ops->scale_cap(ref_backend(), y, LOGITS, 0.5f, cap);
        for (int i = 0; i < LOGITS; i++) ck_assert_float_le(fabsf(x[i] - y[i]), 6e-7f * fabsf(y[i]));
        for (int i = 0; i < LOGITS; i += 7)
            d.be->ops->scale_cap(d.be, z + i, LOGITS - i < 7 ? LOGITS - i : 7, 0.5f, cap);
        ck_assert_mem_eq(x, z, sizeof x);
    }
    device_close(&d);
}
END_TEST

START_TEST(levels_have_names)
{
    enum cpu_isa isa;
    for (int i = 0; i < ISA_COUNT; i++) {
        ck_assert_int_eq(cpu_isa_parse(cpu_isa_name((enum cpu_isa)i), &isa), 0);
        ck_assert_int_eq((int)isa, i);
    }
    ck_assert_int_eq(cpu_isa_parse("auto", &isa), 0);
    ck_assert_int_eq((int)isa, (int)cpu_isa_detect());
    ck_assert_int_eq(cpu_isa_parse("sse9", &isa), ERR_INVALID);
    struct backend *be;
    struct err e;
    if (cpu_isa_detect() + 1 < ISA_COUNT)
        ck_assert_int_eq(cpu_backend_open(NULL, cpu_isa_detect() + 1, &be, &e), ERR_UNSUPPORTED);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("step");
    TCase *t = tcase_create("step");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, add_norm_is_right_and_invariant, 0, LEVELS * DIMS);
    tcase_add_loop_test(t, row_norm_leaves_gaps_alone, 0, LEVELS * DIMS);
    tcase_add_loop_test(t, rope_angles_are_the_reference, 0, LEVELS);
    tcase_add_loop_test(t, qkv_prep_is_right_and_invariant, 0, LEVELS);
    tcase_add_loop_test(t, scale_cap_is_right_and_invariant, 0, LEVELS);
    tcase_add_test(t, int8_values_are_rounded);
    tcase_add_test(t, levels_have_names);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
