/* Attention over the paged cache, for rows of a tile; see step.h for the order of things. */
#include <float.h>
#include <math.h>
#include <string.h>
#include "kv_store.h"
#include "simd.h"
#include "step.h"

enum {
    GROUP = 6,
    TILES = ATTN_STEP / KV_TILE
}; /* rows a kernel takes at once: 6 x 2 sums fill AVX2's registers */

/* A tile's work in scratch. Rows are dealt to groups of equal size. */
struct work {
    const struct attn_tile *t;
    int groups, size; /* groups, rows of one (the last may have less) */
    float *q;         /* [groups][head_dim][GROUP] queries, scaled */
    float *s;         /* [ATTN_TILE][ATTN_STEP] scores, then weights */
    float *keep;      /* [ATTN_TILE] factor of the sums so far */
    size_t record;
};
/* Keys of one step: tiles of 8 tokens. */
struct keys {
    const unsigned char *k[TILES], *v[TILES];
    const unsigned char *next[TILES]; /* keys of the next step */
    size_t half;                      /* from a tile's keys to its values */
    int lo, hi;                       /* keys that the rows at hand can see, in [0, ATTN_STEP) */
    bool fetch; /* reading keys fetches their values, and reading those the next step's keys */
};

enum { LINE = 64 };
INLINE void fetch(const unsigned char *p) { __builtin_prefetch(p, 0, 2); }

/* s[r][key] = q[r] . k[key] for nv vectors of keys, each sum in ascending order of dimensions */
INLINE void score_keys(enum dtype type, int rows, int nv, const float *q, const unsigned char *const *k,
                       int dim, size_t ahead, float *s)
{
    vf c[GROUP][8];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) c[r][v] = vf_set(0);
    size_t size = KV_TILE * (type == DT_F32 ? 4 : 2), end = size * (size_t)dim;
    for (size_t line = 0; line < end; line += LINE) {
        if (ahead) UNROLL for (int v = 0; v < nv * (LANES / KV_TILE); v++) fetch(k[v] + ahead + line);
        UNROLL for (size_t at = line; at < line + LINE; at += size, q += GROUP)
        {
            vf x[8];
            UNROLL for (int v = 0; v < nv; v++) x[v] = load_keys(type, k + v * (LANES / KV_TILE), at);
            UNROLL for (int r = 0; r < rows; r++)
            {
                vf b = vf_bcast(q + r);
                UNROLL for (int v = 0; v < nv; v++) c[r][v] = vf_fma(b, x[v], c[r][v]);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
        vf_store(s + r * ATTN_STEP + v * LANES, c[r][v]);
}

/* acc[r] = acc[r] * keep[r] + sum over keys of w[r][key] * v[key], in ascending order, for nv vectors of
 * dimensions from `dim` on */
INLINE void add_values(enum dtype type, int rows, int nv, const float *w, const float *keep,
                       const struct keys *keys, int head_dim, int dim, float *acc, size_t record)
{
    vf c[GROUP][8];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) c[r][v] =
        vf_mul(vf_load(acc + (size_t)r * record + v * LANES), vf_bcast(keep + r));
    size_t elem = type == DT_F32 ? 4 : 2;
    for (int t = keys->lo; t < keys->hi;) {
        int end = (t / KV_TILE + 1) * KV_TILE;
        const unsigned char *p = keys->v[t / KV_TILE] + ((size_t)(t % KV_TILE) * head_dim + dim) * elem;
        ptrdiff_t ahead = keys->next[t / KV_TILE] - keys->v[t / KV_TILE];
        for (end = end < keys->hi ? end : keys->hi; t < end; t++, p += head_dim * elem) {
            if (keys->fetch) UNROLL for (size_t i = 0; i < nv * LANES * elem; i += LINE) fetch(p + ahead + i);
            vf x[8];
            UNROLL for (int v = 0; v < nv; v++) x[v] = load_values(type, p + v * LANES * elem);
            UNROLL for (int r = 0; r < rows; r++)
            {
                vf b = vf_bcast(w + r * ATTN_STEP + t);
                UNROLL for (int v = 0; v < nv; v++) c[r][v] = vf_fma(b, x[v], c[r][v]);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
        vf_store(acc + (size_t)r * record + v * LANES, c[r][v]);
}

/* Vectors at once for so many rows: enough independent sums to hide the latency of an addition. */
#define WIDE(rows)     (LANES == 16 ? ((rows) <= 1 ? 8 : 4) : (rows) == 1 ? 8 : (rows) <= 3 ? 4 : 2)
#define KEY_VECS(rows) (WIDE(rows) < ATTN_STEP / LANES ? WIDE(rows) : ATTN_STEP / LANES)

/* One function for each type and number of rows, so that each has its own registers. */
#define KERNELS(type, rows)                                                                                  \
    static __attribute__((noinline)) void score_##type##_##rows(const float *q, const struct keys *keys,     \
                                                                int dim, float *s)                           \
    {                                                                                                        \
        int step = KEY_VECS(rows) * LANES;                                                                   \
        for (int i = keys->lo / step * step; i < keys->hi; i += step)                                        \
            score_keys(DT_##type, rows, KEY_VECS(rows), q, keys->k + i / KV_TILE, dim,                       \
                       keys->fetch ? keys->half : 0, s + i);                                                 \
    }                                                                                                        \
    static __attribute__((noinline)) void values_##type##_##rows(                                            \
        const float *w, const float *keep, const struct keys *keys, int dim, float *acc, size_t record)      \
    {                                                                                                        \
        int i = 0;                                                                                           \
        for (; i + WIDE(rows) * LANES <= dim; i += WIDE(rows) * LANES)                                       \
            add_values(DT_##type, rows, WIDE(rows), w, keep, keys, dim, i, acc + i, record);                 \
        for (; i + 2 * LANES <= dim; i += 2 * LANES)                                                         \
            add_values(DT_##type, rows, 2, w, keep, keys, dim, i, acc + i, record);                          \
        for (; i < dim; i += LANES) add_values(DT_##type, rows, 1, w, keep, keys, dim, i, acc + i, record);  \
    }
#define ALL_ROWS(X, type) X(type, 1) X(type, 2) X(type, 3) X(type, 4) X(type, 5) X(type, 6)
ALL_ROWS(KERNELS, F32)
ALL_ROWS(KERNELS, F16)
ALL_ROWS(KERNELS, BF16)

#define KERNEL_CASE(type, rows) {score_##type##_##rows, values_##type##_##rows},
static const struct kernel {
    void (*score)(const float *q, const struct keys *keys, int dim, float *s);
    void (*values)(const float *w, const float *keep, const struct keys *keys, int dim, float *acc,
                   size_t record);
} kernels[3][GROUP] = {
    [DT_F32] = {ALL_ROWS(KERNEL_CASE, F32)},
    [DT_F16] = {ALL_ROWS(KERNEL_CASE, F16)},
    [DT_BF16] = {ALL_ROWS(KERNEL_CASE, BF16)},
};

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
    int pos = t->it->pos + (t->row + r) / (t->a->n_head / t->a->n_kv_head), w = t->a->window;
    *first = w > 0 && pos >= w ? pos - w + 1 : 0;
    *end = pos + 1;
}

INLINE int clamp(int x, int lo, int hi) { return x < lo ? lo : x > hi ? hi : x; }

static const unsigned char *find_tile(const struct attn_tile *t, int pos)
{
    const struct kv_store *kv = t->a->kv;
    int bs = kv->g.block_size;
    return kv_unit(kv, t->it->table[pos / bs], t->a->slot, t->kv_head) +
           (size_t)(pos % bs) * t->a->head_dim * kv->elem;
}

/* Keys [at + lo, at + hi). Only blocks with a visible key are looked up: others may not exist. Tiles without
 * one stand for any other, their scores are masked and their values not read. */
static void find_keys(const struct attn_tile *t, int at, int lo, int hi, struct keys *keys)
{
    int first = lo / KV_TILE, last = (hi - 1) / KV_TILE, unused, end;
    keys->half = t->a->kv->half;
    row_keys(t, t->rows - 1, &unused, &end);
    for (int i = first; i <= last; i++) {
        int pos = at + i * KV_TILE;
        keys->k[i] = find_tile(t, pos);
        keys->v[i] = keys->k[i] + keys->half;
        keys->next[i] = pos + ATTN_STEP < end ? find_tile(t, pos + ATTN_STEP) : keys->k[i];
    }
    for (int i = 0; i < TILES; i++)
        if (i < first || i > last) keys->k[i] = keys->k[first];
}

/* Rows [r, r + n) of the tile: what they see of the step. False if nothing. The tile's first rows fetch
 * ahead. */
static bool rows_keys(const struct attn_tile *t, int at, int r, int n, struct keys *keys)
{
    int first, end, unused;
    row_keys(t, r, &first, &unused);
    row_keys(t, r + n - 1, &unused, &end);
    keys->lo = clamp(first - at, 0, ATTN_STEP);
    keys->hi = clamp(end - at, 0, ATTN_STEP);
    keys->fetch = r == 0;
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

/* Keys [at, at + ATTN_STEP), of which the tile sees [lo, hi), into the records: all scores first, then all
 * values. */
static void step(const struct work *w, int at, int lo, int hi, float *rec)
{
    const struct attn_tile *t = w->t;
    const struct kernel *kernel = kernels[t->a->kv->g.type];
    int dim = t->a->head_dim;
    struct keys keys;
    find_keys(t, at, lo, hi, &keys);
    for (int g = 0, r = 0; g < w->groups; g++, r += w->size) {
        int n = t->rows - r < w->size ? t->rows - r : w->size;
        if (!rows_keys(t, at, r, n, &keys)) continue;
        kernel[n - 1].score(w->q + (size_t)g * dim * GROUP, &keys, dim, w->s + r * ATTN_STEP);
        soften_rows(w, at, r, n, &keys, rec);
    }
    for (int g = 0, r = 0; g < w->groups; g++, r += w->size) {
        int n = t->rows - r < w->size ? t->rows - r : w->size;
        if (!rows_keys(t, at, r, n, &keys)) continue;
        kernel[n - 1].values(w->s + r * ATTN_STEP, w->keep + r, &keys, dim, rec + (size_t)r * w->record,
                             w->record);
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
    w.q = w.keep + ATTN_TILE;
    float scale = a->cap > 0 ? a->scale / a->cap : a->scale * 0x1.715476p+0f;
    for (int r = 0; r < t->rows; r++) {
        int token = t->it->row + (t->row + r) / group, head = t->kv_head * group + (t->row + r) % group;
        const float *q = a->q + (size_t)token * a->q_stride + (size_t)head * dim;
        float *to = w.q + (size_t)(r / w.size) * dim * GROUP + r % w.size;
        for (int d = 0; d < dim; d++) to[(size_t)d * GROUP] = q[d] * scale;
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
    float *out = a->out + (size_t)token * a->out_stride + (size_t)head * dim;
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
