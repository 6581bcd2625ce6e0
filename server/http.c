#include "http.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "clock.h"
#include "exchange.h"

#define POOL_BYTES (64u << 10) /* the library's memory for one connection: head, read and write buffer */

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
    x->head.method = method;
    x->head.target = url;
    x->head.n_method = strlen(method);
    x->head.n_target = strlen(url);
    x->head.minor = !strcmp(version, "HTTP/1.1") ? 1 : !strcmp(version, "HTTP/1.0") ? 0 : -1;
    MHD_get_connection_values_n(ex->conn, MHD_HEADER_KIND, add_field, &x->head);
    struct head_verdict verdict;
    head_check(&x->head, &h->c.gate.limits, &verdict);
    bool fine = false;
    if (verdict.status && verdict.status != 413)
        exchange_fail(ex, verdict.status, verdict.why);
    else if (h->handler.head(h->handler.ctx, x)) {
        fine = !verdict.status;
        if (!fine) exchange_fail(ex, 413, verdict.why);
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
    return exchange_send(ex);
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                 const char *version, const char *data, size_t *size, void **req)
{
    struct exchange *ex = *req;
    struct http *h = cls;
    (void)conn;
    if (!ex) return MHD_NO;
    if (ex->stage == STAGE_HEAD) return on_whole_head(ex, url, method, version);
    if (ex->stage == STAGE_ANSWER) return exchange_answer(ex);
    if (!*size) return exchange_run(ex);
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
    struct exchange *ex = serve ? exchange_new(h, conn, i->socket_context) : NULL;
    if (!ex) return NULL; /* on_access then closes the connection */
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
    exchange_completed(ex);
}

static void on_poke(void *ctx, void *exchange, enum gate_poke what)
{
    (void)ctx;
    exchange_poke(exchange, what);
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
