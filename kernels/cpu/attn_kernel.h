/* Template of attention's two kernels, for each type of cache and number of rows: scores of a step's keys,
 * and sums of its values. While they read one, they fetch what is read after it. */
#pragma once
#include "kv_store.h"
#include "simd.h"
#include "step.h"

enum { GROUP = 6 }; /* rows a kernel takes at once: 6 x 2 sums fill AVX2's registers */
enum { TILES = ATTN_STEP / KV_TILE, LINE = 64 };

/* What is read next, in pieces of memory: a step's values while its scores are computed, and then the next
 * step's keys. It is fetched line by line, as much as is read, and in ascending order: fetched in the order
 * of use, in which loops over keys and over dimensions jump between lines, it arrives at half the speed. */
struct ahead {
    const unsigned char *at, *end; /* of the current piece */
    const unsigned char *piece[2 * TILES];
    size_t bytes; /* of a piece */
    int i, n;     /* pieces */
};
/* Keys of one step: tiles of 8 tokens. */
struct keys {
    const unsigned char *k[TILES], *v[TILES];
    int lo, hi;          /* keys that the rows at hand can see, in [0, ATTN_STEP) */
    struct ahead *ahead; /* NULL if others fetch */
};

/* The piece after the current one; the last stands for those that come no more. */
static void next_piece(struct ahead *a)
{
    a->i += a->i + 1 < a->n;
    a->at = a->piece[a->i];
    a->end = a->at + a->bytes;
}

/* Fetches about n bytes more from `at`; returns where to go on. */
INLINE const unsigned char *fetch(struct ahead *a, const unsigned char *at, size_t n)
{
    UNROLL for (size_t i = 0; i < n; i += LINE) __builtin_prefetch(at + i, 0, 2);
    at += n;
    if (__builtin_expect(at < a->end, 1)) return at;
    next_piece(a);
    return a->at;
}

/* Bytes of a tile's scales, before its values. */
#define HEADER(type) ((type) == DT_I8 ? (size_t)KV_TILE * sizeof(float) : 0)

/* Between two turns: the compiler would load a word once for both, and need more registers than there are. */
#define NEXT_TURN() __asm__ volatile("" ::: "memory")

/* c[r] += queries at q times the keys' words at byte i of their tiles */
INLINE void score_turn(enum dtype type, int turn, int rows, int nv, const float *q,
                       const unsigned char *const *k, size_t i, vf c[GROUP][8])
{
    vf x[8];
    UNROLL for (int v = 0; v < nv; v++) x[v] =
        turn_of(type, load_keys(type, k + v * (LANES / KV_TILE), i), turn);
    UNROLL for (int r = 0; r < rows; r++)
    {
        vf b = vf_bcast(q + turn * GROUP + r);
        UNROLL for (int v = 0; v < nv; v++) c[r][v] = vf_dot(type, b, x[v], c[r][v]);
    }
}

/* s[r][key] = q[r] . k[key] for nv vectors of keys, each sum in ascending order of dimensions */
INLINE void score_keys(enum dtype type, int rows, int nv, const float *q, const float *qscale,
                       const unsigned char *const *k, int dim, struct ahead *ahead, float *s)
{
    vf c[GROUP][8];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) c[r][v] = vf_set(0);
    size_t size = KV_TILE * WORD_BYTES(type), end = HEADER(type) + size * (size_t)dim / PAIR(type);
    const unsigned char *at = ahead ? fetch(ahead, ahead->at, HEADER(type) * nv * LANES / KV_TILE) : NULL;
    for (size_t line = HEADER(type); line < end; line += LINE) {
        if (ahead) at = fetch(ahead, at, LINE * nv * LANES / KV_TILE);
        UNROLL for (size_t i = line; i < line + LINE; i += size, q += GROUP * TURNS(type))
        {
            score_turn(type, 0, rows, nv, q, k, i, c);
            if (TURNS(type) == 1) continue;
            NEXT_TURN();
            score_turn(type, 1, rows, nv, q, k, i, c);
            NEXT_TURN();
        }
    }
    if (ahead) ahead->at = at;
    UNROLL for (int v = 0; v < nv; v++)
    {
        vf scale = type == DT_I8 ? load_keys(DT_F32, k + v * (LANES / KV_TILE), 0) : vf_set(1);
        UNROLL for (int r = 0; r < rows; r++)
        {
            vf y = c[r][v];
            if (type == DT_I8) y = vf_mul(vf_from_i32(vi_cast(y)), vf_mul(scale, vf_bcast(qscale + r)));
            vf_store(s + r * ATTN_STEP + v * LANES, y);
        }
    }
}

/* c[r] += weights at b times the words at p, or if alone the first values of these pairs */
INLINE void add_turn(enum dtype type, int turn, int rows, int nv, bool alone, const float *b,
                     const unsigned char *p, vf c[GROUP][8])
{
    vf x[8];
    UNROLL for (int v = 0; v < nv; v++)
    {
        vf word = load_values(type, p + v * LANES * WORD_BYTES(type));
        x[v] = turn_of(type, alone ? vf_cast(vi_low16(vi_cast(word))) : word, turn);
    }
    UNROLL for (int r = 0; r < rows; r++)
    {
        vf weight = vf_bcast(b + turn + r * ATTN_STEP);
        UNROLL for (int v = 0; v < nv; v++) c[r][v] = vf_dot(type, weight, x[v], c[r][v]);
    }
}

/* acc[r] = acc[r] * keep[r] + sum over keys of w[r][key] * v[key], in ascending order, for nv vectors of
 * dimensions from `dim` on. Behind the last key its pair holds what the memory's last user left, perhaps a
 * NaN, which a weight of 0 would not hide. */
INLINE void add_values(enum dtype type, int rows, int nv, const float *w, const float *wscale,
                       const float *keep, const struct keys *keys, int head_dim, int dim, float *acc,
                       size_t record)
{
    vf c[GROUP][8];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++) c[r][v] =
        type == DT_I8 ? vf_set(0) : vf_mul(vf_load(acc + (size_t)r * record + v * LANES), vf_bcast(keep + r));
    size_t word = WORD_BYTES(type);
    struct ahead *ahead = keys->ahead;
    const unsigned char *at = ahead ? ahead->at : NULL;
    for (int t = keys->lo / PAIR(type) * PAIR(type); t < keys->hi;) {
        int end = (t / KV_TILE + 1) * KV_TILE;
        const unsigned char *p = keys->v[t / KV_TILE];
        if (HEADER(type) && ahead && dim == 0) at = fetch(ahead, at, HEADER(type));
        p += HEADER(type) + ((size_t)(t % KV_TILE / PAIR(type)) * head_dim + dim) * word;
        const float *b = w + t * TURNS(type) / PAIR(type);
        end = end < keys->hi ? end : keys->hi;
        for (; t + PAIR(type) <= end; t += PAIR(type), p += head_dim * word, b += TURNS(type)) {
            if (ahead) at = fetch(ahead, at, nv * LANES * word);
            add_turn(type, 0, rows, nv, false, b, p, c);
            if (TURNS(type) == 1) continue;
            NEXT_TURN();
            add_turn(type, 1, rows, nv, false, b, p, c);
            NEXT_TURN();
        }
        if (t < end) {
            if (ahead) at = fetch(ahead, at, nv * LANES * word);
            add_turn(type, 0, rows, nv, true, b, p, c);
            t += PAIR(type);
        }
    }
    if (ahead) ahead->at = at;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < nv; v++)
    {
        float *sum = acc + (size_t)r * record + v * LANES;
        vf y = c[r][v];
        if (type == DT_I8)
            y = vf_fma(vf_from_i32(vi_cast(y)), vf_bcast(wscale + r),
                       vf_mul(vf_load(sum), vf_bcast(keep + r)));
        vf_store(sum, y);
    }
}

/* Vectors at once for so many rows: enough independent sums to hide the latency of an addition. */
#define WIDE(rows)     (LANES == 16 ? ((rows) <= 1 ? 8 : 4) : (rows) == 1 ? 8 : (rows) <= 3 ? 4 : 2)
#define KEY_VECS(rows) (WIDE(rows) < ATTN_STEP / LANES ? WIDE(rows) : ATTN_STEP / LANES)

/* One function for each type and number of rows, so that each has its own registers. */
#define KERNELS(type, rows)                                                                                  \
    static __attribute__((noinline)) void score_##type##_##rows(const float *q, const float *qscale,         \
                                                                const struct keys *keys, int dim, float *s)  \
    {                                                                                                        \
        int step = KEY_VECS(rows) * LANES;                                                                   \
        for (int i = keys->lo / step * step; i < keys->hi; i += step)                                        \
            score_keys(DT_##type, rows, KEY_VECS(rows), q, qscale, keys->k + i / KV_TILE, dim, keys->ahead,  \
                       s + i);                                                                               \
    }                                                                                                        \
    static __attribute__((noinline)) void values_##type##_##rows(const float *w, const float *wscale,        \
                                                                 const float *keep, const struct keys *keys, \
                                                                 int dim, float *acc, size_t record)         \
    {                                                                                                        \
        int i = 0;                                                                                           \
        for (; i + WIDE(rows) * LANES <= dim; i += WIDE(rows) * LANES)                                       \
            add_values(DT_##type, rows, WIDE(rows), w, wscale, keep, keys, dim, i, acc + i, record);         \
        for (; i + 2 * LANES <= dim; i += 2 * LANES)                                                         \
            add_values(DT_##type, rows, 2, w, wscale, keep, keys, dim, i, acc + i, record);                  \
        for (; i < dim; i += LANES)                                                                          \
            add_values(DT_##type, rows, 1, w, wscale, keep, keys, dim, i, acc + i, record);                  \
    }
#define ALL_ROWS(X, type) X(type, 1) X(type, 2) X(type, 3) X(type, 4) X(type, 5) X(type, 6)
ALL_ROWS(KERNELS, F32)
ALL_ROWS(KERNELS, F16)
ALL_ROWS(KERNELS, BF16)
ALL_ROWS(KERNELS, I8)

#define KERNEL_CASE(type, rows) {score_##type##_##rows, values_##type##_##rows},
static const struct kernel {
    void (*score)(const float *q, const float *qscale, const struct keys *keys, int dim, float *s);
    void (*values)(const float *w, const float *wscale, const float *keep, const struct keys *keys, int dim,
                   float *acc, size_t record);
} kernels[DT_COUNT][GROUP] = {
    [DT_F32] = {ALL_ROWS(KERNEL_CASE, F32)},
    [DT_F16] = {ALL_ROWS(KERNEL_CASE, F16)},
    [DT_BF16] = {ALL_ROWS(KERNEL_CASE, BF16)},
    [DT_I8] = {ALL_ROWS(KERNEL_CASE, I8)},
};
