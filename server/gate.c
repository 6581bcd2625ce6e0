#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "gate_impl.h"
#include "listen.h"

#define TICK_MS    250
#define LINGER_MAX 64 /* refused connections beyond the limit that are let go gently */

static void on_tick(struct gate *g, int64_t now)
{
    for (int fd = 0; fd < g->cap; fd++)
        if (g->by_fd[fd]) gate_conn_tick(g, g->by_fd[fd], now);
}

static void watch_listener(struct gate *g, bool on)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 0};
    epoll_ctl(g->epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, g->listen_fd, &ev);
    g->listen_again = on ? 0 : gate_after(0.2);
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
                                  ? gate_conn_enroll(g, fd, GATE_HEAD, g->c.header_timeout_s)
                                  : NULL;
        if (!c)
            close(fd);
        else if (full)
            gate_conn_refuse(g, c, 503, "too many connections");
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
                     gate_conn_key(g->by_fd[fd]) == ev[i].data.u64)
                gate_conn_event(g, g->by_fd[fd], ev[i].events);
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
    c->deadline = timeout < 0 ? 0 : gate_after(timeout);
    bool here = !c->gone;
    pthread_mutex_unlock(&g->mu);
    return here;
}

void gate_cut(struct gate *g, struct gate_conn *c, int status, const char *why)
{
    pthread_mutex_lock(&g->mu);
    gate_conn_send(g, c->fd, status, why);
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
    gate_conn_forget(g, c);
    /* Closing a socket with unread input resets it, and the reset can overtake the answer. A duplicate keeps
     * it open for a moment. */
    if ((refused || unread) && !gone && !atomic_load(&g->stop)) {
        int copy = dup(fd);
        struct gate_conn *l = copy >= 0 ? gate_conn_enroll(g, copy, GATE_LINGER, GATE_LINGER_S) : NULL;
        if (l)
            gate_conn_linger(l);
        else if (copy >= 0)
            close(copy);
    }
    pthread_mutex_unlock(&g->mu);
}

void gate_cut_all(struct gate *g)
{
    pthread_mutex_lock(&g->mu);
    for (int fd = 0; fd < g->cap; fd++)
        if (g->by_fd[fd] && !g->by_fd[fd]->ours) gate_conn_cut(g, g->by_fd[fd], 0, NULL);
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
            gate_conn_drop(g, c);
        else
            gate_conn_forget(g, c);
    }
    if (g->listen_fd >= 0) close(g->listen_fd);
    if (g->epoll_fd >= 0) close(g->epoll_fd);
    if (g->event_fd >= 0) close(g->event_fd);
    pthread_mutex_destroy(&g->mu);
    free(g->by_fd);
    free(g->peek);
    free(g);
}
