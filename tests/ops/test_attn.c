/* Attention: each level against the scalar reference, and the same bits however the work is cut. */
#include <math.h>
#include "ops_test.h"

enum { SEQS = 3, MAX_LEN = 300, MAX_BLOCKS = 2 * SEQS * MAX_LEN };
static const int len[SEQS] = {300, 65, 150};

struct scene {
    int n_head, n_kv_head, dim;
    enum dtype type;
    int window;
    float cap;
};
static const struct scene scenes[] = {
    {4, 2, 8, DT_F32, 0, 0},    {2, 2, 16, DT_F32, 0, 0},    {6, 2, 32, DT_F16, 100, 0},
    {8, 2, 64, DT_BF16, 0, 0},  {5, 1, 72, DT_F16, 0, 50},   {4, 1, 80, DT_BF16, 300, 0},
    {7, 1, 96, DT_F32, 0, 0},   {4, 2, 128, DT_BF16, 0, 0},  {3, 3, 128, DT_F16, 64, 0},
    {4, 1, 256, DT_F16, 7, 30}, {25, 1, 64, DT_BF16, 0, 0},  {2, 1, 512, DT_F32, 0, 0},
    {4, 2, 12, DT_F32, 0, 0},   {4, 2, 20, DT_BF16, 33, 20}, {4, 2, 8, DT_I8, 0, 0},
    {8, 2, 64, DT_I8, 100, 0},  {5, 1, 72, DT_I8, 0, 50},    {2, 2, 128, DT_I8, 0, 0},
    {25, 1, 256, DT_I8, 7, 30}, {3, 1, 512, DT_I8, 300, 0},
};
enum { SCENES = sizeof scenes / sizeof *scenes, INT8_SCENE = 17 };

/* Beside int8 values the kernels also round queries and weights, to 15 and 16 bits; beside bfloat16 values
 * those of BF16 processors round them to 8. */
static double tolerance(enum dtype t, int level)
{
    if (t == DT_BF16 && (level == ISA_AVX512_BF16 || level == EMULATED_BF16)) return 1e-4;
    return t == DT_I8 ? 2e-8 : 1e-11;
}

/* All tokens of all sequences, one after another. */
struct data {
    struct scene s;
    int n, first[SEQS];
    float *q, *k, *v; /* [n][heads][dim] */
};

static struct data data_make(const struct scene *s)
{
    struct data d = {.s = *s};
    for (int i = 0; i < SEQS; i++) {
        d.first[i] = d.n;
        d.n += len[i];
    }
    size_t q = (size_t)d.n * s->n_head * s->dim, kv = (size_t)d.n * s->n_kv_head * s->dim;
    seed = (uint64_t)(s - scenes) + 1;
    fill(d.q = floats(q), q);
    fill(d.k = floats(kv), kv);
    fill(d.v = floats(kv), kv);
    for (size_t i = 0; i < q; i++) d.q[i] *= 3;
    return d;
}

static void data_free(struct data *d)
{
    free(d->q);
    free(d->k);
    free(d->v);
}

/* Shuffled blocks; those behind the window of position `from` have gone. */
static void fill_table(int32_t table[SEQS][MAX_LEN], int bs, int window, const int *from)
{
    int next = 0;
    for (int b = 0; b * bs < MAX_LEN; b++)
        for (int i = SEQS; i-- > 0;) {
            bool gone = window > 0 && (b + 1) * bs <= from[i] - window + 1, absent = b * bs >= len[i];
            table[i][b] = gone || absent ? -1 : next;
            next += !absent;
        }
}

static int reserve(struct backend *be, int rows, int heads, int dim, int ctx)
{
    struct err e;
    struct step_limits l = {
        .max_rows = rows, .max_seqs = SEQS, .max_ctx = ctx, .max_in = 64, .n_head = heads, .head_dim = dim};
    return be->ops->reserve(be, &l, &e);
}

static void store(struct backend *be, struct data *d, struct kv_store *kv, int32_t table[SEQS][MAX_LEN],
                  int slot)
{
    struct attn_item item[SEQS];
    for (int i = 0; i < SEQS; i++) item[i] = (struct attn_item){d->first[i], len[i], 0, table[i]};
    struct batch b = {.n = d->n, .n_list = 1, .list = {{item, SEQS, d->s.window}}};
    struct qkv_args a = {.n = d->n,
                         .n_head = d->s.n_head,
                         .n_kv_head = d->s.n_kv_head,
                         .head_dim = d->s.dim,
                         .q = d->q,
                         .q_stride = d->s.n_head * d->s.dim,
                         .k = d->k,
                         .k_stride = d->s.n_kv_head * d->s.dim,
                         .v = d->v,
                         .v_stride = d->s.n_kv_head * d->s.dim,
                         .kv = kv,
                         .slot = slot,
                         .b = &b};
    be->ops->begin(be, &b);
    be->ops->qkv_prep(be, &a);
}

/* Attention of every token of all sequences in calls of `chunk` tokens of each; together, or one after
 * another. */
static float *attend(struct backend *be, struct data *d, int bs, int chunk, bool together)
{
    static int32_t table[SEQS][MAX_LEN];
    struct scene s = d->s;
    struct err e;
    struct kv_store *kv;
    int slots = 2, slot = 1, start[SEQS] = {0}, blocks = 0, stride = s.n_head * s.dim;
    for (int i = 0; i < SEQS; i++) blocks += (len[i] + bs - 1) / bs;
    struct kv_geom g = {blocks, bs, slots, s.n_kv_head, s.dim, s.type};
    ck_assert_int_eq(be->ops->kv_alloc(be, &g, &kv, &e), 0);
    ck_assert_int_eq(reserve(be, d->n, s.n_head, s.dim, MAX_LEN), 0);
    fill_table(table, bs, 0, start);
    store(be, d, kv, table, slot);
    float *out = floats((size_t)d->n * stride);
    for (int at = 0; at < MAX_LEN; at += chunk) {
        struct attn_item item[SEQS];
        int n = 0, from[SEQS] = {at, at, at};
        fill_table(table, bs, s.window, from);
        for (int i = 0; i < SEQS; i++)
            if (at < len[i])
                item[n++] = (struct attn_item){d->first[i] + at, len[i] - at < chunk ? len[i] - at : chunk,
                                               at, table[i]};
        for (int i = 0; i < n; i += together ? n : 1) {
            struct batch b = {.n = d->n, .n_list = 1, .list = {{item + i, together ? n : 1, s.window}}};
            struct attn_args a = {.n = d->n,
                                  .n_head = s.n_head,
                                  .n_kv_head = s.n_kv_head,
                                  .head_dim = s.dim,
                                  .q = d->q,
                                  .q_stride = stride,
                                  .out = out,
                                  .out_stride = stride,
                                  .scale = 0.3f,
                                  .cap = s.cap,
                                  .kv = kv,
                                  .slot = slot,
                                  .b = &b};
            be->ops->begin(be, &b);
            be->ops->attn(be, &a);
        }
    }
    be->ops->kv_free(be, kv);
    return out;
}

static void check_scene(int level, struct data *d, const float *want)
{
    static const struct {
        int threads, block, chunk;
        bool together;
    } way[] = {
        {1, 8, MAX_LEN, true}, {2, 16, MAX_LEN, false}, {2, 64, 1, false},
        {3, 32, 1, true},      {2, 16, 37, true},       {4, 8, 256, false},
    };
    size_t n = (size_t)d->n * d->s.n_head * d->s.dim;
    size_t ways = level == ISA_SCALAR ? 1 : sizeof way / sizeof *way; /* the reference again: slow */
    float *first = NULL;
    for (size_t i = 0; i < ways; i++) {
        struct device dev;
        if (!device_open(&dev, level, way[i].threads)) return;
        float *out = attend(dev.be, d, way[i].block, way[i].chunk, way[i].together);
        device_close(&dev);
        if (first)
            ck_assert_msg(!memcmp(out, first, n * sizeof *out), "level %d: way %zu changed bits", level, i);
        double err = nmse(out, want, n);
        ck_assert_msg(err < tolerance(d->s.type, level), "level %d, way %zu: nmse %g", level, i, err);
        if (first)
            free(out);
        else
            first = out;
    }
    free(first);
}

START_TEST(attention_is_right_and_invariant)
{
    struct data d = data_make(&scenes[_i]);
    float *want = attend(ref_backend(), &d, 16, MAX_LEN, true);
    for (int level = 0; level < LEVELS; level++) check_scene(level, &d, want);
    free(want);
    data_free(&d);
}
END_TEST

/* One KV head in shuffled blocks of 16: stores n keys and values, then attends with `heads` queries from
 * position `at`. */
static void attend_last(struct backend *be, enum dtype type, int dim, int heads, int n, float *k, float *v,
                        int at, float *q, float *out)
{
    static int32_t table[MAX_BLOCKS];
    struct kv_store *kv;
    struct err e;
    int blocks = (n + 15) / 16;
    for (int i = 0; i < blocks; i++) table[i] = blocks - 1 - i;
    struct kv_geom g = {blocks, 16, 1, 1, dim, type};
    struct attn_item all = {0, n, 0, table}, last = {0, 1, at, table};
    struct batch b_all = {.n = n, .n_list = 1, .list = {{&all, 1, 0}}},
                 b_last = {.n = 1, .n_list = 1, .list = {{&last, 1, 0}}};
    ck_assert_int_eq(be->ops->kv_alloc(be, &g, &kv, &e), 0);
    ck_assert_int_eq(reserve(be, n, heads, dim, n), 0);
    struct qkv_args s = {.n = n,
                         .n_kv_head = 1,
                         .head_dim = dim,
                         .k = k,
                         .k_stride = dim,
                         .v = v,
                         .v_stride = dim,
                         .kv = kv,
                         .b = &b_all};
    be->ops->qkv_prep(be, &s);
    struct attn_args a = {.n = 1,
                          .n_head = heads,
                          .n_kv_head = 1,
                          .head_dim = dim,
                          .q = q,
                          .out = out,
                          .scale = 1,
                          .kv = kv,
                          .b = &b_last};
    be->ops->attn(be, &a);
    be->ops->kv_free(be, kv);
}

/* A decode over many spans, cut over threads or not; ref has no spans at all. */
START_TEST(long_contexts_join_their_spans)
{
    enum { LEN = 2100, HEADS = 3, DIM = 64 };
    static const enum dtype types[] = {DT_F16, DT_BF16, DT_I8};
    struct device dev;
    float *k = floats(LEN * DIM), *v = floats(LEN * DIM), q[HEADS * DIM], out[5][HEADS * DIM];
    fill(k, LEN * DIM);
    fill(v, LEN * DIM);
    fill(q, HEADS * DIM);
    for (int i = 0; i < 5; i++) {
        ck_assert(device_open(&dev, (int)cpu_isa_detect(), i < 4 ? i + 1 : 1));
        attend_last(i < 4 ? dev.be : ref_backend(), types[_i], DIM, HEADS, LEN, k, v, LEN - 1, q, out[i]);
        device_close(&dev);
        if (i < 4) ck_assert_mem_eq(out[i], out[0], sizeof out[i]);
    }
    ck_assert_double_lt(nmse(out[0], out[4], HEADS * DIM), tolerance(types[_i], (int)cpu_isa_detect()));
    free(k);
    free(v);
}
END_TEST

/* A block's last user may have left a NaN beside our last token. */
START_TEST(stale_values_are_hidden)
{
    enum { LEN = 5, DIM = 64 };
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_I8};
    struct device dev;
    float x[(LEN + 1) * DIM], out[2][DIM];
    if (!device_open(&dev, _i, 1)) return;
    for (size_t type = 0; type < sizeof types / sizeof *types; type++) {
        fill(x, (LEN + 1) * DIM);
        attend_last(dev.be, types[type], DIM, 1, LEN + 1, x, x, LEN - 1, x, out[0]);
        for (int d = 0; d < DIM; d++) x[LEN * DIM + d] = NAN;
        attend_last(dev.be, types[type], DIM, 1, LEN + 1, x, x, LEN - 1, x, out[1]);
        ck_assert_mem_eq(out[0], out[1], sizeof out[0]);
        ck_assert(isfinite(out[0][0]));
    }
    device_close(&dev);
}
END_TEST

/* Tiny blocks take the scalar path, with the reference's results. */
START_TEST(small_blocks_work)
{
    struct device dev;
    struct data d = data_make(&scenes[0]);
    float *want = attend(ref_backend(), &d, 16, MAX_LEN, true);
    ck_assert(device_open(&dev, (int)cpu_isa_detect(), 2));
    float *out = attend(dev.be, &d, 2, 100, true);
    ck_assert_mem_eq(out, want, (size_t)d.n * 4 * 8 * sizeof *out);
    device_close(&dev);
    free(out);
    free(want);
    data_free(&d);
}
END_TEST

/* What one sequence does to itself, or to the tokens after it, must not reach another's rows. */
START_TEST(bad_numbers_stay_in_their_sequence)
{
    struct data d = data_make(&scenes[_i ? INT8_SCENE : 7]);
    int stride = d.s.n_head * d.s.dim, kv = d.s.n_kv_head * d.s.dim;
    struct device dev;
    ck_assert(device_open(&dev, (int)cpu_isa_detect(), 2));
    float *want = attend(dev.be, &d, 16, MAX_LEN, true);
    for (int i = 0; i < kv; i++)
        d.k[(size_t)(d.first[1] + 5) * kv + i] = d.v[(size_t)(d.first[1] + 5) * kv + i] = 0.0f / 0.0f;
    d.v[(size_t)(d.first[2] + 100) * kv] =
        1.0f / 0.0f; /* stored as the largest number: earlier rows do not see it */
    float *out = attend(dev.be, &d, 16, MAX_LEN, true);
    ck_assert_mem_eq(out, want, (size_t)d.first[1] * stride * sizeof *out);
    ck_assert_mem_eq(out + (size_t)d.first[2] * stride, want + (size_t)d.first[2] * stride,
                     (size_t)100 * stride * sizeof *out);
    ck_assert(out[(size_t)(d.first[1] + 64) * stride] != out[(size_t)(d.first[1] + 64) * stride]);
    device_close(&dev);
    free(out);
    free(want);
    data_free(&d);
}
END_TEST

/* What int8 costs: the error of attention with keys and values in 8 bits, of random data whose weights are
 * concentrated (scores up to about 20), against 32. */
START_TEST(int8_is_close_to_float)
{
    struct scene s = scenes[INT8_SCENE];
    struct device dev;
    ck_assert(device_open(&dev, (int)cpu_isa_detect(), 2));
    struct data d = data_make(&scenes[INT8_SCENE]);
    float *got = attend(dev.be, &d, 16, MAX_LEN, true);
    d.s.type = DT_F32;
    float *want = attend(dev.be, &d, 16, MAX_LEN, true);
    ck_assert_double_lt(nmse(got, want, (size_t)d.n * s.n_head * s.dim), 4e-4);
    ck_assert_double_gt(nmse(got, want, (size_t)d.n * s.n_head * s.dim), 1e-7);
    device_close(&dev);
    free(got);
    free(want);
    data_free(&d);
}
END_TEST

/* Keys of trained models have a few dimensions far above the rest, in which queries are small: the others
 * must not pay for them. */
START_TEST(int8_bears_outliers)
{
    struct scene s = scenes[INT8_SCENE];
    struct device dev;
    ck_assert(device_open(&dev, (int)cpu_isa_detect(), 2));
    struct data d = data_make(&scenes[INT8_SCENE]);
    for (int i = 0; i < d.n * s.n_kv_head; i++) d.k[(size_t)i * s.dim + 70] = 100 + d.k[(size_t)i * s.dim];
    for (int i = 0; i < d.n * s.n_head; i++) d.q[(size_t)i * s.dim + 70] *= 0.01f;
    float *got = attend(dev.be, &d, 16, MAX_LEN, true);
    d.s.type = DT_F32;
    float *want = attend(dev.be, &d, 16, MAX_LEN, true);
    ck_assert_double_lt(nmse(got, want, (size_t)d.n * s.n_head * s.dim), 1e-2);
    device_close(&dev);
    free(got);
    free(want);
    data_free(&d);
}
END_TEST

START_TEST(absurd_caches_are_refused)
{
    static const struct {
        struct kv_geom g;
        int code;
    } bad[] = {
        {{4, 4, 1, 1, 64, DT_I8}, ERR_UNSUPPORTED},
        {{4, 16, 1, 1, 36, DT_I8}, ERR_UNSUPPORTED},
        {{4, 16, 1, 1, 64, DT_Q8_0}, ERR_UNSUPPORTED},
        {{4, 12, 1, 1, 64, DT_F32}, ERR_INVALID},
        {{0, 16, 1, 1, 64, DT_F32}, ERR_INVALID},
        {{4, 16, 1, 1, 5000, DT_F32}, ERR_UNSUPPORTED},
        {{1 << 30, 1 << 30, 1 << 30, 1 << 20, 64, DT_F32}, ERR_NOMEM},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct kv_store *kv;
        struct err e = {0};
        ck_assert_int_eq(ref_backend()->ops->kv_alloc(ref_backend(), &bad[i].g, &kv, &e), bad[i].code);
        ck_assert(e.msg[0]);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("attn");
    TCase *t = tcase_create("attn");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, attention_is_right_and_invariant, 0, SCENES);
    tcase_add_loop_test(t, long_contexts_join_their_spans, 0, 3);
    tcase_add_loop_test(t, stale_values_are_hidden, 0, LEVELS);
    tcase_add_test(t, small_blocks_work);
    tcase_add_loop_test(t, bad_numbers_stay_in_their_sequence, 0, 2);
    tcase_add_test(t, int8_is_close_to_float);
    tcase_add_test(t, int8_bears_outliers);
    tcase_add_test(t, absurd_caches_are_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
