/* How the ranks of one tensor-parallel group talk: collective calls that every rank makes in the same order
 * with the same sizes. Ranks are threads of one process (comm_local_open) or processes (comm_mpi_open).
 *
 * Owner: each rank has its own `struct comm`, used by one thread at a time, which makes the collective calls.
 * Only comm_abort may come from any thread, as long as that rank is not closed.
 *
 * Waiting: a rank that waits for others spins briefly, then sleeps. A follower may wait in comm_broadcast
 * (from rank 0, where ranks are processes) for hours: that costs no CPU, and it wakes at once.
 *
 * Errors: after an error of any collective call, on any rank, the ranks have diverged, so the whole group is
 * over: every rank's present and later calls fail within a second, each rank's always with the first reason
 * that it learned, and buffers in use hold anything. That covers wrong arguments, ranks that make different
 * calls, comm_abort, a rank that closed early, and a process that died. A failed call has stopped using its
 * buffers. What remains is to close and, for processes, to exit non-zero. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "err.h"

enum { COMM_MAX_RANKS = 64 };
struct comm;

/* size ranks that are threads of this process; rank[size] receives them, each to be closed. */
int comm_local_open(int size, struct comm **rank, struct err *e);

/* Whether mpirun, srun or the like started this process as one of several. */
bool comm_mpi_started(void);
/* The ranks are the processes that mpirun or srun started; each calls this once in its life, before it starts
 * other work, and waits for the others. Loads the module inferd_mpi.so: only then does the process need MPI.
 *
 * What the caller must know:
 * - MPI_Init itself ends the process when the launcher's environment is broken. After an error here, exit.
 * - Open MPI's mpirun binds each process to one core, or one socket, unless told `--bind-to none`.
 * - When a process dies or exits non-zero, mpirun ends the others: SIGTERM after 1 s, SIGKILL after 2 s (not
 *   with --enable-recovery). So a failed group's requests must get their error at once, without a drain;
 *   a rank that has nobody to answer should let others exit first: wait a second, or for SIGTERM.
 * - After an error comm_close leaves MPI without MPI_Finalize, which would wait for ranks that never come.
 *   mpirun then reports the job as failed even where a rank returns 0. The thread that calls MPI may be stuck
 *   there, so nothing but the end of the process frees what it uses.
 * - Over TCP, Open MPI itself may end a follower that finds another's connection closed.
 * - The death of a process is noticed at once, since its host closes its connection to rank 0; a host that
 *   loses its power or network is noticed within about 10 seconds. */
int comm_mpi_open(struct comm **out, struct err *e);

/* Every rank closes its own comm. Closing while others still make calls ends the group, as above. Processes
 * wait here until all others close too (at most 30 s) or the group is over. NULL is nothing. */
void comm_close(struct comm *c);

int comm_rank(const struct comm *c);
int comm_size(const struct comm *c);

/* x [n] becomes the sum of all ranks' x, added in the order of the ranks for every element, whatever n is: so
 * the bits are equal on all ranks and in all implementations. */
int comm_all_reduce(struct comm *c, float *x, size_t n, struct err *e);
/* all [size][bytes] receives every rank's part. part may be the rank's own place in all. */
int comm_all_gather(struct comm *c, const void *part, size_t bytes, void *all, struct err *e);
/* send [size][bytes_each], by receiver, goes to recv [size][bytes_each], by sender. They may not overlap. */
int comm_all_to_all(struct comm *c, const void *send, void *recv, size_t bytes_each, struct err *e);
/* data [bytes] of root goes to all others. Root may return before they have it. */
int comm_broadcast(struct comm *c, void *data, size_t bytes, int root, struct err *e);
/* Nobody returns before everybody has come. */
int comm_barrier(struct comm *c, struct err *e);

/* Ends the group: see Errors. Any thread; only the first reason counts. */
void comm_abort(struct comm *c, const struct err *why);
