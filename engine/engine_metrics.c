#include "engine_metrics.h"
#include <stdio.h>

#define N(a) ((int)(sizeof(a) / sizeof *(a)))

/* vLLM's edges, and finer ones below 10 ms for small models. Seconds. */
static const double EDGES_TTFT[] = {.001, .0025, .005, .01, .02, .04, .06, .08, .1,  .25, .5,  .75,
                                    1,    2.5,   5,    7.5, 10,  20,  40,  80,  160, 640, 2560};
static const double EDGES_ITL[] = {.001, .002, .003, .004, .005, .006, .008, .01, .025, .05, .075, .1, .15,
                                   .2,   .3,   .4,   .5,   .75,  1,    2.5,  5,   7.5,  10,  20,   40, 80};
static const double EDGES_REQUEST[] = {.001, .0025, .005, .01, .025, .05, .1,  .2,   .3,  .5,
                                       .8,   1,     1.5,  2,   2.5,  5,   10,  15,   20,  30,
                                       40,   50,    60,   120, 240,  480, 960, 1920, 7680};
static const double EDGES_ITERATION[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};

/* 1, 2, 5, 10, 20, 50 ... up to max; returns how many. */
static int edges_125(double *edge, int cap, double max)
{
    static const double step[] = {1, 2, 5};
    int n = 0;
    double scale = 1;
    for (; n < cap && step[n % 3] * scale <= max; n++) {
        edge[n] = step[n % 3] * scale;
        if (n % 3 == 2) scale *= 10;
    }
    return n ? n : (edge[0] = 1, 1);
}

static void init_gauges(struct engine_metrics *m, struct metrics *r, const struct engine_config *c,
                        const struct engine_info *info)
{
    char labels[256];
    snprintf(labels, sizeof labels,
             "block_size=\"%d\",num_gpu_blocks=\"%d\",num_cpu_blocks=\"0\",cache_dtype=\"%s\","
             "enable_prefix_caching=\"%s\",gpu_memory_utilization=\"%g\"",
             info->block_size, info->n_block, dtype_info(c->kv_type)->name,
             c->prefix_cache ? "True" : "False", c->memory_fraction);
    metrics_info(r, "vllm:cache_config_info", "Information of the KV cache configuration", labels);
    m->running = metrics_gauge(r, "vllm:num_requests_running", "Requests in the running batch");
    m->waiting = metrics_gauge(r, "vllm:num_requests_waiting", "Requests waiting to be scheduled");
    m->usage = metrics_gauge(r, "vllm:kv_cache_usage_perc", "Share of KV blocks in use (1 = all)");
    m->blocks_total = metrics_gauge(r, "inferd:kv_blocks_total", "KV blocks in the pool");
    m->blocks_free = metrics_gauge(r, "inferd:kv_blocks_free", "KV blocks free or evictable");
    m->blocks_cached =
        metrics_gauge(r, "inferd:kv_blocks_cached", "Unused KV blocks kept in the prefix cache");
    metric_set(m->blocks_total, info->n_block);
    metric_set(m->blocks_free, info->n_block);
}

static void init_counters(struct engine_metrics *m, struct metrics *r)
{
    m->prompt_tokens = metrics_counter(r, "vllm:prompt_tokens_total", "Prompt tokens processed", NULL, NULL);
    m->generation_tokens = metrics_counter(r, "vllm:generation_tokens_total", "Tokens generated", NULL, NULL);
    m->prefix_queries = metrics_counter(r, "vllm:prefix_cache_queries_total",
                                        "Tokens looked up in the prefix cache", NULL, NULL);
    m->prefix_hits =
        metrics_counter(r, "vllm:prefix_cache_hits_total", "Tokens found in the prefix cache", NULL, NULL);
    m->preemptions =
        metrics_counter(r, "vllm:num_preemptions_total", "Preemptions by the scheduler", NULL, NULL);
    for (int f = FINISH_STOP; f <= FINISH_ERROR; f++)
        m->success[f] = metrics_counter(r, "vllm:request_success_total", "Requests finished, by reason",
                                        "finished_reason", finish_reason_name((enum finish_reason)f));
    m->aborted =
        metrics_counter(r, "inferd:requests_aborted_total", "Requests cancelled or aborted", NULL, NULL);
}

static struct metric *seconds(struct metrics *r, const char *name, const char *help)
{
    return metrics_histogram(r, name, help, EDGES_REQUEST, N(EDGES_REQUEST));
}

static void init_histograms(struct engine_metrics *m, struct metrics *r, const struct engine_info *info)
{
    double edge[32];
    int n = edges_125(edge, N(edge), info->max_model_len);
    m->ttft = metrics_histogram(r, "vllm:time_to_first_token_seconds", "Time to first token in seconds",
                                EDGES_TTFT, N(EDGES_TTFT));
    m->itl = metrics_histogram(r, "vllm:inter_token_latency_seconds", "Time between tokens in seconds",
                               EDGES_ITL, N(EDGES_ITL));
    m->tpot = metrics_histogram(r, "vllm:request_time_per_output_token_seconds",
                                "Mean time per token after the first, by request, in seconds", EDGES_ITL,
                                N(EDGES_ITL));
    m->e2e = seconds(r, "vllm:e2e_request_latency_seconds", "Time from arrival to the end in seconds");
    m->queue = seconds(r, "vllm:request_queue_time_seconds", "Time spent waiting in seconds");
    m->prefill =
        seconds(r, "vllm:request_prefill_time_seconds", "Time from scheduling to first token in seconds");
    m->decode = seconds(r, "vllm:request_decode_time_seconds", "Time from first to last token in seconds");
    m->request_prompt =
        metrics_histogram(r, "vllm:request_prompt_tokens", "Prompt tokens of a request", edge, n);
    m->request_generation =
        metrics_histogram(r, "vllm:request_generation_tokens", "Generated tokens of a request", edge, n);
    m->iteration_tokens = metrics_histogram(r, "vllm:iteration_tokens_total", "Tokens computed in a step",
                                            EDGES_ITERATION, N(EDGES_ITERATION));
    m->step_seconds = metrics_histogram(r, "inferd:step_seconds", "Time of an engine step in seconds",
                                        EDGES_ITL, N(EDGES_ITL));
}

void engine_metrics_init(struct engine_metrics *m, struct metrics *registry, const struct engine_config *c,
                         const struct engine_info *info)
{
    *m = (struct engine_metrics){0};
    if (!registry) return;
    init_gauges(m, registry, c, info);
    init_counters(m, registry);
    init_histograms(m, registry, info);
}

void engine_metrics_stats(struct engine_metrics *m, const struct engine_stats *s)
{
    metric_set(m->running, s->running);
    metric_set(m->waiting, s->waiting);
    metric_set(m->usage, s->kv.total ? (double)s->kv.used / s->kv.total : 0);
    metric_set(m->blocks_free, s->kv.free + s->kv.cached);
    metric_set(m->blocks_cached, s->kv.cached);
    metric_add(m->prefix_queries, (double)(s->kv.query_tokens - m->last.kv.query_tokens));
    metric_add(m->prefix_hits, (double)(s->kv.hit_tokens - m->last.kv.hit_tokens));
    metric_add(m->preemptions, (double)(s->preemptions - m->last.preemptions));
    m->last = *s;
}

void engine_metrics_step(struct engine_metrics *m, int n_tok, double seconds)
{
    metric_observe(m->iteration_tokens, n_tok);
    metric_observe(m->step_seconds, seconds);
}

void engine_metrics_token(struct engine_metrics *m, const struct request_usage *u, double t)
{
    metric_add(m->generation_tokens, 1);
    if (u->completion_tokens) {
        metric_observe(m->itl, t - u->t_last_token);
    } else {
        metric_add(m->prompt_tokens, u->prompt_tokens);
        metric_observe(m->ttft, t - u->t_arrival);
    }
}

void engine_metrics_finish(struct engine_metrics *m, enum finish_reason f, const struct request_usage *u,
                           double t)
{
    metric_add(m->success[f], 1);
    if (f == FINISH_ABORT) metric_add(m->aborted, 1);
    metric_observe(m->e2e, t - u->t_arrival);
    metric_observe(m->request_prompt, u->prompt_tokens);
    metric_observe(m->request_generation, u->completion_tokens);
    if (u->t_scheduled > 0) metric_observe(m->queue, u->t_scheduled - u->t_arrival);
    if (!u->completion_tokens) return;
    metric_observe(m->prefill, u->t_first_token - u->t_scheduled);
    metric_observe(m->decode, u->t_last_token - u->t_first_token);
    if (u->completion_tokens > 1)
        metric_observe(m->tpot, (u->t_last_token - u->t_first_token) / (u->completion_tokens - 1));
}
