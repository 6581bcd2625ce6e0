/* The measurement: sends the requests at their times, at most max_active at once, and fills an outcome each.
 */
#pragma once
#include "client.h"
#include "dataset.h"
#include "outcome.h"

struct load {
    struct client *client;
    const struct serve_options *opt;
    const char *model;
    const cJSON *extra; /* parsed --extra-body, or NULL */
    const char *what;   /* progress line; NULL: none */
    int max_active;     /* 0: no limit */
};

/* Request i is p[i * step]: step 0 repeats the first (warm-up). due[n] in seconds from now, ascending, or
 * NULL for all at once. out[n] must be zero; duration in seconds. A failed request is an outcome, not an
 * error. */
int load_run(const struct load *l, const struct prompt *p, int step, int n, const double *due,
             struct outcome *out, double *duration, struct err *e);
