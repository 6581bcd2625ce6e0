/* Attention of one layer: decodes of many sequences, and prefills. A slot of the pool stands for a layer;
 * calls go over so many slots that the caches hold none of them. */
#include <stdio.h>
#include <stdlib.h>
#include "ops.h"

struct attn_case {
    int seqs, ctx, len; /* rows of each sequence, the last ones of its ctx tokens */
    enum dtype type;
};
struct scene {
    struct backend *be;
    struct kv_store *kv;
    int slots;
    struct attn_item *item; /* [seqs] */
    int32_t *table, *zero;  /* [seqs][blocks of a sequence]; [rows] */
    struct batch b;
    struct attn_args a;
    void *q, *out;
};

static void attend(void *arg, int i)
{
    struct scene *s = arg;
    s->a.slot = i % s->slots;
    s->be->ops->attn(s->be, &s->a);
}

/* Random keys and values everywhere, `rows` tokens at a time. */
static bool fill(struct gpu_bench *b, struct scene *s, const struct shape *m, const struct attn_case *c,
                 int rows)
{
    struct err e = {0};
    int width = m->n_kv_head * m->head_dim, blocks = (c->ctx + KV_BLOCK - 1) / KV_BLOCK;
    float *k = gpu_random(b, s->be, (size_t)rows * 2 * width, false);
    for (int slot = 0; k && slot < s->slots; slot++)
        for (int i = 0; i < c->seqs; i++)
            for (int at = 0; at < c->ctx; at += rows) {
                int len = c->ctx - at < rows ? c->ctx - at : rows;
                struct attn_item it = {0, len, at, s->table + (size_t)i * blocks};
                struct batch batch = {
                    .n = len, .ids = s->zero, .pos = s->zero, .n_list = 1, .list = {{&it, 1, 0}}};
                struct qkv_args a = {.n = len,
                                     .n_head = m->n_head,
                                     .n_kv_head = m->n_kv_head,
                                     .head_dim = m->head_dim,
                                     .q = s->q,
                                     .q_stride = m->n_head * m->head_dim,
                                     .k = k,
                                     .k_stride = 2 * width,
                                     .v = k + width,
                                     .v_stride = 2 * width,
                                     .kv = s->kv,
                                     .slot = slot,
                                     .b = &batch};
                s->be->ops->begin(s->be, &batch);
                s->be->ops->qkv_prep(s->be, &a);
                if (!gpu_check(b, s->be->ops->sync(s->be, &e), &e)) return false;
            }
    if (k) s->be->ops->mem_free(s->be, k);
    return k != NULL;
}

static double kv_bytes(const struct shape *m, const struct attn_case *c)
{
    return (c->type == DT_E4M3 ? 1.0 : 2.0) * 2 * c->seqs * c->ctx * m->n_kv_head * m->head_dim;
}

static bool set_up(struct gpu_bench *b, struct scene *s, const struct shape *m, const struct attn_case *c)
{
    struct err e = {0};
    int blocks = (c->ctx + KV_BLOCK - 1) / KV_BLOCK, rows = c->seqs * c->len,
        step = rows < 2048 ? 2048 : rows;
    int stride = m->n_head * m->head_dim;
    double slots = (double)b->spread / kv_bytes(m, c) + 1;
    s->slots = slots > 64 ? 64 : (int)slots;
    s->item = calloc((size_t)c->seqs, sizeof *s->item);
    s->table = calloc((size_t)c->seqs * blocks, sizeof *s->table);
    s->zero = calloc((size_t)step, sizeof *s->zero);
    if (!s->item || !s->table || !s->zero) return gpu_check(b, err_set(&e, ERR_NOMEM, "out of memory"), &e);
    for (int i = 0; i < c->seqs * blocks; i++)
        s->table[i % c->seqs * blocks + i / c->seqs] = i; /* as they grow together */
    for (int i = 0; i < c->seqs; i++)
        s->item[i] = (struct attn_item){i * c->len, c->len, c->ctx - c->len, s->table + (size_t)i * blocks};
    struct kv_geom g = {blocks * c->seqs, KV_BLOCK, s->slots, m->n_kv_head, m->head_dim, c->type};
    if (!gpu_check(b, s->be->ops->kv_alloc(s->be, &g, &s->kv, &e), &e)) return false;
    if (!gpu_reserve(b, s->be, m, step, c->seqs, c->ctx, stride)) return false;
    s->q = gpu_random(b, s->be, (size_t)step * stride, false);
    s->out = s->q ? gpu_random(b, s->be, (size_t)rows * stride, true) : NULL;
    s->b = (struct batch){
        .n = rows, .ids = s->zero, .pos = s->zero, .n_list = 1, .list = {{s->item, c->seqs, 0}}};
    s->a = (struct attn_args){.n = rows,
                              .n_head = m->n_head,
                              .n_kv_head = m->n_kv_head,
                              .head_dim = m->head_dim,
                              .q = s->q,
                              .q_stride = stride,
                              .out = s->out,
                              .out_stride = stride,
                              .scale = 0.09f,
                              .kv = s->kv,
                              .b = &s->b};
    return s->out && fill(b, s, m, c, step);
}

static void time_case(struct gpu_bench *b, const struct shape *m, const struct attn_case *c)
{
    struct scene s = {.be = gpu_open(b, (struct cuda_options){0})};
    if (!s.be) return;
    if (set_up(b, &s, m, c)) {
        double rows = (double)c->seqs * c->len,
               seen = c->ctx - (c->len - 1) / 2.0; /* keys of a row, on average */
        struct line l = {.op = c->len == 1 ? "attn decode" : "attn prefill",
                         .type = dtype_info(c->type)->name,
                         .model = m->name,
                         .rows = (int)rows,
                         .bytes = kv_bytes(m, c) + rows * m->n_head * m->head_dim * 6,
                         .flops = 4 * rows * seen * m->n_head * m->head_dim};
        snprintf(l.shape, sizeof l.shape, "%d x %d keys, %.1f MB of KV", c->seqs, c->ctx,
                 kv_bytes(m, c) * 1e-6);
        s.be->ops->begin(s.be, &s.b);
        gpu_line(b, s.be, &l, attend, &s);
    }
    if (s.q) s.be->ops->mem_free(s.be, s.q);
    if (s.out) s.be->ops->mem_free(s.be, s.out);
    if (s.kv) s.be->ops->kv_free(s.be, s.kv);
    s.be->ops->close(s.be);
    free(s.item), free(s.table), free(s.zero);
}

void gpu_attention(struct gpu_bench *b, const struct shape *m)
{
    static const struct attn_case tiny[] = {{1, 40, 1, DT_BF16}, {3, 40, 1, DT_E4M3}, {1, 40, 40, DT_BF16}};
    static const struct attn_case real[] = {
        {1, 1024, 1, DT_BF16},    {16, 1024, 1, DT_BF16},   {64, 1024, 1, DT_BF16},  {256, 1024, 1, DT_BF16},
        {1, 8192, 1, DT_BF16},    {16, 8192, 1, DT_BF16},   {1, 1024, 1, DT_E4M3},   {16, 1024, 1, DT_E4M3},
        {64, 1024, 1, DT_E4M3},   {256, 1024, 1, DT_E4M3},  {1, 512, 512, DT_BF16},  {1, 2048, 2048, DT_BF16},
        {1, 8192, 8192, DT_BF16}, {1, 8192, 2048, DT_BF16}, {1, 2048, 2048, DT_E4M3}};
    const struct attn_case *c = b->tiny ? tiny : real;
    int n = b->tiny ? (int)(sizeof tiny / sizeof *tiny) : (int)(sizeof real / sizeof *real);
    for (int i = 0; gpu_wants(b, "attn") && i < n; i++) time_case(b, m, &c[i]);
}
