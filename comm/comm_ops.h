/* For implementations of struct comm only: what comm.c calls after it has checked the arguments, and what
 * implementations have in common. An implementation's own struct begins with struct comm. */
#pragma once
#include <stdint.h>
#include "comm.h"

enum comm_op { COMM_ALL_REDUCE, COMM_ALL_GATHER, COMM_ALL_TO_ALL, COMM_BROADCAST, COMM_BARRIER };

/* One collective call, as all ranks must agree on it. Compared with memcmp: no padding. */
struct comm_call {
    uint32_t op;    /* enum comm_op */
    int32_t root;   /* of a broadcast; otherwise 0 */
    uint64_t bytes; /* of x, part, send and recv for each rank, or data; 0 for a barrier */
};

struct comm_ops {
    /* all_reduce and broadcast work in place: in == out. An error has ended, or will now end, the group. */
    int (*run)(struct comm *c, const struct comm_call *call, const void *in, void *out, struct err *e);
    /* Any thread. Tells all ranks; only the first reason counts. */
    void (*abort)(struct comm *c, const struct err *why);
    void (*close)(struct comm *c);
};

struct comm {
    const struct comm_ops *ops;
    int rank, size;
};

/* Says how two ranks' calls differ. */
int comm_differ(int rank_a, const struct comm_call *a, int rank_b, const struct comm_call *b, struct err *e);
/* out[i] = in[0][i] + in[1][i] + ..., in this order. out may be one of them. */
void comm_sum(const float *const *in, int n_in, size_t n, float *out);
/* One turn of a spin loop, for wait loops. */
void comm_relax(void);
/* Sleeps while *word is value, at most ns nanoseconds (ns < 0: for ever); may return early. */
void comm_sleep(_Atomic uint32_t *word, uint32_t value, int64_t ns);
void comm_wake(_Atomic uint32_t *word);
