/* The contract between the core and the workers of one model.
 *
 * Rank 0 is the core: API server, scheduler, KV bookkeeping, sampling. The other ranks are workers: each has
 * its slice of the weights and of every KV block, and computes what it is told, knowing neither requests nor
 * text. Ranks are threads of one process or processes on several hosts; the contract is the same.
 *
 * 1. The core broadcasts its runner_config. Every rank opens a runner of exactly these sizes; a barrier says
 * that all have.
 * 2. Then it broadcasts messages, each a head of fixed size and, for a STEP, a payload:
 *      STEP    the plan as integers: for each sequence its place, its tokens and its block tables. Every rank
 * makes the same batch of it and runs the same forward pass, so all make the same collective calls. LOGITS
 * rows of the last step: each rank computes its part of the vocabulary, then all gather. The core samples.
 *      PING    nothing: sent while the core is idle, so that it learns of a worker's death without any work.
 *      STOP    the worker is done.
 * 3. Whoever fails, at any time, calls comm_abort with the reason and leaves; everybody else's next or
 * present call fails with it. There is no way back: the core ends every request with an error, and itself.
 *
 * A struct ranks is one rank's end of this, owned by its runner: the message buffer, allocated once. */
#pragma once
#include "comm.h"
#include "model.h"
#include "runner.h"

enum rank_message { RANK_STEP = 1, RANK_LOGITS, RANK_PING, RANK_STOP };
struct rank_head {
    int32_t kind;   /* enum rank_message */
    int32_t n_part; /* STEP */
    int32_t row, n; /* LOGITS */
    int64_t words;  /* int32_t of payload */
};
/* One sequence's part of a step: of a plan item what ranks need to know. */
struct rank_part {
    int start, len, n_logits;            /* as plan_item's q_start, q_len, n_logits */
    const int32_t *tok;                  /* [len] */
    const int32_t *table[KV_MAX_GROUPS]; /* [n_group][blocks of start + len tokens] */
};
struct ranks;

int ranks_open(struct comm *comm, const struct runner_config *c, int n_group, struct ranks **out,
               struct err *e);
void ranks_close(struct ranks *r);

/* The core's side. A step: begin, add for each sequence, tell. */
void ranks_begin(struct ranks *r);
int ranks_add(struct ranks *r, const struct rank_part *p, struct err *e);
int ranks_tell_step(struct ranks *r, struct err *e);
int ranks_tell(struct ranks *r, enum rank_message kind, int row, int n, struct err *e);

/* A worker's side: the next message, and the parts of a STEP, n_part of them, which point into the buffer. */
int ranks_hear(struct ranks *r, struct rank_head *h, struct err *e);
int ranks_next(struct ranks *r, struct rank_part *p, struct err *e);

/* A worker's whole life, on the calling thread: 0 after STOP, else the reason why the group is over. */
int ranks_follow(struct model *m, struct err *e);
/* Where this rank is: how many ranks run on exactly the cores that this one may run on, this one counted, and
 * how many of lower rank are on its host. Every rank calls this once. */
int ranks_place(struct comm *comm, int *sharers, int *local, struct err *e);
/* Memory that every rank may count on, so that all can have equal pools: the least of any device, or of any
 * host's memory the share of a rank there. Every rank calls this once, when its weights are loaded. */
int ranks_memory(struct comm *comm, struct backend *be, size_t *bytes, struct err *e);
