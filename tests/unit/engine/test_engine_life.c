/* An engine's life: full queues, cancels, draining, stalls, failures, and what it costs. */
#include <check.h>
#include <string.h>
#include <time.h>
#include "clock.h"
#include "fake.h"
#include "suites.h"
#include "util.h"

static struct answer a;
static int32_t prompt[FAKE_CTX + 8], want[FAKE_CTX];

static void setup(void)
{
    fake_reset();
    fill_prompt(prompt, FAKE_CTX + 8, 1);
}

static void sleep_ms(int ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL); }

START_TEST(queue_is_bounded)
{
    struct engine_config c = small_config();
    c.max_num_seqs = 2;
    c.max_queue = 3;
    struct engine *en = open_engine(&c, NULL, NULL);
    fake.delay_us = 5000;
    struct gen_params p = greedy(10);
    struct request *r[6];
    struct err e = {0};
    for (int i = 0; i < 5; i++) r[i] = submit(en, prompt + i, 4, &p);
    r[5] = new_request(prompt, 4, &p);
    ck_assert_int_eq(engine_submit(en, r[5], &e), ERR_FULL);
    read_answer(r[0], &a);
    ck_assert_int_eq(engine_submit(en, r[5], &e), 0); /* the same request, later */
    for (int i = 1; i < 6; i++) {
        read_answer(r[i], &a);
        fake_greedy(prompt + i % 5, 4, want, 10);
        ck_assert_mem_eq(a.tok, want, 10 * sizeof *want);
    }
    ck_assert_int_le(fake.max_items, 2);
    close_engine(en);
}
END_TEST

static void expect_abort(struct request *r)
{
    double start = clock_s();
    read_answer(r, &a);
    ck_assert_int_eq(a.last.finish, FINISH_ABORT);
    ck_assert_double_lt(clock_s() - start, 1);
}

START_TEST(cancel_in_every_state)
{
    struct engine_config c = small_config();
    c.max_num_seqs = 1;
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(400);
    fake.delay_us = 3000;

    struct request *r = new_request(prompt, 5, &p); /* before submit */
    engine_cancel(en, r);
    ck_assert_int_eq(engine_submit(en, r, NULL), 0);
    expect_abort(r);

    struct request *run = submit(en, prompt, 5, &p), *wait = submit(en, prompt, 6, &p);
    wait_running(en, 1);
    engine_cancel(en, wait); /* waiting */
    engine_cancel(en, wait); /* and again */
    expect_abort(wait);
    r = submit(en, prompt, 7, &p); /* most likely still in the inbox */
    engine_cancel(en, r);
    expect_abort(r);
    struct out_batch o;
    request_take(run, &o, -1);
    ck_assert_int_gt(o.n_tok, 0);
    engine_cancel(en, run); /* decoding */
    while (!o.done) request_take(run, &o, -1);
    ck_assert_int_eq(o.finish, FINISH_ABORT);
    ck_assert_int_lt(o.usage.completion_tokens, 400);
    request_release(run);

    fake.delay_us = 30000;
    p.max_tokens = 5;
    r = submit(en, prompt, 500, &p); /* in the midst of the prompt */
    wait_running(en, 1);
    engine_cancel(en, r);
    expect_abort(r);
    ck_assert_int_eq(a.n, 0);

    fake.delay_us = 0;
    r = submit(en, prompt, 5, &p); /* when it is done: nothing changes */
    ck_assert(engine_wait_idle(en, 10));
    engine_cancel(en, r);
    engine_cancel(en, r);
    read_answer(r, &a);
    ck_assert_int_eq(a.last.finish, FINISH_LENGTH);
    ck_assert_int_eq(a.n, 5);
    close_engine(en);
}
END_TEST

/* A cancel at each moment of a request's life, on neighbours that share a prefix and on preempted ones. */
START_TEST(cancel_at_every_moment)
{
    struct engine_config c = small_config();
    c.n_block = 40;
    struct engine *en = open_engine(&c, NULL, NULL);
    engine_test_preempt(en, 4);
    struct gen_params p = greedy(40);
    fake.delay_us = 50;
    fake_greedy(prompt, 60, want, 40);
    for (int i = 0; i < 150; i++) {
        struct request *keep = submit(en, prompt, 60, &p), *gone = submit(en, prompt, 50 + i % 30, &p);
        nanosleep(&(struct timespec){0, i * 40000L}, NULL);
        engine_cancel(en, gone);
        if (i % 2) {
            request_release(gone); /* while the engine has it */
        } else {
            read_answer(gone, &a);
        }
        read_answer(keep, &a);
        ck_assert_int_eq(a.n, 40);
        ck_assert_mem_eq(a.tok, want, 40 * sizeof *want);
        ck_assert_int_eq(engine_check(en, NULL), 0);
    }
    close_engine(en);
}
END_TEST

START_TEST(drain_then_abort)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    fake.delay_us = 1000;
    struct gen_params p = greedy(30);
    struct request *r[6];
    for (int i = 0; i < 6; i++) r[i] = submit(en, prompt + i, 8, &p);
    engine_drain(en);
    struct err e = {0};
    struct request *late = new_request(prompt, 8, &p);
    ck_assert_int_eq(engine_submit(en, late, &e), ERR_CLOSED);
    request_release(late);
    ck_assert_int_eq(engine_state(en), ENGINE_DRAINING);
    ck_assert(!engine_wait_idle(en, 0.001));
    ck_assert(engine_wait_idle(en, 10));
    for (int i = 0; i < 6; i++) {
        read_answer(r[i], &a);
        ck_assert_int_eq(a.n, 30);
    }
    close_engine(en);

    en = open_engine(&c, NULL, NULL);
    p.max_tokens = 400;
    for (int i = 0; i < 6; i++) r[i] = submit(en, prompt + i, 8, &p);
    wait_running(en, 4);
    engine_abort_all(en);
    for (int i = 0; i < 6; i++) expect_abort(r[i]);
    close_engine(en);

    en = open_engine(&c, NULL, NULL); /* closing ends what is left; its reader may come later */
    for (int i = 0; i < 6; i++) r[i] = submit(en, prompt + i, 8, &p);
    engine_close(en);
    for (int i = 0; i < 6; i++) expect_abort(r[i]);
}
END_TEST

START_TEST(watchdog_sees_a_stall)
{
    struct engine_config c = small_config();
    c.watchdog_s = 0.1;
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(3);
    sleep_ms(200); /* idle is not stalled */
    ck_assert_int_eq(engine_state(en), ENGINE_READY);
    engine_test_stall(en, 1);
    struct request *r = submit(en, prompt, 3, &p);
    ck_assert_int_eq(engine_state(en), ENGINE_READY);
    for (int i = 0; i < 90 && engine_state(en) != ENGINE_STALLED; i++) sleep_ms(10);
    ck_assert_int_eq(engine_state(en), ENGINE_STALLED);
    read_answer(r, &a);
    ck_assert_int_eq(engine_state(en), ENGINE_READY);
    close_engine(en);
}
END_TEST

START_TEST(failed_steps_end_their_requests_only)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(10);
    fake.fail = 1;
    struct request *r = submit(en, prompt, 20, &p);
    read_answer(r, &a);
    ck_assert_int_eq(a.last.finish, FINISH_ERROR);
    ck_assert_str_eq(a.last.error.msg, "the device is gone");
    ck_assert_int_eq(engine_state(en), ENGINE_READY);
    read_answer(submit(en, prompt, 20, &p), &a); /* what the failed step left behind is not trusted */
    ck_assert_int_eq(a.last.usage.cached_tokens, 0);
    fake_greedy(prompt, 20, want, 10);
    ck_assert_mem_eq(a.tok, want, 10 * sizeof *want);

    fake.nan_token = want[4]; /* one request's output is unusable, its neighbour's is not */
    int32_t other[20], want_other[10];
    fill_prompt(other, 20, 77);
    fake_greedy(other, 20, want_other, 10);
    for (int i = 0; i < 10; i++) ck_assert_int_ne(want_other[i], want[4]);
    struct request *good = submit(en, other, 20, &p);
    read_answer(submit(en, prompt, 20, &p), &a);
    ck_assert_int_eq(a.last.finish, FINISH_ERROR);
    read_answer(good, &a);
    ck_assert_mem_eq(a.tok, want_other, 10 * sizeof *want);
    fake.nan_token = -1;

    fake.fail = 1000;
    for (int i = 0; i < 3; i++) {
        read_answer(submit(en, prompt, 20, &p), &a);
        ck_assert_int_eq(a.last.finish, FINISH_ERROR);
    }
    ck_assert(engine_wait_idle(en, 10));
    ck_assert_int_eq(engine_state(en), ENGINE_FAILED);
    r = new_request(prompt, 3, &p);
    ck_assert_int_eq(engine_submit(en, r, NULL), ERR_CLOSED);
    request_release(r);
    close_engine(en);
}
END_TEST

START_TEST(not_ready_without_a_warm_token)
{
    struct engine_config c = small_config();
    fake.fail = 1;
    struct engine *en = open_engine(&c, NULL, NULL);
    ck_assert_int_eq(engine_state(en), ENGINE_FAILED);
    engine_close(en);
    fake_reset();
    fake.delay_us = 100000;
    struct err e = {0};
    ck_assert_int_eq(engine_open(fake_model(), NULL, &c, NULL, &en, &e), 0);
    ck_assert_int_eq(engine_state(en), ENGINE_WARMING);
    ck_assert(engine_wait_idle(en, 10));
    ck_assert_int_eq(engine_state(en), ENGINE_READY);
    ck_assert_int_ge(fake.forwards, 2);
    engine_close(en);
}
END_TEST

/* Allocations of the engine thread while `counting`: the linker sends malloc and friends here. */
static _Atomic bool counting;
static _Atomic int allocations;
static _Thread_local bool test_thread;
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);

static void count(void)
{
    if (counting && !test_thread) allocations++;
}
void *__wrap_malloc(size_t n)
{
    count();
    return __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t m)
{
    count();
    return __real_calloc(n, m);
}
void *__wrap_realloc(void *p, size_t n)
{
    count();
    return __real_realloc(p, n);
}

START_TEST(steps_do_not_allocate)
{
    struct engine_config c = small_config();
    struct pool *pool;
    ck_assert_int_eq(pool_open(2, &pool, NULL), 0);
    struct metrics *m = metrics_new();
    struct engine *en = open_engine(&c, pool, m);
    struct request *r[4];
    test_thread = true;
    fake.delay_us = 100;
    for (int i = 0; i < 4; i++) {
        struct gen_params p;
        gen_params_init(&p);
        p.max_tokens = 200;
        p.seed = (uint64_t)i;
        p.top_p = 0.9f;
        p.top_k = i ? 50 : 0;
        p.frequency_penalty = 0.1f;
        p.logprobs = 5;
        p.prompt_logprobs = i == 2 ? 3 : -1;
        p.n_stop = 1;
        p.stop[0] = "never to be found";
        p.stop_len[0] = 17;
        p.ignore_eos = true;
        r[i] = submit(en, prompt + i, 150, &p);
    }
    counting = true;
    ck_assert(engine_wait_idle(en, 20));
    counting = false;
    ck_assert_int_eq(allocations, 0);
    for (int i = 0; i < 4; i++) {
        read_answer(r[i], &a);
        ck_assert_int_eq(a.n, 200);
    }
    /* Control: the hook does count. */
    struct request *again;
    counting = true;
    test_thread = false;
    again = new_request(prompt, 1, &(struct gen_params){.max_tokens = 1});
    counting = false;
    ck_assert_int_gt(allocations, 0);
    request_release(again);
    close_engine(en);
    metrics_free(m);
    pool_close(pool);
}
END_TEST

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

START_TEST(idle_uses_no_cpu)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(20);
    read_answer(submit(en, prompt, 20, &p), &a);
    ck_assert(engine_wait_idle(en, 10));
    double before = cpu_seconds();
    sleep_ms(300);
    ck_assert_double_lt(cpu_seconds() - before, 0.01);
    close_engine(en);
}
END_TEST

Suite *engine_life_suite(void)
{
    Suite *s = suite_create("engine life");
    TCase *t = tcase_create("life");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, queue_is_bounded);
    tcase_add_test(t, cancel_in_every_state);
    tcase_add_test(t, cancel_at_every_moment);
    tcase_add_test(t, drain_then_abort);
    tcase_add_test(t, watchdog_sees_a_stall);
    tcase_add_test(t, failed_steps_end_their_requests_only);
    tcase_add_test(t, not_ready_without_a_warm_token);
    tcase_add_test(t, steps_do_not_allocate);
    tcase_add_test(t, idle_uses_no_cpu);
    suite_add_tcase(s, t);
    return s;
}
