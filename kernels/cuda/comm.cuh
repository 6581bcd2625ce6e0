/* Between comm.cu and the ranks' own kernels in allreduce.cu: how ranks of one process, each with a device
 * that can read the others' memory, exchange small messages without a library.
 *
 * Each rank copies its part into its own buffer, raises a flag on every rank's board, waits for the flags on
 * its own board, and reads all parts in the order of the ranks; so all get the same bits. A block waits for
 * the same block of the other ranks only. Messages are numbered by the boards, in device memory, so that
 * captured graphs stay valid. Even and odd ones have a buffer each: who writes message e + 2 has seen all
 * ranks' flags of e + 1, so all are done reading e. Every rank must make the same calls in the same order. */
#pragma once
#include "device.cuh"

enum { PEERS_MAX = 8, PEER_BLOCKS = 128 };

struct peer_board {                        /* one rank's, on its device; zero at first */
    unsigned flag[PEER_BLOCKS][PEERS_MAX]; /* [block][from]: the last message that lies there */
    unsigned epoch;                        /* messages this rank is through with */
    unsigned through;                      /* blocks that are through with the present one */
    unsigned lost; /* a rank did not come: no messages any more, every wait fails at once */
};
struct peers {
    int rank, size;                      /* size 0: there are no own kernels */
    int blocks;                          /* at most; all run at once on any of the devices */
    int floats;                          /* of a message, at most; a multiple of 4 */
    float *buf[PEERS_MAX];               /* [2][floats], of each rank */
    struct peer_board *board[PEERS_MAX]; /* of each rank */
    unsigned *told;                      /* in host memory: set when a wait failed */
    long long patience;                  /* clocks that a wait may take */
};

/* x [n] becomes the sum. n <= floats. */
void peers_sum(struct cuda *c, const struct peers *p, float *x, size_t n);
/* Elements [at, at + n) of part [..][len] go to their places in all [..][size * len]. n <= floats. */
void peers_gather(struct cuda *c, const struct peers *p, const float *part, size_t at, size_t n, int len,
                  float *all);
/* add_norm of the sum of the ranks' deltas; norm_fits(c, a), and n * dim <= floats. */
void peers_norm(struct cuda *c, const struct peers *p, const struct norm_args *a);
/* From now on every wait for this rank fails. */
void peers_leave(struct cuda *c, const struct peers *p);
/* x [n] = all [0][n] + all [1][n] + ..., in this order. */
void sum_parts(struct cuda *c, const float *all, int size, float *x, size_t n);
