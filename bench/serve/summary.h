/* The numbers of a finished load, computed by vLLM's rules from its outcomes. Plain values; read-only after.
 */
#pragma once
#include "outcome.h"
#include "serve_options.h"

enum metric {
    METRIC_TTFT,
    METRIC_TPOT,
    METRIC_ITL,
    METRIC_E2EL,
    METRIC_QUEUE,
    METRIC_E2EL_QUEUE,
    METRIC_COUNT
};

struct metric_name {
    const char *key, *label, *title; /* of options and JSON, of lines, of sections */
};
extern const struct metric_name metric_names[METRIC_COUNT];

struct distribution { /* milliseconds */
    double mean, median, std, percentile[PERCENTILES_MAX];
};

struct summary {
    int completed, failed;
    double duration; /* seconds, first request to last answer */
    long long input_tokens, output_tokens;
    double request_rate, request_goodput; /* per second */
    double output_rate, token_rate;       /* tokens per second */
    double peak_output_rate;              /* chunks in the busiest second */
    int peak_concurrency;
    struct distribution metric[METRIC_COUNT];
};

/* False for metrics not asked for, and for those about the queue when there is none. */
bool summary_shows(const struct serve_options *o, enum metric m);
int summary_fill(struct summary *s, const struct serve_options *o, const struct outcome *out, int n,
                 double duration, struct err *e);
void summary_number(struct buf *b, double v);  /* the shortest text that reads back as v: "4.0", "0.1" */
void summary_percent(struct buf *b, double p); /* "99", "99.9" */
void summary_report(struct buf *b, const struct summary *s,
                    const struct serve_options *o); /* the printed block */
