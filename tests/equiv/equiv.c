#include "equiv.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "sampler.h"

#define N_NEIGHBOUR 4

void machine_open(struct machine *m, const char *name, int isa, int threads)
{
    char path[512];
    struct err e = {0};
    struct model_options o = {.dtype = "auto"};
    *m = (struct machine){.is_ref = isa < 0};
    snprintf(path, sizeof path, "%s/%s", GOLDEN_DATA, name);
    ck_assert_msg(!pool_open(threads, &m->pool, &e), "%s", e.msg);
    if (isa == -2) {
        struct device_config c = {.device = getenv("TEST_DEVICE"), .deterministic = true};
        ck_assert_msg(!backend_open(&c, &m->be, &e), "%s", e.msg);
        m->is_ref = false;
    } else if (m->is_ref) {
        m->be = ref_backend();
    } else {
        ck_assert_msg(!cpu_backend_open(m->pool, (enum cpu_isa)isa, &m->be, &e), "%s", e.msg);
    }
    ck_assert_msg(!model_load(path, m->be, &o, &m->model, &e), "%s", e.msg);
}

void machine_close(struct machine *m)
{
    model_free(m->model);
    if (!m->is_ref) backend_close(m->be);
    pool_close(m->pool);
}

struct engine_config equiv_config(enum dtype kv_type)
{
    struct engine_config c;
    engine_config_init(&c);
    c.max_model_len = MAX_CTX;
    c.max_num_seqs = 16;
    c.n_block = 1024;
    c.kv_type = kv_type;
    c.prefix_cache = false;
    return c;
}

/* Request i: its prompt is a part of one of three texts, so that some share prefixes; the rest varies with i.
 */
static struct request *make_request(const struct machine *m, int i)
{
    int32_t prompt[MAX_CTX];
    int vocab = m->model->arch.vocab, n = 3 + i * 17 % 90;
    for (int k = 0; k < n; k++) prompt[k] = (int32_t)(sampler_random((uint64_t)(i % 3), k) % (uint64_t)vocab);
    struct gen_params p;
    gen_params_init(&p);
    p.max_tokens = 8 + i % 4 * 4;
    p.temperature = i % 2 ? 0.8f : 0;
    p.top_p = i % 4 == 1 ? 0.9f : 1;
    p.top_k = i % 4 == 3 ? 40 : 0;
    p.repetition_penalty = i % 5 == 4 ? 1.2f : 1;
    p.seed = (uint64_t)i;
    p.logprobs = 2;
    p.prompt_logprobs = i % 3 == 2 ? 1 : -1;
    p.ignore_eos = true;
    p.keep_special = true;
    struct request *r;
    ck_assert_int_eq(request_new(prompt, n, &p, NULL, NULL, &r, NULL), 0);
    return r;
}

static struct request *submit(struct engine *en, struct request *r)
{
    struct err e = {0};
    ck_assert_msg(!engine_submit(en, r, &e), "%s", e.msg);
    return r;
}

static uint64_t hash(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

static uint64_t hash_token(uint64_t h, const struct out_token *t, const struct token_logprob *top)
{
    h = hash(h, &t->token, sizeof t->token);
    h = hash(h, &t->logprob, sizeof t->logprob);
    h = hash(h, &t->rank, sizeof t->rank);
    return t->n_top ? hash(h, top + t->top, (size_t)t->n_top * sizeof *top) : h;
}

static void read_request(struct request *r, int i, struct results *out)
{
    struct out_batch o;
    uint64_t h = 0xcbf29ce484222325u, text = h,
             prompt = h; /* apart: how they interleave is a matter of timing */
    out->n_tok[i] = 0;
    do {
        request_take(r, &o, -1);
        for (int k = 0; k < o.n_prompt; k++) {
            prompt = hash_token(prompt, &o.prompt[k], o.top);
            out->prompt_logprob[i][k] = o.prompt[k].logprob;
        }
        for (int k = 0; k < o.n_tok; k++) h = hash_token(h, &o.tok[k], o.top);
        if (o.n_text) text = hash(text, o.text, o.n_text);
        out->n_tok[i] += o.n_tok;
    } while (!o.done);
    ck_assert_int_eq(o.finish, FINISH_LENGTH);
    ck_assert_int_eq(out->n_tok[i], 8 + i % 4 * 4);
    out->digest[i] = h ^ text * 3 ^ prompt * 5;
    out->cached += o.usage.cached_tokens;
    request_release(r);
}

/* Neighbours that never get to their end: one is cancelled after each moment of sleep. */
static void disturb(struct engine *en, const struct machine *m)
{
    struct request *r[N_NEIGHBOUR];
    for (int k = 0; k < N_NEIGHBOUR; k++) r[k] = submit(en, make_request(m, k));
    for (int k = 0; k < N_NEIGHBOUR; k++) {
        nanosleep(&(struct timespec){0, k * 700000L}, NULL);
        engine_cancel(en, r[k]);
        request_release(r[k]);
    }
}

static void run_round(struct engine *en, const struct machine *m, enum load load, struct results *out)
{
    struct request *r[N_REQ];
    memset(out, 0, sizeof *out);
    for (int i = 0; i < N_REQ; i++) {
        r[i] = submit(en, make_request(m, i));
        if (load == ONE_BY_ONE) read_request(r[i], i, out);
    }
    if (load == DISTURBED) disturb(en, m);
    for (int i = 0; i < N_REQ && load != ONE_BY_ONE; i++) read_request(r[i], i, out);
    for (int i = 0; i < N_REQ; i++) {
        int j = 0;
        while (out->digest[j] != out->digest[i]) j++;
        out->distinct += j == i;
    }
}

void run_requests(struct machine *m, const struct engine_config *c, enum load load, int preempt, int rounds,
                  struct results *out)
{
    struct engine *en;
    struct err e = {0};
    ck_assert_msg(!engine_open(m->model, m->pool, c, NULL, &en, &e), "%s", e.msg);
    engine_test_preempt(en, preempt);
    for (int i = 0; i < rounds; i++) run_round(en, m, load, out);
    ck_assert(engine_wait_idle(en, 60));
    ck_assert_msg(!engine_check(en, &e), "%s", e.msg);
    struct engine_stats s = engine_stats(en);
    ck_assert_int_eq(s.kv.used, 0);
    ck_assert_int_eq(s.kv.free + s.kv.cached, s.kv.total);
    out->preemptions = s.preemptions;
    engine_close(en);
}

int blocks_for(const struct machine *m, const struct engine_config *c, int n)
{
    struct kv_layout layout;
    ck_assert_int_eq(arch_kv_layout(&m->model->arch, &layout, NULL), 0);
    struct kv_config k = {.block_size = c->block_size, .n_group = layout.n_group, .max_tokens = MAX_CTX};
    for (int g = 0; g < layout.n_group; g++) k.group[g].window = layout.window[g];
    return kv_blocks_needed(&k, n, c->max_batch_tokens);
}

void expect_equal(const struct results *a, const struct results *b, const char *what)
{
    for (int i = 0; i < N_REQ; i++)
        ck_assert_msg(a->digest[i] == b->digest[i], "%s: request %d differs", what, i);
}
