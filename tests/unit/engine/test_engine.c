/* One engine, one thing at a time. */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "clock.h"
#include "fake.h"
#include "suites.h"
#include "util.h"

static struct answer a, b;
static int32_t prompt[FAKE_CTX + 8], want[FAKE_CTX];

static void setup(void)
{
    fake_reset();
    fill_prompt(prompt, FAKE_CTX + 8, 1);
}

static void sleep_ms(int ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL); }

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

START_TEST(greedy_answer_is_the_models)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    ck_assert_int_eq(engine_state(en), ENGINE_READY);
    struct gen_params p = greedy(100);
    for (int n = 1; n < 300; n = n * 3 + 1) {
        read_answer(submit(en, prompt, n, &p), &a);
        ck_assert_int_eq(a.n, fake_greedy(prompt, n, want, 100));
        ck_assert_mem_eq(a.tok, want, (size_t)a.n * sizeof *want);
        ck_assert_int_eq(a.last.finish, FINISH_LENGTH);
        ck_assert_int_eq(a.last.usage.prompt_tokens, n);
        struct request_usage u = a.last.usage;
        ck_assert(u.t_arrival > 0 && u.t_arrival <= u.t_scheduled && u.t_scheduled <= u.t_first_token &&
                  u.t_first_token <= u.t_last_token);
    }
    close_engine(en);
}
END_TEST

START_TEST(eos_stop_ids_and_ignore_eos)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(200);
    fake.eos_boost = 16;
    read_answer(submit(en, prompt, 9, &p), &a);
    int n = fake_greedy(prompt, 9, want, 200);
    ck_assert_int_lt(n, 200);
    ck_assert_int_gt(n, 2);
    ck_assert_int_eq(a.n, n);
    ck_assert_int_eq(a.tok[n - 1], FAKE_EOS);
    ck_assert_int_eq(a.last.finish, FINISH_STOP);
    ck_assert_int_eq(a.last.stop_token, -1);
    ck_assert_ptr_null(a.last.stop_string);

    p.min_tokens = n + 3; /* the end of sequence cannot come before */
    read_answer(submit(en, prompt, 9, &p), &a);
    ck_assert_int_gt(a.n, n + 3);
    for (int i = 0; i < n + 3; i++) ck_assert_int_ne(a.tok[i], FAKE_EOS);

    p.min_tokens = 0;
    p.ignore_eos = true;
    read_answer(submit(en, prompt, 9, &p), &a);
    ck_assert_int_eq(a.n, 200);
    ck_assert_int_eq(a.last.finish, FINISH_LENGTH);

    p.stop_token = (int32_t[]){a.tok[1]};
    p.n_stop_token = 1;
    read_answer(submit(en, prompt, 9, &p), &b);
    ck_assert_int_eq(b.n, 2);
    ck_assert_int_eq(b.last.finish, FINISH_STOP);
    ck_assert_int_eq(b.last.stop_token, a.tok[1]);
    close_engine(en);
}
END_TEST

START_TEST(stop_strings_cut_the_text)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(60);
    read_answer(submit(en, prompt, 20, &p), &a);
    ck_assert_uint_gt(a.n_text, 40);
    for (size_t at = 5; at < 30; at++) {
        char stop[4];
        memcpy(stop, a.text + at, 3);
        p.n_stop = 1;
        p.stop[0] = stop;
        p.stop_len[0] = 3;
        size_t first = (size_t)((char *)memmem(a.text, a.n_text, stop, 3) - a.text);
        for (int include = 0; include < 2; include++) {
            p.include_stop = include;
            read_answer(submit(en, prompt, 20, &p), &b);
            ck_assert_int_eq(b.last.finish, FINISH_STOP);
            ck_assert_mem_eq(b.last.stop_string ? "yes" : "no", "yes", 3);
            ck_assert_uint_eq(b.n_text, first + (include ? 3 : 0));
            ck_assert_mem_eq(b.text, a.text, b.n_text);
        }
    }
    close_engine(en);
}
END_TEST

START_TEST(logprobs_of_answer_and_prompt)
{
    struct engine_config c = small_config();
    struct pool *pool;
    ck_assert_int_eq(pool_open(2, &pool, NULL), 0);
    struct engine *en = open_engine(&c, pool, NULL);
    struct gen_params p = greedy(10);
    p.logprobs = 3;
    p.prompt_logprobs = 2;
    enum { N = 150 }; /* three chunks */
    for (int cached = 0; cached < 2; cached++) {
        struct request *r = submit(en, prompt, N, &p);
        struct out_batch o;
        int n_tok = 0, n_prompt = 0;
        float x[FAKE_VOCAB];
        do {
            request_take(r, &o, -1);
            for (int i = 0; i < o.n_prompt; i++, n_prompt++) {
                ck_assert_int_eq(o.prompt[i].token, prompt[i]);
                ck_assert_int_eq(o.prompt[i].n_top, i ? 2 : 0);
                if (!i) continue;
                double sum = 0;
                fake_logits(prompt, i, x);
                for (int k = 0; k < FAKE_VOCAB; k++) sum += exp(x[k]);
                ck_assert_double_eq_tol(o.prompt[i].logprob, x[prompt[i]] - log(sum), 1e-5);
                ck_assert(o.top[o.prompt[i].top].logprob >= o.top[o.prompt[i].top + 1].logprob);
                ck_assert((o.prompt[i].rank == 1) == (o.top[o.prompt[i].top].token == prompt[i]));
            }
            for (int i = 0; i < o.n_tok; i++, n_tok++) {
                ck_assert_int_eq(o.tok[i].n_top, 3);
                ck_assert_int_eq(o.tok[i].rank, 1);
                ck_assert_int_eq(o.top[o.tok[i].top].token, o.tok[i].token);
                ck_assert(o.top[o.tok[i].top].logprob == o.tok[i].logprob);
            }
        } while (!o.done);
        ck_assert_int_eq(n_prompt, N);
        ck_assert_int_eq(n_tok, 10);
        request_release(r);
    }
    close_engine(en);
    pool_close(pool);
}
END_TEST

START_TEST(seeds_reproduce_and_differ)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p;
    gen_params_init(&p);
    p.max_tokens = 50;
    p.seed = 42;
    read_answer(submit(en, prompt, 7, &p), &a);
    read_answer(submit(en, prompt, 7, &p), &b);
    ck_assert_mem_eq(a.tok, b.tok, 50 * sizeof *a.tok);
    p.seed = 43;
    read_answer(submit(en, prompt, 7, &p), &b);
    ck_assert_mem_ne(a.tok, b.tok, 50 * sizeof *a.tok);
    close_engine(en);
}
END_TEST

START_TEST(prefix_hits_are_counted)
{
    struct engine_config c = small_config();
    struct metrics *m = metrics_new();
    struct engine *en = open_engine(&c, NULL, m);
    struct gen_params p = greedy(5);
    read_answer(submit(en, prompt, 100, &p), &a);
    ck_assert_int_eq(a.last.usage.cached_tokens, 0);
    read_answer(submit(en, prompt, 100, &p), &b);
    ck_assert_int_eq(b.last.usage.cached_tokens, 96);
    ck_assert_mem_eq(a.tok, b.tok, 5 * sizeof *a.tok);
    p.cache_salt = 1;
    read_answer(submit(en, prompt, 100, &p), &b);
    ck_assert_int_eq(b.last.usage.cached_tokens, 0);
    ck_assert(engine_wait_idle(en, 10));
    struct buf text = {0};
    metrics_render(m, "fake", &text);
    ck_assert_ptr_nonnull(strstr(text.data, "vllm:prefix_cache_hits_total{model_name=\"fake\"} 96\n"));
    ck_assert_ptr_nonnull(strstr(text.data, "vllm:generation_tokens_total{model_name=\"fake\"} 15\n"));
    ck_assert_ptr_nonnull(strstr(text.data, "vllm:prompt_tokens_total{model_name=\"fake\"} 300\n"));
    ck_assert_ptr_nonnull(strstr(text.data, "vllm:num_requests_running{model_name=\"fake\"} 0\n"));
    ck_assert_ptr_nonnull(strstr(text.data, "inferd:kv_blocks_free{model_name=\"fake\"} 128\n"));
    ck_assert_ptr_nonnull(strstr(text.data, "vllm:time_to_first_token_seconds_count{model_name=\"fake\"} 3\n"));
    ck_assert_ptr_nonnull(strstr(text.data, "finished_reason=\"length\""));
    buf_free(&text);
    close_engine(en);
    metrics_free(m);
}
END_TEST

START_TEST(bad_requests_are_refused)
{
    struct engine_config c = small_config();
    c.max_model_len = 256;
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(5);
    struct err e = {0};
    struct request *r;
    ck_assert_int_eq(request_new(prompt, 0, &p, NULL, NULL, &r, &e), ERR_INVALID);

    r = new_request(prompt, 256, &p);
    ck_assert_int_eq(engine_submit(en, r, &e), ERR_TOO_LONG);
    ck_assert_ptr_nonnull(strstr(e.msg, "maximum context length is 256 tokens. However, you requested 261 tokens"));
    request_release(r);

    int32_t bad[] = {1, FAKE_VOCAB};
    r = new_request(bad, 2, &p);
    ck_assert_int_eq(engine_submit(en, r, &e), ERR_INVALID);
    ck_assert_str_eq(e.param, "prompt");
    request_release(r);
    bad[1] = -1;
    p.stop_token = bad;
    p.n_stop_token = 2;
    r = new_request(prompt, 2, &p);
    ck_assert_int_eq(engine_submit(en, r, &e), ERR_INVALID);
    ck_assert_str_eq(e.param, "stop_token_ids");
    request_release(r);
    p.n_stop_token = 0;
    p.bias = (struct logit_bias[]){{FAKE_VOCAB, 1}};
    p.n_bias = 1;
    r = new_request(prompt, 2, &p);
    ck_assert_int_eq(engine_submit(en, r, &e), ERR_INVALID);
    ck_assert_str_eq(e.param, "logit_bias");
    request_release(r);
    p.n_bias = 0;

    p.max_tokens = INT32_MAX; /* clipped to the context */
    read_answer(submit(en, prompt, 200, &p), &a);
    ck_assert_int_eq(a.n, 56);
    ck_assert_int_eq(a.last.finish, FINISH_LENGTH);
    p.max_tokens = 1;
    r = submit(en, prompt, 255, &p);
    ck_assert_int_eq(engine_submit(en, r, &e), ERR_INVALID); /* twice */
    read_answer(r, &a);
    ck_assert_int_eq(a.n, 1);
    close_engine(en);
}
END_TEST

/* A pool smaller than the context: prompts that never fit are refused, an answer that fills it ends with `length`. */
START_TEST(full_pool_ends_with_length)
{
    struct engine_config c = small_config();
    c.n_block = 24;
    c.max_model_len = 400;
    struct engine *en = open_engine(&c, NULL, NULL);
    int room = engine_info(en)->max_prompt;
    struct gen_params p = greedy(390);
    struct err e = {0};
    ck_assert_int_lt(room, 200);
    struct request *r = new_request(prompt, room + 1, &p);
    ck_assert_int_eq(engine_submit(en, r, &e), ERR_TOO_LONG);
    request_release(r);
    read_answer(submit(en, prompt, room, &p), &a);
    ck_assert_int_ge(a.n, 1);
    ck_assert_int_eq(a.last.finish, FINISH_LENGTH);
    read_answer(submit(en, prompt, 3, &p), &a);
    ck_assert_int_lt(a.n, 390);
    ck_assert_int_ge(a.n, room - 40);
    ck_assert_int_eq(a.n, fake_greedy(prompt, 3, want, a.n));
    ck_assert_mem_eq(a.tok, want, (size_t)a.n * sizeof *want);
    close_engine(en);
}
END_TEST

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
    engine_test_stall(en, 0.5);
    struct request *r = submit(en, prompt, 3, &p);
    ck_assert_int_eq(engine_state(en), ENGINE_READY);
    sleep_ms(250);
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

static void *sleeper_cpu(void *arg)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    *(double *)arg = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
    return NULL;
}

START_TEST(idle_uses_no_cpu)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(20);
    read_answer(submit(en, prompt, 20, &p), &a);
    ck_assert(engine_wait_idle(en, 10));
    double before, after;
    sleeper_cpu(&before);
    sleep_ms(300);
    sleeper_cpu(&after);
    ck_assert_double_lt(after - before, 0.01);
    close_engine(en);
}
END_TEST

static _Atomic int wakes;

static void on_wake(void *ctx)
{
    (void)ctx;
    wakes++;
}

START_TEST(one_wake_between_two_takes)
{
    struct engine_config c = small_config();
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(50);
    struct request *r;
    ck_assert_int_eq(request_new(prompt, 5, &p, on_wake, NULL, &r, NULL), 0);
    ck_assert_int_eq(engine_submit(en, r, NULL), 0);
    ck_assert(engine_wait_idle(en, 10));
    ck_assert_int_eq(wakes, 1);
    struct out_batch o;
    ck_assert_int_eq(request_take(r, &o, 0), 1);
    ck_assert_int_eq(o.n_tok, 50);
    ck_assert(o.done);
    ck_assert_int_eq(request_take(r, &o, 0), 0);
    ck_assert_int_eq(request_take(r, &o, 20), 0);
    ck_assert(o.done);
    request_release(r);
    close_engine(en);
}
END_TEST

/* Steps of 4 ms against a target of 2: the budget falls, and long prompts come in smaller pieces. */
START_TEST(budget_adapts_to_the_target)
{
    struct engine_config c = small_config();
    c.target_itl_ms = 2;
    struct engine *en = open_engine(&c, NULL, NULL);
    struct gen_params p = greedy(100);
    fake.delay_us = 4000;
    struct request *r = submit(en, prompt, 4, &p);
    wait_running(en, 1);
    int before = fake.forwards;
    p.max_tokens = 1;
    read_answer(submit(en, prompt + 1, 400, &p), &b);
    ck_assert_int_gt(fake.forwards - before, 400 / 64 + 4);
    engine_cancel(en, r);
    read_answer(r, &a);
    close_engine(en);
}
END_TEST

START_TEST(plans_respect_memory_and_limits)
{
    struct engine_config c = small_config();
    struct engine_info info;
    struct err e = {0};
    c.n_block = 0;
    ck_assert_int_eq(engine_plan(&fake_model()->arch, &c, &info, &e), 0);
    ck_assert_int_eq(info.max_model_len, FAKE_CTX);
    ck_assert_int_eq(info.max_prompt, FAKE_CTX - 1);
    int all = info.n_block; /* enough for all sequences at once, no more */
    ck_assert_int_ge(all, 4 * FAKE_CTX / 8);
    ck_assert_int_le(all, 8 * FAKE_CTX / 8);
    ck_assert_uint_eq(info.kv_bytes, (size_t)all * 64);
    c.kv_bytes = 64 * 40;
    ck_assert_int_eq(engine_plan(&fake_model()->arch, &c, &info, &e), 0);
    ck_assert_int_eq(info.n_block, 40);
    ck_assert_int_lt(info.max_model_len, FAKE_CTX); /* lowered to what the pool holds */
    c.kv_bytes = 64;
    ck_assert_int_eq(engine_plan(&fake_model()->arch, &c, &info, &e), ERR_NOMEM);
    c.kv_bytes = 0;
    c.memory_fraction = 1e-12;
    ck_assert_int_eq(engine_plan(&fake_model()->arch, &c, &info, &e), ERR_NOMEM);
    c = small_config();
    c.block_size = 12;
    ck_assert_int_eq(engine_plan(&fake_model()->arch, &c, &info, &e), ERR_INVALID);
    ck_assert_str_eq(e.param, "block-size");
    c = small_config();
    c.max_batch_tokens = 3;
    ck_assert_int_eq(engine_plan(&fake_model()->arch, &c, &info, &e), ERR_INVALID);
    ck_assert_str_eq(e.param, "max-num-batched-tokens");
    c = small_config();
    c.max_model_len = FAKE_CTX + 1;
    ck_assert_int_eq(engine_plan(&fake_model()->arch, &c, &info, &e), ERR_INVALID);
    ck_assert_str_eq(e.param, "max-model-len");
}
END_TEST

Suite *engine_suite(void)
{
    Suite *s = suite_create("engine");
    TCase *t = tcase_create("engine");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, greedy_answer_is_the_models);
    tcase_add_test(t, eos_stop_ids_and_ignore_eos);
    tcase_add_test(t, stop_strings_cut_the_text);
    tcase_add_test(t, logprobs_of_answer_and_prompt);
    tcase_add_test(t, seeds_reproduce_and_differ);
    tcase_add_test(t, prefix_hits_are_counted);
    tcase_add_test(t, bad_requests_are_refused);
    tcase_add_test(t, full_pool_ends_with_length);
    tcase_add_test(t, queue_is_bounded);
    tcase_add_test(t, cancel_in_every_state);
    tcase_add_test(t, cancel_at_every_moment);
    tcase_add_test(t, drain_then_abort);
    tcase_add_test(t, watchdog_sees_a_stall);
    tcase_add_test(t, failed_steps_end_their_requests_only);
    tcase_add_test(t, not_ready_without_a_warm_token);
    tcase_add_test(t, steps_do_not_allocate);
    tcase_add_test(t, idle_uses_no_cpu);
    tcase_add_test(t, one_wake_between_two_takes);
    tcase_add_test(t, budget_adapts_to_the_target);
    tcase_add_test(t, plans_respect_memory_and_limits);
    suite_add_tcase(s, t);
    return s;
}
