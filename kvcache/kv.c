/* The public operations: what a sequence does to blocks and index. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "kv_impl.h"

static int blocks_of(const struct kv *kv, int n_tokens)
{
    return (int)(((int64_t)n_tokens + kv->c.block_size - 1) >> kv->shift);
}

/* First block of the group that a query at position p or later can see. */
static int first_visible(const struct kv *kv, int group, int p)
{
    int w = kv->c.group[group].window;
    return w && p >= w ? (p - w + 1) >> kv->shift : 0;
}

static int config_check(const struct kv_config *c, struct err *e)
{
    if (c->n_block < 1 || c->n_block > 1 << 28) return err_set(e, ERR_INVALID, "KV blocks must be 1 to 2^28");
    if (c->block_size < 1 || c->block_size > 1 << 16 || (c->block_size & (c->block_size - 1)))
        return err_set(e, ERR_INVALID, "the KV block size must be a power of two up to 65536");
    if (c->n_group < 1 || c->n_group > KV_MAX_GROUPS)
        return err_set(e, ERR_INVALID, "KV groups must be 1 to %d", KV_MAX_GROUPS);
    if (c->max_tokens < 1 || c->max_tokens > 1 << 30)
        return err_set(e, ERR_INVALID, "the longest sequence must be 1 to 2^30 tokens");
    for (int g = 0; g < c->n_group; g++)
        if (c->group[g].window < 0) return err_set(e, ERR_INVALID, "a KV window is negative");
    return 0;
}

/* kv->c is set and checked. */
static int open_arrays(struct kv *kv, struct err *e)
{
    const struct kv_config *c = &kv->c;
    size_t slots = 2;
    while (slots < 2 * (size_t)kv->n_node) slots *= 2;
    kv->slot_mask = (uint32_t)(slots - 1);
    kv->block = calloc(c->n_block, sizeof *kv->block);
    kv->scratch = calloc((size_t)c->n_block + kv->n_node, sizeof *kv->scratch);
    kv->node = calloc(kv->n_node, sizeof *kv->node);
    kv->node_tok = calloc((size_t)kv->n_node * c->block_size, sizeof *kv->node_tok);
    kv->node_block = calloc((size_t)kv->n_node * c->n_group, sizeof *kv->node_block);
    kv->slot = malloc(slots * sizeof *kv->slot);
    if (!kv->block || !kv->scratch || !kv->node || !kv->node_tok || !kv->node_block || !kv->slot)
        return err_set(e, ERR_NOMEM, "no memory for the tables of %d KV blocks", c->n_block);
    memset(kv->slot, 0xff, slots * sizeof *kv->slot);
    kv->idle = kv->lru = (struct kv_list){KV_NONE, KV_NONE, 0};
    for (int32_t b = 0; b < c->n_block; b++) {
        kv->block[b].node = KV_NONE;
        kv_list_push(kv, &kv->idle, b);
    }
    kv->node_free = KV_NONE;
    for (int32_t i = kv->n_node - 1; i >= 0; i--) {
        kv->node[i].parent = kv->node_free;
        kv->node_free = i;
    }
    return 0;
}

int kv_open(const struct kv_config *c, struct kv **out, struct err *e)
{
    *out = NULL;
    int rc = config_check(c, e);
    if (rc) return rc;
    struct kv *kv = calloc(1, sizeof *kv);
    if (!kv) return err_set(e, ERR_NOMEM, "no memory for the KV bookkeeping");
    kv->c = *c;
    while (1 << kv->shift < c->block_size) kv->shift++;
    bool has_full = false;
    for (int g = 0; g < c->n_group; g++) has_full |= c->group[g].window == 0;
    /* With a full group every node owns a block. Without, a long chain keeps nodes whose blocks are gone. */
    kv->n_node = !c->prefix_cache ? 1 : has_full ? c->n_block : 2 * c->n_block;
    kv->hash_mask = UINT32_MAX;
    if (getrandom(&kv->seed, sizeof kv->seed, GRND_NONBLOCK) != sizeof kv->seed)
        kv->seed = (uintptr_t)kv; /* the address is random enough: only probe lengths depend on it */
    rc = open_arrays(kv, e);
    if (rc)
        kv_close(kv);
    else
        *out = kv;
    return rc;
}

void kv_close(struct kv *kv)
{
    if (!kv) return;
    free(kv->block);
    free(kv->scratch);
    free(kv->node);
    free(kv->node_tok);
    free(kv->node_block);
    free(kv->slot);
    free(kv);
}

int kv_ref_init(struct kv *kv, struct kv_ref *r, struct err *e)
{
    size_t per_group = blocks_of(kv, kv->c.max_tokens);
    *r = (struct kv_ref){.node = KV_NONE};
    int32_t *t = malloc(kv->c.n_group * per_group * sizeof *t);
    if (!t) return err_set(e, ERR_NOMEM, "no memory for a sequence's block tables");
    memset(t, 0xff, kv->c.n_group * per_group * sizeof *t); /* KV_NONE */
    for (int g = 0; g < kv->c.n_group; g++) r->table[g] = t + g * per_group;
    return 0;
}

void kv_ref_free(struct kv_ref *r)
{
    free(r->table[0]);
    *r = (struct kv_ref){.node = KV_NONE};
}

/* r begins to hold blocks for n tokens. */
static void ref_enlist(struct kv *kv, struct kv_ref *r, int n)
{
    if (!r->n_tokens && n) {
        r->prev = NULL;
        r->next = kv->refs;
        if (r->next) r->next->prev = r;
        kv->refs = r;
    }
    r->n_tokens = n;
}

static void ref_delist(struct kv *kv, struct kv_ref *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        kv->refs = r->next;
    if (r->next) r->next->prev = r->prev;
    r->prev = r->next = NULL;
    r->n_tokens = 0;
}

/* Walks down the chain. A prefix of d blocks can be used if every group still has the blocks that a query at
 * d * bs sees; run[g] counts the present blocks that end at the current depth. Returns the longest d and its
 * node. */
static int longest_match(const struct kv *kv, const int32_t *tok, int max_blocks, uint64_t salt,
                         int32_t *node)
{
    int run[KV_MAX_GROUPS] = {0}, best = 0;
    int32_t at = KV_NONE;
    for (int d = 1; d <= max_blocks; d++) {
        at = kv_node_find(kv, at, salt, tok + ((size_t)(d - 1) << kv->shift));
        if (at == KV_NONE) break;
        bool ok = true;
        for (int g = 0; g < kv->c.n_group; g++) {
            bool here = kv->node_block[(size_t)at * kv->c.n_group + g] != KV_NONE;
            run[g] = here ? run[g] + 1 : 0;
            ok &= run[g] >= d - first_visible(kv, g, d << kv->shift);
        }
        if (ok) best = d, *node = at;
    }
    return best;
}

int kv_match(struct kv *kv, const int32_t *tok, int n, uint64_t salt, struct kv_ref *r)
{
    assert(!r->n_tokens);
    r->salt = salt;
    r->n_query = 0;
    if (!kv->c.prefix_cache || n < 1) return 0;
    if (n > kv->c.max_tokens) n = kv->c.max_tokens;
    r->n_query = n;
    int32_t node = KV_NONE;
    int d = longest_match(kv, tok, (n - 1) >> kv->shift, salt, &node);
    if (!d) return 0;
    int len = d << kv->shift;
    ref_enlist(kv, r, len);
    r->n_base = len;
    r->n_published = d;
    r->node = node;
    kv_node_link(kv, node);
    for (int i = d - 1; i >= 0; i--, node = kv->node[node].parent)
        for (int g = 0; g < kv->c.n_group; g++) {
            if (i < first_visible(kv, g, len)) continue;
            int32_t b = kv->node_block[(size_t)node * kv->c.n_group + g];
            kv_block_pin(kv, b);
            r->table[g][i] = b;
        }
    return len;
}

/* How many blocks become available when r's windows move on to n_computed. Blocks shared with others do not.
 */
static int count_passed(const struct kv *kv, const struct kv_ref *r, int n_computed)
{
    int n = 0;
    for (int g = 0; g < kv->c.n_group; g++)
        for (int i = first_visible(kv, g, r->n_base); i < first_visible(kv, g, n_computed); i++)
            n += kv->block[r->table[g][i]].ref == 1;
    return n;
}

int kv_extend(struct kv *kv, struct kv_ref *r, int n_computed, int n_total)
{
    assert(n_computed >= r->n_base && n_computed <= r->n_tokens);
    if (n_total > kv->c.max_tokens) return KV_FULL;
    int have = blocks_of(kv, r->n_tokens), want = blocks_of(kv, n_total);
    if (want > have) {
        int64_t need = (int64_t)(want - have) * kv->c.n_group;
        if (need > (int64_t)kv_available(kv) + count_passed(kv, r, n_computed)) return KV_FULL;
    }
    for (int g = 0; g < kv->c.n_group; g++) {
        for (int i = first_visible(kv, g, r->n_base); i < first_visible(kv, g, n_computed); i++) {
            kv_block_unpin(kv, r->table[g][i]);
            r->table[g][i] = KV_NONE;
        }
    }
    for (int g = 0; g < kv->c.n_group; g++)
        for (int i = have; i < want; i++) r->table[g][i] = kv_block_take(kv, g);
    if (r->n_query) {
        kv->query_tokens += r->n_query;
        kv->hit_tokens += r->n_tokens; /* before the first extension: exactly the hit */
        r->n_query = 0;
    }
    r->n_base = n_computed;
    if (n_total > r->n_tokens) ref_enlist(kv, r, n_total);
    return KV_OK;
}

/* Puts block i of r's tables under the node. Where the node has a block already, computed by another sequence
 * from the same tokens, r uses that one: memory is shared, and a used block's ancestors are always used too.
 */
static void publish_block(struct kv *kv, struct kv_ref *r, int i, int32_t node)
{
    for (int g = 0; g < kv->c.n_group; g++) {
        int32_t own = r->table[g][i], old = kv->node_block[(size_t)node * kv->c.n_group + g];
        if (own == KV_NONE) continue;
        if (old == KV_NONE) {
            kv_node_attach(kv, node, g, own);
        } else {
            kv_block_pin(kv, old);
            kv_block_unpin(kv, own);
            r->table[g][i] = old;
        }
    }
}

void kv_commit(struct kv *kv, struct kv_ref *r, const int32_t *tok, int n_computed)
{
    if (!kv->c.prefix_cache) return;
    for (int i = r->n_published; (i + 1) << kv->shift <= n_computed; i++) {
        const int32_t *t = tok + ((size_t)i << kv->shift);
        int32_t node = kv_node_find(kv, r->node, r->salt, t);
        if (node == KV_NONE) node = kv_node_add(kv, r->node, r->salt, t);
        if (node == KV_NONE) return; /* no node left: tried again at the next commit */
        publish_block(kv, r, i, node);
        kv_node_link(kv, node);
        kv_node_unlink(kv, r->node);
        r->node = node;
        r->n_published = i + 1;
    }
}

/* Unpins the blocks from index `from` on, deepest first, so that a chain is evicted from its end. */
static void drop_blocks(struct kv *kv, struct kv_ref *r, int from)
{
    for (int i = blocks_of(kv, r->n_tokens) - 1; i >= from; i--)
        for (int g = 0; g < kv->c.n_group; g++) {
            if (r->table[g][i] != KV_NONE) kv_block_unpin(kv, r->table[g][i]);
            r->table[g][i] = KV_NONE;
        }
}

void kv_truncate(struct kv *kv, struct kv_ref *r, int n_keep)
{
    int floor = r->n_published << kv->shift;
    if (n_keep < floor) n_keep = floor;
    if (n_keep < r->n_base) n_keep = r->n_base;
    if (n_keep >= r->n_tokens) return;
    if (!n_keep) {
        kv_release(kv, r);
        return;
    }
    drop_blocks(kv, r, blocks_of(kv, n_keep));
    r->n_tokens = n_keep;
}

void kv_release(struct kv *kv, struct kv_ref *r)
{
    if (!r->n_tokens) return;
    drop_blocks(kv, r, 0);
    ref_delist(kv, r);
    int32_t node = r->node;
    r->n_published = r->n_base = r->n_query = 0;
    r->node = KV_NONE;
    kv_node_unlink(kv, node);
}

void kv_reset_prefix(struct kv *kv)
{
    while (kv_block_evict(kv)) {}
}

int kv_held(const struct kv *kv, const struct kv_ref *r)
{
    int n = 0;
    for (int g = 0; g < kv->c.n_group; g++) n += blocks_of(kv, r->n_tokens) - first_visible(kv, g, r->n_base);
    return n;
}

/* A step at n_computed with a chunk sees window - 1 tokens before it: a span of window - 1 + chunk tokens,
 * which, starting anywhere in a block, touches at most ceil((span - 1) / bs) + 1 blocks. */
int kv_blocks_needed(const struct kv_config *c, int n, int chunk)
{
    int64_t bs = c->block_size, all = (n + bs - 1) / bs, need = 0;
    if (n < 1) return 0;
    for (int g = 0; g < c->n_group; g++) {
        int64_t span = (int64_t)c->group[g].window - 1 + (chunk < 1 ? 1 : chunk);
        int64_t touched = (span - 1 + bs - 1) / bs + 1;
        need += c->group[g].window && touched < all ? touched : all;
    }
    return need > INT32_MAX ? INT32_MAX : (int)need;
}

const struct kv_config *kv_config(const struct kv *kv) { return &kv->c; }

struct kv_stats kv_stats(const struct kv *kv)
{
    return (struct kv_stats){.total = kv->c.n_block,
                             .free = kv->idle.n,
                             .cached = kv->lru.n,
                             .used = kv->c.n_block - kv_available(kv),
                             .query_tokens = kv->query_tokens,
                             .hit_tokens = kv->hit_tokens,
                             .evictions = kv->evictions};
}
