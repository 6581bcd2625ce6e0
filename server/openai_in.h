/* OpenAI's request JSON to parameters and prompts, strictly: every known field is checked, what is known but
 * not implemented is refused by name, unknown fields are listed. Pure functions over immutable facts, for any
 * thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"
#include "json.h"
#include "model.h"
#include "sampling.h"
#include "vec.h"

struct template;

enum api_kind { API_COMPLETION, API_CHAT };

struct api_env { /* facts of the served model; borrowed pointers */
    const struct tokenizer *tok;
    const struct template *tmpl; /* NULL = none */
    const char *name;            /* in the API */
    int vocab, max_model_len;
    struct gen_defaults gen;
    uint64_t seed; /* of requests that bring none; 0 = random */
};
struct api_prompt {
    struct vec_i32 ids;
    struct buf text; /* for echo: what the client sent */
};
struct api_request {
    enum api_kind kind;
    struct gen_params gen; /* seed: of choice 0; choice i gets seed + i */
    int n, n_prompt;
    struct api_prompt *prompt; /* [n_prompt] */
    bool seeded, stream, include_usage, continuous_usage;
    bool echo;
    bool no_answer;       /* max_tokens 0 with echo: the one generated token is not shown */
    bool prompt_logprobs; /* asked for by that name (echo needs them too) */
    bool return_token_ids, tokens_as_ids;
    struct buf ignored; /* names of unknown fields, comma separated; only letters, digits, _ . - */
};

/* ERR_INVALID and ERR_UNSUPPORTED name the field in e->param, ERR_NOTFOUND the model, ERR_TOO_LONG the
 * prompt. r must be freed whatever is returned. */
int api_parse(enum api_kind kind, const cJSON *body, const struct api_env *env, struct api_request *r,
              struct err *e);
void api_request_free(struct api_request *r);

/* The parameters of a request that says nothing: the model's own, where they are sane. */
void api_gen_defaults(const struct gen_defaults *d, struct gen_params *g);

/* For /tokenize too: a `model` field must name the served one. */
int api_check_model(const cJSON *body, const struct api_env *env, struct err *e);
int api_check_length(int n_tokens, const struct api_env *env, const char *param, struct err *e);
