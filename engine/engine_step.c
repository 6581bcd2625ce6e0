/* One step: plan, forward, one token for each sequence that is up to date, stop checks, commit, mailboxes.
 * Where the back end draws tokens, the next step is launched between a step's draw and its outcome. Nothing
 * here allocates. */
#include <string.h>
#include <time.h>
#include "clock.h"
#include "engine_impl.h"
#include "log.h"

#define MAX_FAILURES    3    /* failed steps in a row after which the engine gives up */
#define MAX_EMPTY_PLANS 1000 /* in a row, while work waits */

static bool contains(const int32_t *id, int n, int32_t token)
{
    for (int i = 0; i < n; i++)
        if (id[i] == token) return true;
    return false;
}

/* Adds the drawn token to the answer and says whether it ends it: end of sequence, stop ids, stop strings,
 * length. */
static struct verdict take_token(struct engine *en, struct request *r, double now)
{
    const struct gen_params *p = &r->p;
    struct verdict v = {.stop_token = -1, .stop_string = -1, .news = true};
    int32_t token = r->out[r->n_out++].token;
    bool enough = r->n_out >= p->min_tokens;
    if (r->penalised) penalty_set_add(&r->seen, token, true);
    if (enough && !p->ignore_eos && contains(en->eos, en->n_eos, token)) {
        v.finish = FINISH_STOP;
    } else if (enough && contains(p->stop_token, p->n_stop_token, token)) {
        v.finish = FINISH_STOP;
        v.stop_token = token;
    }
    /* The text of the token that stops is left out, like a stop string's. */
    if ((v.finish == FINISH_NONE || p->include_stop) &&
        stop_text_push(&r->text, p, en->model->tok, token, enough && v.finish == FINISH_NONE, &en->scratch)) {
        v.finish = FINISH_STOP;
        v.stop_string = r->text.match;
    }
    if (v.finish == FINISH_NONE && r->n_out == r->cap_out) v.finish = FINISH_LENGTH;
    if (r->text.overflow) v.finish = FINISH_ERROR;

    if (!r->hidden) engine_metrics_token(&en->metrics, &r->now, now);
    en->log.generation_tokens++;
    if (r->n_out == 1) {
        en->log.prompt_tokens += (uint64_t)r->n_prompt;
        r->now.t_first_token = now;
    }
    r->now.completion_tokens = r->n_out;
    r->now.t_last_token = now;
    return v;
}

/* Prompt logprobs go out all at once, with the first token. */
static void collect_prompt(struct request *r, int end)
{
    if (!r->prompt_out) return;
    if (!r->n_prompt_out) r->prompt_out[r->n_prompt_out++] = (struct out_token){.token = r->seq.tok[0]};
    if (end + 1 > r->n_prompt_out) r->n_prompt_out = end + 1 < r->n_prompt ? end + 1 : r->n_prompt;
    if (r->n_prompt_out == r->n_prompt) r->ready.n_prompt = r->n_prompt;
}

/* Fills en->item and en->verdict for the flight. */
static int decide(struct engine *en, const struct flight *f, double now)
{
    int gone = 0;
    const struct row_job *row = f->row;
    for (int i = 0; i < f->plan.n_item; i++) {
        const struct plan_item *it = &f->plan.item[i];
        struct verdict v = {.stop_token = -1, .stop_string = -1};
        int status = 0;
        bool draw = false;
        for (int k = 0; k < it->n_logits; k++, row++) {
            if (row->status) status = row->status;
            draw |= row->kind == ROW_DRAW;
        }
        if (!it->seq) continue;
        struct request *r = it->seq->owner;
        if (status) {
            v.finish = FINISH_ERROR;
        } else {
            collect_prompt(r, it->q_start + it->q_len);
            if (draw) v = take_token(en, r, now);
        }
        en->verdict[i] = v;
        en->item[i] = (struct step_item){.n_new = v.news, .finished = v.finish != FINISH_NONE};
        if (v.news) en->item[i].token = r->out[r->n_out - 1].token;
        gone += v.finish != FINISH_NONE && !r->hidden;
    }
    return gone;
}

static void deliver(struct engine *en, const struct flight *f)
{
    static const struct err bad = {.code = ERR_INVALID,
                                   .msg = "the model gave no usable output for this request"};
    for (int i = 0; i < f->plan.n_item; i++) {
        const struct verdict *v = &en->verdict[i];
        if (!f->plan.item[i].seq) continue;
        struct request *r = f->plan.item[i].seq->owner;
        if (v->finish != FINISH_NONE) {
            engine_let_go(en, r, v, v->finish == FINISH_ERROR ? &bad : NULL);
        } else if (v->news) {
            r->ready.n_tok = r->n_out;
            r->ready.n_text = r->text.visible;
            request_publish(r);
        }
    }
}

void engine_forget(struct engine *en, const struct request *r)
{
    for (struct flight *f = en->flight; f < en->flight + 2; f++) {
        for (int i = 0; f->up && i < f->plan.n_item; i++)
            if (f->plan.item[i].seq == &r->seq) f->plan.item[i].seq = NULL;
        for (int i = 0; f->up && i < f->n_row; i++)
            if (f->row[i].r == r) f->row[i].r = NULL;
    }
}

/* The requests of all launched steps end with the error, unpublished: their KV cannot be trusted, nor what of
 * it may be cached. The others go on. */
static void fail_flights(struct engine *en, struct err *e)
{
    log_error("a step failed: %s", e->msg);
    if (++en->failures >= MAX_FAILURES || en->c.n_rank > 1)
        engine_fail(en, e); /* who then learns of it finds the engine failed */
    for (struct flight *f = en->flight; f < en->flight + 2; f++) {
        for (int i = 0; f->up && i < f->plan.n_item; i++)
            if (f->plan.item[i].seq) engine_end(en, f->plan.item[i].seq->owner, FINISH_ERROR, e);
        f->up = false;
    }
    kv_reset_prefix(en->kv);
}

/* For tests: a sequence of the plan, drawn by lot, starts over. */
static void test_preempt(struct engine *en, const struct batch_plan *plan)
{
    pthread_mutex_lock(&en->mu);
    int one_in = en->preempt_one_in;
    pthread_mutex_unlock(&en->mu);
    if (one_in <= 0 || !plan->n_item) return;
    uint64_t r = sampler_random(0, (int)(en->steps & INT32_MAX));
    if (r % (uint64_t)one_in) return;
    struct seq *q = plan->item[(r >> 32) % (uint64_t)plan->n_item].seq;
    if (q) sched_preempt(en->sched, q);
}

static void mark_scheduled(const struct batch_plan *plan, double now)
{
    for (int i = 0; i < plan->n_item; i++) {
        struct request *r = plan->item[i].seq->owner;
        if (r->now.t_scheduled > 0) continue;
        r->now.t_scheduled = now;
        r->now.cached_tokens = r->seq.n_cached;
    }
}

/* The scheduler finds nothing to run although something waits: not supposed to happen, and never a busy loop.
 */
static void note_empty_plan(struct engine *en)
{
    if (!engine_has_work(en)) return;
    nanosleep(&(struct timespec){0, 1000000}, NULL);
    if (++en->empty_plans < MAX_EMPTY_PLANS) return;
    static const struct err stuck = {.code = ERR_BUDGET, .msg = "the request could not be scheduled"};
    log_error("nothing can be scheduled: giving up on a request");
    engine_end(en, sched_first(en->sched)->owner, FINISH_ERROR, &stuck);
    en->empty_plans = 0;
}

/* Begins the plan's step; `last` may be under way. Whatever happens, f has the plan's requests now. */
static int launch(struct engine *en, struct flight *f, struct flight *last, const struct batch_plan *plan,
                  double now, struct err *e)
{
    struct plan_item *item = memcpy(f->plan.item, plan->item, (size_t)plan->n_item * sizeof *item);
    f->plan = *plan;
    f->plan.item = item;
    f->up = true;
    f->start = now;
    mark_scheduled(plan, now);
    engine_rows_fill(f);
    bool crowded = last->up && f->n_row > runner_logits_max(en->runner);
    int status = crowded ? engine_rows_take(en, last, e) : 0;
    if (!status) status = runner_forward(en->runner, &f->plan, e);
    if (!status) status = engine_rows_draw(en, f, e);
    if (!status) sched_launch(en->sched, &f->plan);
    return status;
}

/* Takes the outcome of a launched step. */
static void land(struct engine *en, struct flight *f)
{
    struct err e = {0};
    const struct batch_plan *plan = &f->plan;
    if (engine_rows_take(en, f, &e)) {
        fail_flights(en, &e);
        return;
    }
    f->up = false;
    en->failures = 0;
    en->steps++;
    double now = clock_s(), took = now - (f->start > en->landed ? f->start : en->landed);
    int gone = decide(en, f, now);
    sched_commit(en->sched, plan, &(struct step_result){plan->n_item, en->item});
    engine_settle(en, gone);
    engine_metrics_step(&en->metrics, plan->n_tok, took);
    pace_note(&en->pace, plan->n_decode, plan->n_tok - plan->n_decode, took);
    sched_limit_prefill(en->sched, pace_prefill(&en->pace, en->c.max_batch_tokens));
    test_preempt(en, plan);
    deliver(en, f);
    en->landed = now;
}

/* Whether the next step may be launched before this one's outcome: not where that matters to the next draw,
 * nor if its tokens are not all in the last draw. */
static bool overlaps(const struct engine *en, const struct flight *f)
{
    if (!en->c.async_steps || !runner_overlaps(en->runner) || f->n_row > runner_logits_max(en->runner))
        return false;
    for (int i = 0; i < f->n_row; i++)
        if (f->row[i].r && f->row[i].r->penalised) return false;
    return true;
}

void engine_step(struct engine *en)
{
    struct flight *last = &en->flight[en->last], *next = &en->flight[!en->last];
    struct batch_plan plan = {0};
    struct seq *stuck = NULL;
    struct err e = {0};
    double start = clock_s();
    int n = sched_step(en->sched, &plan, &stuck), status = 0;
    if (stuck) engine_end(en, stuck->owner, FINISH_LENGTH, NULL);
    if (!n && !last->up) {
        if (!stuck) note_empty_plan(en);
        return;
    }
    en->empty_plans = 0;
    if (n) status = launch(en, next, last, &plan, start, &e);
    if (last->up) land(en, last);
    if (!next->up) return; /* there was nothing to launch, or it went down with the last */
    if (status) {
        fail_flights(en, &e);
    } else if (!overlaps(en, next)) {
        land(en, next);
    } else {
        en->last = !en->last;
    }
}
