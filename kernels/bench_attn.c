/* Attention. Blocks are shuffled, all sequences have the same length. */
#include "bench_case.h"
#include <stdlib.h>
#include <string.h>
#include "kv_store.h"
#include "ref.h"

struct attn_case {
    int seqs, ctx, chunk; /* the last `chunk` tokens of ctx are queries */
    int dim;
    enum dtype type;
};
struct attn_run {
    struct backend *be;
    struct qkv_args store;
    struct attn_args a;
    struct batch b;
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
        struct batch b = {.n = c->ctx, .n_list = 1, .list = {{&it, 1, 0}}};
        struct qkv_args a = {.n = c->ctx,
                             .n_kv_head = KV_HEADS,
                             .head_dim = c->dim,
                             .k = r->kv,
                             .k_stride = dim,
                             .v = r->kv + (size_t)c->ctx * dim,
                             .v_stride = dim,
                             .kv = r->mem,
                             .b = &b};
        r->be->ops->begin(r->be, &b);
        r->be->ops->qkv_prep(r->be, &a);
    }
}

static int open_attn(struct attn_run *r, const struct attn_case *c, struct err *e)
{
    int blocks = (c->ctx + BLOCK - 1) / BLOCK, rows = c->seqs * c->chunk, stride = HEADS * c->dim;
    uint64_t seed = 3;
    r->item = calloc((size_t)c->seqs, sizeof *r->item);
    r->table = malloc((size_t)blocks * c->seqs * sizeof *r->table);
    r->q = bench_floats((size_t)rows * stride);
    r->out = calloc((size_t)rows * stride, sizeof *r->out);
    r->kv = bench_floats((size_t)2 * c->ctx * KV_HEADS * c->dim);
    if (!r->item || !r->table || !r->q || !r->out || !r->kv) return bench_no_memory(e);
    for (int i = 0; i < blocks * c->seqs; i++) { /* inside-out shuffle */
        int j = (int)((bench_uniform(&seed) + 1) / 2 * (float)(i + 1));
        r->table[i] = r->table[j];
        r->table[j] = i;
    }
    for (int s = 0; s < c->seqs; s++)
        r->item[s] = (struct attn_item){s * c->chunk, c->chunk, c->ctx - c->chunk, r->table + s * blocks};
    struct kv_geom g = {blocks * c->seqs, BLOCK, 1, KV_HEADS, c->dim, c->type};
    int rc = r->be->ops->kv_alloc(r->be, &g, &r->mem, e);
    struct step_limits l = {.max_rows = rows > c->ctx ? rows : c->ctx,
                            .max_seqs = c->seqs,
                            .max_ctx = c->ctx,
                            .max_in = 1,
                            .n_head = HEADS,
                            .n_kv_head = KV_HEADS,
                            .head_dim = c->dim,
                            .n_list = 1,
                            .block_size = BLOCK};
    if (!rc) rc = r->be->ops->reserve(r->be, &l, e);
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
                              .b = &r->b};
    fill_cache(r, c);
    r->b = (struct batch){.n = rows, .n_list = 1, .list = {{r->item, c->seqs, 0}}};
    r->be->ops->begin(r->be, &r->b);
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
            double err = bench_nmse(want, r->out + at, (size_t)c->dim);
            worst = err > worst ? err : worst;
        }
    return worst;
}

int bench_attn(struct bench *b, struct err *e)
{
    static const struct attn_case cases[] = {
        {1, 512, 1, 128, DT_F16},   {4, 8192, 1, 128, DT_F32},   {4, 8192, 1, 128, DT_F16},
        {4, 8192, 1, 128, DT_BF16}, {4, 8192, 1, 128, DT_I8},    {8, 2048, 1, 128, DT_BF16},
        {32, 512, 1, 64, DT_BF16},  {1, 512, 512, 128, DT_F32},  {1, 512, 512, 128, DT_BF16},
        {1, 512, 512, 64, DT_F16},  {1, 4096, 512, 128, DT_F16}, {1, 4096, 512, 128, DT_I8},
    };
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof cases / sizeof *cases; i++) {
        const struct attn_case *c = &cases[i];
        struct attn_run r = {.be = b->be};
        rc = open_attn(&r, c, e);
        if (!rc) {
            struct result line = {.op = "attn",
                                  .type = dtype_info(c->type)->name,
                                  .rows = c->seqs * c->chunk,
                                  .kind = c->type == DT_BF16 ? PEAK_BF16 : PEAK_FLOAT,
                                  .max_err = c->type == DT_I8     ? 1e-7
                                             : c->type == DT_BF16 ? 1e-4
                                                                  : 1e-9};
            double seen = (double)c->chunk * (c->ctx - (c->chunk - 1) / 2.0); /* pairs of query and key */
            snprintf(line.shape, sizeof line.shape, "%d x %d of %d, %d/%d x %d", c->seqs, c->chunk, c->ctx,
                     HEADS, KV_HEADS, c->dim);
            struct kv_geom token = {1, 1, 1, KV_HEADS, c->dim, c->type};
            line.bytes = (double)c->seqs * c->ctx * (double)kv_block_bytes(&token);
            line.work = 4.0 * c->seqs * seen * HEADS * c->dim;
            line.err = check_attn(&r, c);
            bench_line(b, &line, run_attn, &r);
        }
        close_attn(&r);
    }
    return rc;
}
