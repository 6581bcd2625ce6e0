/* kvcache/: what each call promises. */
#include "kv_test.h"

START_TEST(open_refuses_nonsense)
{
    const struct kv_config good = {.n_block = 4, .block_size = 4, .n_group = 1, .max_tokens = 64};
    struct kv_config bad[8];
    for (int i = 0; i < 8; i++) bad[i] = good;
    bad[0].n_block = 0;
    bad[1].block_size = 3;
    bad[2].block_size = 0;
    bad[3].n_group = 0;
    bad[4].n_group = KV_MAX_GROUPS + 1;
    bad[5].max_tokens = 0;
    bad[6].group[0].window = -1;
    bad[7].n_block = INT32_MAX;
    for (int i = 0; i < 8; i++) {
        struct kv *kv;
        struct err e = {0};
        ck_assert_int_eq(kv_open(&bad[i], &kv, &e), ERR_INVALID);
        ck_assert_ptr_null(kv);
        ck_assert(e.msg[0]);
    }
}
END_TEST

START_TEST(prefix_is_found_again)
{
    struct kv *kv = open_kv(8, 4, 1, NULL);
    struct kv_ref a = new_ref(kv), b = new_ref(kv);
    ck_assert_int_eq(start(kv, &a, words, 10, 0), 0); /* 2 full blocks, 1 partial */
    expect(kv, 5, 0, 3);
    kv_release(kv, &a);
    expect(kv, 6, 2, 0); /* the partial block is not worth keeping */
    ck_assert_int_eq(kv_match(kv, words, 10, 0, &b), 8);
    expect(kv, 6, 0, 2);
    ck_assert_int_eq(kv_held(kv, &b), 2);
    kv_release(kv, &b);
    ck_assert_int_eq(kv_match(kv, words, 9, 0, &b), 8);
    kv_release(kv, &b);
    ck_assert_int_eq(kv_match(kv, words, 8, 0, &b), 4); /* one token must be left to compute */
    kv_release(kv, &b);
    ck_assert_int_eq(kv_match(kv, words, 1, 0, &b), 0);
    ck_assert_int_eq(kv_match(kv, words, 0, 0, &b), 0);
    int32_t other[12];
    memcpy(other, words, sizeof other);
    other[5]++;
    ck_assert_int_eq(kv_match(kv, other, 12, 0, &b), 4);
    kv_release(kv, &b);
    ck_assert_int_eq(kv_match(kv, words + 4, 12, 0, &b), 0); /* same tokens, other parent */
    close_kv(kv, (struct kv_ref *[]){&a, &b, NULL});
}
END_TEST

START_TEST(match_counts_once_room_is_granted)
{
    struct kv *kv = open_kv(8, 4, 1, NULL);
    struct kv_ref a = new_ref(kv);
    ck_assert_int_eq(start(kv, &a, words, 10, 0), 0);
    kv_release(kv, &a);
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(kv_match(kv, words, 10, 0, &a), 8);
        kv_release(kv, &a);
    }
    ck_assert_uint_eq(kv_stats(kv).query_tokens, 10);
    ck_assert_int_eq(start(kv, &a, words, 10, 0), 8);
    ck_assert_uint_eq(kv_stats(kv).query_tokens, 20);
    ck_assert_uint_eq(kv_stats(kv).hit_tokens, 8);
    ck_assert_int_eq(kv_extend(kv, &a, 10, 12), KV_OK);
    ck_assert_uint_eq(kv_stats(kv).query_tokens, 20);
    close_kv(kv, (struct kv_ref *[]){&a, NULL});
}
END_TEST

START_TEST(salts_isolate)
{
    struct kv *kv = open_kv(8, 4, 1, NULL);
    struct kv_ref a = new_ref(kv), b = new_ref(kv);
    start(kv, &a, words, 10, 7);
    ck_assert_int_eq(start(kv, &b, words, 10, 8), 0);
    ck_assert_int_ne(a.table[0][0], b.table[0][0]);
    kv_release(kv, &a);
    kv_release(kv, &b);
    ck_assert_int_eq(kv_match(kv, words, 10, 0, &a), 0);
    ck_assert_int_eq(kv_match(kv, words, 10, 7, &a), 8);
    ck_assert_int_eq(kv_match(kv, words, 10, 8, &b), 8);
    ck_assert_int_ne(a.table[0][0], b.table[0][0]);
    close_kv(kv, (struct kv_ref *[]){&a, &b, NULL});
}
END_TEST

START_TEST(cache_can_be_off)
{
    struct kv_config c = {.n_block = 4, .block_size = 4, .n_group = 1, .max_tokens = 64};
    struct kv *kv;
    ck_assert_int_eq(kv_open(&c, &kv, NULL), 0);
    struct kv_ref a = new_ref(kv);
    start(kv, &a, words, 10, 0);
    kv_release(kv, &a);
    expect(kv, 4, 0, 0);
    ck_assert_int_eq(kv_match(kv, words, 10, 0, &a), 0);
    close_kv(kv, (struct kv_ref *[]){&a, NULL});
}
END_TEST

START_TEST(extend_is_all_or_nothing)
{
    const int window[] = {0, 4};
    struct kv *kv = open_kv(8, 4, 2, window);
    struct kv_ref a = new_ref(kv), b = new_ref(kv);
    start(kv, &a, words, 8, 0);                       /* 4 blocks */
    ck_assert_int_eq(kv_extend(kv, &b, 0, 4), KV_OK); /* 2 blocks */
    struct kv_ref before = a;
    struct kv_stats s = kv_stats(kv);
    /* 12 tokens need 2 blocks, 2 are free: fine. 20 need 6: 2 free, and 1 that the window has passed. */
    ck_assert_int_eq(kv_extend(kv, &a, 8, 20), KV_FULL);
    ck_assert_mem_eq(&before, &a, sizeof a);
    ck_assert_int_ne(a.table[1][0], KV_NONE);
    struct kv_stats after = kv_stats(kv);
    ck_assert_mem_eq(&s, &after, sizeof s);
    ck_assert_int_eq(kv_extend(kv, &a, 8, 16), KV_FULL); /* needs 4 of 2 + 1 */
    ck_assert_int_eq(kv_extend(kv, &a, 8, 12), KV_OK);
    ck_assert_int_eq(a.table[1][0], KV_NONE);
    expect(kv, 0, 1, 7);
    ck_assert_int_eq(kv_extend(kv, &a, 12, 1 << 20), KV_FULL); /* beyond max_tokens */
    kv_release(kv, &b);
    ck_assert_int_eq(kv_extend(kv, &a, 12, 16), KV_OK);
    close_kv(kv, (struct kv_ref *[]){&a, &b, NULL});
}
END_TEST

/* Three one-block prefixes; touching the oldest makes the second one the next victim. */
START_TEST(least_recently_used_goes_first)
{
    struct kv *kv = open_kv(4, 4, 1, NULL);
    struct kv_ref r[3], x = new_ref(kv);
    for (int i = 0; i < 3; i++) {
        r[i] = new_ref(kv);
        start(kv, &r[i], words + 8 * i, 4, 0);
        kv_release(kv, &r[i]);
    }
    expect(kv, 1, 3, 0);
    ck_assert_int_eq(kv_match(kv, words, 5, 0, &x), 4);
    kv_release(kv, &x);
    ck_assert_int_eq(kv_extend(kv, &x, 0, 8), KV_OK); /* the free one, then a victim */
    expect(kv, 0, 2, 2);
    ck_assert_uint_eq(kv_stats(kv).evictions, 1);
    ck_assert_int_eq(kv_match(kv, words + 8, 5, 0, &r[1]), 0);
    ck_assert_int_eq(kv_match(kv, words, 5, 0, &r[0]), 4);
    ck_assert_int_eq(kv_match(kv, words + 16, 5, 0, &r[2]), 4);
    close_kv(kv, (struct kv_ref *[]){&r[0], &r[1], &r[2], &x, NULL});
}
END_TEST

START_TEST(chains_are_evicted_from_the_end)
{
    struct kv *kv = open_kv(6, 4, 1, NULL);
    struct kv_ref a = new_ref(kv), x = new_ref(kv);
    start(kv, &a, words, 24, 0);
    kv_release(kv, &a);
    for (int left = 5; left >= 0; left--) {
        ck_assert_int_eq(kv_extend(kv, &x, 0, 4 * (6 - left)), KV_OK);
        int hit = kv_match(kv, words, 25, 0, &a);
        ck_assert_int_eq(hit, 4 * left);
        kv_release(kv, &a);
        check_kv(kv);
    }
    close_kv(kv, (struct kv_ref *[]){&a, &x, NULL});
}
END_TEST

START_TEST(pinned_blocks_stay)
{
    struct kv *kv = open_kv(4, 4, 1, NULL);
    struct kv_ref a = new_ref(kv), b = new_ref(kv), x = new_ref(kv);
    start(kv, &a, words, 8, 0);
    kv_release(kv, &a);
    ck_assert_int_eq(kv_match(kv, words, 9, 0, &a), 8);
    ck_assert_int_eq(kv_match(kv, words, 9, 0, &b), 8);
    expect(kv, 2, 0, 2);
    ck_assert_int_eq(kv_extend(kv, &x, 0, 12), KV_FULL);
    ck_assert_int_eq(kv_extend(kv, &x, 0, 8), KV_OK);
    kv_release(kv, &a);
    expect(kv, 0, 0, 4);
    ck_assert_int_eq(kv_extend(kv, &x, 8, 9), KV_FULL); /* b still holds them */
    kv_release(kv, &b);
    ck_assert_int_eq(kv_extend(kv, &x, 8, 9), KV_OK);
    close_kv(kv, (struct kv_ref *[]){&a, &b, &x, NULL});
}
END_TEST

START_TEST(windows_give_blocks_back)
{
    const int window[] = {0, 6};
    struct kv *kv = open_kv(32, 4, 2, window);
    struct kv_ref a = new_ref(kv);
    kv_match(kv, words, 40, 0, &a);
    for (int n = 0; n < 40; n++) { /* one token at a time */
        ck_assert_int_eq(kv_extend(kv, &a, n, n + 1), KV_OK);
        int first = n - 6 + 1 > 0 ? (n - 6 + 1) / 4 : 0;
        for (int i = 0; i <= n / 4; i++) {
            ck_assert_int_ne(a.table[0][i], KV_NONE);
            ck_assert_int_eq(a.table[1][i] == KV_NONE, i < first);
        }
        kv_commit(kv, &a, words, n + 1);
        check_kv(kv);
    }
    expect(kv, 12, 8, 12); /* 10 full, 2 of the window's 10; the 8 passed ones are cached */
    close_kv(kv, (struct kv_ref *[]){&a, NULL});
}
END_TEST

/* A hit needs the window's blocks at its end only, and takes no others. */
START_TEST(window_hit_needs_the_tail_only)
{
    const int window[] = {0, 5}; /* bs 4: a query at 4d sees 4 tokens back, one block */
    struct kv *kv = open_kv(32, 4, 2, window);
    struct kv_ref a = new_ref(kv), b = new_ref(kv);
    start(kv, &a, words, 24, 0);
    int32_t tail = a.table[1][5];
    kv_release(kv, &a);
    expect(kv, 20, 12, 0);
    ck_assert_int_eq(kv_match(kv, words, 25, 0, &b), 24);
    ck_assert_int_eq(kv_held(kv, &b), 7);
    for (int i = 0; i < 5; i++) ck_assert_int_eq(b.table[1][i], KV_NONE);
    ck_assert_int_eq(b.table[1][5], tail);
    check_kv(kv);
    kv_release(kv, &b);
    /* Without the window's block 5 the longest usable prefix is shorter by one block. */
    drop_cached(kv, tail);
    ck_assert_int_eq(kv_match(kv, words, 25, 0, &b), 20);
    ck_assert_int_eq(kv_held(kv, &b), 6);
    ck_assert_int_ne(b.table[1][4], KV_NONE);
    check_kv(kv);
    kv_release(kv, &b);
    /* A gap in the middle hurts only hits that end there. */
    ck_assert_int_eq(kv_match(kv, words, 13, 0, &b), 12);
    int32_t middle = b.table[1][2];
    kv_release(kv, &b);
    drop_cached(kv, middle);
    ck_assert_int_eq(kv_match(kv, words, 13, 0, &b), 8);
    kv_release(kv, &b);
    ck_assert_int_eq(kv_match(kv, words, 25, 0, &b), 20);
    close_kv(kv, (struct kv_ref *[]){&a, &b, NULL});
}
END_TEST

/* Losing a full-attention block makes the window's block of the same node worthless: both go. */
START_TEST(evicting_full_frees_the_node)
{
    const int window[] = {0, 64};
    struct kv *kv = open_kv(8, 4, 2, window);
    struct kv_ref a = new_ref(kv), x = new_ref(kv);
    start(kv, &a, words, 16, 0);
    kv_release(kv, &a);
    expect(kv, 0, 8, 0);
    ck_assert_int_eq(kv_extend(kv, &x, 0, 4), KV_OK);
    expect(kv, 0, 6, 2);
    ck_assert_int_eq(kv_match(kv, words, 17, 0, &a), 12);
    close_kv(kv, (struct kv_ref *[]){&a, &x, NULL});
}
END_TEST

START_TEST(all_groups_windowed)
{
    const int window[] = {4, 8};
    struct kv *kv = open_kv(12, 4, 2, window);
    struct kv_ref a = new_ref(kv), b = new_ref(kv);
    for (int round = 0; round < 50; round++) { /* nodes outlive their blocks, run out, and come back */
        const int32_t *tok = words + 8 * (round % 7);
        int hit = kv_match(kv, tok, 60, round % 3, &a);
        for (int n = hit; n < 60; n += 4) {
            ck_assert_int_eq(kv_extend(kv, &a, n, n + 4), KV_OK);
            kv_commit(kv, &a, tok, n + 4);
            check_kv(kv);
        }
        kv_release(kv, &a);
        check_kv(kv);
        ck_assert_int_eq(kv_match(kv, tok, 61, round % 3, &b), 60);
        ck_assert_int_eq(kv_held(kv, &b), 1 + 2);
        kv_release(kv, &b);
    }
    close_kv(kv, (struct kv_ref *[]){&a, &b, NULL});
}
END_TEST

START_TEST(equal_blocks_are_shared_at_commit)
{
    struct kv *kv = open_kv(8, 4, 1, NULL);
    struct kv_ref a = new_ref(kv), b = new_ref(kv);
    kv_match(kv, words, 8, 0, &a);
    kv_match(kv, words, 8, 0, &b);
    ck_assert_int_eq(kv_extend(kv, &a, 0, 8), KV_OK);
    ck_assert_int_eq(kv_extend(kv, &b, 0, 8), KV_OK);
    expect(kv, 4, 0, 4);
    kv_commit(kv, &a, words, 8);
    kv_commit(kv, &b, words, 8);
    expect(kv, 6, 0, 2);
    ck_assert_int_eq(a.table[0][1], b.table[0][1]);
    kv_release(kv, &a);
    expect(kv, 6, 0, 2);
    close_kv(kv, (struct kv_ref *[]){&a, &b, NULL});
}
END_TEST

START_TEST(release_twice_is_safe)
{
    struct kv *kv = open_kv(8, 4, 1, NULL);
    struct kv_ref a = new_ref(kv), b = new_ref(kv);
    start(kv, &a, words, 8, 0);
    start(kv, &b, words, 8, 0);
    kv_release(kv, &a);
    kv_release(kv, &a);
    expect(kv, 6, 0, 2); /* b hit the first block and recomputed the second, which it shared at commit */
    kv_release(kv, &b);
    kv_release(kv, &b);
    kv_release(kv, &a);
    close_kv(kv, (struct kv_ref *[]){&a, &b, NULL});
}
END_TEST

START_TEST(truncate_gives_drafts_back)
{
    struct kv *kv = open_kv(8, 4, 1, NULL);
    struct kv_ref a = new_ref(kv);
    start(kv, &a, words, 9, 0);
    ck_assert_int_eq(kv_extend(kv, &a, 9, 20), KV_OK);
    expect(kv, 3, 0, 5);
    kv_truncate(kv, &a, 13);
    expect(kv, 4, 0, 4);
    kv_truncate(kv, &a, 20); /* never grows */
    expect(kv, 4, 0, 4);
    kv_truncate(kv, &a, 0); /* what is computed stays */
    ck_assert_int_eq(a.n_tokens, 9);
    expect(kv, 5, 0, 3);
    kv_release(kv, &a);
    kv_match(kv, NULL, 0, 0, &a);
    ck_assert_int_eq(kv_extend(kv, &a, 0, 8), KV_OK);
    kv_truncate(kv, &a, 0); /* nothing published: holds nothing */
    ck_assert_int_eq(a.n_tokens, 0);
    expect(kv, 6, 2, 0);
    close_kv(kv, (struct kv_ref *[]){&a, NULL});
}
END_TEST

START_TEST(reset_keeps_used_blocks)
{
    struct kv *kv = open_kv(8, 4, 1, NULL);
    struct kv_ref a = new_ref(kv), b = new_ref(kv);
    start(kv, &a, words, 12, 0);
    ck_assert_int_eq(kv_match(kv, words, 5, 0, &b), 4);
    kv_release(kv, &a);
    expect(kv, 5, 2, 1);
    kv_reset_prefix(kv);
    expect(kv, 7, 0, 1);
    ck_assert_int_eq(kv_match(kv, words, 13, 0, &a), 4);
    kv_release(kv, &a);
    kv_release(kv, &b);
    kv_reset_prefix(kv);
    expect(kv, 8, 0, 0);
    ck_assert_int_eq(kv_match(kv, words, 13, 0, &a), 0);
    close_kv(kv, (struct kv_ref *[]){&a, &b, NULL});
}
END_TEST

/* Every key has the same hash: one long probe run, through which additions and removals must still work. */
START_TEST(collisions_never_hit)
{
    struct kv *kv = open_kv(64, 2, 1, NULL);
    kv->hash_mask = 0;
    struct kv_ref r = new_ref(kv);
    for (int a = 0; a < 200; a++) {
        const int32_t tok[6] = {a % 5, 1, 2, a % 7, 3, 3};
        uint64_t salt = a % 3;
        int hit = kv_match(kv, tok, 6, salt, &r);
        for (int i = 0, at = r.node; i < hit / 2; i++, at = kv->node[at].parent) {
            ck_assert_uint_eq(kv->node[at].salt, salt);
            ck_assert_mem_eq(kv->node_tok + 2 * at, tok + hit - 2 * (i + 1), 2 * sizeof *tok);
        }
        ck_assert_int_eq(kv_extend(kv, &r, hit, 6), KV_OK);
        kv_commit(kv, &r, tok, 6);
        kv_release(kv, &r);
        check_kv(kv);
        if (a % 17 == 0) drop_cached(kv, kv->lru.head);
    }
    ck_assert_uint_gt(kv_stats(kv).evictions, 10);
    ck_assert_uint_gt(kv_stats(kv).hit_tokens, 10);
    close_kv(kv, (struct kv_ref *[]){&r, NULL});
}
END_TEST

/* kv_blocks_needed against a walk over every start and step, for all small cases. */
START_TEST(blocks_needed_is_the_maximum)
{
    for (int bs = 1; bs <= 4; bs *= 2)
        for (int w = 0; w <= 9; w++)
            for (int chunk = 1; chunk <= 9; chunk++)
                for (int n = 1; n <= 40; n++) {
                    struct kv_config c = {.block_size = bs, .n_group = 1, .group = {{w}}};
                    int most = 0;
                    for (int at = 0; at < n;
                         at++) { /* a step may begin anywhere: hits, drafts, short chunks */
                        int end = at + chunk < n ? at + chunk : n;
                        int first = w && at >= w ? (at - w + 1) / bs : 0;
                        int held = (end + bs - 1) / bs - first;
                        if (held > most) most = held;
                    }
                    int need = kv_blocks_needed(&c, n, chunk);
                    ck_assert_msg(need >= most, "bs %d w %d chunk %d n %d: %d < %d", bs, w, chunk, n, need,
                                  most);
                    if (n > w + chunk + 2 * bs) ck_assert_int_eq(need, most); /* tight where there is room */
                }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kvcache");
    TCase *t = tcase_create("calls");
    tcase_add_test(t, open_refuses_nonsense);
    tcase_add_test(t, prefix_is_found_again);
    tcase_add_test(t, match_counts_once_room_is_granted);
    tcase_add_test(t, salts_isolate);
    tcase_add_test(t, cache_can_be_off);
    tcase_add_test(t, extend_is_all_or_nothing);
    tcase_add_test(t, least_recently_used_goes_first);
    tcase_add_test(t, chains_are_evicted_from_the_end);
    tcase_add_test(t, pinned_blocks_stay);
    tcase_add_test(t, windows_give_blocks_back);
    tcase_add_test(t, window_hit_needs_the_tail_only);
    tcase_add_test(t, evicting_full_frees_the_node);
    tcase_add_test(t, all_groups_windowed);
    tcase_add_test(t, equal_blocks_are_shared_at_commit);
    tcase_add_test(t, release_twice_is_safe);
    tcase_add_test(t, truncate_gives_drafts_back);
    tcase_add_test(t, reset_keeps_used_blocks);
    tcase_add_test(t, collisions_never_hit);
    tcase_add_test(t, blocks_needed_is_the_maximum);
    suite_add_tcase(s, t);
    suite_add_tcase(s, kv_check_tests());
    suite_add_tcase(s, kv_random_tests());
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
