/* Shared by the kvcache tests: a pool, a few tokens, and kv_check after everything. */
#pragma once
#include <check.h>
#include <string.h>
#include "kv_impl.h"

static const int32_t words[128] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3,
                                   3, 8, 3, 2, 7, 9, 5, 0, 2, 8, 8, 4, 1, 9, 7, 1, 6, 9, 3, 9, 9, 3, 7, 5, 1,
                                   0, 5, 8, 2, 0, 9, 7, 4, 9, 4, 4, 5, 9, 2, 3, 0, 7, 8, 1, 6, 4, 0, 6, 2, 8,
                                   6, 2, 0, 8, 9, 9, 8, 6, 2, 8, 0, 3, 4, 8, 2, 5, 3, 4, 2, 1, 1, 7, 0, 6};

TCase *kv_check_tests(void);
TCase *kv_random_tests(void);

static inline void check_kv(const struct kv *kv)
{
    struct err e = {0};
    ck_assert_msg(kv_check(kv, &e) == 0, "%s", e.msg);
}

/* window NULL: full attention everywhere. */
static inline struct kv *open_kv(int n_block, int block_size, int n_group, const int *window)
{
    struct kv_config c = {.n_block = n_block,
                          .block_size = block_size,
                          .n_group = n_group,
                          .max_tokens = 128,
                          .prefix_cache = true};
    for (int g = 0; window && g < n_group; g++) c.group[g].window = window[g];
    struct kv *kv;
    ck_assert_int_eq(kv_open(&c, &kv, NULL), 0);
    return kv;
}

static inline struct kv_ref new_ref(struct kv *kv)
{
    struct kv_ref r = {0};
    ck_assert_int_eq(kv_ref_init(kv, &r, NULL), 0);
    return r;
}

/* A whole prefill: returns the hit. */
static inline int start(struct kv *kv, struct kv_ref *r, const int32_t *tok, int n, uint64_t salt)
{
    int hit = kv_match(kv, tok, n, salt, r);
    ck_assert_int_eq(kv_extend(kv, r, hit, n), KV_OK);
    kv_commit(kv, r, tok, n);
    check_kv(kv);
    return hit;
}

static inline void expect(const struct kv *kv, int n_free, int n_cached, int n_used)
{
    struct kv_stats s = kv_stats(kv);
    check_kv(kv);
    ck_assert_int_eq(s.free, n_free);
    ck_assert_int_eq(s.cached, n_cached);
    ck_assert_int_eq(s.used, n_used);
    ck_assert_int_eq(s.free + s.cached + s.used, s.total);
}

/* Evicts one chosen cached block: moves it to the head of the LRU list first. */
static inline void drop_cached(struct kv *kv, int32_t b)
{
    while (kv->lru.head != b) {
        int32_t other = kv->lru.head;
        kv_block_pin(kv, other);
        kv_block_unpin(kv, other); /* now the most recent */
    }
    ck_assert(kv_block_evict(kv));
    check_kv(kv);
}

static inline void close_kv(struct kv *kv, struct kv_ref **refs)
{
    for (int i = 0; refs[i]; i++) kv_release(kv, refs[i]);
    check_kv(kv);
    ck_assert_int_eq(kv_stats(kv).used, 0);
    ck_assert_ptr_null(kv->refs);
    kv_reset_prefix(kv);
    ck_assert_int_eq(kv_stats(kv).free, kv_stats(kv).total);
    ck_assert_int_eq(kv->n_node_used, 0);
    for (int i = 0; refs[i]; i++) kv_ref_free(refs[i]);
    kv_close(kv);
}
