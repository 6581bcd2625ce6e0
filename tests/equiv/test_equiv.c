/* The equivalences that batch invariance promises, on tiny models, for each instruction level and the
 * reference: token for token and logprob bit for bit. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "equiv.h"
#include "log.h"

static const struct {
    const char *name;
    enum dtype kv;
} MODELS[] = {{"llama3", DT_F16}, {"qwen3", DT_F16}, {"mistral", DT_BF16}, {"gemma2", DT_F16},
              {"gemma3", DT_F16}, {"llama3", DT_I8}, {"gemma3", DT_I8}};
#define N_MODEL ((int)(sizeof MODELS / sizeof *MODELS))
#define N_LEVEL (ISA_COUNT + 1) /* the reference, then each instruction level */
#define DEVICE  (-2)

static struct results alone, other;

/* The model and back end of loop index i; false where this machine lacks the level. */
static bool open_machine(struct machine *m, int i, int threads)
{
    int isa = i / N_MODEL - 1;
    if (getenv("TEST_DEVICE")) {
        if (i && i != 6) return false; /* the emulated device is slow: one model for each cache */
        machine_open(m, MODELS[i % N_MODEL].name, DEVICE, threads);
        return true;
    }
    if (isa > (int)cpu_isa_detect()) return false;
#ifdef EMULATED /* the levels below run elsewhere, for real */
    if (isa < (int)cpu_isa_detect()) return false;
#endif
    /* The reference is slow: one model for each cache. */
    if (isa < 0 && i % N_MODEL != 3 && i % N_MODEL != 5) return false;
    machine_open(m, MODELS[i % N_MODEL].name, isa, threads);
    return true;
}

/* A device has types of its own for the same purposes. */
static struct engine_config config_of(int i)
{
    enum dtype kv = MODELS[i % N_MODEL].kv;
    if (getenv("TEST_DEVICE")) kv = kv == DT_I8 ? DT_E4M3 : DT_BF16;
    return equiv_config(kv);
}

static void expect(struct machine *m, const struct engine_config *c, enum load load, int preempt, int rounds,
                   const char *what)
{
    run_requests(m, c, load, preempt, rounds, &other);
    expect_equal(&alone, &other, what);
}

START_TEST(all_ways_agree)
{
    struct machine m;
    if (!open_machine(&m, _i, 1)) return;
    struct engine_config c = config_of(_i);
    run_requests(&m, &c, ONE_BY_ONE, 0, 1, &alone);
    ck_assert_int_eq(alone.distinct, N_REQ); /* else the oracle would be blind */
    expect(&m, &c, TOGETHER, 0, 1, "batched = alone");

    c.max_num_seqs = 4;
    static const int budget[] = {7, 16, 64};
    for (int i = 0; i < 3; i++) {
        c.max_batch_tokens = budget[i];
        expect(&m, &c, TOGETHER, 0, 1, "chunked = whole");
    }
    c = config_of(_i);
    static const int block[] = {8, 32, MAX_CTX};
    for (int i = 0; i < 3; i++) {
        c.block_size = block[i];
        c.n_block = 512;
        expect(&m, &c, TOGETHER, 0, 1, block[i] == MAX_CTX ? "paged = dense" : "block sizes");
    }
    c = config_of(_i);
    c.prefix_cache = true;
    expect(&m, &c, ONE_BY_ONE, 0, 2, "prefix hit = cold");
    ck_assert_int_gt(other.cached, 100);
    expect(&m, &c, TOGETHER, 3, 1, "preempted = undisturbed");
    ck_assert_int_gt(other.preemptions, 0);
    /* A pool that holds little more than the longest request. */
    c.n_block = blocks_for(&m, &c, 120);
    expect(&m, &c, TOGETHER, 0, 1, "small pool = large pool");
    expect(&m, &c, DISTURBED, 5, 2, "cancelled neighbours leave no trace");
    machine_close(&m);
}
END_TEST

START_TEST(threads_do_not_matter)
{
    struct machine m;
    struct engine_config c = config_of(_i);
    if (!open_machine(&m, _i, 1)) return;
    run_requests(&m, &c, TOGETHER, 0, 1, &alone);
    machine_close(&m);
    open_machine(&m, _i, 2);
    expect(&m, &c, TOGETHER, 0, 1, "two threads = one");
    c.prefix_cache = true;
    c.max_num_seqs = 3;
    c.max_batch_tokens = 40;
    expect(&m, &c, DISTURBED, 4, 2, "two threads under pressure = one");
    machine_close(&m);
}
END_TEST

/* Log-probabilities of given tokens: equal within what other orders of summation and exp's last bits make of
 * them. */
START_TEST(levels_agree_with_the_reference)
{
    struct machine m;
    struct engine_config c = config_of(_i);
    if (!open_machine(&m, _i, 1)) return;
    run_requests(&m, &c, TOGETHER, 0, 1, &other);
    machine_close(&m);
    machine_open(&m, MODELS[_i % N_MODEL].name, -1, 1);
    run_requests(&m, &c, TOGETHER, 0, 1, &alone);
    machine_close(&m);
    double worst = 0;
    int n = 0;
    for (int i = 0; i < N_REQ; i++) {
        for (int k = 1; k < MAX_CTX; k++) {
            n += alone.prompt_logprob[i][k] != 0;
            worst =
                fmax(worst, fabs((double)alone.prompt_logprob[i][k] - (double)other.prompt_logprob[i][k]));
        }
    }
    ck_assert_int_gt(n, 50);
    /* Another last bit of a key can make it another 8-bit code; BF16 products round their inputs to 8 bits.
     */
    double limit = _i / N_MODEL - 1 == ISA_AVX512_BF16 ? 0.6 : MODELS[_i % N_MODEL].kv == DT_I8 ? 0.15 : 5e-3;
    ck_assert_msg(worst < limit, "log-probabilities differ by up to %g", worst);
}
END_TEST

int main(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    Suite *s = suite_create("equivalences");
    const struct {
        const char *name;
        const TTest *test;
        int first;
    } all[] = {{"ways", all_ways_agree, 0},
               {"threads", threads_do_not_matter, N_MODEL},
               {"reference", levels_agree_with_the_reference, N_MODEL}};
    for (int i = 0; i < (getenv("TEST_DEVICE") ? 1 : 3); i++) {
        TCase *t = tcase_create(all[i].name);
        tcase_set_timeout(t, getenv("TEST_DEVICE") ? 900 : 120);
        /* Of a device there is one level, which is no CPU's. */
        bool device = getenv("TEST_DEVICE");
        tcase_add_loop_test(t, all[i].test, device ? 0 : all[i].first, device ? N_MODEL : N_MODEL * N_LEVEL);
        suite_add_tcase(s, t);
    }
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
