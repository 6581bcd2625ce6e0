/* The parameters of one generation, as checked by whoever made them (server/, CLI). Plain data. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "ops.h"

#define STOP_MAX       4
#define STOP_LEN_MAX   1024
#define LOGPROBS_MAX   SAMPLE_TOP_MAX
#define LOGIT_BIAS_MAX 1024

struct gen_params {
    float temperature;                         /* 0 = greedy */
    float top_p;                               /* (0, 1]; 1 = off */
    int top_k;                                 /* 0 or -1 = off */
    float min_p;                               /* [0, 1]; 0 = off */
    float repetition_penalty;                  /* > 0; 1 = off; over prompt and answer (Keskar et al. 2019) */
    float frequency_penalty, presence_penalty; /* [-2, 2], over the answer */
    uint64_t seed;                             /* always set: drawn by the caller when the client gave none */
    int max_tokens;                            /* >= 1; clipped to the context by engine_submit */
    int min_tokens;
    bool ignore_eos, include_stop, keep_special; /* keep_special: special tokens are part of the text */
    int n_stop;
    char *stop[STOP_MAX]; /* byte strings, NUL bytes allowed: */
    int stop_len[STOP_MAX];
    int n_stop_token;
    int32_t *stop_token;
    int n_bias;
    struct logit_bias *bias; /* sorted by token, no duplicates */
    int logprobs;            /* -1 = none, else the number of alternatives 0..LOGPROBS_MAX */
    int prompt_logprobs;     /* -1 = none, else 0..LOGPROBS_MAX */
    int priority;            /* lower first */
    uint64_t cache_salt;     /* 0 = none */
};
void gen_params_init(struct gen_params *p); /* neutral defaults, max_tokens 16 */
int gen_params_copy(struct gen_params *dst, const struct gen_params *src); /* deep; 0 or ERR_NOMEM */
void gen_params_free(struct gen_params *p);
