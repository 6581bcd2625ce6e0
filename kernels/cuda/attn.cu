/* Attention on the host: scratch, the plan of a step, and which kernel. */
#include "attn.cuh"
#include <stdlib.h>
#include "err.h"

enum { PARTS_PER_SM = 16, MIN_CHUNK = 64, WARPS_PER_SM = 8 };

int cu_attn_open(struct cuda *c, struct err *e)
{
    c->attn = (struct cu_attn *)calloc(1, sizeof *c->attn);
    if (!c->attn) return err_set(e, ERR_NOMEM, "out of memory");
    cu_attn_mma_open(c, c->attn);
    return 0;
}

static void free_scratch(struct cuda *c)
{
    CU(c, cudaFree(c->attn->part_o));
    CU(c, cudaFree(c->attn->part_ml));
    c->attn->part_o = c->attn->part_ml = NULL;
    c->attn->max_part = 0;
}

/* Room for one row of the greatest context in chunks, or for several chunks for each warp of the device; when
 * it is used up, rows are not cut. */
int cu_attn_reserve(struct cuda *c, struct err *e)
{
    struct cu_attn *s = c->attn;
    size_t spans = ((size_t)c->lim.max_ctx + ATTN_SPAN) / ATTN_SPAN + 1;
    size_t many = (size_t)c->n_sm * PARTS_PER_SM, parts = spans > many ? spans : many,
           rows = parts * c->lim.n_head;
    free_scratch(c);
    int rc = cu_alloc(c, rows * c->lim.head_dim * sizeof(float), "attention", (void **)&s->part_o, e);
    if (!rc) rc = cu_alloc(c, rows * 2 * sizeof(float), "attention", (void **)&s->part_ml, e);
    if (!rc) s->max_part = (int)parts;
    return rc;
}

void cu_attn_close(struct cuda *c)
{
    if (!c->attn) return;
    free_scratch(c);
    free(c->attn);
    c->attn = NULL;
}

size_t cu_attn_plan_bytes(int n_item)
{
    return sizeof(struct attn_plan) + (size_t)n_item * sizeof(struct attn_plan_item);
}

static int group_of(const struct cuda *c)
{
    return c->lim.n_kv_head > 0 ? c->lim.n_head / c->lim.n_kv_head : 1;
}

static int tiles_of(const struct attn_item *it, int group)
{
    int rows = it->len * group, tile = attn_is_small(it->len, group) ? ATTN_SMALL_TILE : ATTN_LARGE_TILE;
    return (rows + tile - 1) / tile;
}

/* Warps' worth of keys: what the device has to walk, all tiles of all heads together. */
static int64_t total_keys(const struct cuda *c, const struct attn_list *l)
{
    int64_t sum = 0;
    for (int i = 0; i < l->n_item; i++) {
        const struct attn_item *it = &l->item[i];
        int warps = attn_is_small(it->len, group_of(c)) ? 1 : ATTN_LARGE_TILE / ATTN_SMALL_TILE;
        sum +=
            (int64_t)tiles_of(it, group_of(c)) * warps * (it->pos + it->len - attn_first(it->pos, l->window));
    }
    return sum * c->lim.n_kv_head;
}

/* Keys of a chunk. Each of the device's warps should get about four, so that they end together, but chunks
 * under 128 keys are worth their overhead only where warps would have nothing to do. */
static int chunk_keys(const struct cuda *c, const struct attn_list *l)
{
    int64_t warps = (int64_t)c->n_sm * WARPS_PER_SM, total = total_keys(c, l);
    int64_t even = total / warps, keys = even < 128 ? even : even / 4 < 128 ? 128 : even / 4;
    keys = (keys + MIN_CHUNK - 1) / MIN_CHUNK * MIN_CHUNK;
    return keys < MIN_CHUNK ? MIN_CHUNK : keys > ATTN_WHOLE ? ATTN_WHOLE : (int)keys;
}

/* A prefill is cut only where its tiles leave most of the device idle: its states are many. The second kernel
 * folds what was cut, and clears padding. A step of decodes always has it: if recorded, it stands for others.
 */
bool cu_attn_plan(const struct cuda *c, const struct attn_list *l, int n, void *plan)
{
    struct attn_plan *p = (struct attn_plan *)plan;
    struct attn_plan_item sum = {0, 0, 0, 0};
    int keys = chunk_keys(c, l), chunk = c->o.deterministic ? ATTN_SPAN : keys, rows = 0;
    p->n_item = l->n_item;
    p->group = group_of(c);
    for (int i = 0; i < l->n_item; i++) {
        const struct attn_item *it = &l->item[i];
        int seen = it->pos + it->len - attn_first(it->pos, l->window);
        int chunks = attn_chunks(it->pos, it->len, l->window, chunk), tiles = tiles_of(it, p->group);
        bool small = attn_is_small(it->len, p->group);
        bool cut = seen > keys && chunks > 1 && (int64_t)it->len * chunks <= c->attn->max_part - sum.part &&
                   (small || 2 * tiles * c->lim.n_kv_head <= c->n_sm);
        sum.chunk = cut ? chunk : ATTN_WHOLE;
        p->item[i] = sum;
        *(small ? &sum.small : &sum.large) += tiles * (cut ? chunks : 1);
        if (cut) sum.part += it->len * chunks;
        rows += it->len;
    }
    p->item[l->n_item] = sum;
    return sum.part > 0 || rows < n || l->n_item == n;
}

void cu_attn(struct backend *be, const struct attn_args *a)
{
    struct cuda *c = cuda_of(be);
    const struct cu_list *l = &c->step.list[a->list];
    const float log2e = 1.4426950408889634f;
    struct attn_view v = {};
    if (!a->n) return;
    v.q = a->q, v.q_stride = a->q_stride;
    v.out = (bf16 *)a->out, v.out_stride = a->out_stride;
    v.n = a->n, v.n_head = a->n_head, v.n_kv_head = a->n_kv_head, v.dim = a->head_dim;
    v.group = a->n_head / a->n_kv_head;
    v.window = a->b->list[a->list].window;
    v.cap_in = a->cap > 0 ? a->scale / a->cap : 0;
    v.to_log2 = (a->cap > 0 ? a->cap : a->scale) * log2e;
    v.kv = kv_view(a->kv, a->slot);
    v.item = l->item, v.table = l->table, v.row_item = l->row_item;
    v.plan = (const struct attn_plan *)l->plan;
    v.part_o = c->attn->part_o, v.part_ml = c->attn->part_ml;
    if (c->o.attention == CUDA_ATTENTION_MMA && v.group == group_of(c) && v.n_head <= c->lim.n_head &&
        v.dim <= c->lim.head_dim && cu_attn_mma_fits(c, &v))
        cu_attn_mma(c, &v, l->fold);
    else
        cu_attn_plain(c, &v);
}
