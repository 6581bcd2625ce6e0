#include "exchange.h"
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "reply.h"

#define INLINE_BODY  (16u << 10) /* larger bodies are handled on a parse thread */
#define STREAM_BLOCK 4096

struct exchange *exchange_new(struct http *h, struct MHD_Connection *conn, struct gate_conn *gate)
{
    struct exchange *ex = calloc(1, sizeof *ex);
    if (!ex) return NULL;
    ex->h = h;
    ex->conn = conn;
    ex->gate = gate;
    ex->x.method = ex->x.path = "";
    ex->x.t_begin = clock_ns();
    pthread_mutex_init(&ex->mu, NULL);
    atomic_fetch_add(&h->n_exchange, 1);
    return ex;
}

static void exchange_free(struct exchange *ex)
{
    struct http *h = ex->h;
    if (ex->x.user) ex->x.drop(&ex->x);
    h->handler.done(h->handler.ctx, &ex->x);
    buf_free(&ex->x.body);
    buf_free(&ex->x.out);
    buf_free(&ex->x.headers);
    pthread_mutex_destroy(&ex->mu);
    free(ex->path);
    free(ex);
    atomic_fetch_sub(&h->n_exchange, 1);
}

void exchange_completed(struct exchange *ex)
{
    pthread_mutex_lock(&ex->mu);
    ex->completed = true;
    bool mine = !ex->job_runs;
    pthread_mutex_unlock(&ex->mu);
    if (mine) exchange_free(ex);
}

/* With ex->mu held. */
static void resume(struct exchange *ex)
{
    if (!ex->suspended || ex->job_runs || ex->completed) return;
    ex->suspended = false;
    MHD_resume_connection(ex->conn);
}

void http_wake(struct http_x *x)
{
    struct exchange *ex = (struct exchange *)x;
    pthread_mutex_lock(&ex->mu);
    ex->signalled = true;
    resume(ex);
    pthread_mutex_unlock(&ex->mu);
}

void exchange_poke(struct exchange *ex, enum gate_poke what)
{
    pthread_mutex_lock(&ex->mu);
    if (what == GATE_GONE) {
        ex->gone = true;
        resume(ex);
    } else if (ex->suspended && !ex->job_runs && ex->x.stream &&
               clock_ns() - ex->t_sent > (int64_t)(ex->h->c.ping_s * 1e9)) {
        ex->ping = true;
        resume(ex);
    }
    pthread_mutex_unlock(&ex->mu);
}

enum wait { WAIT_SUSPENDED, WAIT_AGAIN, WAIT_PING, WAIT_GONE };
static enum wait exchange_wait(struct exchange *ex)
{
    enum wait w;
    pthread_mutex_lock(&ex->mu);
    if (ex->gone && !ex->job_runs) {
        w = WAIT_GONE;
    } else if (ex->ping) {
        ex->ping = false;
        w = WAIT_PING;
    } else if (ex->signalled && !ex->job_runs) {
        ex->signalled = false;
        w = WAIT_AGAIN;
    } else {
        ex->suspended = true;
        MHD_suspend_connection(ex->conn);
        w = WAIT_SUSPENDED;
    }
    pthread_mutex_unlock(&ex->mu);
    return w;
}

void http_header(struct http_x *x, const char *name, const char *fmt, ...)
{
    va_list ap;
    buf_fmt(&x->headers, "%s: ", name);
    va_start(ap, fmt);
    buf_vfmt(&x->headers, fmt, ap);
    va_end(ap);
    buf_chr(&x->headers, '\n');
}

void exchange_fail(struct exchange *ex, int status, const char *why)
{
    struct http_x *x = &ex->x;
    x->status = status;
    x->type = "application/json";
    reply_error_json(&x->out, status, reply_error_type(status), NULL, why);
}

/* The bytes of a stream, as many as there are. */
static ssize_t on_read(void *cls, uint64_t pos, char *to, size_t max)
{
    struct exchange *ex = cls;
    struct http_x *x = &ex->x;
    (void)pos;
    for (;;) {
        if (x->out.failed) return MHD_CONTENT_READER_END_WITH_ERROR;
        size_t n = x->out.len - ex->sent;
        if (n) {
            if (n > max) n = max;
            memcpy(to, x->out.data + ex->sent, n);
            ex->sent += n;
            pthread_mutex_lock(&ex->mu);
            ex->t_sent = clock_ns();
            pthread_mutex_unlock(&ex->mu);
            return (ssize_t)n;
        }
        buf_clear(&x->out);
        ex->sent = 0;
        if (ex->ended) return MHD_CONTENT_READER_END_OF_STREAM;
        enum http_pull p = x->pull(x);
        ex->ended = p == PULL_END;
        if (p != PULL_WAIT || x->out.len) continue;
        switch (exchange_wait(ex)) {
        case WAIT_GONE: return MHD_CONTENT_READER_END_WITH_ERROR;
        case WAIT_SUSPENDED: return 0;
        case WAIT_PING: buf_str(&x->out, ": keep-alive\n\n"); break;
        case WAIT_AGAIN: break;
        }
    }
}

static void add_headers(struct MHD_Response *r, struct exchange *ex)
{
    if (ex->x.type) MHD_add_response_header(r, "Content-Type", ex->x.type);
    if (ex->refused) MHD_add_response_header(r, "Connection", "close");
    char *line = ex->x.headers.data;
    for (char *end; line && (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        char *colon = strstr(line, ": ");
        *colon = 0;
        MHD_add_response_header(r, line, colon + 2);
        *colon = ':';
        *end = '\n';
    }
}

enum MHD_Result exchange_send(struct exchange *ex)
{
    struct http_x *x = &ex->x;
    struct MHD_Response *r;
    pthread_mutex_lock(&ex->mu);
    ex->t_sent = clock_ns();
    pthread_mutex_unlock(&ex->mu);
    if (x->stream) {
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, on_read, ex, NULL);
    } else {
        if (x->out.failed) {
            buf_free(&x->out);
            exchange_fail(ex, 503, "out of memory");
        }
        bool any = x->out.len > 0;
        r = MHD_create_response_from_buffer(x->out.len, any ? x->out.data : "",
                                            any ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
        if (r && any) x->out = (struct buf){0};
    }
    if (!r) return MHD_NO;
    add_headers(r, ex);
    ex->h->handler.count(ex->h->handler.ctx, x->status);
    enum MHD_Result ok = MHD_queue_response(ex->conn, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return ok;
}

enum MHD_Result exchange_answer(struct exchange *ex)
{
    struct http_x *x = &ex->x;
    for (;;) {
        pthread_mutex_lock(&ex->mu);
        bool busy = ex->job_runs;
        pthread_mutex_unlock(&ex->mu);
        if (!busy && (x->stream || !x->pull || x->pull(x) == PULL_END)) return exchange_send(ex);
        switch (exchange_wait(ex)) {
        case WAIT_GONE: return MHD_NO;
        case WAIT_SUSPENDED: return MHD_YES;
        default: break;
        }
    }
}

static void run_job(struct job *j)
{
    struct exchange *ex = (struct exchange *)((char *)j - offsetof(struct exchange, job));
    ex->h->handler.body(ex->h->handler.ctx, &ex->x);
    pthread_mutex_lock(&ex->mu);
    ex->job_runs = false;
    bool mine = ex->completed;
    resume(ex);
    pthread_mutex_unlock(&ex->mu);
    if (mine) exchange_free(ex);
}

enum MHD_Result exchange_run(struct exchange *ex)
{
    struct http *h = ex->h;
    bool here = gate_enter(h->gate, ex->gate, GATE_BUSY, ex);
    ex->stage = STAGE_ANSWER;
    if (ex->x.status) return exchange_send(ex);
    if (!here) {
        pthread_mutex_lock(&ex->mu);
        ex->gone = true;
        pthread_mutex_unlock(&ex->mu);
    }
    if (ex->x.body.failed) {
        exchange_fail(ex, 503, "out of memory");
    } else if (ex->x.body.len > INLINE_BODY && h->jobs) {
        pthread_mutex_lock(&ex->mu);
        ex->job_runs = true;
        pthread_mutex_unlock(&ex->mu);
        ex->job.run = run_job;
        jobs_add(h->jobs, &ex->job);
    } else {
        h->handler.body(h->handler.ctx, &ex->x);
    }
    return exchange_answer(ex);
}
