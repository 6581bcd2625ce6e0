/* Many requests, a KV pool far too small for them, random cancels and preemptions: what is left answers as if
 * alone. */
#include <check.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include "fake.h"
#include "sampler.h"
#include "suites.h"
#include "util.h"

enum { CLIENTS = 8, EACH = 125 };

struct client {
    struct engine *en;
    int id, done, aborted, refused;
    pthread_t thread;
};

/* One request's shape follows from its number alone. */
static void shape(int id, int32_t *prompt, int *n, struct gen_params *p, bool *cancel)
{
    uint64_t r = sampler_random(99, id);
    gen_params_init(p);
    *n = 1 + (int)(r % 60);
    fill_prompt(prompt, 60, (int)(r >> 8 & 0xff) % 5); /* one of five, so that prefixes are shared */
    p->max_tokens = 1 + (int)(r >> 16 & 0xff) % 30;
    p->temperature = r >> 24 & 1 ? 1.0f : 0.0f;
    p->top_k = r >> 25 & 1 ? 20 : 0;
    p->seed = r;
    p->priority = (int)(r >> 32 & 0xff) % 3;
    p->logprobs = 0;
    p->ignore_eos = r >> 26 & 1;
    p->min_tokens = r >> 27 & 1 ? p->max_tokens / 2 : 0;
    p->presence_penalty = (r >> 28 & 7) == 0 ? 0.5f : 0;
    p->prompt_logprobs = (r >> 31 & 7) == 0 ? 1 : -1;
    *cancel = (r >> 40) % 5 == 0;
}

/* The answer and its logprobs as one number. */
static uint64_t digest(const struct answer *a)
{
    uint64_t h = (uint64_t)a->n;
    for (int i = 0; i < a->n; i++) {
        uint32_t bits;
        memcpy(&bits, &a->out[i].logprob, sizeof bits);
        h = (h ^ (uint64_t)a->tok[i] ^ (uint64_t)bits << 20) * 0x100000001b3u;
    }
    return h;
}

static uint64_t alone[CLIENTS * EACH];

static void *client_main(void *arg)
{
    struct client *c = arg;
    struct answer a;
    int32_t prompt[60];
    for (int i = 0; i < EACH; i++) {
        int id = c->id * EACH + i, n;
        struct gen_params p;
        bool cancel;
        shape(id, prompt, &n, &p, &cancel);
        struct request *r;
        if (request_new(prompt, n, &p, NULL, NULL, &r, NULL)) return NULL;
        while (engine_submit(c->en, r, NULL) == ERR_FULL) {
            c->refused++;
            nanosleep(&(struct timespec){0, 200000}, NULL);
        }
        if (cancel) {
            nanosleep(&(struct timespec){0, (long)(sampler_random(7, id) % 2000000)}, NULL);
            engine_cancel(c->en, r);
        }
        read_answer(r, &a);
        bool ended = a.last.finish == FINISH_LENGTH || a.last.finish == FINISH_STOP;
        if (ended && digest(&a) == alone[id]) c->done++;
        if (a.last.finish == FINISH_ABORT && cancel) c->aborted++;
    }
    return NULL;
}

static void run_clients(const struct engine_config *c, struct pool *pool, int preempt)
{
    struct engine *en = open_engine(c, pool, NULL);
    struct client client[CLIENTS];
    engine_test_preempt(en, preempt);
    int finished = 0, aborted = 0;
    for (int i = 0; i < CLIENTS; i++) {
        client[i] = (struct client){.en = en, .id = i};
        ck_assert_int_eq(pthread_create(&client[i].thread, NULL, client_main, &client[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(client[i].thread, NULL);
        finished += client[i].done;
        aborted += client[i].aborted;
    }
    ck_assert_int_eq(finished + aborted, CLIENTS * EACH);
    ck_assert_int_gt(finished, CLIENTS * EACH / 2);
    ck_assert_int_gt(engine_stats(en).preemptions, 0);
    close_engine(en);
}

START_TEST(a_thousand_requests_under_pressure)
{
    fake_reset();
    fake.eos_boost = 16;
    struct engine_config c = small_config();
    c.async_steps = false; /* alone, and every step waited for: the answers to be compared with */
    struct engine *en = open_engine(&c, NULL, NULL);
    struct answer a;
    for (int id = 0; id < CLIENTS * EACH; id++) {
        int32_t prompt[60];
        int n;
        struct gen_params p;
        bool cancel;
        shape(id, prompt, &n, &p, &cancel);
        read_answer(submit(en, prompt, n, &p), &a);
        alone[id] = digest(&a);
    }
    close_engine(en);
    ck_assert_int_eq(fake.ahead, 0);
    c.async_steps = true;
    fake.delay_us = 20;
    c.n_block = 26; /* one sequence needs up to 24 */
    c.max_model_len = 90;
    run_clients(&c, NULL, 0);
    struct pool *pool;
    ck_assert_int_eq(pool_open(2, &pool, NULL), 0);
    c.n_block = 60;
    c.max_batch_tokens = 9;
    fake.delay_us = 0;
    run_clients(&c, pool, 5);
    c.prefix_cache = false;
    run_clients(&c, pool, 20);
    pool_close(pool);
    ck_assert_int_eq(fake.ahead > 1000, fake_draws);
}
END_TEST

Suite *engine_load_suite(void)
{
    Suite *s = suite_create("engine load");
    TCase *t = tcase_create("load");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_thousand_requests_under_pressure);
    suite_add_tcase(s, t);
    return s;
}
