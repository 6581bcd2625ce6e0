/* Random calls of kvcache/ against the memory model: sequences of few different tokens (so that prefixes
 * meet), with drafts that are truncated, windows, salts, and more demand than the pool has. After every call
 * kv_check; after every compute, all that the queries see must be the KV of the sequence's own tokens. */
#include "kv_test.h"
#include "mem.h"

enum { MAX_TOK = 48, N_SEQ = 6 };

struct actor {
    struct kv_ref r;
    int32_t tok[MAX_TOK];
    uint64_t salt;
    int n_computed; /* -1: idle */
};

static uint64_t rng;
static int below(int n) { return (int)((rng = mem_mix(rng + 0x9e3779b97f4a7c15u)) % (unsigned)n); }

static struct kv_config random_config(void)
{
    struct kv_config c = {.n_block = 4 + below(40),
                          .block_size = 1 << below(3),
                          .n_group = 1 + below(3),
                          .max_tokens = MAX_TOK,
                          .prefix_cache = below(8) != 0};
    for (int g = 0; g < c.n_group; g++) c.group[g].window = below(2) ? 1 + below(20) : 0;
    return c;
}

/* Another sequence's tokens up to a random place, then random ones. */
static void begin(struct kv *kv, struct actor *all, struct actor *a)
{
    const struct actor *like = &all[below(N_SEQ)];
    int same = below(MAX_TOK + 1);
    for (int i = 0; i < MAX_TOK; i++) a->tok[i] = i < same ? like->tok[i] : below(3);
    a->salt = below(4) ? 0 : 1;
    a->n_computed = kv_match(kv, a->tok, 1 + below(MAX_TOK), a->salt, &a->r);
}

static void advance(struct kv *kv, struct mem *m, struct actor *a, uint64_t step)
{
    int at = a->n_computed, left = MAX_TOK - at, n = 1 + below(below(2) ? 1 : left),
        draft = below(4) ? 0 : below(8);
    if (n + draft > left) draft = left - n;
    if (kv_extend(kv, &a->r, at, at + n + draft) != KV_OK) {
        if (below(3) == 0) {
            kv_release(kv, &a->r);
            a->n_computed = -1;
        }
        return;
    }
    int32_t guess[MAX_TOK];
    memcpy(guess, a->tok, sizeof guess);
    for (int i = at + n; i < at + n + draft; i++) guess[i] = 7; /* rejected: overwritten later */
    ck_assert_int_eq(mem_store(m, &a->r, guess, a->salt, at, at + n + draft, step << 32 | 1), 0);
    ck_assert_int_eq(mem_verify(m, &a->r, guess, a->salt, at, at + n + draft), 0);
    a->n_computed += n;
    kv_commit(kv, &a->r, a->tok, a->n_computed);
    if (draft) kv_truncate(kv, &a->r, a->n_computed);
    ck_assert_int_eq(mem_verify(m, &a->r, a->tok, a->salt, a->n_computed, a->n_computed), 0);
}

static uint64_t run_one(uint64_t seed)
{
    rng = seed;
    struct kv_config c = random_config();
    struct kv *kv;
    ck_assert_int_eq(kv_open(&c, &kv, NULL), 0);
    if (below(4) == 0) kv->hash_mask = (uint32_t)below(4);
    struct mem m;
    mem_open(&m, &c);
    struct actor a[N_SEQ] = {0};
    struct kv_ref *refs[N_SEQ + 1] = {0};
    for (int i = 0; i < N_SEQ; i++) {
        a[i].r = new_ref(kv);
        a[i].n_computed = -1;
        refs[i] = &a[i].r;
    }
    for (uint64_t step = 1; step < 300; step++) {
        struct actor *x = &a[below(N_SEQ)];
        if (x->n_computed < 0) {
            begin(kv, a, x);
        } else if (x->n_computed == MAX_TOK || below(20) == 0) {
            kv_release(kv, &x->r);
            x->n_computed = -1;
        } else {
            advance(kv, &m, x, step);
        }
        if (below(100) == 0) kv_reset_prefix(kv);
        struct err e = {0};
        ck_assert_msg(kv_check(kv, &e) == 0, "seed %llu step %llu: %s", (unsigned long long)seed,
                      (unsigned long long)step, e.msg);
    }
    uint64_t hits = kv_stats(kv).hit_tokens;
    close_kv(kv, refs);
    mem_close(&m);
    return hits;
}

START_TEST(random_calls)
{
    uint64_t hits = 0;
    for (uint64_t seed = 1; seed <= 1500; seed++) hits += run_one(seed);
    ck_assert_uint_gt(hits, 10000); /* else the test says nothing about sharing */
}
END_TEST

TCase *kv_random_tests(void)
{
    TCase *t = tcase_create("random");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, random_calls);
    return t;
}
