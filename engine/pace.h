/* How many prompt tokens a step may take so that the streams beside them need not wait longer than a target
 * for their next token (--target-itl-ms). Learns from each step what decodes alone and a prompt token cost.
 * Plain values, no clock; owned by the engine thread. */
#pragma once

struct pace {
    double target_s; /* 0 = no target */
    double decode_s; /* a step of decodes alone, running mean; 0 = none seen yet */
    double token_s;  /* a prompt token beside them, running mean; 0 = none seen yet */
};

void pace_note(struct pace *p, int n_decode, int n_prefill, double seconds);
/* At least PACE_LEAST, lest prefill starve when decodes alone take all of the target; full if nothing is
 * known. */
int pace_prefill(const struct pace *p, int full);

#define PACE_LEAST 16 /* tokens; fewer cost nearly as much, since weights are read for one as for all */
