/* The engine's metrics: vLLM's names and meaning, and inferd's own. Called by the engine thread only. */
#pragma once
#include "engine.h"

struct engine_metrics {
    struct metric *running, *waiting, *usage, *blocks_total, *blocks_free, *blocks_cached;
    struct metric *prompt_tokens, *generation_tokens, *prefix_queries, *prefix_hits, *preemptions, *aborted;
    struct metric *success[FINISH_ERROR + 1]; /* by finish_reason */
    struct metric *ttft, *itl, *tpot, *e2e, *queue, *prefill, *decode;
    struct metric *request_prompt, *request_generation, *iteration_tokens, *step_seconds;
    struct engine_stats last; /* what the counters include already */
};
void engine_metrics_init(struct engine_metrics *m, struct metrics *registry, const struct engine_config *c,
                         const struct engine_info *info);
void engine_metrics_stats(struct engine_metrics *m, const struct engine_stats *s);
void engine_metrics_step(struct engine_metrics *m, int n_tok, double seconds);
/* One generated token at time t; u is the usage before it. */
void engine_metrics_token(struct engine_metrics *m, const struct request_usage *u, double t);
/* A request left at time t. */
void engine_metrics_finish(struct engine_metrics *m, enum finish_reason f, const struct request_usage *u,
                           double t);
