/* Ops on rows. Their data stay in the caches, so `share` of the memory's rate may exceed 1. */
#include "bench_case.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "ref.h"

enum { DIM = 2048, HEAD = 128, VOCAB = 131072 };
struct row_run {
    struct backend *be;
    int rows;
    float *x, *y, *w;
    int32_t pos[4096];
    struct batch b;
    struct qkv_args qkv;
};

static void run_norm(void *arg)
{
    struct row_run *r = arg;
    r->be->ops->add_norm(r->be, &(struct norm_args){r->rows, DIM, r->x, r->y, false, 0, NULL, r->w,
                                                    r->y + (size_t)r->rows * DIM, 1e-6f});
}

static void run_angles(void *arg)
{
    struct row_run *r = arg;
    r->be->ops->rope_angles(r->be, &r->b, r->w, HEAD / 2, 1, r->y);
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
        err = of_x ? bench_nmse(r->x, ref.x, nx) : bench_nmse(r->y, ref.y, ny);
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
                               .b = &r->b};
    r->b.n_list = 1;
    r->b.list[0] = (struct attn_list){&it, 1, 0};
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
        line.err = bench_nmse(r->x, want, q);
        bench_line(b, &line, run_qkv, r);
    } else {
        rc = bench_no_memory(e);
    }
    free(want);
    free(before);
    b->be->ops->kv_free(b->be, kv);
    return rc;
}

int bench_rows(struct bench *b, struct err *e)
{
    int rc = 0;
    for (int i = 0; !rc && i < b->n_rows; i++) {
        size_t n = (size_t)b->rows[i] * 2 * DIM > VOCAB ? (size_t)b->rows[i] * 2 * DIM : VOCAB;
        struct row_run *r = calloc(1, sizeof *r);
        if (!r) return bench_no_memory(e);
        *r = (struct row_run){.be = b->be,
                              .rows = b->rows[i],
                              .x = bench_floats(n),
                              .y = bench_floats(n),
                              .w = bench_floats(DIM)};
        for (int j = 0; j < r->rows; j++) r->pos[j] = j;
        r->b.n = r->rows;
        r->b.pos = r->pos;
        if (!r->x || !r->y || !r->w)
            rc = bench_no_memory(e);
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
