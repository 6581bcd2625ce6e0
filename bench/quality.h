/* How well a model predicts a text, and how far its predictions are from another's: perplexity, and the
 * divergence of the next-token distributions. One thread drives the runners directly, without an engine. */
#pragma once
#include "model.h"
#include "pool.h"

struct quality {
    const char *text; /* file */
    int window;       /* tokens; each window stands alone, and its second half is scored */
    const char *json; /* file for the results, or NULL */
    enum dtype kv_type;
};
/* base: the model to compare with, run with a float32 KV cache, or NULL. Prints to stdout. */
int quality_run(const struct quality *q, struct model *m, struct model *base, struct pool *pool,
                struct err *e);
