/* Attention over the paged cache, for rows of a tile; see step.h for the order of things. */
#include <float.h>
#include <math.h>
#include <string.h>
#include "attn_kernel.h"
#include "kv_store.h"
#include "step.h"

/* A tile's work in scratch. Rows are dealt to groups of equal size. Of an int8 cache, queries and weights are
 * rounded to 15 and 16 bits, which is nothing beside the cache's 8, and multiplied and added as integers:
 * exact sums in any order. Of a bfloat16 cache they are rounded to bfloat16 where the processor multiplies
 * that, which is twice as fast. */
struct work {
    const struct attn_tile *t;
    int groups, size;       /* groups, rows of one (the last may have less) */
    float *q;               /* [groups][turns of head_dim's words][GROUP] queries, scaled */
    float *s;               /* [ATTN_TILE][ATTN_STEP] scores, then weights, then their words */
    float *keep;            /* [ATTN_TILE] factor of the sums so far */
    float *qscale, *wscale; /* [ATTN_TILE] of int8: scales of queries and of weights */
    size_t record;
};
enum { QUERY_MAX = 16383, WEIGHT_MAX = 32767 }; /* sums of KV_MAX_HEAD or ATTN_STEP products fit 32 bits */

/* One row's scores into weights 2^(s - max); [lo, hi) are the keys that it sees, of keys [from, to) that are
 * read. */
static void soften(float *s, int lo, int hi, int from, int to, float cap, float *max, float *sum, float *keep)
{
    from = from / LANES * LANES;
    to = (to + LANES - 1) / LANES * LANES;
    if (cap > 0)
        for (int i = from; i < to; i += LANES)
            vf_store(s + i, vf_mul(vf_set(cap * 0x1.715476p+0f), vf_tanh(vf_load(s + i))));
    for (int i = from; i < lo; i++) s[i] = -INFINITY;
    for (int i = hi; i < to; i++) s[i] = -INFINITY;
    vf m = vf_load(s + from), total = vf_set(0);
    for (int i = from + LANES; i < to; i += LANES) m = vf_max(m, vf_load(s + i));
    float top = vf_hmax(m), old = *max;
    top = top > old ? top : old;
    *keep = 1;
    if (top > old) {
        float lane[LANES];
        vf_store(lane, vf_exp2(vf_set(old - top)));
        *keep = lane[0];
    }
    m = vf_set(top);
    for (int i = from; i < to; i += LANES) {
        vf p = vf_exp2(vf_sub(vf_load(s + i), m));
        total = vf_add(total, p);
        vf_store(s + i, p);
    }
    *sum = *sum * *keep + vf_sum(total);
    *max = top;
}

/* Keys [first, end) that row r of the tile sees. */
INLINE void row_keys(const struct attn_tile *t, int r, int *first, int *end)
{
    int pos = t->it->pos + (t->row + r) / (t->a->n_head / t->a->n_kv_head),
        w = t->a->b->list[t->a->list].window;
    *first = w > 0 && pos >= w ? pos - w + 1 : 0;
    *end = pos + 1;
}

INLINE int clamp(int x, int lo, int hi) { return x < lo ? lo : x > hi ? hi : x; }

static const unsigned char *find_tile(const struct attn_tile *t, int pos)
{
    const struct kv_store *kv = t->a->kv;
    int bs = kv->g.block_size;
    return kv_tile(kv, t->it->table[pos / bs], t->a->slot, t->kv_head, pos % bs);
}

/* Keys [at + lo, at + hi). Only blocks with a visible key are looked up: others may not exist. Tiles without
 * one stand for any other, their scores are masked and their values not read. */
static void find_keys(const struct attn_tile *t, int at, int lo, int hi, struct keys *keys)
{
    int first = lo / KV_TILE, last = (hi - 1) / KV_TILE;
    for (int i = first; i <= last; i++) {
        keys->k[i] = find_tile(t, at + i * KV_TILE);
        keys->v[i] = keys->k[i] + t->a->kv->half;
    }
    for (int i = 0; i < TILES; i++)
        if (i < first || i > last) keys->k[i] = keys->k[first];
}

/* Values of keys [at + lo, at + hi), then the keys of the step after. */
static void find_ahead(const struct attn_tile *t, int at, int lo, int hi, struct ahead *a)
{
    const struct kv_store *kv = t->a->kv;
    int unused, end, size = kv->g.block_size < ATTN_STEP ? kv->g.block_size : ATTN_STEP;
    row_keys(t, t->rows - 1, &unused, &end);
    end = end < at + 2 * ATTN_STEP ? end : at + 2 * ATTN_STEP;
    a->bytes = (size_t)size * kv->row;
    a->n = 0;
    for (int pos = at + lo / size * size; pos < at + hi; pos += size)
        a->piece[a->n++] = find_tile(t, pos) + kv->half;
    for (int pos = at + ATTN_STEP; pos < end; pos += size) a->piece[a->n++] = find_tile(t, pos);
    a->i = -1;
    next_piece(a);
}

/* Rows [r, r + n) of the tile: what they see of the step. False if nothing. */
static bool rows_keys(const struct attn_tile *t, int at, int r, int n, struct keys *keys)
{
    int first, end, unused;
    row_keys(t, r, &first, &unused);
    row_keys(t, r + n - 1, &unused, &end);
    keys->lo = clamp(first - at, 0, ATTN_STEP);
    keys->hi = clamp(end - at, 0, ATTN_STEP);
    return keys->lo < keys->hi;
}

static void soften_rows(const struct work *w, int at, int r0, int n, const struct keys *keys, float *rec)
{
    for (int r = r0; r < r0 + n; r++) {
        int first, end;
        float *x = rec + (size_t)(r + 1) * w->record - 16;
        row_keys(w->t, r, &first, &end);
        soften(w->s + r * ATTN_STEP, clamp(first - at, 0, ATTN_STEP), clamp(end - at, 0, ATTN_STEP), keys->lo,
               keys->hi, w->t->a->cap, x, x + 1, w->keep + r);
    }
}

/* Weights of int8 values into words: times the values' scales, then codes in pairs. Beyond the keys, where
 * weights are 0, scales are what the memory's last user left. */
static void weight_codes(const struct work *w, int r0, int n, const struct keys *keys)
{
    int from = keys->lo / LANES * LANES, to = (keys->hi + LANES - 1) / LANES * LANES;
    float scale[ATTN_STEP];
    for (int i = keys->lo / KV_TILE; i <= (keys->hi - 1) / KV_TILE; i++)
        memcpy(scale + i * KV_TILE, keys->v[i], KV_TILE * sizeof *scale);
    for (int i = from; i < keys->lo; i++) scale[i] = 0;
    for (int i = keys->hi; i < to; i++) scale[i] = 0;
    for (int r = r0; r < r0 + n; r++) {
        float *s = w->s + r * ATTN_STEP;
        for (int i = from; i < to; i += LANES) vf_store(s + i, vf_mul(vf_load(s + i), vf_load(scale + i)));
        w->wscale[r] = quantise(s + from, to - from, WEIGHT_MAX, (int16_t *)(void *)s + from);
    }
}

#ifdef vf_dot_bf16
/* Weights of bfloat16 values into words. */
static void weight_pairs(const struct work *w, int r0, int n, const struct keys *keys)
{
    for (int r = r0; r < r0 + n; r++) {
        float *s = w->s + r * ATTN_STEP;
        for (int i = keys->lo / LANES * LANES; i < keys->hi; i += LANES)
            store_bf16((uint16_t *)(void *)s + i, vf_load(s + i));
    }
}
#endif

/* Keys [at, at + ATTN_STEP), of which the tile sees [lo, hi), into the records: all scores first, then all
 * values. */
static void step(const struct work *w, int at, int lo, int hi, float *rec)
{
    const struct attn_tile *t = w->t;
    const struct kernel *kernel = kernels[t->a->kv->g.type];
    int dim = t->a->head_dim;
    struct ahead ahead;
    struct keys keys;
    find_ahead(t, at, lo, hi, &ahead);
    find_keys(t, at, lo, hi, &keys);
    for (int g = 0, r = 0; g < w->groups; g++, r += w->size) {
        int n = t->rows - r < w->size ? t->rows - r : w->size;
        if (!rows_keys(t, at, r, n, &keys)) continue;
        keys.ahead = r == 0 ? &ahead : NULL;
        kernel[n - 1].score(w->q + (size_t)g * dim * GROUP, w->qscale + r, &keys, dim, w->s + r * ATTN_STEP);
        soften_rows(w, at, r, n, &keys, rec);
        if (t->a->kv->g.type == DT_I8) weight_codes(w, r, n, &keys);
#ifdef vf_dot_bf16
        if (t->a->kv->g.type == DT_BF16) weight_pairs(w, r, n, &keys);
#endif
    }
    for (int g = 0, r = 0; g < w->groups; g++, r += w->size) {
        int n = t->rows - r < w->size ? t->rows - r : w->size;
        if (!rows_keys(t, at, r, n, &keys)) continue;
        keys.ahead = r == 0 ? &ahead : NULL;
        kernel[n - 1].values(w->s + r * ATTN_STEP, w->wscale + r, w->keep + r, &keys, dim,
                             rec + (size_t)r * w->record, w->record);
    }
}

/* One span of keys into fresh records. The lowest float stands for "no key yet": 2^(-inf - it) is 0, not NaN.
 */
static void walk_span(const struct work *w, int span, float *rec)
{
    const struct attn_tile *t = w->t;
    int first, end, unused;
    row_keys(t, 0, &first, &unused);
    row_keys(t, t->rows - 1, &unused, &end);
    first = first > span * ATTN_SPAN ? first : span * ATTN_SPAN;
    end = end < (span + 1) * ATTN_SPAN ? end : (span + 1) * ATTN_SPAN;
    for (int r = 0; r < t->rows; r++) {
        float *x = rec + (size_t)r * w->record;
        memset(x, 0, w->record * sizeof *x);
        x[w->record - 16] = -FLT_MAX;
    }
    for (int at = first / ATTN_STEP * ATTN_STEP; at < end; at += ATTN_STEP)
        step(w, at, clamp(first - at, 0, ATTN_STEP), clamp(end - at, 0, ATTN_STEP), rec);
}

/* Queries into scratch, scaled to scores of log 2, or to arguments of tanh. */
static struct work prepare(const struct attn_tile *t, float *scratch)
{
    const struct attn_args *a = t->a;
    int dim = a->head_dim, group = a->n_head / a->n_kv_head;
    struct work w = {.t = t, .groups = (t->rows + GROUP - 1) / GROUP, .record = attn_record(dim)};
    w.size = (t->rows + w.groups - 1) / w.groups;
    w.s = scratch;
    w.keep = w.s + ATTN_TILE * ATTN_STEP;
    w.qscale = w.keep + ATTN_TILE;
    w.wscale = w.qscale + ATTN_TILE;
    w.q = w.wscale + ATTN_TILE;
    float scale = a->cap > 0 ? a->scale / a->cap : a->scale * 0x1.715476p+0f;
    for (int r = 0; r < t->rows; r++) {
        int token = t->it->row + (t->row + r) / group, head = t->kv_head * group + (t->row + r) % group;
        const float *q = a->q + (size_t)token * a->q_stride + (size_t)head * dim;
        float *to = w.q + (size_t)(r / w.size) * dim * GROUP + r % w.size;
        if (a->kv->g.type == DT_I8) {
            int16_t code[KV_MAX_HEAD + LANES];
            float turned[KV_MAX_HEAD]; /* as the keys are */
            rotate(q, dim, turned);
            w.qscale[r] = quantise(turned, dim, QUERY_MAX, code) * (scale / (float)kv_rotation(dim));
            for (int d = 0; d < dim; d += 2) memcpy(to + (size_t)d / 2 * GROUP, code + d, sizeof *to);
        } else if (a->kv->g.type == DT_BF16 && TURNS(DT_BF16) == 1) {
            for (int d = 0; d < dim; d += 2) {
                uint16_t pair[2] = {bf16_from_f32(q[d] * scale), bf16_from_f32(q[d + 1] * scale)};
                memcpy(to + (size_t)d / 2 * GROUP, pair, sizeof *to);
            }
        } else {
            for (int d = 0; d < dim; d++) to[(size_t)d * GROUP] = q[d] * scale;
        }
    }
    return w;
}

/* a = a + b, records of the same row, b's keys after a's */
static void join(float *a, const float *b, size_t record)
{
    float *sa = a + record - 16, lane[2 * LANES];
    const float *sb = b + record - 16;
    float top = sa[0] > sb[0] ? sa[0] : sb[0];
    vf_store(lane, vf_exp2(vf_set(sa[0] - top)));
    vf_store(lane + LANES, vf_exp2(vf_set(sb[0] - top)));
    vf ka = vf_set(lane[0]), kb = vf_set(lane[LANES]);
    for (size_t i = 0; i < record - 16; i += LANES)
        vf_store(a + i, vf_fma(vf_load(b + i), kb, vf_mul(vf_load(a + i), ka)));
    sa[1] = sa[1] * lane[0] + sb[1] * lane[LANES];
    sa[0] = top;
}

static void write_out(const struct attn_tile *t, int r, const float *rec, size_t record)
{
    const struct attn_args *a = t->a;
    int group = a->n_head / a->n_kv_head, dim = a->head_dim;
    int token = t->it->row + (t->row + r) / group, head = t->kv_head * group + (t->row + r) % group;
    float *out = (float *)a->out + (size_t)token * a->out_stride + (size_t)head * dim;
    float inv = 1 / rec[record - 15];
    for (int d = 0; d < dim; d++) out[d] = rec[d] * inv;
}

void LEVEL(attn_tile)(const struct attn_tile *t, float *scratch)
{
    struct work w = prepare(t, scratch);
    float *sum = w.q + (size_t)ATTN_TILE * t->a->head_dim, *next = sum + ATTN_TILE * w.record;
    int first, end;
    attn_spans(t, &first, &end);
    walk_span(&w, first, sum);
    for (int span = first + 1; span < end; span++) {
        walk_span(&w, span, next);
        for (int r = 0; r < t->rows; r++)
            join(sum + (size_t)r * w.record, next + (size_t)r * w.record, w.record);
    }
    for (int r = 0; r < t->rows; r++) write_out(t, r, sum + (size_t)r * w.record, w.record);
}

void LEVEL(attn_span)(const struct attn_tile *t, int span, float *rec, float *scratch)
{
    struct work w = prepare(t, scratch);
    walk_span(&w, span, rec);
}

void LEVEL(attn_join)(const struct attn_tile *t, float *rec, size_t stride)
{
    size_t record = attn_record(t->a->head_dim);
    int first, end;
    attn_spans(t, &first, &end);
    for (int r = 0; r < t->rows; r++) {
        float *sum = rec + (size_t)r * record;
        for (int span = 1; span < end - first; span++) join(sum, sum + (size_t)span * stride, record);
        write_out(t, r, sum, record);
    }
}
