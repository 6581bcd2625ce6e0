/* The KV cache's memory in main memory, shared by the scalar and the SIMD back ends. Owned by whoever called
 * kv_alloc; written and read only within ops, so by the engine thread and, inside an op, by the pool.
 *
 * Layout: [block][slot][kv head] units of `unit` bytes, K then V:
 *   K  [block_size/kt][head_dim][kt]  kt = 8 tokens side by side (block_size if smaller): a score kernel
 * keeps keys in lanes and needs no horizontal sums V  [block_size][head_dim]         dimensions in lanes
 * Stored values are finite (f16 saturates), so that a zero weight always hides a value. */
#pragma once
#include "ops.h"

#define KV_TILE     8
#define KV_MAX_HEAD 1024

struct kv_store {
    struct kv_geom g;
    int kt;       /* tokens of a K tile */
    int elem;     /* bytes of a value */
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

static inline const unsigned char *kv_unit(const struct kv_store *kv, int block, int slot, int head)
{
    return kv->mem + (((size_t)block * kv->g.n_slot + slot) * kv->g.n_kv_head + head) * kv->unit;
}
