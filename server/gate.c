#include "gate.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "clock.h"
#include "listen.h"
#include "log.h"
#include "reply.h"

#define TICK_MS    250
#define LINGER_S   1.0
#define LINGER_MAX 64 /* refused connections beyond the limit that are let go gently */
/* Looks at an unfinished head before looking only at ticks: a drip must not cost a core. */
#define EAGER_PEEKS 16

struct gate_conn {
    int fd;
    uint32_t generation; /* tells a stale event from one of the socket that has the number now */
    enum gate_phase phase;
    int64_t deadline; /* monotonic ns, 0 = none */
    bool ours;        /* the gate owns the socket, not the library */
    bool gone;        /* the client left, or we cut it off */
    bool refused;     /* see gate_refused */
    int peeks;
    void *exchange;
};
struct gate {
    struct gate_config c;
    int listen_fd, epoll_fd, event_fd, port;
    pthread_t thread;
    atomic_bool stop;
    int64_t listen_again; /* accepting pauses until then: out of file descriptors */
    char *peek;           /* [limits.bytes] */

    pthread_mutex_t mu;       /* guards the rest */
    struct gate_conn **by_fd; /* [cap] */
    int cap, n_conn;
    uint32_t generation;
};

static uint64_t event_key(const struct gate_conn *c)
{
    return (uint64_t)c->generation << 32 | (uint32_t)c->fd;
}

static int64_t after(double seconds) { return clock_ns() + (int64_t)(seconds * 1e9); }

/* With the mutex held, all of these. */
static void forget(struct gate *g, struct gate_conn *c)
{
    g->by_fd[c->fd] = NULL;
    g->n_conn--;
    free(c);
}

static void drop(struct gate *g, struct gate_conn *c)
{
    int fd = c->fd;
    forget(g, c);
    close(fd);
}

static struct gate_conn *enroll(struct gate *g, int fd, enum gate_phase phase, double timeout_s)
{
    if (fd >= g->cap) {
        int cap = (fd + 64) * 2;
        struct gate_conn **table = realloc(g->by_fd, (size_t)cap * sizeof *table);
        if (!table) return NULL;
        memset(table + g->cap, 0, (size_t)(cap - g->cap) * sizeof *table);
        g->by_fd = table;
        g->cap = cap;
    }
    /* The library closes a socket that it fails to take up without telling us. */
    if (g->by_fd[fd]) forget(g, g->by_fd[fd]);
    struct gate_conn *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    *c = (struct gate_conn){.fd = fd, .phase = phase, .ours = true, .deadline = after(timeout_s)};
    c->generation = ++g->generation ? g->generation : ++g->generation;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = event_key(c)};
    if (epoll_ctl(g->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
        free(c);
        return NULL;
    }
    g->by_fd[fd] = c;
    g->n_conn++;
    return c;
}

/* One write is enough: a refusal is far smaller than a fresh socket's buffer. */
static void send_refusal(struct gate *g, int fd, int status, const char *why)
{
    struct buf out = {0};
    reply_raw(&out, status, why);
    if (!out.failed && send(fd, out.data, out.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_debug("refusal not sent");
    buf_free(&out);
    g->c.count(g->c.ctx, status);
}

static void linger(struct gate_conn *c)
{
    shutdown(c->fd, SHUT_WR);
    c->phase = GATE_LINGER;
    c->deadline = after(LINGER_S);
}

static void discard_input(struct gate *g, struct gate_conn *c)
{
    for (;;) {
        ssize_t n = recv(c->fd, g->peek, g->c.limits.bytes, MSG_DONTWAIT);
        if (n > 0) continue;
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) drop(g, c);
        return;
    }
}

static void refuse(struct gate *g, struct gate_conn *c, int status, const char *why)
{
    send_refusal(g, c->fd, status, why);
    linger(c);
    discard_input(g, c);
}

static const char *refusal_text(int status)
{
    switch (status) {
    case 414: return "the request target is too long";
    case 431: return "too many or too large headers";
    case 505: return "only HTTP/1.0 and HTTP/1.1 are spoken here";
    default: return "malformed request";
    }
}

static void hand_over(struct gate *g, struct gate_conn *c)
{
    struct sockaddr_storage addr;
    socklen_t n = sizeof addr;
    int fd = c->fd;
    if (getpeername(fd, (struct sockaddr *)&addr, &n)) {
        drop(g, c);
        return;
    }
    c->ours = false;
    c->phase = GATE_IDLE;
    c->deadline = after(g->c.header_timeout_s);
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = event_key(c)};
    epoll_ctl(g->epoll_fd, EPOLL_CTL_MOD, fd, &ev);
    g->c.hand_over(g->c.ctx, fd, (struct sockaddr *)&addr, n);
}

static void look_at_head(struct gate *g, struct gate_conn *c)
{
    ssize_t n = recv(c->fd, g->peek, g->c.limits.bytes, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    bool tls = n > 0 && g->peek[0] == 0x16; /* a TLS handshake: any answer would be noise */
    if (n <= 0 || tls) {
        drop(g, c);
        return;
    }
    struct head head;
    struct head_verdict verdict = {0};
    size_t n_head;
    int status = head_parse(g->peek, (size_t)n, &g->c.limits, &head, &n_head);
    if (status == 200) {
        head_check(&head, &g->c.limits, &verdict);
        if (verdict.status && verdict.status != 413) /* too large is said after the key was checked */
            refuse(g, c, verdict.status, verdict.why);
        else
            hand_over(g, c);
    } else if (status) {
        refuse(g, c, status, refusal_text(status));
    } else if (c->gone) {
        drop(g, c);
    }
}

/* The client of a connection of the library's has left. The library reads edge-triggered and takes a short
 * read for the last news, so it misses an end that came together with data: shutting our side of the input
 * down makes a new edge, and loses nothing that has arrived. */
static void nudge(struct gate *g, struct gate_conn *c)
{
    if (c->phase != GATE_BUSY)
        shutdown(c->fd, SHUT_RD);
    else if (c->exchange)
        g->c.poke(g->c.ctx, c->exchange, GATE_GONE);
}

static void on_event(struct gate *g, struct gate_conn *c, uint32_t events)
{
    bool left = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (left) c->gone = true;
    if (c->phase == GATE_LINGER) {
        discard_input(g, c);
    } else if (c->ours) {
        if (left || c->peeks++ < EAGER_PEEKS) look_at_head(g, c);
    } else if (left) {
        nudge(g, c);
    }
}

static void cut(struct gate *g, struct gate_conn *c, int status, const char *why)
{
    c->gone = true;
    c->deadline = 0;
    if (status) send_refusal(g, c->fd, status, why);
    shutdown(c->fd, SHUT_RDWR);
    if (c->exchange) g->c.poke(g->c.ctx, c->exchange, GATE_GONE);
}

static void on_deadline(struct gate *g, struct gate_conn *c)
{
    if (c->phase == GATE_LINGER) {
        drop(g, c);
    } else if (c->ours) {
        if (c->peeks) send_refusal(g, c->fd, 408, "the request's headers took too long");
        drop(g, c);
    } else if (c->phase == GATE_IDLE) {
        cut(g, c, 0, NULL);
    } else {
        cut(g, c, 408, "the request took too long to arrive");
    }
}

static void on_tick(struct gate *g, int64_t now)
{
    for (int fd = 0; fd < g->cap; fd++) {
        struct gate_conn *c = g->by_fd[fd];
        if (!c) continue;
        if (c->deadline && now > c->deadline)
            on_deadline(g, c);
        else if (c->ours && c->phase == GATE_HEAD && c->peeks >= EAGER_PEEKS)
            look_at_head(g, c);
        else if (!c->ours && c->gone)
            nudge(g, c); /* the edge may have been made before the library looked */
        else if (c->exchange && c->phase == GATE_BUSY)
            g->c.poke(g->c.ctx, c->exchange, GATE_TICK);
    }
}

static void watch_listener(struct gate *g, bool on)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0};
    epoll_ctl(g->epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, g->listen_fd, &ev);
    g->listen_again = on ? 0 : after(0.2);
}

static void accept_all(struct gate *g)
{
    for (;;) {
        int fd = accept4(g->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                watch_listener(g, false);
            if (errno == EINTR || errno == ECONNABORTED) continue;
            return;
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        bool full = g->n_conn >= g->c.max_connections;
        struct gate_conn *c = g->n_conn < g->c.max_connections + LINGER_MAX
                                  ? enroll(g, fd, GATE_HEAD, g->c.header_timeout_s)
                                  : NULL;
        if (!c)
            close(fd);
        else if (full)
            refuse(g, c, 503, "too many connections");
    }
}

static void *gate_run(void *arg)
{
    struct gate *g = arg;
    struct epoll_event ev[64];
    int64_t next_tick = clock_ns();
    while (!atomic_load(&g->stop)) {
        pthread_mutex_lock(&g->mu);
        bool quiet = g->n_conn == 0 && !g->listen_again;
        pthread_mutex_unlock(&g->mu);
        int n = epoll_wait(g->epoll_fd, ev, 64, quiet ? -1 : TICK_MS);
        pthread_mutex_lock(&g->mu);
        for (int i = 0; i < n; i++) {
            int fd = (int)(uint32_t)ev[i].data.u64;
            if (ev[i].data.u64 == 0)
                accept_all(g);
            else if (ev[i].data.u64 >> 32 && fd < g->cap && g->by_fd[fd] &&
                     event_key(g->by_fd[fd]) == ev[i].data.u64)
                on_event(g, g->by_fd[fd], ev[i].events);
        }
        int64_t now = clock_ns();
        if (now >= next_tick) {
            on_tick(g, now);
            next_tick = now + TICK_MS * 1000000LL;
            if (g->listen_again && now > g->listen_again) watch_listener(g, true);
        }
        pthread_mutex_unlock(&g->mu);
    }
    return NULL;
}

int gate_open(const struct gate_config *c, struct gate **out, struct err *e)
{
    *out = NULL;
    struct gate *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NOMEM, "out of memory");
    g->c = *c;
    g->listen_fd = -1;
    pthread_mutex_init(&g->mu, NULL);
    g->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    g->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g->peek = malloc(c->limits.bytes);
    int status = listen_open(c->host, c->port, &g->listen_fd, &g->port, e);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 1};
    if (!status && (!g->peek || g->epoll_fd < 0 || g->event_fd < 0 ||
                    epoll_ctl(g->epoll_fd, EPOLL_CTL_ADD, g->event_fd, &ev)))
        status = err_set(e, ERR_IO, "cannot watch connections: %s", strerror(errno));
    if (!status) {
        watch_listener(g, true);
        if (pthread_create(&g->thread, NULL, gate_run, g))
            status = err_set(e, ERR_IO, "cannot start a thread");
    }
    if (status) {
        atomic_store(&g->stop, true);
        gate_close(g);
        return status;
    }
    *out = g;
    return 0;
}

int gate_port(const struct gate *g) { return g->port; }

struct gate_conn *gate_started(struct gate *g, int fd)
{
    pthread_mutex_lock(&g->mu);
    struct gate_conn *c = fd >= 0 && fd < g->cap ? g->by_fd[fd] : NULL;
    pthread_mutex_unlock(&g->mu);
    return c;
}

bool gate_enter(struct gate *g, struct gate_conn *c, enum gate_phase phase, void *exchange)
{
    static const int no_deadline = -1;
    double timeout = phase == GATE_HEAD   ? g->c.header_timeout_s
                     : phase == GATE_IDLE ? g->c.idle_timeout_s
                     : phase == GATE_BODY ? g->c.body_timeout_s
                                          : no_deadline;
    pthread_mutex_lock(&g->mu);
    c->phase = phase;
    c->exchange = exchange;
    c->deadline = timeout < 0 ? 0 : after(timeout);
    bool here = !c->gone;
    pthread_mutex_unlock(&g->mu);
    return here;
}

void gate_cut(struct gate *g, struct gate_conn *c, int status, const char *why)
{
    pthread_mutex_lock(&g->mu);
    send_refusal(g, c->fd, status, why);
    shutdown(c->fd, SHUT_WR);
    pthread_mutex_unlock(&g->mu);
}

void gate_refused(struct gate *g, struct gate_conn *c)
{
    pthread_mutex_lock(&g->mu);
    c->refused = true;
    pthread_mutex_unlock(&g->mu);
}

void gate_closing(struct gate *g, struct gate_conn *c)
{
    int unread = 0;
    pthread_mutex_lock(&g->mu);
    int fd = c->fd;
    bool gone = c->gone, refused = c->refused;
    ioctl(fd, FIONREAD, &unread);
    epoll_ctl(g->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    forget(g, c);
    /* Closing a socket with unread input resets it, and the reset can overtake the answer. A duplicate keeps
     * it open for a moment. */
    if ((refused || unread) && !gone && !atomic_load(&g->stop)) {
        int copy = dup(fd);
        struct gate_conn *l = copy >= 0 ? enroll(g, copy, GATE_LINGER, LINGER_S) : NULL;
        if (l)
            linger(l);
        else if (copy >= 0)
            close(copy);
    }
    pthread_mutex_unlock(&g->mu);
}

void gate_cut_all(struct gate *g)
{
    pthread_mutex_lock(&g->mu);
    for (int fd = 0; fd < g->cap; fd++)
        if (g->by_fd[fd] && !g->by_fd[fd]->ours) cut(g, g->by_fd[fd], 0, NULL);
    pthread_mutex_unlock(&g->mu);
}

void gate_stop(struct gate *g)
{
    if (atomic_exchange(&g->stop, true)) return;
    uint64_t one = 1;
    ssize_t n = write(g->event_fd, &one, sizeof one);
    (void)n;
    pthread_join(g->thread, NULL);
    close(g->listen_fd);
    g->listen_fd = -1;
}

void gate_close(struct gate *g)
{
    if (!g) return;
    gate_stop(g);
    for (int fd = 0; fd < g->cap; fd++) {
        struct gate_conn *c = g->by_fd[fd];
        if (!c) continue;
        if (c->ours)
            drop(g, c);
        else
            forget(g, c);
    }
    if (g->listen_fd >= 0) close(g->listen_fd);
    if (g->epoll_fd >= 0) close(g->epoll_fd);
    if (g->event_fd >= 0) close(g->event_fd);
    pthread_mutex_destroy(&g->mu);
    free(g->by_fd);
    free(g->peek);
    free(g);
}
