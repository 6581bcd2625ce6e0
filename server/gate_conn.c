#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "gate_impl.h"
#include "log.h"
#include "reply.h"

/* Looks at an unfinished head before looking only at ticks: a drip must not cost a core. */
#define EAGER_PEEKS 16

void gate_conn_forget(struct gate *g, struct gate_conn *c)
{
    g->by_fd[c->fd] = NULL;
    g->n_conn--;
    free(c);
}

void gate_conn_drop(struct gate *g, struct gate_conn *c)
{
    int fd = c->fd;
    gate_conn_forget(g, c);
    close(fd);
}

struct gate_conn *gate_conn_enroll(struct gate *g, int fd, enum gate_phase phase, double timeout_s)
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
    if (g->by_fd[fd]) gate_conn_forget(g, g->by_fd[fd]);
    struct gate_conn *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    *c = (struct gate_conn){.fd = fd, .phase = phase, .ours = true, .deadline = gate_after(timeout_s)};
    c->generation = ++g->generation ? g->generation : ++g->generation;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = gate_conn_key(c)};
    if (epoll_ctl(g->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
        free(c);
        return NULL;
    }
    g->by_fd[fd] = c;
    g->n_conn++;
    return c;
}

/* One write is enough: a refusal is far smaller than a fresh socket's buffer. */
void gate_conn_send(struct gate *g, int fd, int status, const char *why)
{
    struct buf out = {0};
    reply_raw(&out, status, why);
    if (!out.failed && send(fd, out.data, out.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_debug("refusal not sent");
    buf_free(&out);
    g->c.count(g->c.ctx, status);
}

void gate_conn_linger(struct gate_conn *c)
{
    shutdown(c->fd, SHUT_WR);
    c->phase = GATE_LINGER;
    c->deadline = gate_after(GATE_LINGER_S);
}

static void discard_input(struct gate *g, struct gate_conn *c)
{
    for (;;) {
        ssize_t n = recv(c->fd, g->peek, g->c.limits.bytes, MSG_DONTWAIT);
        if (n > 0) continue;
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) gate_conn_drop(g, c);
        return;
    }
}

void gate_conn_refuse(struct gate *g, struct gate_conn *c, int status, const char *why)
{
    gate_conn_send(g, c->fd, status, why);
    gate_conn_linger(c);
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
        gate_conn_drop(g, c);
        return;
    }
    c->ours = false;
    c->phase = GATE_IDLE;
    c->deadline = gate_after(g->c.header_timeout_s);
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = gate_conn_key(c)};
    epoll_ctl(g->epoll_fd, EPOLL_CTL_MOD, fd, &ev);
    g->c.hand_over(g->c.ctx, fd, (struct sockaddr *)&addr, n);
}

static void look_at_head(struct gate *g, struct gate_conn *c)
{
    ssize_t n = recv(c->fd, g->peek, g->c.limits.bytes, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    bool tls = n > 0 && g->peek[0] == 0x16; /* a TLS handshake: any answer would be noise */
    if (n <= 0 || tls) {
        gate_conn_drop(g, c);
        return;
    }
    struct head head;
    struct head_verdict verdict = {0};
    size_t n_head;
    int status = head_parse(g->peek, (size_t)n, &g->c.limits, &head, &n_head);
    if (status == 200) {
        head_check(&head, &g->c.limits, &verdict);
        if (verdict.status && verdict.status != 413) /* too large is said after the key was checked */
            gate_conn_refuse(g, c, verdict.status, verdict.why);
        else
            hand_over(g, c);
    } else if (status) {
        gate_conn_refuse(g, c, status, refusal_text(status));
    } else if (c->gone) {
        gate_conn_drop(g, c);
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

void gate_conn_event(struct gate *g, struct gate_conn *c, uint32_t events)
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

void gate_conn_cut(struct gate *g, struct gate_conn *c, int status, const char *why)
{
    c->gone = true;
    c->deadline = 0;
    if (status) gate_conn_send(g, c->fd, status, why);
    shutdown(c->fd, SHUT_RDWR);
    if (c->exchange) g->c.poke(g->c.ctx, c->exchange, GATE_GONE);
}

static void on_deadline(struct gate *g, struct gate_conn *c)
{
    if (c->phase == GATE_LINGER) {
        gate_conn_drop(g, c);
    } else if (c->ours) {
        if (c->peeks) gate_conn_send(g, c->fd, 408, "the request's headers took too long");
        gate_conn_drop(g, c);
    } else if (c->phase == GATE_IDLE) {
        gate_conn_cut(g, c, 0, NULL);
    } else {
        gate_conn_cut(g, c, 408, "the request took too long to arrive");
    }
}

void gate_conn_tick(struct gate *g, struct gate_conn *c, int64_t now)
{
    if (c->deadline && now > c->deadline)
        on_deadline(g, c);
    else if (c->ours && c->phase == GATE_HEAD && c->peeks >= EAGER_PEEKS)
        look_at_head(g, c);
    else if (!c->ours && c->gone)
        nudge(g, c); /* the edge may have been made before the library looked */
    else if (c->exchange && c->phase == GATE_BUSY)
        g->c.poke(g->c.ctx, c->exchange, GATE_TICK);
}
