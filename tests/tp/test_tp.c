/* A model split over ranks computes what it computes whole: the golden outputs, with equal bits on all ranks,
 * and every equivalence of the whole model. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "equiv.h"
#include "golden.h"
#include "group.h"
#include "log.h"

static const char *const names[] = {"llama2", "llama3", "qwen2", "qwen3",  "mistral",
                                    "gemma2", "gemma3", "phi3",  "granite"};
#define N_NAME (int)(sizeof names / sizeof *names)

static char path[512];
static const char *path_of(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", GOLDEN_DATA, name);
    return path;
}

static struct group *open_group(const char *name, int size, void (*adjust)(struct arch *))
{
    return group_open(path_of(name),
                      &(struct group_config){.size = size, .isa = cpu_isa_detect(), .adjust = adjust});
}

static void close_group(struct group *g)
{
    struct err e = {0};
    group_close(g, &e);
    ck_assert_msg(strstr(e.msg, "rank 0 was closed"), "%s", e.msg);
}

START_TEST(golden_models)
{
    for (int size = 2; size <= 4; size += 2)
        for (int k = 0; k < GOLDEN_CACHES; k++) {
            struct group *g = open_group(names[_i], size, golden_round_ropes);
            golden_check(names[_i], group_backend(g), group_comm(g), golden_limits(group_backend(g), k));
            close_group(g);
        }
}
END_TEST

START_TEST(equal_bits_on_all_ranks)
{
    struct rig rig;
    struct err e = {0};
    int32_t tok[3][40];
    int size = 2 << _i % 3, seq[3] = {0, 1, 2};
    uint64_t digest = 0;
    float *logits;
    struct group *g = open_group("mistral", size, NULL); /* 2 KV heads: at 4 and 8 ranks they are shared */
    ck_assert_msg(!rig_open_kv(&rig, path, group_backend(g), &(struct model_options){.comm = group_comm(g)},
                               DT_F16, NULL, 3, 64, &e),
                  "%s", e.msg);
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < 40; i++) tok[s][i] = (s * 331 + i * 37) % 1024;
        rig_start(&rig, s, tok[s], 40 - 9 * s);
    }
    for (int step = 0; step < 8; step++) {
        ck_assert_msg(!rig_step(&rig, seq, 3, step < 4 ? 10 : 1, 1, &e), "%s", e.msg);
        digest = group_hash(digest, rig.r);
        ck_assert_msg(!runner_logits(rig.r, 0, 3, &logits, &e), "%s", e.msg);
        digest = group_hash(digest, rig.r);
        for (int s = 0; s < 3; s++)
            if (rig.seq[s].n_computed == rig.seq[s].n_tok)
                rig_push(&rig, s, (int32_t)(logits[s * 1024] > 0) + 5);
    }
    rig_close(&rig);
    for (int r = 1; r < size; r++) {
        for (int ms = 0; ms < 5000 && group_digest(g, r) != digest; ms++)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        ck_assert_msg(group_digest(g, r) == digest, "rank %d of %d has other bits", r, size);
    }
    close_group(g);
}
END_TEST

static void open_machine(struct machine *m, struct group **g, const char *name, int size)
{
    struct err e = {0};
    *g = open_group(name, size, NULL);
    *m = (struct machine){.pool = group_pool(*g), .be = group_backend(*g)};
    ck_assert_msg(!model_load(path, m->be, &(struct model_options){.comm = group_comm(*g)}, &m->model, &e),
                  "%s", e.msg);
}

static struct results alone, other;
static void expect(struct machine *m, struct engine_config *c, enum load load, int preempt, const char *what)
{
    run_requests(m, c, load, preempt, 1, &other);
    expect_equal(&alone, &other, what);
}

/* The load has cancelled neighbours at random moments, and run_requests drains and checks after each. */
START_TEST(all_ways_agree)
{
    static const char *const models[] = {"qwen3", "gemma3"};
    struct machine m;
    struct group *g;
    open_machine(&m, &g, models[_i / 2], 2);
    struct engine_config c = equiv_config(_i % 2 ? DT_I8 : DT_F16);
    c.n_rank = 2;
    run_requests(&m, &c, ONE_BY_ONE, 0, 1, &alone);
    ck_assert_int_eq(alone.distinct, N_REQ);
    expect(&m, &c, TOGETHER, 0, "batched = alone");
    c.max_num_seqs = 4;
    c.max_batch_tokens = 16;
    expect(&m, &c, TOGETHER, 0, "chunked = whole");
    c = equiv_config(c.kv_type);
    c.n_rank = 2;
    c.block_size = 32;
    expect(&m, &c, TOGETHER, 0, "block sizes");
    c.prefix_cache = true;
    c.n_block = blocks_for(&m, &c, 120);
    expect(&m, &c, TOGETHER, 3, "small pool, preempted = undisturbed");
    ck_assert_int_gt((int)other.preemptions, 0);
    expect(&m, &c, DISTURBED, 5, "cancelled neighbours leave no trace");
    model_free(m.model);
    close_group(g);
}
END_TEST

int main(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    Suite *s = suite_create("tensor parallel");
    const struct {
        const char *name;
        const TTest *test;
        int n;
    } all[] = {
        {"golden", golden_models, N_NAME}, {"bits", equal_bits_on_all_ranks, 3}, {"ways", all_ways_agree, 4}};
    for (int i = 0; i < 3; i++) {
        TCase *t = tcase_create(all[i].name);
        tcase_set_timeout(t, 240);
        tcase_add_loop_test(t, all[i].test, 0, all[i].n);
        suite_add_tcase(s, t);
    }
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
