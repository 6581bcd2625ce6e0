/* Blocks and their three states: idle, cached (LRU), used. */
#include <assert.h>
#include "kv_impl.h"

void kv_list_push(struct kv *kv, struct kv_list *l, int32_t b)
{
    kv->block[b].prev = l->tail;
    kv->block[b].next = KV_NONE;
    if (l->tail == KV_NONE)
        l->head = b;
    else
        kv->block[l->tail].next = b;
    l->tail = b;
    l->n++;
}

static void list_remove(struct kv *kv, struct kv_list *l, int32_t b)
{
    int32_t prev = kv->block[b].prev, next = kv->block[b].next;
    if (prev == KV_NONE)
        l->head = next;
    else
        kv->block[prev].next = next;
    if (next == KV_NONE)
        l->tail = prev;
    else
        kv->block[next].prev = prev;
    l->n--;
}

/* A cached block stops being published and becomes idle. */
static void forget(struct kv *kv, int32_t b)
{
    list_remove(kv, &kv->lru, b);
    kv_node_detach(kv, b);
    kv_list_push(kv, &kv->idle, b);
    kv->evictions++;
}

bool kv_block_evict(struct kv *kv)
{
    if (!kv->lru.n) return false;
    int32_t b = kv->lru.head, node = kv->block[b].node;
    bool full = kv->c.group[kv->block[b].group].window == 0;
    forget(kv, b);
    /* No match can pass a node that lacks the block of a full group, so its other blocks are worth nothing.
     * They are unused: whoever uses one uses the full group's as well. */
    for (int g = 0; full && g < kv->c.n_group; g++) {
        int32_t other = kv->node_block[(size_t)node * kv->c.n_group + g];
        if (other != KV_NONE) forget(kv, other);
    }
    kv_node_prune(kv, node);
    return true;
}

int32_t kv_block_take(struct kv *kv, int group)
{
    if (!kv->idle.n) kv_block_evict(kv);
    int32_t b = kv->idle.head;
    list_remove(kv, &kv->idle, b);
    kv->block[b].ref = 1;
    kv->block[b].node = KV_NONE;
    kv->block[b].group = group;
    return b;
}

void kv_block_pin(struct kv *kv, int32_t b)
{
    if (kv->block[b].ref++ == 0) list_remove(kv, &kv->lru, b);
}

void kv_block_unpin(struct kv *kv, int32_t b)
{
    assert(kv->block[b].ref > 0);
    if (--kv->block[b].ref == 0) kv_list_push(kv, kv->block[b].node == KV_NONE ? &kv->idle : &kv->lru, b);
}
