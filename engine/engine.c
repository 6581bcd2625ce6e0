/* The engine's door: opening, closing, and everything that other threads may call. */
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "engine_impl.h"

/* End-of-generation ids of config and tokenizer, each once. */
static void gather_eos(struct engine *en)
{
    const struct model *m = en->model;
    int32_t id[ENGINE_MAX_EOS];
    int n = m->tok ? tok_eog(m->tok, id, ENGINE_MAX_EOS - ARCH_MAX_EOS) : 0;
    for (int i = 0; i < m->arch.n_eos && i < ARCH_MAX_EOS; i++) id[n++] = m->arch.eos[i];
    for (int i = 0; i < n; i++) {
        bool known = id[i] < 0 || id[i] >= m->arch.vocab;
        for (int j = 0; j < en->n_eos; j++) known |= en->eos[j] == id[i];
        if (!known) en->eos[en->n_eos++] = id[i];
    }
}

static int open_buffers(struct engine *en, struct err *e)
{
    const struct engine_config *c = &en->c;
    en->n_sampler = en->pool ? pool_size(en->pool) : 1;
    en->sampler = calloc((size_t)en->n_sampler, sizeof *en->sampler);
    en->item = calloc((size_t)c->max_num_seqs, sizeof *en->item);
    en->verdict = calloc((size_t)c->max_num_seqs, sizeof *en->verdict);
    bool there = en->sampler && en->item && en->verdict;
    for (int i = 0; i < 2; i++) {
        struct flight *f = &en->flight[i];
        f->row = calloc((size_t)c->max_batch_tokens, sizeof *f->row);
        f->plan.item = calloc((size_t)c->max_num_seqs, sizeof *f->plan.item);
        there &= f->row && f->plan.item;
    }
    if (!there) return err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; i < en->n_sampler; i++) {
        int status = sampler_open(en->model->arch.vocab, en->info.max_model_len, &en->sampler[i], e);
        if (status) return status;
    }
    en->text_bound = stop_text_bound(en->model->tok);
    return stop_scratch_init(&en->scratch, en->text_bound, e);
}

static int open_parts(struct engine *en, struct metrics *metrics, struct err *e)
{
    struct model *m = en->model;
    struct engine_config *c = &en->c;
    int status = engine_plan_all(&m->arch, c, m->weight_bytes, &en->kv_config, &en->info, e);
    if (status) return status;
    struct sched_config sc = {.max_seqs = c->max_num_seqs,
                              .max_batch_tokens = c->max_batch_tokens,
                              .watermark = en->info.n_block / 100};
    struct runner_config rc = {.n_block = en->info.n_block,
                               .block_size = c->block_size,
                               .max_batch_tokens = c->max_batch_tokens,
                               .max_seqs = c->max_num_seqs,
                               .max_ctx = en->info.max_model_len,
                               .kv_type = c->kv_type,
                               .logit_rows = c->logit_rows};
    status = kv_open(&en->kv_config, &en->kv, e);
    if (!status) status = sched_open(&sc, en->kv, &en->sched, e);
    if (!status) status = runner_open(m, &rc, &en->runner, e);
    if (!status && runner_draws(en->runner) &&
        !(en->draw = calloc((size_t)runner_logits_max(en->runner), sizeof *en->draw)))
        status = err_set(e, ERR_NOMEM, "out of memory");
    if (!status) status = open_buffers(en, e);
    engine_metrics_init(&en->metrics, metrics, c, &en->info);
    return status;
}

static void engine_free(struct engine *en)
{
    runner_close(en->runner);
    sched_close(en->sched);
    kv_close(en->kv);
    for (int i = 0; en->sampler && i < en->n_sampler; i++) sampler_close(en->sampler[i]);
    free(en->sampler);
    for (int i = 0; i < 2; i++) free(en->flight[i].row), free(en->flight[i].plan.item);
    free(en->draw);
    free(en->item);
    free(en->verdict);
    stop_scratch_free(&en->scratch);
    pthread_cond_destroy(&en->work);
    pthread_cond_destroy(&en->calm);
    pthread_mutex_destroy(&en->mu);
    free(en);
}

int engine_open(struct model *m, struct pool *pool, const struct engine_config *c, struct metrics *metrics,
                struct engine **out, struct err *e)
{
    *out = NULL;
    struct engine *en = calloc(1, sizeof *en);
    if (!en) return err_set(e, ERR_NOMEM, "out of memory");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&en->calm, &attr);
    pthread_cond_init(&en->work, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&en->mu, NULL);
    en->model = m;
    en->pool = pool;
    en->c = *c;
    en->pace.target_s = c->target_itl_ms * 1e-3;
    en->inbox.submit_end = &en->inbox.submit;
    en->warming = true;
    en->progress_ns = clock_ns();
    gather_eos(en);
    int status = open_parts(en, metrics, e);
    if (!status && (status = -pthread_create(&en->thread, NULL, engine_main, en)))
        status = err_set(e, ERR_IO, "cannot start the engine thread: %s", strerror(-status));
    if (status) {
        engine_free(en);
        return status;
    }
    *out = en;
    return 0;
}

void engine_close(struct engine *en)
{
    if (!en) return;
    pthread_mutex_lock(&en->mu);
    en->draining = en->stopping = en->inbox.abort_all = true;
    pthread_cond_signal(&en->work);
    pthread_mutex_unlock(&en->mu);
    pthread_join(en->thread, NULL);
    engine_free(en);
}

const struct engine_info *engine_info(const struct engine *en) { return &en->info; }

enum engine_state engine_state(struct engine *en)
{
    pthread_mutex_lock(&en->mu);
    double quiet = (double)(clock_ns() - en->progress_ns) * 1e-9;
    bool stalled = en->live && en->c.watchdog_s > 0 && quiet > en->c.watchdog_s;
    enum engine_state s = en->stopping   ? ENGINE_STOPPED
                          : en->failed   ? ENGINE_FAILED
                          : en->warming  ? ENGINE_WARMING
                          : stalled      ? ENGINE_STALLED
                          : en->draining ? ENGINE_DRAINING
                                         : ENGINE_READY;
    pthread_mutex_unlock(&en->mu);
    return s;
}

static int check_id(const struct engine *en, const char *param, int32_t id, struct err *e)
{
    if (id >= 0 && id < en->model->arch.vocab) return 0;
    return err_param(e, ERR_INVALID, param, "%s: token id %d is out of range (the vocabulary has %d)", param,
                     id, en->model->arch.vocab);
}

/* Everything that indexes or sizes something; the finer rules are the caller's. */
static int check_params(const struct engine *en, const struct gen_params *p, struct err *e)
{
    int status = 0;
    if (p->n_stop_token > SAMPLER_BAN_MAX || p->n_stop_token < 0)
        return err_param(e, ERR_INVALID, "stop_token_ids", "stop_token_ids: at most %d", SAMPLER_BAN_MAX);
    if (p->n_bias > LOGIT_BIAS_MAX || p->n_bias < 0)
        return err_param(e, ERR_INVALID, "logit_bias", "logit_bias: at most %d entries", LOGIT_BIAS_MAX);
    if (p->logprobs > LOGPROBS_MAX || p->prompt_logprobs > LOGPROBS_MAX)
        return err_param(e, ERR_INVALID, "logprobs", "logprobs: at most %d", LOGPROBS_MAX);
    if (p->max_tokens < 1) return err_param(e, ERR_INVALID, "max_tokens", "max_tokens: must be at least 1");
    if (!(p->temperature >= 0) || !(p->top_p > 0) || !(p->min_p <= 1) || !(p->repetition_penalty > 0))
        return err_param(e, ERR_INVALID, "temperature", "sampling parameters out of range");
    for (int i = 0; i < p->n_stop_token && !status; i++)
        status = check_id(en, "stop_token_ids", p->stop_token[i], e);
    for (int i = 0; i < p->n_bias && !status; i++) status = check_id(en, "logit_bias", p->bias[i].token, e);
    for (int i = 0; i < p->n_stop && !status; i++)
        if (p->stop_len[i] < 1 || p->stop_len[i] > STOP_LEN_MAX)
            status = err_param(e, ERR_INVALID, "stop", "stop: strings must have 1 to %d bytes", STOP_LEN_MAX);
    return status;
}

static int check_request(const struct engine *en, const struct request *r, struct err *e)
{
    int status = check_params(en, &r->p, e), n = r->n_prompt;
    for (int i = 0; i < n && r->prompt && !status; i++) status = check_id(en, "prompt", r->prompt[i], e);
    if (status || n <= en->info.max_prompt) return status;
    if (n > en->info.max_model_len - 1)
        return err_param(
            e, ERR_TOO_LONG, "prompt",
            "This model's maximum context length is %d tokens. However, you requested %lld tokens (%d in "
            "the prompt, %d in the answer). Please reduce the length of the prompt or of the answer.",
            en->info.max_model_len, (long long)n + r->p.max_tokens, n, r->p.max_tokens);
    return err_param(
        e, ERR_TOO_LONG, "prompt",
        "This server's KV cache holds at most %d tokens of one request. However, your prompt has %d "
        "tokens. Please reduce the length of the prompt.",
        en->info.max_prompt, n);
}

int engine_prepare(struct engine *en, struct request *r, struct err *e)
{
    if (r->map) return 0; /* an earlier submit was refused for a full queue */
    int room = en->info.max_model_len - r->n_prompt;
    int status = request_reserve(r, r->p.max_tokens < room ? r->p.max_tokens : room, en->text_bound, e);
    if (status) return status;
    r->now = (struct request_usage){.prompt_tokens = r->n_prompt};
    return kv_ref_init(en->kv, &r->seq.kv, e); /* reads only the pool's configuration */
}

/* Why no request may come in now. With en->mu held. */
static int refuse(const struct engine *en, struct err *e)
{
    if (en->failed) return err_set(e, ERR_CLOSED, "the engine has failed");
    if (en->draining) return err_set(e, ERR_CLOSED, "the server is shutting down");
    if (en->live >= en->c.max_num_seqs + en->c.max_queue)
        return err_set(e, ERR_FULL, "too many requests are waiting: try again later");
    return 0;
}

static int ask(struct engine *en, struct err *e)
{
    pthread_mutex_lock(&en->mu);
    int status = refuse(en, e);
    pthread_mutex_unlock(&en->mu);
    return status;
}

int engine_submit(struct engine *en, struct request *r, struct err *e)
{
    pthread_mutex_lock(&r->mu);
    bool again = r->submitted;
    r->submitted = true;
    pthread_mutex_unlock(&r->mu);
    if (again) return err_set(e, ERR_INVALID, "the request was submitted already");

    int status = check_request(en, r, e);
    if (!status) status = ask(en, e); /* before any memory is taken */
    if (!status) status = engine_prepare(en, r, e);
    if (!status) {
        pthread_mutex_lock(&en->mu);
        if (!(status = refuse(en, e))) {
            int64_t now = clock_ns();
            r->now.t_arrival = (double)now * 1e-9;
            r->seq.arrival = r->seq.id = (uint64_t)++en->arrivals;
            if (!en->live++) en->progress_ns = now;
            request_ref(r);
            *en->inbox.submit_end = r;
            en->inbox.submit_end = &r->next_inbox;
            pthread_cond_signal(&en->work);
        }
        pthread_mutex_unlock(&en->mu);
    }
    if (status) {
        pthread_mutex_lock(&r->mu);
        r->submitted = false;
        pthread_mutex_unlock(&r->mu);
    }
    return status;
}

void engine_cancel(struct engine *en, struct request *r)
{
    if (atomic_exchange(&r->cancelled, true)) return;
    pthread_mutex_lock(&en->mu);
    request_ref(r);
    r->next_cancel = en->inbox.cancel;
    en->inbox.cancel = r;
    pthread_cond_signal(&en->work);
    pthread_mutex_unlock(&en->mu);
}

void engine_drain(struct engine *en)
{
    pthread_mutex_lock(&en->mu);
    en->draining = true;
    pthread_mutex_unlock(&en->mu);
}

bool engine_wait_idle(struct engine *en, double timeout_s)
{
    int64_t until = clock_ns() + (int64_t)(timeout_s * 1e9);
    struct timespec t = {until / 1000000000, until % 1000000000};
    pthread_mutex_lock(&en->mu);
    while (!(en->idle && !en->live) && !pthread_cond_timedwait(&en->calm, &en->mu, &t)) {}
    bool idle = en->idle && !en->live;
    pthread_mutex_unlock(&en->mu);
    return idle;
}

void engine_abort_all(struct engine *en)
{
    pthread_mutex_lock(&en->mu);
    en->inbox.abort_all = true;
    pthread_cond_signal(&en->work);
    pthread_mutex_unlock(&en->mu);
}

struct engine_stats engine_stats(struct engine *en)
{
    pthread_mutex_lock(&en->mu);
    struct engine_stats s = en->stats;
    pthread_mutex_unlock(&en->mu);
    return s;
}

int engine_check(struct engine *en, struct err *e)
{
    pthread_mutex_lock(&en->mu);
    int ticket = ++en->inbox.check;
    pthread_cond_signal(&en->work);
    while (en->check_done < ticket) pthread_cond_wait(&en->calm, &en->mu);
    int status = en->check_error.code;
    if (status && e) *e = en->check_error;
    pthread_mutex_unlock(&en->mu);
    return status;
}

void engine_test_stall(struct engine *en, double seconds)
{
    pthread_mutex_lock(&en->mu);
    en->inbox.stall = seconds;
    pthread_mutex_unlock(&en->mu);
}

void engine_test_preempt(struct engine *en, int one_in)
{
    pthread_mutex_lock(&en->mu);
    en->preempt_one_in = one_in;
    pthread_mutex_unlock(&en->mu);
}
