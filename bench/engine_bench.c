#include "engine_bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "file.h"
#include "log.h"
#include "request.h"
#include "result.h"
#include "rng.h"

void engine_bench_init(struct engine_bench *b, bool latency)
{
    *b = (struct engine_bench){
        .latency = latency, .batch_size = 8, .warmup = 10, .iterations = 30, .num_prompts = 1000};
    b->input_len = latency ? 32 : 1024;
    b->output_len = 128;
}

/* n requests of random tokens, submitted together and waited for. Prompts are new each time, so that no
 * prefix is cached. */
static int run_batch(const struct engine_bench *b, struct engine *en, int vocab, int n, uint64_t *random,
                     bool progress, double *seconds, struct err *e)
{
    struct request **req = calloc((size_t)n, sizeof *req);
    int32_t *prompt = malloc((size_t)b->input_len * sizeof *prompt);
    int status = req && prompt ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    struct gen_params p;
    gen_params_init(&p);
    p.temperature = 0;
    p.ignore_eos = true;
    p.max_tokens = b->output_len;
    for (int i = 0; !status && i < n; i++) {
        for (int k = 0; k < b->input_len; k++) prompt[k] = (int32_t)(rng_next(random) % (uint64_t)vocab);
        status = request_new(prompt, b->input_len, &p, NULL, NULL, &req[i], e);
    }
    double start = clock_s();
    for (int i = 0; !status && i < n; i++) status = engine_submit(en, req[i], e);
    for (int i = 0; !status && i < n; i++) {
        struct out_batch out = {0};
        while (!request_take(req[i], &out, -1) || !out.done) {}
        if (out.finish != FINISH_LENGTH)
            status = err_set(e, ERR_IO, "a request ended early: %s", out.error.msg);
        if (progress) log_progress("requests", i + 1, n);
    }
    *seconds = clock_s() - start;
    for (int i = 0; req && i < n; i++) {
        if (req[i] && status) engine_cancel(en, req[i]);
        if (req[i]) request_release(req[i]);
    }
    free(req);
    free(prompt);
    gen_params_free(&p);
    return status;
}

static int run_latency(const struct engine_bench *b, struct engine *en, int vocab, struct err *e)
{
    static const int percents[] = {10, 25, 50, 75, 90, 99};
    double *t = calloc((size_t)b->iterations, sizeof *t), ignored, sum = 0;
    uint64_t random = b->seed;
    struct buf json = {0};
    int status = t ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; !status && i < b->warmup; i++)
        status = run_batch(b, en, vocab, b->batch_size, &random, false, &ignored, e);
    for (int i = 0; !status && i < b->iterations; i++) {
        status = run_batch(b, en, vocab, b->batch_size, &random, false, &t[i], e);
        sum += t[i];
        log_progress("iterations", i + 1, b->iterations);
    }
    if (!status) {
        buf_fmt(&json, "{\"avg_latency\": %.9g, \"latencies\": [", sum / b->iterations);
        for (int i = 0; i < b->iterations; i++) buf_fmt(&json, "%s%.9g", i ? ", " : "", t[i]);
        buf_str(&json, "], \"percentiles\": {");
        result_sort(t, b->iterations);
        printf("Avg latency: %.6f seconds\n", sum / b->iterations);
        for (int i = 0; i < 6; i++) {
            double v = result_percentile(t, b->iterations, percents[i]);
            printf("%d%% percentile latency: %.6f seconds\n", percents[i], v);
            buf_fmt(&json, "%s\"%d\": %.9g", i ? ", " : "", percents[i], v);
        }
        buf_str(&json, "}}\n");
        if (b->json) status = file_write(b->json, &json, false, e);
    }
    buf_free(&json);
    free(t);
    return status;
}

static int run_throughput(const struct engine_bench *b, struct engine *en, int vocab, struct err *e)
{
    double seconds;
    uint64_t random = b->seed;
    int status = run_batch(b, en, vocab, b->num_prompts, &random, true, &seconds, e);
    if (status) return status;
    long long in = (long long)b->num_prompts * b->input_len, out = (long long)b->num_prompts * b->output_len;
    double requests = b->num_prompts / seconds, tokens = (double)(in + out) / seconds;
    printf("Throughput: %.2f requests/s, %.2f total tokens/s, %.2f output tokens/s\n", requests, tokens,
           (double)out / seconds);
    printf("Total num prompt tokens:  %lld\nTotal num output tokens:  %lld\n", in, out);
    if (!b->json) return 0;
    struct buf json = {0};
    buf_fmt(&json,
            "{\"elapsed_time\": %.9g, \"num_requests\": %d, \"total_num_tokens\": %lld, "
            "\"requests_per_second\": %.9g, \"tokens_per_second\": %.9g}\n",
            seconds, b->num_prompts, in + out, requests, tokens);
    status = file_write(b->json, &json, false, e);
    buf_free(&json);
    return status;
}

int engine_bench_run(const struct engine_bench *b, struct engine *en, int vocab, struct err *e)
{
    return b->latency ? run_latency(b, en, vocab, e) : run_throughput(b, en, vocab, e);
}
