#include "answer.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "openai_out.h"
#include "reply.h"

#define FLUSH_BYTES (16u << 10) /* a stream writes before it takes more news than this */

struct answer;
struct part { /* one choice */
    struct answer *owner;
    struct request *req;
    bool queued; /* in the ready list; guarded by the owner's mutex */
    int index;
};
struct answer {
    struct http_x *x;
    struct engine *engine;
    struct api_request req;
    struct answer_view view;
    int n_done;
    struct part *part; /* [view.n] */

    pthread_mutex_t mu; /* a leaf, but for http_wake */
    int *ready;         /* [view.n] a ring of indexes of parts that have news */
    int head, n_ready;
};

/* The engine's thread, holding the request's lock: only signals. */
static void on_news(void *ctx)
{
    struct part *p = ctx;
    struct answer *a = p->owner;
    pthread_mutex_lock(&a->mu);
    if (!p->queued) {
        p->queued = true;
        a->ready[(a->head + a->n_ready++) % a->view.n] = p->index;
    }
    pthread_mutex_unlock(&a->mu);
    http_wake(a->x);
}

static struct part *next_ready(struct answer *a)
{
    struct part *p = NULL;
    pthread_mutex_lock(&a->mu);
    if (a->n_ready) {
        p = &a->part[a->ready[a->head]];
        a->head = (a->head + 1) % a->view.n;
        a->n_ready--;
        p->queued = false;
    }
    pthread_mutex_unlock(&a->mu);
    return p;
}

static void answer_free(struct answer *a)
{
    for (int i = 0; a->part && i < a->view.n; i++) {
        if (!a->part[i].req) continue;
        if (!a->view.choice[i].done) engine_cancel(a->engine, a->part[i].req);
        request_release(a->part[i].req); /* no wake after this */
    }
    for (int i = 0; a->view.choice && i < a->view.n; i++) choice_free(&a->view.choice[i]);
    api_request_free(&a->req);
    pthread_mutex_destroy(&a->mu);
    free(a->part);
    free(a->ready);
    free(a->view.choice);
    free(a);
}

static void answer_drop(struct http_x *x)
{
    answer_free(x->user);
    x->user = NULL;
}

/* Takes a part's news. Its choice; NULL if it failed, with the reason in e. */
static struct choice *take(struct answer *a, struct part *p, struct err *e)
{
    struct choice *c = &a->view.choice[p->index];
    struct out_batch b;
    if (c->done || !request_take(p->req, &b, 0)) return c;
    if (b.done && b.finish == FINISH_ERROR) {
        *e = b.error.code ? b.error : (struct err){.code = ERR_IO, .msg = "the engine failed"};
        return NULL;
    }
    choice_digest(&a->view, c, &b);
    if (c->done) a->n_done++;
    return c;
}

static enum http_pull pull_whole(struct http_x *x)
{
    struct answer *a = x->user;
    struct err e = {0};
    struct part *p;
    while ((p = next_ready(a))) {
        if (take(a, p, &e)) continue;
        x->status = reply_status_of(e.code);
        if (x->status < 500) x->status = 500; /* it was admitted: not the client's fault any more */
        reply_error_json(&x->out, x->status, reply_error_type(x->status), NULL, e.msg);
        return PULL_END;
    }
    if (a->n_done < a->view.n) return PULL_WAIT;
    x->status = 200;
    out_whole(&a->view, &x->out);
    return PULL_END;
}

static enum http_pull pull_stream(struct http_x *x)
{
    struct answer *a = x->user;
    struct err e = {0};
    struct part *p;
    while (x->out.len < FLUSH_BYTES && (p = next_ready(a))) {
        struct choice *c = take(a, p, &e);
        if (!c) {
            out_error_event(&x->out, &e);
            return PULL_END;
        }
        if (c->unwritten) out_chunk(&a->view, c, &x->out);
    }
    if (x->out.len >= FLUSH_BYTES) return PULL_MORE;
    if (a->n_done < a->view.n) return PULL_WAIT;
    out_end(&a->view, &x->out);
    return PULL_END;
}

static int random_id(const char *prefix, char *out, size_t n)
{
    uint8_t r[12];
    if (getrandom(r, sizeof r, 0) != (ssize_t)sizeof r) return ERR_IO;
    int at = snprintf(out, n, "%s", prefix);
    for (size_t i = 0; i < sizeof r && (size_t)at + 3 <= n; i++)
        at += snprintf(out + at, n - (size_t)at, "%02x", r[i]);
    return 0;
}

static int submit(struct answer *a, int i, struct err *e)
{
    struct part *p = &a->part[i];
    const struct api_prompt *prompt = &a->req.prompt[i / a->req.n];
    struct gen_params g = a->req.gen; /* shallow: request_new copies */
    g.seed += (uint64_t)(i % a->req.n);
    p->owner = a;
    p->index = a->view.choice[i].index = i;
    struct request *r;
    int status = request_new(prompt->ids.v, prompt->ids.n, &g, on_news, p, &r, e);
    if (status) return status;
    p->req = r;
    status = engine_submit(a->engine, r, e);
    if (status) {
        request_release(r);
        p->req = NULL;
    }
    return status;
}

int answer_start(struct http_x *x, struct engine *en, const struct api_env *env, struct api_request *req,
                 struct err *e)
{
    struct answer *a = calloc(1, sizeof *a);
    if (!a) {
        api_request_free(req);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    a->x = x;
    a->engine = en;
    a->req = *req;
    *req = (struct api_request){0};
    pthread_mutex_init(&a->mu, NULL);
    int n = a->req.n * a->req.n_prompt;
    a->view = (struct answer_view){.req = &a->req, .tok = env->tok, .n = n};
    a->view.head.created = time(NULL);
    a->view.head.model = env->name;
    a->view.choice = calloc((size_t)n, sizeof *a->view.choice);
    a->part = calloc((size_t)n, sizeof *a->part);
    a->ready = calloc((size_t)n, sizeof *a->ready);
    int status = 0;
    if (!a->view.choice || !a->part || !a->ready)
        status = err_set(e, ERR_NOMEM, "out of memory");
    else if (random_id(a->req.kind == API_CHAT ? "chatcmpl-" : "cmpl-", a->view.head.id,
                       sizeof a->view.head.id))
        status = err_set(e, ERR_IO, "no random numbers");
    for (int i = 0; i < n && !status; i++) status = submit(a, i, e);
    if (status) {
        answer_free(a);
        return status;
    }
    x->user = a;
    x->drop = answer_drop;
    x->stream = a->req.stream;
    x->pull = x->stream ? pull_stream : pull_whole;
    x->type = x->stream ? "text/event-stream; charset=utf-8" : "application/json";
    x->status = x->stream ? 200 : 0;
    return 0;
}
