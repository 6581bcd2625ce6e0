/* What mpi.c (life) and collect.c (the calls) share: this process's one struct mpi. */
#pragma once
#include <mpi.h>
#include <pthread.h>
#include <stdatomic.h>
#include "comm_ops.h"
#include "lifeline.h"

/* Calls are made of exchanges: every rank sends one packet to some others and receives one from some. The
 * call travels in each, so that ranks that disagree find out; receives take the largest packet, so that a
 * packet of another call does no harm. Larger data goes in several exchanges. MPI sees only these buffers,
 * never the caller's: when a call fails, MPI may go on writing to them until the process ends. */
enum { PACKET_DATA = 256 << 10 };
struct packet {
    struct comm_call call;
    uint64_t exchange; /* its number */
    uint64_t n;        /* bytes of data */
    char data[PACKET_DATA];
};
#define PACKET_HEAD offsetof(struct packet, data)

/* MPI is called by a thread of its own, the mover: over TCP, Open MPI never comes back from the call that
 * finds a peer's connection closed. The caller, told by the life line, leaves it there. So the two share only
 * what stands here, and a group that failed keeps all of it until the process ends. */
struct mpi {
    struct comm comm;
    MPI_Comm world;
    struct lifeline *life;
    uint64_t exchange;
    struct packet *out, *in; /* [size] each */
    /* The exchange: written by the caller before it asks, not touched by it until done. */
    int n_in, n_out, in_peer[COMM_MAX_RANKS], out_peer[COMM_MAX_RANKS];
    struct packet *out_packet[COMM_MAX_RANKS];
    bool idle; /* this may take hours, and rank 0 will ring */
    bool quit;
    /* The answer: written by the mover before it is done. */
    int result;
    struct err failure;
    MPI_Status status[2 * COMM_MAX_RANKS]; /* of the receives, then of the sends */
    pthread_t mover;
    _Atomic uint32_t asked, done; /* numbers of exchanges */
};

int mpi_failed(int mpi_status, const char *what, struct err *e);
/* comm_ops.run */
int mpi_run(struct comm *c, const struct comm_call *call, const void *in, void *out, struct err *e);
int mover_start(struct mpi *m, struct err *e);
/* Only when all is done. */
void mover_stop(struct mpi *m);
/* Does the exchange, or returns why the group is over. */
int mover_run(struct mpi *m, struct err *e);
