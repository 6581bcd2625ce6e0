#include "util.h"
#include <check.h>
#include <string.h>
#include <time.h>
#include "fake.h"
#include "sampler.h"

struct engine_config small_config(void)
{
    struct engine_config c;
    engine_config_init(&c);
    c.max_num_seqs = 4;
    c.max_batch_tokens = 64;
    c.block_size = 8;
    c.n_block = 128;
    c.max_queue = 8;
    return c;
}

struct engine *open_engine(const struct engine_config *c, struct pool *pool, struct metrics *m)
{
    struct engine *en;
    struct err e = {0};
    ck_assert_msg(!engine_open(fake_model(), pool, c, m, &en, &e), "%s", e.msg);
    ck_assert(engine_wait_idle(en, 10));
    return en;
}

void close_engine(struct engine *en)
{
    struct err e = {0};
    ck_assert(engine_wait_idle(en, 10));
    ck_assert_msg(!engine_check(en, &e), "%s", e.msg);
    ck_assert_int_eq(fake.kv_faults, 0);
    struct engine_stats s = engine_stats(en);
    ck_assert_int_eq(s.running + s.waiting + s.kv.used, 0);
    ck_assert_int_eq(s.kv.free + s.kv.cached, s.kv.total);
    engine_close(en);
}

struct request *new_request(const int32_t *prompt, int n, const struct gen_params *p)
{
    struct request *r;
    ck_assert_int_eq(request_new(prompt, n, p, NULL, NULL, &r, NULL), 0);
    return r;
}

struct request *submit(struct engine *en, const int32_t *prompt, int n, const struct gen_params *p)
{
    struct request *r = new_request(prompt, n, p);
    struct err e = {0};
    ck_assert_msg(!engine_submit(en, r, &e), "%s", e.msg);
    return r;
}

void read_answer(struct request *r, struct answer *a)
{
    a->n = 0;
    a->n_text = 0;
    do {
        request_take(r, &a->last, -1);
        for (int i = 0; i < a->last.n_tok; i++) {
            a->out[a->n] = a->last.tok[i];
            a->tok[a->n++] = a->last.tok[i].token;
        }
        if (a->last.n_text) memcpy(a->text + a->n_text, a->last.text, a->last.n_text);
        a->n_text += a->last.n_text;
    } while (!a->last.done);
    ck_assert_int_eq(a->last.usage.completion_tokens, a->n);
    request_release(r);
}

struct gen_params greedy(int max_tokens)
{
    struct gen_params p;
    gen_params_init(&p);
    p.temperature = 0;
    p.max_tokens = max_tokens;
    return p;
}

void fill_prompt(int32_t *prompt, int n, int seed)
{
    for (int i = 0; i < n; i++) prompt[i] = (int32_t)(sampler_random((uint64_t)seed, i) % 256);
}

void wait_running(struct engine *en, int n)
{
    for (int i = 0; i < 10000 && engine_stats(en).running != n; i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    ck_assert_int_eq(engine_stats(en).running, n);
}
