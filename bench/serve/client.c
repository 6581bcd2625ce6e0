#include "client.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "clock.h"
#include "http_reader.h"

#define READ_BYTES (64u << 10)
#define EVENTS     256

enum conn_state { CONN_IDLE, CONN_CONNECTING, CONN_SENDING, CONN_READING, CONN_FAILED };

struct conn {
    enum conn_state state;
    int fd;                /* -1: closed */
    bool reused;           /* carried another exchange before: the server may have closed it meanwhile */
    struct addrinfo *addr; /* the one tried */
    size_t sent;
    double deadline; /* monotonic seconds */
    struct exchange *x;
    struct http_reader reader;
    struct err why; /* CONN_FAILED: reported by the next poll */
};

struct client {
    struct client_config config;
    char host[256 + 10]; /* of the Host header */
    struct addrinfo *addrs, *good;
    int epoll;
    struct conn **conn; /* [n_conn], all of them */
    struct conn **idle; /* [n_idle], a stack, room for n_conn */
    int n_conn, cap_conn, n_idle;
    double next_scan;
    struct buf body;
    char in[READ_BYTES];
};

int client_open(struct client **out, const struct client_config *config, struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    char port[12];
    struct client *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NOMEM, "out of memory");
    c->config = *config;
    snprintf(port, sizeof port, "%d", config->port);
    bool v6 = strchr(config->host, ':');
    snprintf(c->host, sizeof c->host, v6 ? "[%.250s]:%d" : "%.250s:%d", config->host, config->port);
    c->epoll = epoll_create1(EPOLL_CLOEXEC);
    int failed = getaddrinfo(config->host, port, &hints, &c->addrs);
    if (failed) c->addrs = NULL;
    if (failed || c->epoll < 0) {
        client_close(c);
        return err_set(e, ERR_IO, "%s: %s", config->host, failed ? gai_strerror(failed) : strerror(errno));
    }
    c->good = c->addrs;
    *out = c;
    return 0;
}

static void conn_close(struct conn *k)
{
    if (k->fd >= 0) close(k->fd); /* leaves the epoll set by that */
    k->fd = -1;
}

void client_close(struct client *c)
{
    if (!c) return;
    for (int i = 0; i < c->n_conn; i++) {
        conn_close(c->conn[i]);
        http_reader_free(&c->conn[i]->reader);
        free(c->conn[i]);
    }
    if (c->epoll >= 0) close(c->epoll);
    if (c->addrs) freeaddrinfo(c->addrs);
    free(c->conn);
    free(c->idle);
    buf_free(&c->body);
    free(c);
}

int client_request(const struct client *c, struct exchange *x, const char *method, const char *path,
                   const char *extra, const struct buf *body, struct err *e)
{
    struct buf *b = &x->request;
    buf_clear(b);
    buf_fmt(b, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s", method, path, c->host, c->config.headers, extra);
    if (body) buf_fmt(b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body->len);
    buf_str(b, "\r\n");
    if (body) buf_add(b, body->data, body->len);
    return b->failed || (body && body->failed) ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

static void conn_fail(struct conn *k, const struct err *why)
{
    conn_close(k);
    k->state = CONN_FAILED;
    k->why = *why;
}

/* Connects to k->addr, or to the addresses after it if it is refused at once. */
static void conn_connect(struct client *c, struct conn *k)
{
    struct err why = {0};
    conn_close(k);
    http_reader_reset(&k->reader);
    k->sent = 0;
    k->reused = false;
    k->deadline = clock_s() + c->config.connect_timeout;
    for (; k->addr; k->addr = k->addr->ai_next) {
        int one = 1;
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT, .data.ptr = k};
        k->fd = socket(k->addr->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (k->fd >= 0 && !epoll_ctl(c->epoll, EPOLL_CTL_ADD, k->fd, &ev)) {
            setsockopt(k->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            k->state = CONN_CONNECTING;
            if (!connect(k->fd, k->addr->ai_addr, k->addr->ai_addrlen) || errno == EINPROGRESS) return;
        }
        err_set(&why, ERR_IO, "connect: %s", strerror(errno));
        conn_close(k);
    }
    conn_fail(k, &why);
}

static struct conn *conn_take(struct client *c)
{
    if (c->n_idle) return c->idle[--c->n_idle];
    if (c->n_conn == c->cap_conn) {
        int cap = c->cap_conn ? c->cap_conn * 2 : 64;
        struct conn **all = realloc(c->conn, (size_t)cap * sizeof(struct conn *));
        if (all) c->conn = all;
        struct conn **idle = realloc(c->idle, (size_t)cap * sizeof(struct conn *));
        if (idle) c->idle = idle;
        if (!all || !idle) return NULL;
        c->cap_conn = cap;
    }
    struct conn *k = calloc(1, sizeof *k);
    if (!k) return NULL;
    k->fd = -1;
    return c->conn[c->n_conn++] = k;
}

static void conn_watch(struct client *c, struct conn *k, unsigned events)
{
    struct epoll_event ev = {.events = events, .data.ptr = k};
    epoll_ctl(c->epoll, EPOLL_CTL_MOD, k->fd, &ev);
}

int client_start(struct client *c, struct exchange *x, struct err *e)
{
    struct conn *k = conn_take(c);
    if (!k) return err_set(e, ERR_NOMEM, "out of memory");
    k->x = x;
    k->addr = c->good;
    if (k->fd < 0) {
        conn_connect(c, k);
        return 0;
    }
    http_reader_reset(&k->reader);
    k->reused = true;
    k->sent = 0;
    k->state = CONN_SENDING;
    k->deadline = clock_s() + c->config.silence_timeout;
    conn_watch(c, k, EPOLLIN | EPOLLOUT);
    return 0;
}

static void conn_end(struct client *c, struct conn *k, const struct err *failure)
{
    struct exchange *x = k->x;
    if (failure || !k->reader.keep_alive || k->state != CONN_READING) conn_close(k);
    k->state = CONN_IDLE;
    k->x = NULL;
    c->idle[c->n_idle++] = k;
    x->on_end(x, k->reader.status, failure);
}

/* A kept connection that the server closed before it answered says nothing about this request: once more. */
static void conn_lost(struct client *c, struct conn *k, const struct err *why)
{
    if (k->reused && !k->reader.status)
        conn_connect(c, k);
    else
        conn_end(c, k, why);
}

static void conn_send(struct client *c, struct conn *k)
{
    const struct buf *b = &k->x->request;
    while (k->sent < b->len) {
        ssize_t n = send(k->fd, b->data + k->sent, b->len - k->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return; /* EAGAIN: later; otherwise reading tells what happened */
        k->sent += (size_t)n;
    }
    k->state = CONN_READING;
    conn_watch(c, k, EPOLLIN);
}

/* Reads what is there, at most a few buffers so that one fast stream does not delay the others' clocks. */
static void conn_read(struct client *c, struct conn *k)
{
    struct err why = {0};
    for (int i = 0; i < 4; i++) {
        ssize_t n = recv(k->fd, c->in, sizeof c->in, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        double now = clock_s();
        if (n < 0) err_set(&why, ERR_IO, "receive: %s", strerror(errno));
        if (n < 0 || (!n && http_reader_eof(&k->reader, &why))) {
            conn_lost(c, k, &why);
            return;
        }
        k->deadline = now + c->config.silence_timeout;
        buf_clear(&c->body);
        int status = n ? http_reader_feed(&k->reader, c->in, (size_t)n, &c->body, &why) : 0;
        if (!status && c->body.len)
            status = k->x->on_body(k->x, k->reader.status, c->body.data, c->body.len, now, &why);
        if (status || k->reader.state == HTTP_DONE) {
            conn_end(c, k, status ? &why : NULL);
            return;
        }
        if ((size_t)n < sizeof c->in) return; /* no more for now; epoll tells otherwise */
    }
}

static void conn_event(struct client *c, struct conn *k, unsigned events)
{
    if (k->state == CONN_IDLE) { /* the server closed a kept connection, or sent what nobody asked for */
        conn_close(k);
        return;
    }
    if (k->state == CONN_CONNECTING) {
        int failed = 0;
        socklen_t len = sizeof failed;
        getsockopt(k->fd, SOL_SOCKET, SO_ERROR, &failed, &len);
        if (failed && k->addr->ai_next) {
            k->addr = k->addr->ai_next;
            conn_connect(c, k);
            return;
        }
        if (failed) {
            struct err why = {0};
            err_set(&why, ERR_IO, "connect: %s", strerror(failed));
            conn_end(c, k, &why);
            return;
        }
        if (!(events & EPOLLOUT)) return;
        c->good = k->addr;
        k->state = CONN_SENDING;
        k->deadline = clock_s() + c->config.silence_timeout;
    }
    if (k->state == CONN_SENDING && events & EPOLLOUT) conn_send(c, k);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) conn_read(c, k);
}

/* Ends what failed outside of an event or waited too long. */
static void scan(struct client *c)
{
    double now = clock_s();
    for (int i = 0; i < c->n_conn; i++) {
        struct conn *k = c->conn[i];
        struct err why = {0};
        if (k->state == CONN_FAILED) {
            why = k->why;
        } else if (k->state != CONN_IDLE && now >= k->deadline) {
            bool connecting = k->state == CONN_CONNECTING;
            err_set(&why, ERR_IO, "%s",
                    connecting ? "connect: timed out" : "the server was silent for too long");
        } else {
            continue;
        }
        conn_end(c, k, &why);
    }
    c->next_scan = now + 0.05;
}

int client_poll(struct client *c, int timeout_ms, struct err *e)
{
    struct epoll_event ev[EVENTS];
    int n = epoll_wait(c->epoll, ev, EVENTS, timeout_ms < 50 ? timeout_ms : 50);
    if (n < 0 && errno != EINTR) return err_set(e, ERR_IO, "epoll: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        struct conn *k = ev[i].data.ptr;
        if (k->fd >= 0) conn_event(c, k, ev[i].events);
    }
    if (clock_s() >= c->next_scan) scan(c);
    return 0;
}

struct call {
    struct exchange x;
    bool ended;
    int http_status;
    struct buf *out;
    struct err failure;
};

static int call_body(struct exchange *x, int http_status, const char *p, size_t n, double now, struct err *e)
{
    struct call *call = (struct call *)x;
    (void)http_status;
    (void)now;
    if (n > (64u << 20) - call->out->len) return err_set(e, ERR_FORMAT, "the answer is too long");
    buf_add(call->out, p, n);
    return call->out->failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

static void call_end(struct exchange *x, int http_status, const struct err *failure)
{
    struct call *call = (struct call *)x;
    call->ended = true;
    call->http_status = http_status;
    if (failure) call->failure = *failure;
}

int client_call(struct client *c, const char *method, const char *path, const struct buf *body,
                int *http_status, struct buf *out, struct err *e)
{
    struct call call = {.x = {.on_body = call_body, .on_end = call_end}, .out = out};
    int status = client_request(c, &call.x, method, path, "", body, e);
    if (!status) status = client_start(c, &call.x, e);
    while (!status && !call.ended) status = client_poll(c, 50, e);
    buf_free(&call.x.request);
    if (!status && call.failure.code) status = err_set(e, call.failure.code, "%s", call.failure.msg);
    *http_status = call.http_status;
    return status;
}
