/* The KV cache's memory in main memory, shared by the scalar and the SIMD back ends. Owned by whoever called
 * kv_alloc; written and read only within ops, so by the engine thread and, inside an op, by the pool.
 *
 * Layout: [block][slot][kv head] units of `unit` bytes, K then V, each in tiles of kt = 8 tokens (block_size
 * if smaller):
 *   K  [head_dim][kt]  tokens side by side: a score kernel keeps keys in lanes and needs no horizontal sums
 *   V  [kt][head_dim]  dimensions in lanes
 * Of bfloat16 and int8, values lie in the pairs that a kernel multiplies and adds with one instruction:
 *   K  [head_dim/2][kt][2 dimensions]
 *   V  [kt/2][head_dim][2 tokens]
 * (not of bfloat16 if the tile or the head is too odd for the SIMD kernels). Of int8 a tile begins with its
 * tokens' scales, float [kt], so that memory is read in ascending order.
 * A code is x * 127 / max|x| of its token and head, rounded to the nearest integer, ties to even. Keys have a
 * few dimensions that are much larger than the others, and would leave these few codes: so int8 keys are
 * rotated first (kv_rotate), which spreads each dimension over all, and attention rotates its queries too.
 * Stored values and scales are finite (f16 saturates), so that a zero weight always hides a value; but a NaN
 * stays one, as a scale if need be, and an infinite int8 key becomes one. */
#pragma once
#include "ops.h"

#define KV_TILE     8
#define KV_MAX_HEAD 1024
#define KV_CODE_MAX 127

struct kv_store {
    struct kv_geom g;
    int kt;       /* tokens of a tile */
    bool paired;  /* values lie in pairs */
    size_t head;  /* bytes of a tile's scales */
    size_t row;   /* bytes of one token's K, or V, of a head */
    size_t half;  /* bytes of K, and of V, in a unit */
    size_t unit;  /* 2 * half */
    size_t bytes; /* of mem */
    unsigned char *mem;
};

int kv_store_alloc(const struct kv_geom *g, struct kv_store **out, struct err *e);
void kv_store_free(struct kv_store *kv);
/* Stores one token's key or value of one head, head_dim floats. */
void kv_store_k(struct kv_store *kv, int block, int slot, int head, int token, const float *x);
void kv_store_v(struct kv_store *kv, int block, int slot, int head, int token, const float *x);

/* The Walsh-Hadamard transform, not normalised: out[i] = sum over j of x[j] * (-1)^popcount(i & j), in blocks
 * of kv_rotation(n) values. A dot product of two rotated vectors is kv_rotation(n) times that of the
 * originals. n is divisible by 8. The idea is that of QuaRot (Ashkboos et al. 2024). */
void kv_rotate(const float *x, int n, float *out);
static inline int kv_rotation(int n) { return n & -n; } /* the largest power of two that divides n */

/* The tile of a block's token, in K; V's is kv->half behind. */
static inline unsigned char *kv_tile(const struct kv_store *kv, int block, int slot, int head, int token)
{
    size_t unit = ((size_t)block * kv->g.n_slot + slot) * kv->g.n_kv_head + head;
    return kv->mem + unit * kv->unit + (size_t)(token / kv->kt) * kv->kt * kv->row;
}
/* Number of a value in a tile, behind the scales: dimension d < head_dim of token t < kt. */
static inline size_t kv_key_at(const struct kv_store *kv, int d, int t)
{
    return kv->paired ? ((size_t)d / 2 * kv->kt + t) * 2 + d % 2 : (size_t)d * kv->kt + t;
}
static inline size_t kv_value_at(const struct kv_store *kv, int d, int t)
{
    int dim = kv->g.head_dim;
    return kv->paired ? ((size_t)t / 2 * dim + d) * 2 + t % 2 : (size_t)t * dim + d;
}
