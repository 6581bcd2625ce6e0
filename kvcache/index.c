/* The prefix index: nodes keyed by (salt, parent, tokens) in an open-addressing hash table. */
#include <string.h>
#include "kv_impl.h"

/* Folded 64 x 64 -> 128 bit multiplication: every input bit reaches every output bit. */
static uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

uint32_t kv_node_hash(const struct kv *kv, int32_t parent, uint64_t salt, const int32_t *tok)
{
    const uint64_t k0 = 0x9e3779b97f4a7c15u, k1 = 0xd1b54a32d192ed03u;
    uint64_t h = mix(kv->seed ^ salt, k0) + (uint32_t)parent;
    for (int i = 0; i < kv->c.block_size; i++) h = mix(h ^ k1 ^ (uint32_t)tok[i], kv->seed | 1);
    return (uint32_t)mix(h ^ kv->seed, k0) & kv->hash_mask;
}

static int32_t *node_tok(const struct kv *kv, int32_t node)
{
    return kv->node_tok + (size_t)node * kv->c.block_size;
}

int32_t kv_node_find(const struct kv *kv, int32_t parent, uint64_t salt, const int32_t *tok)
{
    uint32_t h = kv_node_hash(kv, parent, salt, tok);
    for (uint32_t i = h & kv->slot_mask; kv->slot[i] != KV_NONE; i = (i + 1) & kv->slot_mask) {
        const struct kv_node *n = &kv->node[kv->slot[i]];
        if (n->hash == h && n->parent == parent && n->salt == salt &&
            !memcmp(node_tok(kv, kv->slot[i]), tok, kv->c.block_size * sizeof *tok))
            return kv->slot[i];
    }
    return KV_NONE;
}

/* Nodes can only run out where all groups have windows: long chains then keep few blocks each. Cached ones
 * give way. */
int32_t kv_node_add(struct kv *kv, int32_t parent, uint64_t salt, const int32_t *tok)
{
    while (kv->node_free == KV_NONE)
        if (!kv_block_evict(kv)) return KV_NONE;
    int32_t id = kv->node_free;
    struct kv_node *n = &kv->node[id];
    kv->node_free = n->parent;
    *n = (struct kv_node){.hash = kv_node_hash(kv, parent, salt, tok), .salt = salt, .parent = parent};
    memcpy(node_tok(kv, id), tok, kv->c.block_size * sizeof *tok);
    for (int g = 0; g < kv->c.n_group; g++) kv->node_block[(size_t)id * kv->c.n_group + g] = KV_NONE;
    uint32_t i = n->hash & kv->slot_mask;
    while (kv->slot[i] != KV_NONE) i = (i + 1) & kv->slot_mask;
    kv->slot[i] = id;
    kv->n_node_used++;
    kv_node_link(kv, parent);
    return id;
}

/* Deletion by backward shift: no tombstones, so probe runs never grow with age. */
static void slot_remove(struct kv *kv, int32_t node)
{
    uint32_t mask = kv->slot_mask, hole = kv->node[node].hash & mask;
    while (kv->slot[hole] != node) hole = (hole + 1) & mask;
    for (uint32_t i = (hole + 1) & mask; kv->slot[i] != KV_NONE; i = (i + 1) & mask) {
        uint32_t home = kv->node[kv->slot[i]].hash & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) { /* its home is at or before the hole */
            kv->slot[hole] = kv->slot[i];
            hole = i;
        }
    }
    kv->slot[hole] = KV_NONE;
}

void kv_node_prune(struct kv *kv, int32_t node)
{
    while (node != KV_NONE && !kv->node[node].n_block && !kv->node[node].n_link) {
        int32_t parent = kv->node[node].parent;
        slot_remove(kv, node);
        kv->node[node].parent = kv->node_free;
        kv->node_free = node;
        kv->n_node_used--;
        if (parent != KV_NONE) kv->node[parent].n_link--;
        node = parent;
    }
}

void kv_node_link(struct kv *kv, int32_t node)
{
    if (node != KV_NONE) kv->node[node].n_link++;
}

void kv_node_unlink(struct kv *kv, int32_t node)
{
    if (node == KV_NONE) return;
    kv->node[node].n_link--;
    kv_node_prune(kv, node);
}

void kv_node_attach(struct kv *kv, int32_t node, int group, int32_t b)
{
    kv->node_block[(size_t)node * kv->c.n_group + group] = b;
    kv->node[node].n_block++;
    kv->block[b].node = node;
}

void kv_node_detach(struct kv *kv, int32_t b)
{
    int32_t node = kv->block[b].node;
    kv->node_block[(size_t)node * kv->c.n_group + kv->block[b].group] = KV_NONE;
    kv->node[node].n_block--;
    kv->block[b].node = KV_NONE;
}
