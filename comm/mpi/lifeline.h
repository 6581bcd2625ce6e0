/* A TCP connection from every rank to rank 0, beside MPI. MPI waits for ever for a process that died; a
 * connection is closed by the dead process's kernel. The same connections carry the reason of an abort, the
 * bell that wakes sleeping ranks, and the farewell that says whether MPI_Finalize can be called. Knows
 * nothing of MPI.
 *
 * Owner: one per process. A thread of its own watches the connections and costs nothing while nothing comes.
 * Opening and closing belong to one thread; every other function may be called by any. */
#pragma once
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "comm.h"

struct lifeline;

enum { HOME_ADDRESSES = 16, HOME_HALF = 16 };
/* Where rank 0 listens: plain bytes, which reach the other ranks by another way. */
struct lifeline_home {
    uint32_t n;                                  /* addresses to try, in order */
    struct sockaddr_in6 address[HOME_ADDRESSES]; /* IPv4 as ::ffff:a.b.c.d */
    unsigned char secret[2 * HOME_HALF];         /* half proves a rank to rank 0, half rank 0 to a rank */
};

/* Equal for two processes that can reach each other over loopback: same running kernel, same network
 * namespace. */
void lifeline_host(char id[64]);

/* Rank 0: listens (one_host: on loopback only) and says where; then waits until all others have come. */
int lifeline_listen(int size, bool one_host, struct lifeline_home *home, struct lifeline **out,
                    struct err *e);
int lifeline_accept(struct lifeline *l, int timeout_ms, struct err *e);
/* The others: connect, and wait until all have. */
int lifeline_join(int rank, int size, const struct lifeline_home *home, int timeout_ms, struct lifeline **out,
                  struct err *e);
/* Without a lifeline_leave that succeeded, the others see a rank that died. NULL is nothing. */
void lifeline_close(struct lifeline *l);

/* Tells all ranks that the group is over, and why; only the first reason counts. */
void lifeline_abort(struct lifeline *l, const struct err *why);
/* 0, or the reason why the group is over. Costs one load while it is not. */
int lifeline_check(struct lifeline *l, struct err *e);
/* Wakes the others' comm_sleep on their bell word. From rank 0 only: the others reach nobody but rank 0. */
void lifeline_ring(struct lifeline *l);
/* Changes when rank 0 rings, when a rank leaves, and when the group is over. */
_Atomic uint32_t *lifeline_bell(struct lifeline *l);
/* Says farewell and waits for everybody else's. True if all have left in time: then no call is under way. */
bool lifeline_leave(struct lifeline *l, int timeout_ms);
/* The first other rank to say farewell, or -1. Its last messages may still be under way by MPI. */
int lifeline_leaver(struct lifeline *l);
