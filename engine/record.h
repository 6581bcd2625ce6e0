/* Decode steps of some sizes, recorded when the runner opens and replayed from then on, by back ends that can
 * do that. Internal to the runner; engine thread. */
#pragma once
#include "ops.h"

#define RECORD_MAX_SIZES 40
struct record {
    int size[RECORD_MAX_SIZES], n; /* ascending rows; n 0: nothing is recorded */
};
/* The sizes for steps of up to `most` rows: powers of two, then growing by an eighth or so; most itself is
 * one. */
void record_sizes(struct record *r, int most);
/* The smallest recorded size that holds b, if b is a step of decodes: one row for each item, all with logits.
 * 0 = none. */
int record_size(const struct record *r, const struct batch *b);
