/* Every invariant of the bookkeeping, re-derived from scratch. The counters live in kv->scratch, so that a
 * check allocates nothing either. */
#include <string.h>
#include "kv_impl.h"

#define FAIL(...) return err_set(e, ERR_FORMAT, "kv: " __VA_ARGS__)

/* Each list is well linked, holds unused blocks of the right kind, and no block twice (seen[b] = 1). */
static int check_list(const struct kv *kv, const struct kv_list *l, bool cached, int32_t *seen, struct err *e)
{
    int n = 0;
    int32_t prev = KV_NONE;
    for (int32_t b = l->head; b != KV_NONE; prev = b, b = kv->block[b].next, n++) {
        if (b < 0 || b >= kv->c.n_block) FAIL("list names block %d", b);
        const struct kv_block *k = &kv->block[b];
        if (seen[b]++) FAIL("block %d is in two lists or a cycle", b);
        if (k->prev != prev) FAIL("block %d: broken back link", b);
        if (k->ref) FAIL("block %d is in a list with %d references", b, k->ref);
        if ((k->node != KV_NONE) != cached) FAIL("block %d: published and in the wrong list", b);
    }
    if (l->tail != prev || l->n != n) FAIL("list of %d blocks counts %d", n, l->n);
    return 0;
}

static int check_blocks(const struct kv *kv, int32_t *seen, struct err *e)
{
    int rc = check_list(kv, &kv->idle, false, seen, e);
    if (!rc) rc = check_list(kv, &kv->lru, true, seen, e);
    if (rc) return rc;
    for (int32_t b = 0; b < kv->c.n_block; b++) {
        const struct kv_block *k = &kv->block[b];
        if (!seen[b] && k->ref < 1) FAIL("block %d is in no list and has no reference", b);
        if (k->node == KV_NONE) continue;
        if (k->node < 0 || k->node >= kv->n_node || k->group < 0 || k->group >= kv->c.n_group)
            FAIL("block %d: node %d, group %d", b, k->node, k->group);
        if (kv->node_block[(size_t)k->node * kv->c.n_group + k->group] != b)
            FAIL("block %d is not in its node", b);
    }
    return 0;
}

/* One sequence: adds its table entries to refs[block] and its chain's end to links[node]. */
static int check_ref(const struct kv *kv, const struct kv_ref *r, int32_t *refs, int32_t *links,
                     struct err *e)
{
    int bs = kv->c.block_size, n = (r->n_tokens + bs - 1) / bs, held = 0;
    if (r->n_tokens < 1 || r->n_tokens > kv->c.max_tokens) FAIL("a sequence holds %d tokens", r->n_tokens);
    if (r->n_published * bs > r->n_tokens || r->n_base > r->n_tokens) FAIL("a sequence's counters disagree");
    for (int g = 0; g < kv->c.n_group; g++) {
        int w = kv->c.group[g].window, first = w && r->n_base >= w ? (r->n_base - w + 1) / bs : 0;
        for (int i = 0; i < n; i++) {
            int32_t b = r->table[g][i];
            if ((b == KV_NONE) != (i < first))
                FAIL("table[%d][%d] = %d, window starts at %d", g, i, b, first);
            if (b == KV_NONE) continue;
            if (b < 0 || b >= kv->c.n_block || kv->block[b].group != g) FAIL("table[%d][%d] = %d", g, i, b);
            refs[b]++, held++;
        }
    }
    if (held != kv_held(kv, r)) FAIL("a sequence holds %d blocks, not %d", held, kv_held(kv, r));
    int32_t node = r->node;
    if (node != KV_NONE) links[node]++;
    for (int i = r->n_published - 1; i >= 0; i--, node = kv->node[node].parent) {
        if (node == KV_NONE) FAIL("a published chain is too short");
        for (int g = 0; g < kv->c.n_group; g++)
            if (r->table[g][i] != KV_NONE &&
                kv->node_block[(size_t)node * kv->c.n_group + g] != r->table[g][i])
                FAIL("table[%d][%d] differs from the index", g, i);
    }
    if (node != KV_NONE) FAIL("a published chain is too long");
    return 0;
}

static int check_refs(const struct kv *kv, int32_t *refs, int32_t *links, struct err *e)
{
    const struct kv_ref *prev = NULL;
    for (const struct kv_ref *r = kv->refs; r; prev = r, r = r->next) {
        if (r->prev != prev) FAIL("list of sequences is broken");
        int rc = check_ref(kv, r, refs, links, e);
        if (rc) return rc;
    }
    for (int32_t b = 0; b < kv->c.n_block; b++)
        if (kv->block[b].ref != refs[b])
            FAIL("block %d: ref %d, named %d times", b, kv->block[b].ref, refs[b]);
    return 0;
}

/* A live node is found under its own key, owns its blocks, is needed by something, and is above no gap: with
 * a full group, a used block's parent is used. links[] gets the children added. */
static int check_node(const struct kv *kv, int32_t id, int32_t *links, struct err *e)
{
    const struct kv_node *n = &kv->node[id];
    if (n->parent != KV_NONE) links[n->parent]++;
    const int32_t *tok = kv->node_tok + (size_t)id * kv->c.block_size;
    if (kv_node_find(kv, n->parent, n->salt, tok) != id) FAIL("node %d is not found under its key", id);
    int n_block = 0;
    for (int g = 0; g < kv->c.n_group; g++) {
        bool full = kv->c.group[g].window == 0;
        int32_t b = kv->node_block[(size_t)id * kv->c.n_group + g];
        if (b == KV_NONE && full) FAIL("node %d lacks a block of full group %d", id, g);
        if (b == KV_NONE) continue;
        n_block++;
        if (b < 0 || b >= kv->c.n_block || kv->block[b].node != id || kv->block[b].group != g)
            FAIL("node %d does not own block %d", id, b);
        if (full && n->parent != KV_NONE && kv->block[b].ref &&
            !kv->block[kv->node_block[(size_t)n->parent * kv->c.n_group + g]].ref)
            FAIL("node %d is used, its parent is not", id);
    }
    if (n_block != n->n_block) FAIL("node %d: %d blocks, counts %d", id, n_block, n->n_block);
    if (!n_block && !n->n_link) FAIL("node %d is of no use", id);
    return 0;
}

static int check_index(const struct kv *kv, int32_t *links, struct err *e)
{
    int used = 0, idle = 0;
    for (uint32_t i = 0; i <= kv->slot_mask; i++) used += kv->slot[i] != KV_NONE;
    for (int32_t i = kv->node_free; i != KV_NONE && idle <= kv->n_node; i = kv->node[i].parent) idle++;
    if (used != kv->n_node_used || used + idle != kv->n_node)
        FAIL("%d nodes in the index, %d idle, counts %d of %d", used, idle, kv->n_node_used, kv->n_node);
    for (uint32_t i = 0; i <= kv->slot_mask; i++) {
        int32_t id = kv->slot[i];
        if (id == KV_NONE) continue;
        if (id < 0 || id >= kv->n_node) FAIL("slot %u names node %d", i, id);
        int rc = check_node(kv, id, links, e);
        if (rc) return rc;
    }
    for (uint32_t i = 0; i <= kv->slot_mask; i++)
        if (kv->slot[i] != KV_NONE && kv->node[kv->slot[i]].n_link != links[kv->slot[i]])
            FAIL("node %d: %d links, counts %d", kv->slot[i], links[kv->slot[i]],
                 kv->node[kv->slot[i]].n_link);
    return 0;
}

int kv_check(const struct kv *kv, struct err *e)
{
    int32_t *per_block = kv->scratch, *links = kv->scratch + kv->c.n_block;
    memset(kv->scratch, 0, ((size_t)kv->c.n_block + kv->n_node) * sizeof *kv->scratch);
    int rc = check_blocks(kv, per_block, e);
    if (rc) return rc;
    memset(per_block, 0, kv->c.n_block * sizeof *per_block);
    rc = check_refs(kv, per_block, links, e);
    return rc ? rc : check_index(kv, links, e);
}
