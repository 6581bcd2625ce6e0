/* The KV cache in device memory. Owned by whoever called kv_alloc; written by qkv_prep, read by attention,
 * both in the order of the stream.
 *
 * Layout: [block][slot][kv head] units, so that a block's tokens of one head are contiguous:
 *   K [block_size][head_dim], V the same; of E4M3 then K's scales float [block_size], and V's
 * An E4M3 code is x * 448 / max|x| of its token and head. Stored values are finite, but a NaN stays one (in
 * the scale), so that a zero weight hides every other value. */
#pragma once
#include "device.cuh"
#include "ptx.cuh"

enum { KV_MIN_BLOCK = 8, KV_MAX_DIM = 1024 };

struct kv_store {
    struct kv_geom g;
    size_t half; /* bytes of a unit's K, and of V, without scales */
    size_t unit;
    unsigned char *mem;
};

/* One layer of it, as kernels take it. */
struct kv_view {
    unsigned char *mem;  /* the slot in block 0 */
    size_t block_step;   /* bytes from block to block */
    int unit, half, row; /* bytes of a head's unit, of its K, of one token's values */
    int shift;           /* log2 of block_size */
    bool fp8;
};
struct kv_view kv_view(const struct kv_store *kv, int slot);

/* Where a token's values (which 0: K, 1: V) and their scale lie, given its block. */
static __device__ __forceinline__ unsigned char *kv_values(const struct kv_view &kv, int block, int head,
                                                           int t, int which)
{
    unsigned char *unit = kv.mem + block * kv.block_step + (size_t)head * kv.unit;
    return unit + (size_t)which * kv.half + (size_t)(t & ((1 << kv.shift) - 1)) * kv.row;
}
static __device__ __forceinline__ float *kv_scale(const struct kv_view &kv, int block, int head, int t,
                                                  int which)
{
    unsigned char *unit = kv.mem + block * kv.block_step + (size_t)head * kv.unit;
    return (float *)(unit + 2 * (size_t)kv.half) + ((size_t)which << kv.shift) + (t & ((1 << kv.shift) - 1));
}
