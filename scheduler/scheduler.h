/* Continuous batching: who computes how many tokens in the next step. Pure integers, no threads, no clock.
 *
 * One token budget a step and no phases: running sequences come first (n_computed chases n_tok; decodes, then
 * prefill chunks), then waiting ones are admitted while budget, sequence slots and blocks last. When blocks
 * run out the youngest sequence of the lowest priority is preempted: its blocks go back (published ones stay
 * cached), it waits at the front of its class and recomputes later. The youngest itself never preempts
 * anyone: it takes a shorter chunk or sits the step out, keeping its blocks until someone older wants them. A
 * lone sequence that fills the pool is reported by sched_step as stuck, so that the engine can finish it with
 * `length`.
 *
 * Order is (priority, arrival) everywhere. Progress: blocks are granted in that order and taken from its end,
 * so the first sequence advances in every step, by at least one token, whatever the load.
 *
 * Owned by the engine thread; borrows kv and the sequences. Nothing here allocates after sched_open. */
#pragma once
#include "plan.h"

struct sched_config {
    int max_seqs;         /* running at once */
    int max_batch_tokens; /* budget of one step, >= max_seqs */
    int watermark;        /* free blocks kept back when admitting, so that decodes do not preempt at once */
    int max_chunk;        /* longest prefill chunk of one sequence in a step; 0 = the budget */
};
struct sched_stats {
    int n_waiting, n_running;
    uint64_t preemptions;
};
struct sched;

/* ERR_INVALID for nonsense. */
int sched_open(const struct sched_config *c, struct kv *kv, struct sched **out, struct err *e);
void sched_close(struct sched *s);
void sched_add(struct sched *s, struct seq *q);    /* q joins the waiting queue; q->kv initialised */
void sched_remove(struct sched *s, struct seq *q); /* cancel in any state, between steps; frees its blocks */
/* Takes a running sequence's blocks and sends it back to wait, as if the pool were short. Else does nothing.
 * For tests. */
void sched_preempt(struct sched *s, struct seq *q);
/* Plans the next step. Returns the number of items; 0 = nothing to do. *stuck is a sequence that can get no
 * further (it is alone and the pool is full, or it reached max_total), else NULL; the engine finishes it with
 * sched_remove, at once or after the step: it is not in the plan. While any sequence lives, items > 0, or
 * *stuck is set, or a launched step is not committed. */
int sched_step(struct sched *s, struct batch_plan *plan, struct seq **stuck);
/* The plan's step is under way: n_computed advances, the drawn tokens get their places, blocks are published,
 * since whatever reads them runs later. The next step may be planned before this one's outcome is known;
 * steps are committed in the order of their launches. */
void sched_launch(struct sched *s, const struct batch_plan *plan);
/* Takes the step's outcome: new tokens become known, blocks that these fill are published, finished sequences
 * leave. */
void sched_commit(struct sched *s, const struct batch_plan *plan, const struct step_result *res);
/* The most prompt tokens that a step computes beside decodes, at least one; for --target-itl-ms. Without
 * decodes nobody waits for the step, and prefill may take the whole budget. */
void sched_limit_prefill(struct sched *s, int n);
struct sched_stats sched_stats(const struct sched *s);
struct seq *sched_first(struct sched *s); /* any live sequence, NULL if none: for abort-all */
int sched_check(const struct sched *s,
                struct err *e); /* queues, counts and references agree; for tests and idle */
