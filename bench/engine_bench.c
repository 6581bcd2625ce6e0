#include "engine_bench.h"
#include <stddef.h>
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

struct times {       /* seconds */
    double all;      /* until the last request's end */
    double ttft;     /* until the first token of the one submitted last */
    double per_step; /* of a decode step of all requests; 0 with less than four tokens */
};

/* Waits for the request submitted last. From its first token on all requests decode, and until half of its
 * answer is there none has ended, if the prompts took no more steps than that. */
static void watch_last(struct request *r, int output_len, double start, struct times *t,
                       struct out_batch *out)
{
    double first = 0;
    int n = 0, seen = 0; /* tokens; those that came with the first */
    *out = (struct out_batch){0};
    while (!request_take(r, out, -1) || !out->done) {
        int before = n;
        n += out->n_tok;
        if (n && !seen) first = clock_s(), seen = n;
        if (before < output_len / 2 && n >= output_len / 2 && n > seen)
            t->per_step = (clock_s() - first) / (n - seen);
    }
    t->ttft = (seen ? first : clock_s()) - start;
}

/* n requests of random tokens, submitted together and waited for. Prompts are new each time, so that no
 * prefix is cached. */
static int run_batch(const struct engine_bench *b, struct engine *en, int vocab, int n, uint64_t *random,
                     bool progress, struct times *t, struct err *e)
{
    *t = (struct times){0};
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
        if (!i) /* the others' tokens wait meanwhile */
            watch_last(req[n - 1], b->output_len, start, t, &out);
        else
            while (!request_take(req[i - 1], &out, -1) || !out.done) {}
        if (out.finish != FINISH_LENGTH)
            status = err_set(e, ERR_IO, "a request ended early: %s", out.error.msg);
        if (progress) log_progress("requests", i + 1, n);
    }
    t->all = clock_s() - start;
    for (int i = 0; req && i < n; i++) {
        if (req[i] && status) engine_cancel(en, req[i]);
        if (req[i]) request_release(req[i]);
    }
    free(req);
    free(prompt);
    gen_params_free(&p);
    return status;
}

static void put_list(struct buf *json, const char *name, const struct times *t, int n, size_t field)
{
    buf_fmt(json, ", \"%s\": [", name);
    for (int i = 0; i < n; i++)
        buf_fmt(json, "%s%.9g", i ? ", " : "", *(const double *)((const char *)&t[i] + field));
    buf_str(json, "]");
}

static double median(const struct times *t, int n, size_t field, double *scratch)
{
    for (int i = 0; i < n; i++) scratch[i] = *(const double *)((const char *)&t[i] + field);
    result_sort(scratch, n);
    return result_percentile(scratch, n, 50);
}

static int report_latency(const struct engine_bench *b, const struct times *t, double *scratch, struct err *e)
{
    static const int percents[] = {10, 25, 50, 75, 90, 99};
    int n = b->iterations, status = 0;
    double sum = 0, ttft = median(t, n, offsetof(struct times, ttft), scratch),
           step = median(t, n, offsetof(struct times, per_step), scratch);
    struct buf json = {0};
    for (int i = 0; i < n; i++) sum += t[i].all;
    buf_fmt(&json, "{\"avg_latency\": %.9g", sum / n);
    put_list(&json, "latencies", t, n, offsetof(struct times, all));
    put_list(&json, "ttfts", t, n, offsetof(struct times, ttft));
    put_list(&json, "steps", t, n, offsetof(struct times, per_step));
    buf_fmt(&json, ", \"median_ttft\": %.9g, \"median_step\": %.9g, \"percentiles\": {", ttft, step);
    printf("Avg latency: %.6f seconds\n", sum / n);
    (void)median(t, n, offsetof(struct times, all), scratch);
    for (int i = 0; i < 6; i++) {
        double v = result_percentile(scratch, n, percents[i]);
        printf("%d%% percentile latency: %.6f seconds\n", percents[i], v);
        buf_fmt(&json, "%s\"%d\": %.9g", i ? ", " : "", percents[i], v);
    }
    printf("Median time to the last request's first token: %.6f seconds\n", ttft);
    if (step > 0) printf("Median decode step of %d requests: %.6f seconds\n", b->batch_size, step);
    buf_str(&json, "}}\n");
    if (b->json) status = file_write(b->json, &json, false, e);
    buf_free(&json);
    return status;
}

static int run_latency(const struct engine_bench *b, struct engine *en, int vocab, struct err *e)
{
    struct times *t = calloc((size_t)b->iterations, sizeof *t), ignored;
    double *scratch = calloc((size_t)b->iterations, sizeof *scratch);
    uint64_t random = b->seed;
    int status = t && scratch ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; !status && i < b->warmup; i++)
        status = run_batch(b, en, vocab, b->batch_size, &random, false, &ignored, e);
    /* Without a batch before, the engine may still be warming up. */
    if (b->profile && b->warmup) profile_reset(b->profile);
    for (int i = 0; !status && i < b->iterations; i++) {
        status = run_batch(b, en, vocab, b->batch_size, &random, false, &t[i], e);
        log_progress("iterations", i + 1, b->iterations);
    }
    if (!status) status = report_latency(b, t, scratch, e);
    free(scratch);
    free(t);
    return status;
}

static int run_throughput(const struct engine_bench *b, struct engine *en, int vocab, struct err *e)
{
    struct times t;
    uint64_t random = b->seed;
    int status = run_batch(b, en, vocab, b->num_prompts, &random, true, &t, e);
    if (status) return status;
    double seconds = t.all;
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
    int status = b->latency ? run_latency(b, en, vocab, e) : run_throughput(b, en, vocab, e);
    if (!status && b->profile) profile_print(b->profile, stdout);
    return status;
}
