/* The inside of the KV bookkeeping, for kvcache/ and its tests only.
 *
 * Block: free (in `idle`), cached (unused but published, in `lru`), or used (ref > 0, in no list).
 * Node: one full block's worth of tokens below a parent node, with at most one block per group. A node lives
 * while it has a block, a child, or a sequence whose chain ends there; so a parent outlives its children, and
 * comparing (salt, parent, tokens) at each node compares the whole prefix.
 *
 * Why eviction in plain LRU order never cuts a chain in a full-attention group: a sequence that uses a block
 * uses all blocks before it, and kv_release unpins the deepest first. So a block enters the list after all
 * its descendants. */
#pragma once
#include "kv.h"

struct kv_block {
    int32_t ref;        /* table entries that name it */
    int32_t node;       /* KV_NONE: not published */
    int32_t group;      /* meaningful unless free */
    int32_t prev, next; /* in idle or lru */
};
struct kv_list {
    int32_t head, tail; /* of lru: head is evicted next */
    int n;
};
struct kv_node {
    uint64_t salt;
    uint32_t hash;
    int32_t parent;  /* KV_NONE: first block of a sequence; free nodes: the next free one */
    int32_t n_link;  /* children, and sequences whose chain ends here */
    int32_t n_block; /* groups that have a block here */
};
struct kv {
    struct kv_config c;
    int shift;              /* log2(block_size) */
    struct kv_block *block; /* [n_block] */
    struct kv_list idle, lru;
    int n_node, n_node_used;
    struct kv_node *node; /* [n_node] */
    int32_t *node_tok;    /* [n_node][block_size] */
    int32_t *node_block;  /* [n_node][n_group] */
    int32_t node_free;    /* list of free nodes through parent */
    int32_t *slot;        /* [slot_mask + 1] open addressing, linear probing: node or KV_NONE */
    uint32_t slot_mask;
    uint64_t seed;       /* secret, so that a client cannot aim at one probe run */
    uint32_t hash_mask;  /* all ones; tests narrow it to make every hash collide */
    struct kv_ref *refs; /* those that hold blocks */
    int32_t *scratch;    /* [n_block + n_node] counters of kv_check */
    uint64_t query_tokens, hit_tokens, evictions;
};

/* block.c */
void kv_list_push(struct kv *kv, struct kv_list *l, int32_t b); /* at the tail */
int32_t kv_block_take(struct kv *kv,
                      int group); /* a private block; evicts if none is idle. Some must be available. */
void kv_block_pin(struct kv *kv, int32_t b);
void kv_block_unpin(struct kv *kv, int32_t b);
bool kv_block_evict(struct kv *kv); /* makes at least one block idle; false if nothing is cached */
static inline int kv_available(const struct kv *kv) { return kv->idle.n + kv->lru.n; }

/* index.c. tok: [block_size] tokens of the node's own block. */
uint32_t kv_node_hash(const struct kv *kv, int32_t parent, uint64_t salt, const int32_t *tok);
int32_t kv_node_find(const struct kv *kv, int32_t parent, uint64_t salt, const int32_t *tok); /* or KV_NONE */
int32_t kv_node_add(struct kv *kv, int32_t parent, uint64_t salt,
                    const int32_t *tok);          /* KV_NONE: no node left */
void kv_node_link(struct kv *kv, int32_t node);   /* KV_NONE is ignored, here and below */
void kv_node_unlink(struct kv *kv, int32_t node); /* may remove it and empty ancestors */
void kv_node_attach(struct kv *kv, int32_t node, int group, int32_t b);
void kv_node_detach(struct kv *kv, int32_t b); /* leaves an empty node in place: see kv_node_prune */
void kv_node_prune(struct kv *kv,
                   int32_t node); /* removes it, and then its ancestors, while nothing needs them */
