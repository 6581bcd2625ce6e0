/* What one request measured. The load loop owns an array of outcomes and feeds each with its stream's events;
 * statistics, report, JSON and plot only read it. Times are seconds. */
#pragma once
#include <stdbool.h>
#include "buf.h"
#include "err.h"

struct outcome {
    bool success;
    double start;      /* monotonic clock, when the request was sent (connecting included) */
    double queue_time; /* waited here for --max-concurrency */
    double ttft;       /* start to the first chunk with choices */
    double latency;    /* start to the last chunk with choices */
    double *itl;       /* [n_itl] gaps between chunks with choices */
    int n_itl, cap_itl;
    int prompt_len, output_tokens; /* as the server's usage says, else expected tokens and counted chunks */
    bool has_first, has_usage;
    struct buf text; /* the answer, if keep_text */
    bool keep_text;
    char error[256]; /* "" unless failed */
};

void outcome_free(struct outcome *o);
/* The data of one event that arrived at time now (monotonic seconds). An error event, or data that is no
 * JSON, is an error. "[DONE]" is accepted and not required. */
int outcome_event(struct outcome *o, const char *data, size_t n, double now, struct err *e);
/* The stream ended without an error: decides success. */
void outcome_end(struct outcome *o);
void outcome_fail(struct outcome *o, const char *why);
