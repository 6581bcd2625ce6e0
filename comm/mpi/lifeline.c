#include "lifeline.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include "clock.h"
#include "comm_ops.h"
#include "lifeline_own.h"

/* Messages: a byte, in a farewell the rank, in an abort the reason. */
enum { RING = 'r', LEAVE = 'l', ALL_LEFT = 'e', ABORT = 'a' };
struct abort_message {
    char type;
    signed char code; /* enum err_code */
    char param[sizeof((struct err *)0)->param], msg[sizeof((struct err *)0)->msg];
};

/* Under lock. A peer that takes nothing any more is cut off, which tells it as well. */
static void tell(struct peer *p, const void *message, size_t n)
{
    if (!p->lost && send(p->fd, message, n, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)n)
        shutdown(p->fd, SHUT_RDWR);
}

static void tell_all(struct lifeline *l, const void *message, size_t n)
{
    for (int i = 0; i < l->n_peer; i++) tell(&l->peer[i], message, n);
}

static void wake(struct lifeline *l)
{
    atomic_fetch_add(&l->bell, 1);
    comm_wake(&l->bell);
}

void lifeline_abort(struct lifeline *l, const struct err *why)
{
    struct abort_message m = {.type = ABORT, .code = (signed char)why->code};
    memcpy(m.param, why->param, sizeof m.param);
    memcpy(m.msg, why->msg, sizeof m.msg);
    pthread_mutex_lock(&l->lock);
    if (!l->over && !l->all_left) {
        l->why = *why;
        atomic_store(&l->over, true);
        tell_all(l, &m, sizeof m); /* rank 0's watcher passes on what another rank says, by this same call */
        wake(l);
    }
    pthread_mutex_unlock(&l->lock);
}

int lifeline_check(struct lifeline *l, struct err *e)
{
    if (!atomic_load_explicit(&l->over, memory_order_acquire)) return 0;
    pthread_mutex_lock(&l->lock);
    *e = l->why;
    pthread_mutex_unlock(&l->lock);
    return e->code;
}

void lifeline_ring(struct lifeline *l)
{
    pthread_mutex_lock(&l->lock);
    if (!l->over) tell_all(l, &(char){RING}, 1);
    pthread_mutex_unlock(&l->lock);
}

_Atomic uint32_t *lifeline_bell(struct lifeline *l) { return &l->bell; }

/* Under lock. A farewell, at rank 0 passed on to the others, who hear from nobody else. */
static void note_left(struct lifeline *l, int rank)
{
    l->has_left[rank] = true;
    l->n_left++;
    if (rank != l->rank && l->leaver < 0) l->leaver = rank;
    if (rank == l->rank || l->rank == 0) tell_all(l, (char[]){LEAVE, (char)rank}, 2);
    if (l->rank == 0 && l->n_left == l->n_peer + 1) {
        tell_all(l, &(char){ALL_LEFT}, 1);
        l->all_left = true;
    }
    wake(l);
}

int lifeline_leaver(struct lifeline *l) { return l->leaver; }

bool lifeline_leave(struct lifeline *l, int timeout_ms)
{
    int64_t deadline = clock_ns() + timeout_ms * (int64_t)1000000;
    pthread_mutex_lock(&l->lock);
    note_left(l, l->rank);
    pthread_mutex_unlock(&l->lock);
    for (;;) {
        uint32_t seen = atomic_load(&l->bell);
        int64_t left_ns = deadline - clock_ns();
        if (l->all_left) return true;
        if (l->over || left_ns <= 0) return false;
        comm_sleep(&l->bell, seen, left_ns);
    }
}

static void lose(struct lifeline *l, struct peer *p)
{
    struct err why;
    err_set(&why, ERR_IO, "rank %d has died: its connection closed", p->rank);
    pthread_mutex_lock(&l->lock);
    p->lost = true;
    pthread_mutex_unlock(&l->lock);
    lifeline_abort(l, &why);
}

/* The length of the message that begins with this byte; a stranger's byte is none that does anything. */
static size_t length(char type)
{
    return type == ABORT ? sizeof(struct abort_message) : type == LEAVE ? 2 : 1;
}

static void obey(struct lifeline *l, const struct peer *p, const char *message)
{
    if (message[0] == ABORT) {
        const struct abort_message *m = (const void *)message;
        struct err why = {.code = m->code < 0 ? m->code : ERR_CLOSED};
        memcpy(why.param, m->param, sizeof why.param - 1);
        memcpy(why.msg, m->msg, sizeof why.msg - 1);
        lifeline_abort(l, &why);
        return;
    }
    pthread_mutex_lock(&l->lock);
    int rank = message[0] == LEAVE ? message[1] : -1;
    if (message[0] == ALL_LEFT && p->rank == 0) l->all_left = true;
    if (rank >= 0 && (rank == p->rank || p->rank == 0) && rank < COMM_MAX_RANKS && !l->has_left[rank])
        note_left(l, rank);
    wake(l);
    pthread_mutex_unlock(&l->lock);
}

/* Takes what has come from a peer, as far as it is complete. */
static void hear(struct lifeline *l, struct peer *p)
{
    ssize_t n = recv(p->fd, p->in + p->n_in, sizeof p->in - p->n_in, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        lose(l, p);
        return;
    }
    p->n_in += (size_t)n;
    size_t used = 0;
    while (used < p->n_in && length(p->in[used]) <= p->n_in - used) {
        const char *message = p->in + used;
        used += length(*message);
        obey(l, p, message);
    }
    memmove(p->in, p->in + used, p->n_in -= used);
}

static void *watch(void *arg)
{
    struct lifeline *l = arg;
    struct pollfd fd[COMM_MAX_RANKS];
    for (;;) {
        for (int i = 0; i < l->n_peer; i++)
            fd[i] = (struct pollfd){.fd = l->peer[i].lost ? -1 : l->peer[i].fd, .events = POLLIN};
        fd[l->n_peer] = (struct pollfd){.fd = l->stop, .events = POLLIN};
        if (poll(fd, l->n_peer + 1, -1) < 0) continue; /* EINTR */
        if (fd[l->n_peer].revents) return NULL;
        for (int i = 0; i < l->n_peer; i++)
            if (fd[i].revents) hear(l, &l->peer[i]);
    }
}

int lifeline_new(int rank, int size, struct lifeline **out, struct err *e)
{
    struct lifeline *l = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_NOMEM, "out of memory");
    l->rank = rank;
    l->n_peer = rank ? 1 : size - 1;
    for (int i = 0; i < l->n_peer; i++) l->peer[i] = (struct peer){.fd = -1, .rank = rank ? 0 : i + 1};
    l->listener = -1;
    l->leaver = -1;
    pthread_mutex_init(&l->lock, NULL);
    l->stop = eventfd(0, EFD_CLOEXEC);
    if (l->stop < 0) {
        lifeline_close(l);
        return err_set(e, ERR_IO, "cannot make an event descriptor: %m");
    }
    *out = l;
    return 0;
}

int lifeline_start(struct lifeline *l, struct err *e)
{
    for (int i = 0; i < l->n_peer; i++) {
        /* A host that lost its power or network answers nothing: after 4 s of silence ask, 6 times in 6 s. */
        int fd = l->peer[i].fd, on = 1, idle = 4, every = 1, times = 6;
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof times);
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(unsigned){10000}, sizeof(unsigned));
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    int status = pthread_create(&l->thread, NULL, watch, l);
    if (status)
        return err_set(e, ERR_IO, "cannot start the thread that watches the ranks: %s", strerror(status));
    l->started = true;
    return 0;
}

void lifeline_close(struct lifeline *l)
{
    if (!l) return;
    if (l->started) {
        (void)!write(l->stop, &(uint64_t){1}, sizeof(uint64_t));
        pthread_join(l->thread, NULL);
    }
    for (int i = 0; i < l->n_peer; i++)
        if (l->peer[i].fd >= 0) close(l->peer[i].fd);
    if (l->listener >= 0) close(l->listener);
    if (l->stop >= 0) close(l->stop);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
