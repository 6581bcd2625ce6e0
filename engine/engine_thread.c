/* The engine thread's loop: take the inbox whole, act on it, step; sleep when there is nothing. */
#include <time.h>
#include "clock.h"
#include "engine_impl.h"
#include "log.h"

#define LOG_EVERY_S 10.0
#define PING_S      1LL /* a dead rank must be noticed within seconds */

bool engine_has_work(const struct engine *en)
{
    struct sched_stats s = sched_stats(en->sched);
    return s.n_running + s.n_waiting > 0 || en->flight[0].up || en->flight[1].up;
}

static struct engine_stats collect_stats(const struct engine *en)
{
    struct sched_stats s = sched_stats(en->sched);
    return (struct engine_stats){.running = s.n_running,
                                 .waiting = s.n_waiting,
                                 .kv = kv_stats(en->kv),
                                 .preemptions = s.preemptions,
                                 .steps = en->steps};
}

void engine_settle(struct engine *en, int gone)
{
    struct engine_stats s = collect_stats(en);
    pthread_mutex_lock(&en->mu);
    en->stats = s;
    en->live -= gone;
    en->progress_ns = clock_ns();
    pthread_mutex_unlock(&en->mu);
    engine_metrics_stats(&en->metrics, &s);
}

void engine_let_go(struct engine *en, struct request *r, const struct verdict *v, const struct err *e)
{
    r->live = false;
    engine_forget(en, r);
    if (v->stop_string < 0) stop_text_finish(&r->text, &en->scratch);
    r->ready.n_tok = r->n_out;
    r->ready.n_text = r->text.visible;
    if (!r->hidden) engine_metrics_finish(&en->metrics, v->finish, &r->now, clock_s());
    request_finish(r, v->finish, v->stop_token, v->stop_string, e);
    request_unref(r);
}

void engine_end(struct engine *en, struct request *r, enum finish_reason f, const struct err *e)
{
    struct verdict v = {.finish = f, .stop_token = -1, .stop_string = -1};
    sched_remove(en->sched, &r->seq);
    engine_settle(en, !r->hidden);
    engine_let_go(en, r, &v, e);
}

static void end_all(struct engine *en, enum finish_reason f, const struct err *e)
{
    struct seq *q;
    while ((q = sched_first(en->sched))) engine_end(en, q->owner, f, e);
}

void engine_fail(struct engine *en, const struct err *e)
{
    log_error("the engine has failed: %s", e->msg);
    pthread_mutex_lock(&en->mu);
    en->failed = true;
    pthread_mutex_unlock(&en->mu);
    end_all(en, FINISH_ERROR, e);
}

/* Blocks are free, cached or used, and nobody uses any when nothing is alive. */
static void check_idle(struct engine *en)
{
    struct kv_stats s = kv_stats(en->kv);
    if (s.free + s.cached + s.used != s.total || s.used)
        log_error("KV blocks leak: %d free, %d cached, %d used of %d while idle", s.free, s.cached, s.used,
                  s.total);
}

static void log_stats(struct engine *en)
{
    double now = clock_s(), dt = now - en->log.since;
    if (en->log.since > 0 && dt < LOG_EVERY_S) return;
    if (en->log.prompt_tokens + en->log.generation_tokens && en->log.since > 0) {
        struct engine_stats s = collect_stats(en);
        uint64_t asked = s.kv.query_tokens - en->log.kv.query_tokens,
                 hit = s.kv.hit_tokens - en->log.kv.hit_tokens;
        log_info("Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, Running: "
                 "%d reqs, "
                 "Waiting: %d reqs, KV cache usage: %.1f%%, Prefix cache hit rate: %.1f%%",
                 (double)en->log.prompt_tokens / dt, (double)en->log.generation_tokens / dt, s.running,
                 s.waiting, 100.0 * s.kv.used / s.kv.total,
                 asked ? 100.0 * (double)hit / (double)asked : 0.0);
    }
    en->log.since = now;
    en->log.prompt_tokens = en->log.generation_tokens = 0;
    en->log.kv = kv_stats(en->kv);
}

static bool inbox_empty(const struct inbox *i, int checks_done)
{
    return !i->submit && !i->cancel && !i->abort_all && i->check == checks_done;
}

/* With en->mu held. Among several ranks a sleep lasts PING_S at most. False when that time is up. */
static bool sleep_for_work(struct engine *en)
{
    en->idle = true;
    pthread_cond_broadcast(&en->calm);
    if (en->c.n_rank <= 1) return !pthread_cond_wait(&en->work, &en->mu);
    int64_t until = clock_ns() + PING_S * 1000000000;
    struct timespec t = {until / 1000000000, until % 1000000000};
    return !pthread_cond_timedwait(&en->work, &en->mu, &t);
}

/* Sleeps while there is nothing to do, then takes the inbox. False when the engine is to stop. */
static bool take_inbox(struct engine *en, struct inbox *in)
{
    bool busy = engine_has_work(en);
    pthread_mutex_lock(&en->mu);
    while (!busy && !en->stopping && inbox_empty(&en->inbox, en->check_done)) {
        if (!sleep_for_work(en)) break;
    }
    en->idle = false;
    *in = en->inbox;
    en->inbox = (struct inbox){.submit_end = &en->inbox.submit, .check = in->check};
    bool go_on = !en->stopping;
    pthread_mutex_unlock(&en->mu);
    return go_on;
}

static void run_check(struct engine *en, int ticket)
{
    struct err e = {0};
    if (!sched_check(en->sched, &e)) kv_check(en->kv, &e);
    struct kv_stats s = kv_stats(en->kv);
    if (!e.code && !engine_has_work(en) && s.used)
        err_set(&e, ERR_INVALID, "%d blocks used while idle", s.used);
    pthread_mutex_lock(&en->mu);
    en->check_error = e;
    en->check_done = ticket;
    pthread_cond_broadcast(&en->calm);
    pthread_mutex_unlock(&en->mu);
}

static void act_on_inbox(struct engine *en, struct inbox *in)
{
    for (struct request *r = in->submit, *next; r; r = next) {
        next = r->next_inbox;
        r->live = true;
        sched_add(en->sched, &r->seq);
        if (atomic_load(&r->cancelled)) engine_end(en, r, FINISH_ABORT, NULL);
    }
    for (struct request *r = in->cancel, *next; r; r = next) {
        next = r->next_cancel;
        if (r->live) engine_end(en, r, FINISH_ABORT, NULL);
        request_unref(r);
    }
    if (in->abort_all) end_all(en, FINISH_ABORT, NULL);
    if (en->failed)
        end_all(en, FINISH_ERROR, &(struct err){.code = ERR_CLOSED, .msg = "the engine has failed"});
    if (in->check != en->check_done) run_check(en, in->check);
    if (in->stall > 0)
        nanosleep(
            &(struct timespec){(time_t)in->stall, (long)((in->stall - (double)(time_t)in->stall) * 1e9)},
            NULL);
}

/* A real prompt and a real decode through everything a request goes through: only then is the engine ready.
 */
static void warm_up(struct engine *en)
{
    int bos = en->model->arch.bos, n = en->info.max_prompt > 1 ? 2 : 1;
    int32_t id = bos >= 0 && bos < en->model->arch.vocab ? bos : 0, prompt[2] = {id, id};
    struct gen_params p;
    gen_params_init(&p);
    p.temperature = 0;
    p.ignore_eos = true;
    p.max_tokens = 2;
    struct request *r = NULL;
    struct err e = {0};
    struct out_batch out = {0};
    if (request_new(prompt, n, &p, NULL, NULL, &r, &e) || engine_prepare(en, r, &e)) {
        engine_fail(en, &e);
    } else {
        r->hidden = r->live = true;
        r->seq.no_prefix = true;
        request_ref(r);
        sched_add(en->sched, &r->seq);
        while (engine_has_work(en)) engine_step(en);
        request_take(r, &out, 0);
        if (out.finish == FINISH_ERROR && !en->failed) engine_fail(en, &out.error);
    }
    request_release(r);
    pthread_mutex_lock(&en->mu);
    en->warming = false;
    pthread_mutex_unlock(&en->mu);
}

void *engine_main(void *arg)
{
    struct engine *en = arg;
    struct inbox in;
    warm_up(en);
    check_idle(en);
    while (take_inbox(en, &in)) {
        act_on_inbox(en, &in);
        if (!engine_has_work(en)) {
            struct err e = {0};
            if (!en->failed && runner_ping(en->runner, &e)) engine_fail(en, &e);
            engine_settle(en, 0);
            check_idle(en);
            continue;
        }
        log_stats(en);
        engine_step(en);
    }
    act_on_inbox(en, &in);
    return NULL;
}
