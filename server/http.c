#include "http.h"
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "clock.h"
#include "jobs.h"
#include "reply.h"

#define POOL_BYTES   (64u << 10) /* the library's memory for one connection: head, read and write buffer */
#define INLINE_BODY  (16u << 10) /* larger bodies are handled on a parse thread */
#define STREAM_BLOCK 4096

/* What a connection is waiting for is guarded by mu; everything else belongs to whoever runs the exchange:
 * the HTTP thread, or a parse thread while job_runs. Lock order: gate, exchange, library. */
struct exchange {
    struct http_x x;
    struct http *h;
    struct MHD_Connection *conn;
    struct gate_conn *gate;
    struct job job;
    enum { STAGE_HEAD, STAGE_BODY, STAGE_ANSWER } stage;
    bool refused; /* answered before the body was read */
    bool ended;   /* pull said so */
    size_t sent;  /* of x.out */
    char method[16];
    char *path;

    pthread_mutex_t mu;
    bool suspended, signalled, gone, ping, job_runs, completed;
    int64_t t_sent; /* monotonic ns: last output of a stream */
};
struct http {
    struct http_config c;
    struct http_handler handler;
    struct MHD_Daemon *daemon;
    struct gate *gate;
    struct jobs *jobs;
    atomic_int n_exchange;
    atomic_bool closing;
};

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

static void on_poke(void *ctx, void *exchange, enum gate_poke what)
{
    struct http *h = ctx;
    struct exchange *ex = exchange;
    pthread_mutex_lock(&ex->mu);
    if (what == GATE_GONE) {
        ex->gone = true;
        resume(ex);
    } else if (ex->suspended && !ex->job_runs && ex->x.stream &&
               clock_ns() - ex->t_sent > (int64_t)(h->c.ping_s * 1e9)) {
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

static void fail(struct http_x *x, int status, const char *why)
{
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

static enum MHD_Result queue_answer(struct exchange *ex)
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
            fail(x, 503, "out of memory");
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

/* Makes the answer, or suspends until it can be made. */
static enum MHD_Result answer(struct exchange *ex)
{
    struct http_x *x = &ex->x;
    for (;;) {
        pthread_mutex_lock(&ex->mu);
        bool busy = ex->job_runs;
        pthread_mutex_unlock(&ex->mu);
        if (!busy && (x->stream || !x->pull || x->pull(x) == PULL_END)) return queue_answer(ex);
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

static enum MHD_Result on_whole_body(struct exchange *ex)
{
    struct http *h = ex->h;
    bool here = gate_enter(h->gate, ex->gate, GATE_BUSY, ex);
    ex->stage = STAGE_ANSWER;
    if (ex->x.status) return queue_answer(ex);
    if (!here) {
        pthread_mutex_lock(&ex->mu);
        ex->gone = true;
        pthread_mutex_unlock(&ex->mu);
    }
    if (ex->x.body.failed) {
        fail(&ex->x, 503, "out of memory");
    } else if (ex->x.body.len > INLINE_BODY && h->jobs) {
        pthread_mutex_lock(&ex->mu);
        ex->job_runs = true;
        pthread_mutex_unlock(&ex->mu);
        ex->job.run = run_job;
        jobs_add(h->jobs, &ex->job);
    } else {
        h->handler.body(h->handler.ctx, &ex->x);
    }
    return answer(ex);
}

static enum MHD_Result add_field(void *cls, enum MHD_ValueKind kind, const char *name, size_t n_name,
                                 const char *value, size_t n_value)
{
    struct head *head = cls;
    (void)kind;
    if (head->n == HEAD_LINES_MAX) return MHD_NO;
    head->field[head->n++] = (struct head_field){name, value ? value : "", n_name, n_value};
    return MHD_YES;
}

static enum MHD_Result on_whole_head(struct exchange *ex, const char *url, const char *method,
                                     const char *version)
{
    struct http *h = ex->h;
    struct http_x *x = &ex->x;
    ex->stage = STAGE_BODY;
    ex->path = strdup(url);
    if (!ex->path || strlen(method) >= sizeof ex->method) return MHD_NO;
    memcpy(ex->method, method, strlen(method) + 1);
    x->method = ex->method;
    x->path = ex->path;
    x->head.minor = strcmp(version, "HTTP/1.0") != 0;
    MHD_get_connection_values_n(ex->conn, MHD_HEADER_KIND, add_field, &x->head);
    struct head_verdict verdict;
    head_check(&x->head, &h->c.gate.limits, &verdict);
    bool fine = false;
    if (verdict.status && verdict.status != 413)
        fail(x, verdict.status, verdict.why);
    else if (h->handler.head(h->handler.ctx, x)) {
        fine = !verdict.status;
        if (!fine) fail(x, 413, verdict.why);
    }
    x->head.n = 0;
    /* A refusal of a request with a body is sent at once and ends the connection. Any other answer waits for
     * the second call, since the library closes the connection after an answer to the first. */
    bool has_body = verdict.chunked || verdict.length || verdict.status;
    if (fine || !has_body) {
        gate_enter(h->gate, ex->gate, GATE_BODY, ex);
        return MHD_YES;
    }
    ex->refused = true;
    gate_enter(h->gate, ex->gate, GATE_BUSY, ex);
    return queue_answer(ex);
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                 const char *version, const char *data, size_t *size, void **req)
{
    struct exchange *ex = *req;
    struct http *h = cls;
    (void)conn;
    if (!ex) return MHD_NO;
    if (ex->stage == STAGE_HEAD) return on_whole_head(ex, url, method, version);
    if (ex->stage == STAGE_ANSWER) return answer(ex);
    if (!*size) return on_whole_body(ex);
    if (*size > h->c.gate.limits.body - ex->x.body.len) {
        ex->refused = true;
        gate_cut(h->gate, ex->gate, 413, "the request body is too large");
        return MHD_NO;
    }
    if (!ex->x.status) buf_add(&ex->x.body, data, *size);
    *size = 0;
    return MHD_YES;
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *h = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = i ? gate_started(h->gate, i->connect_fd) : NULL;
    } else if (*context) {
        gate_closing(h->gate, *context);
        *context = NULL;
    }
}

/* Called when a request line has been read: the earliest sign of a new request. */
static void *on_request_line(void *cls, const char *uri, struct MHD_Connection *conn)
{
    struct http *h = cls;
    (void)uri;
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    bool serve = i && i->socket_context && !atomic_load(&h->closing);
    struct exchange *ex = serve ? calloc(1, sizeof *ex) : NULL;
    if (!ex) return NULL; /* on_access then closes the connection */
    ex->h = h;
    ex->conn = conn;
    ex->gate = i->socket_context;
    ex->x.method = ex->x.path = "";
    ex->x.t_begin = clock_ns();
    pthread_mutex_init(&ex->mu, NULL);
    atomic_fetch_add(&h->n_exchange, 1);
    gate_enter(h->gate, ex->gate, GATE_HEAD, ex);
    return ex;
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **req,
                         enum MHD_RequestTerminationCode code)
{
    struct exchange *ex = *req;
    (void)cls, (void)conn, (void)code;
    if (!ex) return;
    *req = NULL;
    gate_enter(ex->h->gate, ex->gate, GATE_IDLE, NULL); /* no poke from here on */
    if (ex->refused) gate_refused(ex->h->gate, ex->gate);
    pthread_mutex_lock(&ex->mu);
    ex->completed = true;
    bool mine = !ex->job_runs;
    pthread_mutex_unlock(&ex->mu);
    if (mine) exchange_free(ex);
}

static void on_hand_over(void *ctx, int fd, const struct sockaddr *addr, socklen_t n)
{
    struct http *h = ctx;
    MHD_add_connection(h->daemon, fd, addr, n);
}

static void on_count(void *ctx, int status)
{
    struct http *h = ctx;
    h->handler.count(h->handler.ctx, status);
}

/* Paths are matched as they were sent: %2e and %00 never become something else. */
static size_t keep_escapes(void *cls, struct MHD_Connection *conn, char *s)
{
    (void)cls, (void)conn;
    return strlen(s);
}

static struct MHD_Daemon *start_daemon(struct http *h)
{
    unsigned timeout = (unsigned)(h->c.write_timeout_s + 0.999);
    unsigned limit = (unsigned)h->c.gate.max_connections + 16; /* the gate keeps the real one */
    return MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_NO_LISTEN_SOCKET, 0,
        NULL, NULL, on_access, h, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES,
        MHD_OPTION_CONNECTION_LIMIT, limit, MHD_OPTION_CONNECTION_TIMEOUT, timeout,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, h,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_END);
}

int http_open(const struct http_config *c, const struct http_handler *handler, struct http **out,
              struct err *e)
{
    *out = NULL;
    struct http *h = calloc(1, sizeof *h);
    if (!h) return err_set(e, ERR_NOMEM, "out of memory");
    h->c = *c;
    h->handler = *handler;
    int status = c->n_parse_thread > 0 ? jobs_open(c->n_parse_thread, &h->jobs, e) : 0;
    if (!status && !(h->daemon = start_daemon(h)))
        status = err_set(e, ERR_IO, "cannot start the HTTP library");
    if (!status) {
        h->c.gate.ctx = h;
        h->c.gate.hand_over = on_hand_over;
        h->c.gate.poke = on_poke;
        h->c.gate.count = on_count;
        status = gate_open(&h->c.gate, &h->gate, e);
    }
    if (status) {
        http_close(h);
        return status;
    }
    *out = h;
    return 0;
}

int http_port(const struct http *h) { return gate_port(h->gate); }

static void sleep_ms(long ms) { nanosleep(&(struct timespec){0, ms * 1000000}, NULL); }

bool http_wait_idle(struct http *h, double timeout_s)
{
    int64_t until = clock_ns() + (int64_t)(timeout_s * 1e9);
    while (atomic_load(&h->n_exchange)) {
        if (clock_ns() > until) return false;
        sleep_ms(2);
    }
    return true;
}

void http_close(struct http *h)
{
    if (!h) return;
    if (h->gate) {
        atomic_store(&h->closing, true);
        gate_stop(h->gate);
        /* The library must not be stopped while connections are suspended. A cut makes every waiter give up,
         * and whoever was cut never suspends again. */
        do gate_cut_all(h->gate);
        while (!http_wait_idle(h, 0.02));
    }
    if (h->daemon) MHD_stop_daemon(h->daemon);
    jobs_close(h->jobs);
    gate_close(h->gate);
    free(h);
}
