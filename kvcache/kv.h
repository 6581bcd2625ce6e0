/* The paged KV cache's bookkeeping: integers only, no tensor and no device.
 *
 * Layers are gathered in groups of equal size; all layers of a group have the same spec (full attention, or a
 * sliding window). One block holds block_size tokens of one group, so all blocks are alike and every group
 * draws from one pool. A sequence has one block table per group: table[g][i] covers tokens [i*bs, (i+1)*bs),
 * or is KV_NONE where a window has moved past it.
 *
 * Full blocks are published in an index of nodes keyed by (salt, parent node, tokens) and stay cached when
 * their last user leaves, until the least recently used are evicted. A hit is trusted only after comparing
 * tokens along the chain.
 *
 * Invariant, checked by kv_check: free + cached (evictable) + used = total; each block in exactly one of
 * them. Owned by the engine thread; no locks inside. Nothing here allocates after kv_open, except kv_ref
 * tables, which kv_ref_init sizes for the longest sequence. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "err.h"

#define KV_NONE       (-1)
#define KV_MAX_GROUPS 64

enum { KV_OK = 0, KV_FULL = -100 };

struct kv_spec {
    int window; /* 0: full attention; else a query at p sees tokens (p - window, p] */
};
struct kv_config {
    int n_block, block_size; /* blocks in the pool; tokens in a block, a power of two */
    int n_group;
    struct kv_spec group[KV_MAX_GROUPS];
    int max_tokens; /* longest sequence */
    bool prefix_cache;
};
struct kv_ref {                    /* one sequence's hold on the cache; zero-initialise, then kv_ref_init */
    int32_t *table[KV_MAX_GROUPS]; /* [n_group][ceil(max_tokens/bs)] */
    int n_tokens;                  /* tokens with room reserved */
    /* The rest is private to kvcache/. */
    int n_published; /* leading blocks that are in the index */
    int n_base;      /* earliest query still to come: what no window shows from there is given back */
    int n_query;     /* tokens asked of kv_match, until the hit is counted */
    int32_t node;    /* index node of the last published block, KV_NONE before the first */
    uint64_t salt;   /* set by kv_match */
    struct kv_ref *prev, *next; /* refs that hold blocks, for kv_check: a ref that holds any must not move */
};
struct kv_stats {
    int total, free, cached, used; /* blocks; cached = unused but still in the index */
    uint64_t query_tokens, hit_tokens, evictions;
};
struct kv;

int kv_open(const struct kv_config *c, struct kv **out, struct err *e);
void kv_close(struct kv *kv);
/* Allocates the tables: at submit, not in a step. Reads only the pool's configuration, so any thread may call
 * it. */
int kv_ref_init(struct kv *kv, struct kv_ref *r, struct err *e);
void kv_ref_free(struct kv_ref *r); /* after kv_release */

/* Starts r (which holds nothing yet) under salt: pins the longest cached prefix of tok[0..n) and returns its
 * length, a multiple of the block size. Always leaves at least one token to compute: the result is < n. With
 * n = 0 it only sets the salt, for a sequence that wants no hit. The statistics count a match when kv_extend
 * first grants it room. */
int kv_match(struct kv *kv, const int32_t *tok, int n, uint64_t salt, struct kv_ref *r);
/* Reserves room for tokens [0, n_total); frees blocks that no query at or after n_computed can see. All or
 * nothing: KV_OK or KV_FULL, in which case r is unchanged. */
int kv_extend(struct kv *kv, struct kv_ref *r, int n_computed, int n_total);
/* Publishes the blocks of tok that are full and computed, or will be before any work that is planned later.
 * Where another sequence published the same tokens first, r moves to that block and gives its own back: table
 * entries may change. */
void kv_commit(struct kv *kv, struct kv_ref *r, const int32_t *tok, int n_computed);
/* Gives back room beyond n_keep tokens (rejected drafts). Published blocks, and what was computed when
 * kv_extend was last called, are never truncated. */
void kv_truncate(struct kv *kv, struct kv_ref *r, int n_keep);
/* Gives everything back; published blocks stay cached. Safe to call twice. */
void kv_release(struct kv *kv, struct kv_ref *r);
void kv_reset_prefix(struct kv *kv); /* forgets all cached blocks that nobody uses */

/* Most blocks that one sequence of n tokens ever holds at once, when at most `chunk` tokens are computed a
 * step. */
int kv_blocks_needed(const struct kv_config *c, int n, int chunk);
int kv_held(const struct kv *kv, const struct kv_ref *r); /* blocks that r holds, O(groups) */
const struct kv_config *kv_config(const struct kv *kv);
struct kv_stats kv_stats(const struct kv *kv);
/* 0 if every invariant holds, else a message in e. O(blocks): for tests and idle moments. */
int kv_check(const struct kv *kv, struct err *e);
