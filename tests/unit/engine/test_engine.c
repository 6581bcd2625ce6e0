/* One engine, one request at a time: what comes out of it, and what is refused. */
#include <check.h>
#include <math.h>
#include <string.h>
#include "fake.h"
#include "sampler.h"
#include "suites.h"
#include "util.h"

static struct answer a, b;
static int32_t prompt[FAKE_CTX + 8], want[FAKE_CTX];

static void setup(void)
{
    fake_reset();
    fill_prompt(prompt, FAKE_CTX + 8, 1);
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
    struct sampler *s; /* the random number is that of the token's position in the sequence */
    ck_assert_int_eq(sampler_open(FAKE_VOCAB, FAKE_CTX, &s, NULL), 0);
    memcpy(want, prompt, 7 * sizeof *want);
    for (int i = 0; i < 50; i++) {
        float x[FAKE_VOCAB];
        fake_logits(want, 7 + i, x);
        want[7 + i] = sampler_pick(s, x, &p, sampler_random(42, 7 + i));
    }
    ck_assert_mem_eq(a.tok, want + 7, 50 * sizeof *want);
    sampler_close(s);
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
    ck_assert_ptr_nonnull(
        strstr(text.data, "vllm:time_to_first_token_seconds_count{model_name=\"fake\"} 3\n"));
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
    ck_assert_ptr_nonnull(
        strstr(e.msg, "maximum context length is 256 tokens. However, you requested 261 tokens"));
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

/* A pool smaller than the context: prompts that never fit are refused, an answer that fills it ends with
 * `length`. */
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
    ck_assert_int_eq(request_take(r, &o, -1), 0); /* nothing will ever come: no wait */
    ck_assert(o.done);
    request_release(r);
    close_engine(en);
}
END_TEST

/* Steps of 4 ms against a target of 2: long prompts come in the smallest pieces beside a running stream. */
START_TEST(prefill_yields_to_the_target)
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
    tcase_add_test(t, one_wake_between_two_takes);
    tcase_add_test(t, prefill_yields_to_the_target);
    tcase_add_test(t, plans_respect_memory_and_limits);
    suite_add_tcase(s, t);
    return s;
}
