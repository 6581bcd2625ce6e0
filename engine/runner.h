/* The model runner: turns a batch_plan into device work. Owned by the engine thread. All memory is reserved
 * in runner_open; a step allocates nothing.
 *
 * Of a model of several ranks every rank has a runner, which computes its share (ranks.h). The core's is used
 * like any other; where one of its calls fails the group is over. A worker's only follows. */
#pragma once
#include "model.h"
#include "plan.h"

struct runner_config {
    int n_block, block_size; /* KV pool */
    int max_batch_tokens, max_seqs, max_ctx;
    enum dtype kv_type;
    int logit_rows; /* logits of so many rows at a time; 0 is 32 */
    int n_rank;     /* of the model; 0 is 1. For runner_measure: runner_open knows */
};
struct runner;

/* What the pool and the step buffers cost, before allocating anything. */
struct runner_budget {
    size_t block_bytes; /* one KV block */
    size_t activations; /* step buffers and back-end scratch */
    int n_group;        /* KV groups: blocks needed by a sequence come from kv_blocks_needed */
};
int runner_measure(const struct arch *a, const struct runner_config *c, struct runner_budget *out,
                   struct err *e);
int runner_open(struct model *m, const struct runner_config *c, struct runner **out, struct err *e);
void runner_close(struct runner *r);

/* Runs every layer for the plan and keeps the final hidden state of the plan's n_logits rows, in the plan's
 * order. On a device this is only begun; errors of its work come with the logits. */
int runner_forward(struct runner *r, const struct batch_plan *p, struct err *e);
/* Logits [n][vocab] of hidden rows [row, row + n) of the last forward, n <= runner_logits_max. Host memory
 * owned by the runner, writable (the sampler works in place), valid until the next call. */
int runner_logits(struct runner *r, int row, int n, float **logits, struct err *e);
int runner_logits_max(const struct runner *r);
/* Where the back end draws tokens itself, they come in place of logits: one result for each of the n >= 0
 * rows, there when runner_wait returns for them and valid until the second draw after this one. */
bool runner_draws(const struct runner *r);
int runner_draw(struct runner *r, int row, int n, const struct sample_row *how,
                const struct sample_result **out, struct err *e);
/* Waits for the work up to that draw. */
int runner_wait(struct runner *r, const struct sample_result *out, struct err *e);
/* Whether the next step may be run before the wait for this one's draw: a token ~row of a plan is then the
 * one that the last draw makes of that row. */
bool runner_overlaps(const struct runner *r);
/* Whether the other ranks are alive. For idle times; costs nothing where there are none. */
int runner_ping(struct runner *r, struct err *e);

/* A worker: hears one message of the core and does what it says. */
int runner_follow(struct runner *r, bool *stop, struct err *e);
/* Final hidden states of the last forward, for tests: bit for bit the same on all ranks. In the back end's
 * memory. */
const void *runner_hidden(const struct runner *r, size_t *bytes);
