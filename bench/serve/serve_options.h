/* The options of `bench serve`: vLLM's names, defaults and rules. Filled once at start, read-only afterwards.
 * Strings point into argv or are constants. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"

#define SERVE_LIST_MAX  32 /* entries of --header, --metadata, --goodput */
#define PERCENTILES_MAX 16

struct serve_list {
    const char *v[SERVE_LIST_MAX];
    int n;
};

struct serve_options {
    const char *backend, *base_url, *host, *endpoint, *model, *served_model_name, *tokenizer;
    const char *dataset_name, *dataset_path, *percentile_metrics, *metric_percentiles, *extra_body;
    const char *result_dir, *result_filename, *label, *request_id_prefix, *itl_thresholds, *plot;
    int port, num_prompts, max_concurrency, num_warmups, ready_timeout,
        silence_timeout; /* 0: none, seconds */
    int input_len, output_len, random_input_len, random_output_len, random_prefix_len, sharegpt_output_len;
    int prefix_len, suffix_len, num_prefixes, prefix_output_len;
    int seed, logprobs, top_k;                           /* INT_MIN: not given */
    double random_range_ratio, request_rate, burstiness; /* rate: INFINITY is all at once */
    double temperature, top_p, min_p, frequency_penalty, presence_penalty,
        repetition_penalty; /* NAN: not given */
    bool ignore_eos, save_result, save_detailed, append_result, plot_timeline, no_progress, help;
    struct serve_list header, metadata, goodput;
    /* Derived by serve_options_load. */
    bool chat;
    double percentile[PERCENTILES_MAX]; /* [n_percentile] 0 to 100 */
    int n_percentile;
    double slo[3];                                     /* ttft, tpot, e2el in ms; NAN: none */
    double itl_threshold[2];                           /* ms */
    char id_prefix[128], url_host[256], url_path[512]; /* path: what stands before the endpoint */
    int url_port;
};

/* argv holds what follows "serve". ERR_INVALID or ERR_UNSUPPORTED name the option. */
int serve_options_load(struct serve_options *o, int argc, char **argv, struct err *e);
void serve_options_help(struct buf *out);
