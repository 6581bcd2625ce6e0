/* Benchmarks of the engine in this process, without HTTP, with vLLM's flags, output lines and JSON keys. */
#pragma once
#include "engine.h"
#include "err.h"
#include "profile.h"

struct engine_bench {
    bool latency;              /* one batch at a time; else throughput: all requests at once */
    int input_len, output_len; /* tokens; output_len counts the first one too */
    int batch_size;            /* latency: requests in a batch */
    int warmup, iterations;    /* latency: batches */
    int num_prompts;           /* throughput: requests */
    uint64_t seed;             /* of the random prompts */
    const char *json;          /* file for the results, or NULL */
    struct backend *profile;   /* the engine's back end if its ops are timed (profile.h), or NULL */
};
void engine_bench_init(struct engine_bench *b, bool latency); /* vLLM's defaults */
int engine_bench_run(const struct engine_bench *b, struct engine *en, int vocab,
                     struct err *e); /* prints to stdout */
