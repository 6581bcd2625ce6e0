/* The ops with the shapes of a model of about 1 billion parameters. */
#include "bench_case.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "kv_store.h"
#include "ref.h"

static float uniform(uint64_t *s) /* [-1, 1)   (Marsaglia's xorshift64*) */
{
    *s ^= *s >> 12, *s ^= *s << 25, *s ^= *s >> 27;
    return (float)((*s * 2685821657736338717u) >> 40) * 0x1p-23f - 1;
}

static float *random_floats(size_t n)
{
    static uint64_t seed = 88172645463325252u;
    float *x = malloc(n * sizeof *x);
    if (x)
        for (size_t i = 0; i < n; i++) x[i] = uniform(&seed);
    return x;
}

static double nmse(const float *x, const float *ref, size_t n)
{
    double err = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        err += ((double)x[i] - ref[i]) * ((double)x[i] - ref[i]);
        sum += (double)ref[i] * ref[i];
    }
    return sum > 0 ? err / sum : err;
}

static int no_memory(struct err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }

/* Matrices. As in a model, each is read once a step: so many copies that they exceed the caches. */
enum { K = 1024, N = 3072, COPIES = 24, CHECK_OUT = 64, CHECK_ROWS = 8 };
struct matrices {
    struct backend *be;
    struct weight *w[COPIES];
    int n, copies, rows, at;
    float *x, *y;
};

static void run_linear(void *arg)
{
    struct matrices *m = arg;
    struct linear_out out = {m->w[m->at], NULL, m->y, N};
    m->at = (m->at + 1) % m->copies;
    m->be->ops->linear(m->be, m->x, m->rows, &out, 1);
}

static void run_glu(void *arg)
{
    struct matrices *m = arg;
    m->be->ops->linear_glu(m->be, m->x, m->rows, m->w[m->at], m->w[(m->at + 1) % m->copies], ACT_SILU, m->y);
    m->at = (m->at + 2) % m->copies;
}

/* N rows of any type. In quantised ones each byte lacks two bits, so that every f16 that a type has in some
 * place is finite and below 1/8. */
static unsigned char *random_rows(enum dtype t)
{
    size_t row = dtype_row_bytes(t, K);
    unsigned char *src = malloc(row * N);
    float *x = random_floats(K);
    uint64_t seed = 7;
    for (size_t r = 0; src && x && r < N; r++) {
        for (size_t i = 0; i < K; i++) x[i] = uniform(&seed);
        if (t == DT_F32)
            memcpy(src + r * row, x, row);
        else if (!dtype_is_quant(t))
            dtype_from_f32(t, x, src + r * row, K);
        else
            for (size_t i = 0; i < row; i++)
                src[r * row + i] = (unsigned char)((int)(uniform(&seed) * 128) & 0xaf);
    }
    free(x);
    return src;
}

/* The first rows and outputs against the reference's. */
static int check_matrix(const struct matrices *m, const unsigned char *src, enum dtype t, bool glu,
                        double *err, struct err *e)
{
    struct backend *ref = ref_backend();
    int rows = m->rows < CHECK_ROWS ? m->rows : CHECK_ROWS;
    float want[CHECK_ROWS * CHECK_OUT], got[CHECK_ROWS * CHECK_OUT];
    struct weight *w;
    int rc = ref->ops->weight_pack(ref, t, CHECK_OUT, K, src, &w, e);
    if (rc) return rc;
    if (glu)
        ref->ops->linear_glu(ref, m->x, rows, w, w, ACT_SILU, want);
    else
        ref->ops->linear(ref, m->x, rows, &(struct linear_out){w, NULL, want, CHECK_OUT}, 1);
    ref->ops->weight_free(ref, w);
    for (int r = 0; r < rows; r++) memcpy(got + r * CHECK_OUT, m->y + (size_t)r * N, CHECK_OUT * sizeof *got);
    *err = nmse(got, want, (size_t)rows * CHECK_OUT);
    return 0;
}

static int bench_matrix(struct bench *b, struct matrices *m, const unsigned char *src, enum dtype t, bool glu,
                        struct err *e)
{
    int per_call = glu ? 2 : 1;
    for (int i = 0; i < b->n_rows; i++) {
        struct result r = {.op = glu ? "glu" : "linear",
                           .type = dtype_info(t)->name,
                           .rows = b->rows[i],
                           .int8 = dtype_is_quant(t),
                           .max_err = dtype_is_quant(t) ? 5e-4
                                      : t == DT_BF16    ? 1e-4
                                                        : 1e-9};
        snprintf(r.shape, sizeof r.shape, "%d x %d%s", N, K, glu ? " x 2" : "");
        m->rows = b->rows[i];
        r.bytes = per_call * (double)b->be->ops->weight_info(m->w[0]).bytes;
        r.work = 2.0 * per_call * K * N * m->rows;
        if (glu)
            run_glu(m);
        else
            run_linear(m);
        int rc = check_matrix(m, src, t, glu, &r.err, e);
        if (rc) return rc;
        bench_line(b, &r, glu ? run_glu : run_linear, m);
    }
    return 0;
}

static int bench_matrices(struct bench *b, bool glu, struct err *e)
{
    static const enum dtype types[] = {DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_K, DT_Q5_K, DT_Q6_K};
    int max = 1, rc = 0;
    for (int i = 0; i < b->n_rows; i++) max = b->rows[i] > max ? b->rows[i] : max;
    struct matrices m = {
        .be = b->be, .x = random_floats((size_t)max * K), .y = calloc((size_t)max * N, sizeof(float))};
    if (!m.x || !m.y)
        rc = no_memory(e);
    else
        rc = b->be->ops->reserve(b->be, max, K, 16, 128, 64, e);
    for (size_t i = 0; !rc && i < sizeof types / sizeof *types; i++) {
        unsigned char *src = random_rows(types[i]);
        if (!src) rc = no_memory(e);
        for (m.copies = 0; !rc && m.copies < COPIES; m.copies += !rc)
            rc = b->be->ops->weight_pack(b->be, types[i], N, K, src, &m.w[m.copies], e);
        if (!rc) rc = bench_matrix(b, &m, src, types[i], glu, e);
        while (m.copies) b->be->ops->weight_free(b->be, m.w[--m.copies]);
        free(src);
    }
    free(m.x);
    free(m.y);
    return rc;
}

/* Attention. Blocks are shuffled, all sequences have the same length. */
enum { HEADS = 16, KV_HEADS = 8, BLOCK = 16 };
struct attn_case {
    int seqs, ctx, chunk; /* the last `chunk` tokens of ctx are queries */
    int dim;
    enum dtype type;
};
struct attn_run {
    struct backend *be;
    struct qkv_args store;
    struct attn_args a;
    struct attn_item *item;
    int32_t *table;
    float *q, *kv, *out;
    struct kv_store *mem;
};

static void run_attn(void *arg)
{
    const struct attn_run *r = arg;
    r->be->ops->attn(r->be, &r->a);
}

static void close_attn(struct attn_run *r)
{
    if (r->mem) r->be->ops->kv_free(r->be, r->mem);
    free(r->item);
    free(r->table);
    free(r->q);
    free(r->kv);
    free(r->out);
}

/* Fills the cache with random keys and values, one sequence after another. */
static void fill_cache(struct attn_run *r, const struct attn_case *c)
{
    int dim = KV_HEADS * c->dim;
    for (int s = 0; s < c->seqs; s++) {
        struct attn_item it = {0, c->ctx, 0, r->item[s].table};
        struct qkv_args a = {.n = c->ctx,
                             .n_kv_head = KV_HEADS,
                             .head_dim = c->dim,
                             .k = r->kv,
                             .k_stride = dim,
                             .v = r->kv + (size_t)c->ctx * dim,
                             .v_stride = dim,
                             .kv = r->mem,
                             .item = &it,
                             .n_item = 1};
        r->be->ops->qkv_prep(r->be, &a);
    }
}

static int open_attn(struct attn_run *r, const struct attn_case *c, struct err *e)
{
    int blocks = (c->ctx + BLOCK - 1) / BLOCK, rows = c->seqs * c->chunk, stride = HEADS * c->dim;
    uint64_t seed = 3;
    r->item = calloc((size_t)c->seqs, sizeof *r->item);
    r->table = malloc((size_t)blocks * c->seqs * sizeof *r->table);
    r->q = random_floats((size_t)rows * stride);
    r->out = calloc((size_t)rows * stride, sizeof *r->out);
    r->kv = random_floats((size_t)2 * c->ctx * KV_HEADS * c->dim);
    if (!r->item || !r->table || !r->q || !r->out || !r->kv) return no_memory(e);
    for (int i = 0; i < blocks * c->seqs; i++) { /* inside-out shuffle */
        int j = (int)((uniform(&seed) + 1) / 2 * (float)(i + 1));
        r->table[i] = r->table[j];
        r->table[j] = i;
    }
    for (int s = 0; s < c->seqs; s++)
        r->item[s] = (struct attn_item){s * c->chunk, c->chunk, c->ctx - c->chunk, r->table + s * blocks};
    struct kv_geom g = {blocks * c->seqs, BLOCK, 1, KV_HEADS, c->dim, c->type};
    int rc = r->be->ops->kv_alloc(r->be, &g, &r->mem, e);
    if (!rc) rc = r->be->ops->reserve(r->be, rows > c->ctx ? rows : c->ctx, K, HEADS, c->dim, c->ctx, e);
    if (rc) return rc;
    r->a = (struct attn_args){.n = rows,
                              .n_head = HEADS,
                              .n_kv_head = KV_HEADS,
                              .head_dim = c->dim,
                              .q = r->q,
                              .q_stride = stride,
                              .out = r->out,
                              .out_stride = stride,
                              .scale = 0.09f,
                              .kv = r->mem,
                              .item = r->item,
                              .n_item = c->seqs};
    fill_cache(r, c);
    return 0;
}

/* A few heads of the last row of each sequence. */
static double check_attn(struct attn_run *r, const struct attn_case *c)
{
    float want[KV_MAX_HEAD];
    double worst = 0;
    run_attn(r);
    for (int s = 0; s < c->seqs; s += 1 + c->seqs / 4)
        for (int h = 0; h < HEADS; h += 5) {
            struct attn_args a = r->a;
            size_t at = (size_t)(r->item[s].row + c->chunk - 1) * a.out_stride + (size_t)h * c->dim;
            struct attn_item last = r->item[s];
            a.out = r->out;
            memcpy(want, r->out + at, (size_t)c->dim * sizeof *want);
            ref_attn_head(&a, &last, c->chunk - 1, h);
            double err = nmse(want, r->out + at, (size_t)c->dim);
            worst = err > worst ? err : worst;
        }
    return worst;
}

static int bench_attn(struct bench *b, struct err *e)
{
    static const struct attn_case cases[] = {
        {1, 512, 1, 128, DT_F16},    {1, 8192, 1, 128, DT_F32},   {1, 8192, 1, 128, DT_F16},
        {1, 8192, 1, 128, DT_BF16},  {8, 2048, 1, 128, DT_BF16},  {32, 512, 1, 64, DT_BF16},
        {1, 512, 512, 128, DT_F32},  {1, 512, 512, 128, DT_BF16}, {1, 512, 512, 64, DT_F16},
        {1, 4096, 512, 128, DT_F16},
    };
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof cases / sizeof *cases; i++) {
        const struct attn_case *c = &cases[i];
        struct attn_run r = {.be = b->be};
        rc = open_attn(&r, c, e);
        if (!rc) {
            struct result line = {
                .op = "attn", .type = dtype_info(c->type)->name, .rows = c->seqs * c->chunk, .max_err = 1e-9};
            double seen = (double)c->chunk * (c->ctx - (c->chunk - 1) / 2.0); /* pairs of query and key */
            snprintf(line.shape, sizeof line.shape, "%d x %d of %d, %d/%d x %d", c->seqs, c->chunk, c->ctx,
                     HEADS, KV_HEADS, c->dim);
            line.bytes = 2.0 * c->seqs * c->ctx * (double)dtype_row_bytes(c->type, KV_HEADS * c->dim);
            line.work = 4.0 * c->seqs * seen * HEADS * c->dim;
            line.err = check_attn(&r, c);
            bench_line(b, &line, run_attn, &r);
        }
        close_attn(&r);
    }
    return rc;
}

/* Ops on rows. Their data stay in the caches, so `share` of the memory's rate may exceed 1. */
enum { DIM = 2048, HEAD = 128, VOCAB = 131072 };
struct row_run {
    struct backend *be;
    int rows;
    float *x, *y, *w;
    int32_t pos[4096];
    struct qkv_args qkv;
};

static void run_norm(void *arg)
{
    struct row_run *r = arg;
    r->be->ops->add_norm(r->be, &(struct norm_args){r->rows, DIM, r->x, r->y, 0, NULL, r->w,
                                                    r->y + (size_t)r->rows * DIM, 1e-6f});
}

static void run_angles(void *arg)
{
    struct row_run *r = arg;
    r->be->ops->rope_angles(r->be, r->pos, r->rows, r->w, HEAD / 2, 1, r->y);
}

static void run_qkv(void *arg)
{
    struct row_run *r = arg;
    r->be->ops->qkv_prep(r->be, &r->qkv);
}

static void run_cap(void *arg)
{
    struct row_run *r = arg;
    r->be->ops->scale_cap(r->be, r->x, VOCAB, 1, 30);
}

/* The same call by the reference on copies of x and y; returns y's error, or x's. */
static double check_rows(struct row_run *r, void (*fn)(void *), size_t nx, size_t ny, bool of_x)
{
    struct row_run ref = *r;
    double err = INFINITY;
    ref.be = ref_backend();
    ref.x = malloc(nx * sizeof(float));
    ref.y = malloc(ny * sizeof(float));
    if (ref.x && ref.y) {
        memcpy(ref.x, r->x, nx * sizeof(float));
        memcpy(ref.y, r->y, ny * sizeof(float));
        fn(&ref);
        fn(r);
        err = of_x ? nmse(r->x, ref.x, nx) : nmse(r->y, ref.y, ny);
    }
    free(ref.x);
    free(ref.y);
    return err;
}

static void bench_row_ops(struct bench *b, struct row_run *r)
{
    size_t n = (size_t)r->rows * DIM;
    struct result line = {.rows = r->rows, .type = "F32", .max_err = 1e-9};
    if (bench_wants(b, line.op = "add_norm")) {
        snprintf(line.shape, sizeof line.shape, "%d", DIM);
        line.bytes = 16.0 * (double)n; /* reads x and delta, writes x and y */
        line.err = check_rows(r, run_norm, n, 2 * n, false);
        bench_line(b, &line, run_norm, r);
    }
    if (bench_wants(b, line.op = "rope_angles")) {
        snprintf(line.shape, sizeof line.shape, "%d", HEAD / 2);
        line.bytes = 4.0 * r->rows * HEAD;
        line.err = check_rows(r, run_angles, n, (size_t)r->rows * HEAD, false);
        bench_line(b, &line, run_angles, r);
    }
    if (bench_wants(b, line.op = "scale_cap") && r->rows == b->rows[0]) {
        snprintf(line.shape, sizeof line.shape, "%d", VOCAB);
        line.bytes = 8.0 * VOCAB;
        line.err = check_rows(r, run_cap, VOCAB, 1, true);
        bench_line(b, &line, run_cap, r);
    }
}

static int bench_qkv(struct bench *b, struct row_run *r, struct err *e)
{
    int32_t table[4096 / BLOCK];
    struct attn_item it = {0, r->rows, 0, table};
    struct kv_geom g = {4096 / BLOCK, BLOCK, 1, KV_HEADS, HEAD, DT_F16};
    struct kv_store *kv;
    int rc = b->be->ops->kv_alloc(b->be, &g, &kv, e);
    if (rc) return rc;
    for (int i = 0; i < 4096 / BLOCK; i++) table[i] = i;
    size_t q = (size_t)r->rows * HEADS * HEAD, k = (size_t)r->rows * KV_HEADS * HEAD;
    r->qkv = (struct qkv_args){.n = r->rows,
                               .n_head = HEADS,
                               .n_kv_head = KV_HEADS,
                               .head_dim = HEAD,
                               .q = r->x,
                               .q_stride = HEADS * HEAD,
                               .k = r->x + q,
                               .k_stride = KV_HEADS * HEAD,
                               .v = r->x + q + k,
                               .v_stride = KV_HEADS * HEAD,
                               .q_norm = r->w,
                               .k_norm = r->w,
                               .eps = 1e-6f,
                               .rot = HEAD,
                               .cs = r->y,
                               .kv = kv,
                               .item = &it,
                               .n_item = 1};
    struct result line = {.op = "qkv_prep", .rows = r->rows, .type = "F16", .max_err = 1e-9};
    snprintf(line.shape, sizeof line.shape, "%d/%d x %d, norm, rope", HEADS, KV_HEADS, HEAD);
    line.bytes = 8.0 * (double)q + 8.0 * (double)k + 8.0 * (double)k;
    float *want = malloc(q * sizeof *want), *before = malloc(q * sizeof *want);
    if (want && before) {
        memcpy(before, r->x, q * sizeof *want);
        ref_qkv_rows(&r->qkv, 0, r->rows);
        memcpy(want, r->x, q * sizeof *want);
        memcpy(r->x, before, q * sizeof *want);
        run_qkv(r);
        line.err = nmse(r->x, want, q);
        bench_line(b, &line, run_qkv, r);
    } else {
        rc = no_memory(e);
    }
    free(want);
    free(before);
    b->be->ops->kv_free(b->be, kv);
    return rc;
}

static int bench_rows(struct bench *b, struct err *e)
{
    int rc = 0;
    for (int i = 0; !rc && i < b->n_rows; i++) {
        size_t n = (size_t)b->rows[i] * 2 * DIM > VOCAB ? (size_t)b->rows[i] * 2 * DIM : VOCAB;
        struct row_run *r = calloc(1, sizeof *r);
        if (!r) return no_memory(e);
        *r = (struct row_run){.be = b->be,
                              .rows = b->rows[i],
                              .x = random_floats(n),
                              .y = random_floats(n),
                              .w = random_floats(DIM)};
        for (int j = 0; j < r->rows; j++) r->pos[j] = j;
        if (!r->x || !r->y || !r->w)
            rc = no_memory(e);
        else
            bench_row_ops(b, r);
        if (!rc && bench_wants(b, "qkv_prep")) rc = bench_qkv(b, r, e);
        free(r->x);
        free(r->y);
        free(r->w);
        free(r);
    }
    return rc;
}

int bench_cases(struct bench *b, struct err *e)
{
    int rc = 0;
    if (bench_wants(b, "linear")) rc = bench_matrices(b, false, e);
    if (!rc && bench_wants(b, "glu")) rc = bench_matrices(b, true, e);
    if (!rc && bench_wants(b, "attn")) rc = bench_attn(b, e);
    return rc ? rc : bench_rows(b, e);
}
