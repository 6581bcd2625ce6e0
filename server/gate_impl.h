/* The inside of the gate, for gate.c (the thread, and what the library calls) and gate_conn.c (what happens
 * to one connection). Everything here but struct gate's first block is guarded by its mutex: all functions
 * are called with it held. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "clock.h"
#include "gate.h"

#define GATE_LINGER_S 1.0 /* for a refused client to read its answer */

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

/* Of its epoll events. */
static inline uint64_t gate_conn_key(const struct gate_conn *c)
{
    return (uint64_t)c->generation << 32 | (uint32_t)c->fd;
}

/* That many seconds from now. */
static inline int64_t gate_after(double seconds) { return clock_ns() + (int64_t)(seconds * 1e9); }

/* Puts a socket of the gate's own in the table and watches it. NULL: no memory. */
struct gate_conn *gate_conn_enroll(struct gate *g, int fd, enum gate_phase phase, double timeout_s);
void gate_conn_forget(struct gate *g, struct gate_conn *c);               /* frees c; the socket stays open */
void gate_conn_drop(struct gate *g, struct gate_conn *c);                 /* frees c and closes the socket */
void gate_conn_send(struct gate *g, int fd, int status, const char *why); /* a whole error answer */
/* Answers, and throws away what the client sends from then on until its time is up. */
void gate_conn_refuse(struct gate *g, struct gate_conn *c, int status, const char *why);
void gate_conn_linger(struct gate_conn *c);
/* Ends a connection of the library's, with an answer if status is set. */
void gate_conn_cut(struct gate *g, struct gate_conn *c, int status, const char *why);
void gate_conn_event(struct gate *g, struct gate_conn *c, uint32_t events); /* epoll's */
void gate_conn_tick(struct gate *g, struct gate_conn *c, int64_t now);
