/* Ops that go over rows: norm, the preparation of queries and keys, sampling. */
#include <stdio.h>
#include <stdlib.h>
#include "ops.h"

struct rows {
    struct backend *be;
    const struct shape *m;
    int n;
    float *x, *delta, *w, *cs;
    void *y;
    struct kv_store *kv;
    struct batch b;
    struct attn_item item;
    int32_t *table, *zero;
    struct sample_row *row;
};

static void norm(void *arg, int i)
{
    struct rows *r = arg;
    (void)i;
    struct norm_args a = {.n = r->n,
                          .dim = r->m->hidden,
                          .x = r->x,
                          .delta = r->delta,
                          .scale = 0,
                          .pre_w = r->w,
                          .y = r->y,
                          .eps = 1e-6f}; /* scale 0: x stays in range however often it is called */
    r->be->ops->add_norm(r->be, &a);
}

static void prep(void *arg, int i)
{
    struct rows *r = arg;
    (void)i;
    int dim = r->m->head_dim, q = r->m->n_head * dim, kv = r->m->n_kv_head * dim;
    struct qkv_args a = {.n = r->n,
                         .n_head = r->m->n_head,
                         .n_kv_head = r->m->n_kv_head,
                         .head_dim = dim,
                         .q = r->x,
                         .q_stride = q + 2 * kv,
                         .k = r->x + q,
                         .k_stride = q + 2 * kv,
                         .v = r->x + q + kv,
                         .v_stride = q + 2 * kv,
                         .q_norm = r->w,
                         .k_norm = r->w,
                         .eps = 1e-6f,
                         .rot = dim,
                         .cs = r->cs,
                         .kv = r->kv,
                         .b = &r->b};
    r->be->ops->qkv_prep(r->be, &a);
}

static void sample(void *arg, int i)
{
    struct rows *r = arg;
    (void)i;
    r->be->ops->sample(r->be, r->x, r->m->vocab, r->row, r->n);
}

static void time_norm(struct gpu_bench *b, struct rows *r)
{
    for (int i = 0; gpu_wants(b, "add_norm") && i < b->n_rows; i++) {
        r->n = b->rows[i];
        struct line l = {.op = "add_norm",
                         .type = "F32",
                         .model = r->m->name,
                         .rows = r->n,
                         .bytes = (double)r->n * r->m->hidden * (4 + 4 + 4 + 2),
                         .flops = 0};
        snprintf(l.shape, sizeof l.shape, "%d", r->m->hidden);
        gpu_line(b, r->be, &l, norm, r);
    }
}

static void time_prep(struct gpu_bench *b, struct rows *r)
{
    int q = r->m->n_head * r->m->head_dim, kv = r->m->n_kv_head * r->m->head_dim;
    for (int i = 0; gpu_wants(b, "qkv_prep") && i < b->n_rows; i++) {
        r->n = b->rows[i];
        r->item = (struct attn_item){0, r->n, 0, r->table};
        r->b = (struct batch){
            .n = r->n, .ids = r->zero, .pos = r->zero, .n_list = 1, .list = {{&r->item, 1, 0}}};
        r->be->ops->begin(r->be, &r->b);
        struct line l = {.op = "qkv_prep",
                         .type = "BF16",
                         .model = r->m->name,
                         .rows = r->n,
                         .bytes = (double)r->n * (8.0 * q + (8 + 2.0) * kv + (4 + 2.0) * kv),
                         .flops = 0};
        snprintf(l.shape, sizeof l.shape, "%d+%d heads", r->m->n_head, r->m->n_kv_head);
        gpu_line(b, r->be, &l, prep, r);
    }
}

static void time_sample(struct gpu_bench *b, struct rows *r)
{
    static const char *const name[] = {"greedy", "top-p"};
    for (int i = 0; gpu_wants(b, "sample") && i < 2 * b->n_rows; i++) {
        r->n = b->rows[i / 2];
        if (r->n > 256) break;
        for (int k = 0; k < r->n; k++)
            r->row[k] = (struct sample_row){.temperature = i % 2 ? 0.8f : 0,
                                            .top_p = i % 2 ? 0.95f : 1,
                                            .repetition = 1,
                                            .top_k = i % 2 ? 50 : 0,
                                            .random = (uint64_t)k * 77777777777u,
                                            .score = -1,
                                            .n_top = -1};
        struct line l = {.op = "sample",
                         .type = name[i % 2],
                         .model = r->m->name,
                         .rows = r->n,
                         .eager = true,
                         .bytes = 4.0 * r->n * r->m->vocab,
                         .flops = 0};
        snprintf(l.shape, sizeof l.shape, "%d", r->m->vocab);
        gpu_line(b, r->be, &l, sample, r);
    }
}

void gpu_rows(struct gpu_bench *b, const struct shape *m)
{
    int most = b->rows[b->n_rows - 1], blocks = most / KV_BLOCK + 1,
        width = (m->n_head + 2 * m->n_kv_head) * m->head_dim;
    int outs = most < 256 ? most : 256;
    size_t x = (size_t)most * (width > m->hidden ? width : m->hidden), logits = (size_t)outs * m->vocab;
    struct err e = {0};
    struct rows r = {.be = gpu_open(b, (struct cuda_options){0}), .m = m};
    if (!r.be) return;
    struct kv_geom g = {blocks, KV_BLOCK, 1, m->n_kv_head, m->head_dim, DT_BF16};
    r.table = malloc((size_t)blocks * sizeof *r.table);
    r.zero = calloc((size_t)most, sizeof *r.zero);
    r.row = calloc((size_t)outs, sizeof *r.row);
    bool ready = r.table && r.zero && r.row && gpu_reserve(b, r.be, m, most, outs, most, width) &&
                 gpu_check(b, r.be->ops->kv_alloc(r.be, &g, &r.kv, &e), &e);
    for (int i = 0; r.table && i < blocks; i++) r.table[i] = i;
    if (ready) r.x = gpu_random(b, r.be, x > logits ? x : logits, false);
    if (r.x) r.delta = gpu_random(b, r.be, (size_t)most * m->hidden, false);
    if (r.delta)
        r.w = gpu_random(b, r.be, (size_t)(m->hidden > m->head_dim ? m->hidden : m->head_dim), false);
    if (r.w) r.cs = gpu_random(b, r.be, (size_t)most * m->head_dim, false);
    if (r.cs) r.y = gpu_random(b, r.be, (size_t)most * m->hidden, true);
    if (r.y) {
        time_norm(b, &r);
        time_prep(b, &r);
        time_sample(b, &r);
    }
    void *all[] = {r.x, r.delta, r.w, r.cs, r.y};
    for (int i = 0; i < 5; i++)
        if (all[i]) r.be->ops->mem_free(r.be, all[i]);
    if (r.kv) r.be->ops->kv_free(r.be, r.kv);
    r.be->ops->close(r.be);
    free(r.table), free(r.zero), free(r.row);
}
