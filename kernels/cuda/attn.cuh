/* Attention: what its files share. Private to them.
 *
 * Scores are kept in powers of two: the softmax of x is 2^(x log2(e) - m) over its sum. The state of a row
 * over a range of keys is (m, l, o): the greatest score, the sum of the weights 2^(score - m), and the
 * weighted sum of the values. States of neighbouring ranges are folded from left to right.
 *
 * Work is cut by a plan that the host writes for each list of a step. The rows of an item and KV head,
 * [len][group heads], form tiles: 16 rows for a warp (items of few rows: decodes) or 64 for a block
 * (prefills). A tile walks all of its keys, or `chunk` of them at a time; then the states of the chunks go to
 * scratch and a second kernel folds them. To be batch invariant, a tile folds its state after each ATTN_SPAN
 * keys (counted from 0) and the only chunk is ATTN_SPAN: then every row has the same ranges, folded in the
 * same order, however it is computed. */
#pragma once
#include "kv.cuh"

enum { ATTN_SPAN = 128, ATTN_SMALL = 32, ATTN_SMALL_TILE = 16, ATTN_LARGE_TILE = 64, ATTN_WHOLE = 1 << 30 };
#define ATTN_EMPTY -1e30f /* m of a range without keys */

struct attn_plan_item {
    int small, large; /* tiles, times chunks, of the items before this one */
    int part;         /* rows, times chunks, in scratch before this one's */
    int chunk;        /* keys; ATTN_WHOLE: nothing goes to scratch */
};
struct attn_plan {
    int n_item;
    int group; /* query heads of a KV head */
    int pad[2];
    struct attn_plan_item item[1]; /* [n_item + 1], the last one with the sums */
};

struct attn_view {
    const float *q;
    int q_stride;
    bf16 *out;
    int out_stride;
    int n, n_head, n_kv_head, group, dim, window;
    float cap_in, cap_out; /* cap_in > 0: a score x becomes tanh(x * cap_in); */
    float to_log2;         /* then times this (with a cap, cap * log2(e)) */
    struct kv_view kv;
    const struct cu_item *item;
    const int32_t *table, *row_item;
    const struct attn_plan *plan;
    float *part_o;  /* scratch [rows * chunks of an item: part][head][chunk][dim] */
    float *part_ml; /* and its m and l [..][2] */
};

struct cu_attn {
    float *part_o, *part_ml;
    int max_part; /* rows times chunks */
    bool mma[3];  /* by width: does the tensor-core kernel fit the device? */
};

/* First key that a row at pos sees. */
static __host__ __device__ inline int attn_first(int pos, int window)
{
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}
static __host__ __device__ inline int attn_chunks(int pos, int len, int window, int chunk)
{
    int first = attn_first(pos, window) & ~(ATTN_SPAN - 1);
    return chunk == ATTN_WHOLE ? 1 : (pos + len - first + chunk - 1) / chunk;
}
static __host__ __device__ inline bool attn_is_small(int len, int group)
{
    return len * group <= ATTN_SMALL || len == 1;
}

/* tanh as accurate as its argument asks: the error is absolute. */
static __device__ __forceinline__ float attn_cap(float x)
{
    return 1 - __fdividef(2, exp2f(x * 2.885390082f) + 1); /* 2 log2(e) */
}
/* Folding (m, l, o) into (mt, lt, ot):  keep and add weigh the two. Written with explicit fused operations,
 * so that every kernel rounds alike. */
static __device__ __forceinline__ float attn_fold(float t, float keep, float s, float add)
{
    return fmaf(t, keep, s * add);
}
static __device__ __forceinline__ float attn_inverse(float l) { return l > 0 ? 1 / l : 0; }

/* attn_mma.cu: head sizes up to 256 divisible by 8 (16 for E4M3). */
void cu_attn_mma_open(struct cuda *c, struct cu_attn *s);
bool cu_attn_mma_fits(const struct cuda *c, const struct attn_view *v);
void cu_attn_mma(struct cuda *c, const struct attn_view *v, bool fold);
/* attn_plain.cu */
void cu_attn_plain(struct cuda *c, const struct attn_view *v);
