/* A tiny model against outputs that transformers computed (fp32 arithmetic on the bf16 weights): logits,
 * prompt log-probabilities, greedy continuations, and the same bits when prompts come in chunks. For tests.
 */
#pragma once
#include "rig.h"

/* What a type of cache may cost: logits and mean log-probabilities; and the lead that a token must have for
 * its loss to be an error. */
struct golden_limits {
    enum dtype kv_type;
    double logit, logprob, gap;
};
enum { GOLDEN_CACHES = 2 }; /* types of cache that a back end is tested with */
/* What the i-th of them may cost. */
const struct golden_limits *golden_limits(const struct backend *be, int i);
/* comm: to the other ranks of be, or NULL. */
void golden_check(const char *name, struct backend *be, struct comm *comm, const struct golden_limits *l);
/* The outputs were made by a model that had been cast to bfloat16 and back: its rotary frequencies went
 * along. */
void golden_round_ropes(struct arch *a);
