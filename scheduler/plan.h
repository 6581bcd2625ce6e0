/* What one step computes, made by sched_step and read by the runner. Its items are valid until the next
 * sched_step. */
#pragma once
#include "seq.h"

struct plan_item {
    struct seq *seq; /* set to NULL by who keeps the plan if it is removed before the step is committed */
    int q_start;     /* position of the first token computed: seq->n_computed */
    int q_len;       /* 1 in decode; > 1 in prefill, for drafts, or for a diffusion block */
    int n_logits;    /* the last n_logits of the q_len rows need logits: 0, 1 or q_len */
    uint8_t mask;    /* 0 causal */
};
struct batch_plan {
    int n_item, n_tok, n_decode; /* the first n_decode items are decodes */
    int n_logits;                /* sum over items */
    struct plan_item *item;
};

/* What the engine decided after sampling, item by item, in the plan's order. */
struct step_item {
    int n_new; /* tokens drawn: 0 (prefill not finished) or 1 */
    int32_t token;
    bool finished; /* after appending: leave the running set and free the blocks */
};
struct step_result {
    int n_item;
    struct step_item *item;
};
