#include "openai_in.h"
#include <math.h>
#include <sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "chat.h"
#include "fields.h"
#include "tokenizer.h"

#define N_MAX          128
#define PROMPTS_MAX    1024
#define CHOICES_MAX    1024 /* n x prompts */
#define STOP_IDS_MAX   1024
#define CACHE_SALT_MAX 128

static int wrong(struct err *e, const char *param, const char *what)
{
    return err_param(e, ERR_INVALID, param, "%s: %s", param, what);
}

int api_check_model(const cJSON *body, const struct api_env *env, struct err *e)
{
    const cJSON *m = json_get(body, "model");
    if (!m) return 0;
    if (!cJSON_IsString(m)) return wrong(e, "model", "must be a string");
    if (!strcmp(m->valuestring, env->name)) return 0;
    return err_param(e, ERR_NOTFOUND, "model", "the model `%.60s` does not exist", m->valuestring);
}

int api_check_length(int n_tokens, const struct api_env *env, const char *param, struct err *e)
{
    if (n_tokens == 0) return wrong(e, param, "the prompt is empty");
    if (n_tokens < env->max_model_len) return 0;
    return err_param(
        e, ERR_TOO_LONG, param,
        "This model's maximum context length is %d tokens. However, your request has %d input tokens and "
        "leaves no room for an answer.",
        env->max_model_len, n_tokens);
}

/* Numbers with a range; `above` excludes the lower end. */
static void get_float(const cJSON *b, const char *key, double min, double max, bool above, float *out,
                      struct err *e)
{
    double v;
    if (e->code || !json_get_num(b, key, min, max, &v, e)) return;
    if (above && v <= min)
        err_param(e, ERR_INVALID, key, "%s: must be above %g and at most %g", key, min, max);
    else
        *out = (float)v;
}

static bool get_int(const cJSON *b, const char *key, int64_t min, int64_t max, int *out, struct err *e)
{
    int64_t v;
    if (e->code || !json_get_int(b, key, min, max, &v, e)) return false;
    *out = (int)v;
    return true;
}

static void get_bool(const cJSON *b, const char *key, bool *out, struct err *e)
{
    if (!e->code) json_get_bool(b, key, out, e);
}

void api_gen_defaults(const struct gen_defaults *d, struct gen_params *g)
{
    gen_params_init(g);
    if (d->temperature >= 0) g->temperature = d->temperature; /* false for NAN, too */
    if (d->top_p > 0 && d->top_p <= 1) g->top_p = d->top_p;
    if (d->min_p >= 0 && d->min_p <= 1) g->min_p = d->min_p;
    if (d->repetition_penalty > 0) g->repetition_penalty = d->repetition_penalty;
    if (d->top_k >= 0) g->top_k = d->top_k;
}

static int get_sampling(const cJSON *b, const struct api_env *env, struct api_request *r, struct err *e)
{
    struct gen_params *g = &r->gen;
    api_gen_defaults(&env->gen, g);
    bool skip_special = true;
    get_float(b, "temperature", 0, 2, false, &g->temperature, e);
    get_float(b, "top_p", 0, 1, true, &g->top_p, e);
    get_float(b, "min_p", 0, 1, false, &g->min_p, e);
    get_float(b, "repetition_penalty", 0, 100, true, &g->repetition_penalty, e);
    get_float(b, "frequency_penalty", -2, 2, false, &g->frequency_penalty, e);
    get_float(b, "presence_penalty", -2, 2, false, &g->presence_penalty, e);
    get_int(b, "top_k", -1, INT32_MAX, &g->top_k, e);
    get_int(b, "priority", INT32_MIN, INT32_MAX, &g->priority, e);
    get_bool(b, "ignore_eos", &g->ignore_eos, e);
    get_bool(b, "include_stop_str_in_output", &g->include_stop, e);
    get_bool(b, "skip_special_tokens", &skip_special, e);
    get_bool(b, "return_token_ids", &r->return_token_ids, e);
    get_bool(b, "return_tokens_as_token_ids", &r->tokens_as_ids, e);
    g->keep_special = !skip_special;
    int64_t seed;
    g->seed = env->seed;
    r->seeded = env->seed != 0;
    if (!e->code && json_get_int(b, "seed", INT64_MIN, INT64_MAX, &seed, e)) {
        g->seed = (uint64_t)seed;
        r->seeded = true;
    }
    if (!r->seeded && getrandom(&g->seed, sizeof g->seed, 0) != sizeof g->seed)
        return err_set(e, ERR_IO, "no random numbers");
    return e->code;
}

static int get_lengths(const cJSON *b, const struct api_env *env, struct api_request *r, struct err *e)
{
    struct gen_params *g = &r->gen;
    bool chat = r->kind == API_CHAT;
    if (chat) g->max_tokens = env->gen.max_new_tokens > 0 ? env->gen.max_new_tokens : INT32_MAX;
    get_bool(b, "echo", &r->echo, e);
    if (chat && r->echo && !e->code)
        return err_param(e, ERR_UNSUPPORTED, "echo", "echo: not supported for chat");
    int64_t min = r->echo ? 0 : 1;
    bool given = get_int(b, "max_tokens", min, INT32_MAX, &g->max_tokens, e);
    if (chat) given |= get_int(b, "max_completion_tokens", min, INT32_MAX, &g->max_tokens, e);
    get_int(b, "min_tokens", 0, INT32_MAX, &g->min_tokens, e);
    if (e->code) return e->code;
    if (given && g->max_tokens == 0) {
        r->no_answer = true;
        g->max_tokens = 1;
    }
    if (g->min_tokens > g->max_tokens) return wrong(e, "min_tokens", "must not be above max_tokens");
    return 0;
}

static int get_logprobs(const cJSON *b, struct api_request *r, struct err *e)
{
    struct gen_params *g = &r->gen;
    if (r->kind == API_CHAT) {
        bool on = false;
        int top = 0;
        get_bool(b, "logprobs", &on, e);
        bool given = get_int(b, "top_logprobs", 0, LOGPROBS_MAX, &top, e);
        if (!e->code && given && top > 0 && !on) return wrong(e, "top_logprobs", "needs logprobs: true");
        g->logprobs = on ? top : -1;
    } else {
        get_int(b, "logprobs", 0, LOGPROBS_MAX, &g->logprobs, e);
    }
    r->prompt_logprobs = get_int(b, "prompt_logprobs", 0, LOGPROBS_MAX, &g->prompt_logprobs, e);
    if (e->code) return e->code;
    if (r->prompt_logprobs && r->stream) return wrong(e, "prompt_logprobs", "cannot be streamed");
    if (r->echo && g->logprobs > g->prompt_logprobs) g->prompt_logprobs = g->logprobs;
    return 0;
}

static int add_stop(struct gen_params *g, const cJSON *s, struct err *e)
{
    struct buf text = {0};
    if (!cJSON_IsString(s)) return wrong(e, "stop", "must be a string or a list of strings");
    if (g->n_stop == STOP_MAX) return err_param(e, ERR_INVALID, "stop", "stop: at most %d strings", STOP_MAX);
    json_str(s, &text);
    int status = 0;
    if (text.failed)
        status = err_set(e, ERR_NOMEM, "out of memory");
    else if (text.len == 0 || text.len > STOP_LEN_MAX)
        status = err_param(e, ERR_INVALID, "stop", "stop: a string must have 1 to %d bytes", STOP_LEN_MAX);
    if (status) {
        buf_free(&text);
        return status;
    }
    g->stop_len[g->n_stop] = (int)text.len;
    g->stop[g->n_stop++] = text.data; /* malloc'ed, as gen_params_free wants it */
    return 0;
}

/* A list of token ids, each within the vocabulary. */
static int get_ids(const cJSON *list, const char *param, int max, const struct api_env *env,
                   struct vec_i32 *out, struct err *e)
{
    for (const cJSON *v = list->child; v; v = v->next) {
        double d = cJSON_IsNumber(v) ? v->valuedouble : NAN;
        if (!(d >= 0 && d < env->vocab) || d != floor(d))
            return err_param(e, ERR_INVALID, param, "%s: a token id must be an integer from 0 to %d", param,
                             env->vocab - 1);
        if (out->n >= max) return err_param(e, ERR_INVALID, param, "%s: at most %d entries", param, max);
        if (vec_i32_push(out, (int32_t)d)) return err_set(e, ERR_NOMEM, "out of memory");
    }
    return 0;
}

static int get_stops(const cJSON *b, const struct api_env *env, struct gen_params *g, struct err *e)
{
    const cJSON *stop = json_get(b, "stop"), *ids = json_get(b, "stop_token_ids");
    int status = 0;
    if (cJSON_IsArray(stop)) {
        for (const cJSON *s = stop->child; s && !status; s = s->next) status = add_stop(g, s, e);
    } else if (stop) {
        status = add_stop(g, stop, e);
    }
    if (status || !ids) return status;
    if (!cJSON_IsArray(ids)) return wrong(e, "stop_token_ids", "must be a list of token ids");
    struct vec_i32 v = {0};
    status = get_ids(ids, "stop_token_ids", STOP_IDS_MAX, env, &v, e);
    g->stop_token = v.v; /* freed with g in any case */
    g->n_stop_token = v.n;
    return status;
}

static int by_token(const void *a, const void *b)
{
    int32_t x = ((const struct logit_bias *)a)->token, y = ((const struct logit_bias *)b)->token;
    return (x > y) - (x < y);
}

/* A plain decimal number without sign or leading zeros; -1 otherwise. */
static int32_t parse_token_key(const char *s)
{
    if (!*s || (*s == '0' && s[1]) || strlen(s) > 9 || strspn(s, "0123456789") != strlen(s)) return -1;
    return (int32_t)strtol(s, NULL, 10);
}

static int get_bias(const cJSON *b, const struct api_env *env, struct gen_params *g, struct err *e)
{
    const cJSON *o = json_get(b, "logit_bias");
    if (!o) return 0;
    if (!cJSON_IsObject(o)) return wrong(e, "logit_bias", "must be an object of token id to bias");
    int n = cJSON_GetArraySize(o);
    if (n > LOGIT_BIAS_MAX)
        return err_param(e, ERR_INVALID, "logit_bias", "logit_bias: at most %d entries", LOGIT_BIAS_MAX);
    if (n == 0) return 0;
    g->bias = calloc((size_t)n, sizeof *g->bias);
    if (!g->bias) return err_set(e, ERR_NOMEM, "out of memory");
    for (const cJSON *v = o->child; v; v = v->next) {
        int32_t token = parse_token_key(v->string);
        if (token < 0 || token >= env->vocab)
            return err_param(e, ERR_INVALID, "logit_bias",
                             "logit_bias: a key must be a token id from 0 to %d", env->vocab - 1);
        if (!cJSON_IsNumber(v) || !(v->valuedouble >= -100 && v->valuedouble <= 100))
            return wrong(e, "logit_bias", "a bias must be a number between -100 and 100");
        g->bias[g->n_bias++] = (struct logit_bias){token, (float)v->valuedouble};
    }
    qsort(g->bias, (size_t)n, sizeof *g->bias, by_token);
    return 0;
}

static int get_cache_salt(const cJSON *b, struct gen_params *g, struct err *e)
{
    const cJSON *s = json_get(b, "cache_salt");
    if (!s) return 0;
    size_t n = cJSON_IsString(s) ? strlen(s->valuestring) : 0;
    if (n == 0 || n > CACHE_SALT_MAX)
        return err_param(e, ERR_INVALID, "cache_salt", "cache_salt: must be a string of 1 to %d bytes",
                         CACHE_SALT_MAX);
    uint8_t hash[SHA256_DIGEST_LENGTH];
    SHA2_CTX c;
    SHA256Init(&c);
    SHA256Update(&c, (const uint8_t *)s->valuestring, n);
    SHA256Final(hash, &c);
    memcpy(&g->cache_salt, hash, sizeof g->cache_salt);
    if (!g->cache_salt) g->cache_salt = 1; /* 0 means none */
    return 0;
}

static int get_stream(const cJSON *b, struct api_request *r, struct err *e)
{
    get_bool(b, "stream", &r->stream, e);
    const cJSON *o = json_get(b, "stream_options");
    if (e->code || !o) return e->code;
    if (!cJSON_IsObject(o)) return wrong(e, "stream_options", "must be an object");
    if (!r->stream) return wrong(e, "stream_options", "needs stream: true");
    get_bool(o, "include_usage", &r->include_usage, e);
    get_bool(o, "continuous_usage_stats", &r->continuous_usage, e);
    return e->code;
}

static int get_text_prompt(const cJSON *s, unsigned flags, const struct api_env *env, struct api_prompt *p,
                           struct err *e)
{
    json_str(s, &p->text);
    if (p->text.failed) return err_set(e, ERR_NOMEM, "out of memory");
    int status = tok_encode(env->tok, p->text.data ? p->text.data : "", p->text.len, flags, &p->ids, e);
    return status ? status : api_check_length(p->ids.n, env, "prompt", e);
}

static int get_id_prompt(const cJSON *list, const struct api_env *env, struct api_request *r,
                         struct api_prompt *p, struct err *e)
{
    int n = cJSON_GetArraySize(list);
    int status = api_check_length(n, env, "prompt", e);
    if (!status) status = get_ids(list, "prompt", n, env, &p->ids, e);
    if (!status && r->echo) status = tok_decode(env->tok, p->ids.v, p->ids.n, !r->gen.keep_special, &p->text);
    return status;
}

/* A string, a list of strings, a list of token ids, or a list of those. */
static int get_prompts(const cJSON *b, const struct api_env *env, struct api_request *r, struct err *e)
{
    const cJSON *prompt = json_get(b, "prompt");
    if (!prompt) return wrong(e, "prompt", "is required");
    bool many = cJSON_IsArray(prompt) && !cJSON_IsNumber(prompt->child);
    int n = many ? cJSON_GetArraySize(prompt) : 1;
    if (n < 1 || n > PROMPTS_MAX)
        return err_param(e, ERR_INVALID, "prompt", "prompt: a list must have 1 to %d entries", PROMPTS_MAX);
    bool special = true;
    get_bool(b, "add_special_tokens", &special, e);
    if (e->code) return e->code;
    unsigned flags = TOK_PARSE_SPECIAL | (special ? TOK_ADD_SPECIAL : 0);
    r->prompt = calloc((size_t)n, sizeof *r->prompt);
    if (!r->prompt) return err_set(e, ERR_NOMEM, "out of memory");
    r->n_prompt = n;
    const cJSON *p = many ? prompt->child : prompt;
    int status = 0;
    for (int i = 0; i < n && !status; i++, p = p->next) {
        if (cJSON_IsString(p))
            status = get_text_prompt(p, flags, env, &r->prompt[i], e);
        else if (cJSON_IsArray(p))
            status = get_id_prompt(p, env, r, &r->prompt[i], e);
        else
            status = wrong(e, "prompt",
                           "must be a string, a list of strings, a list of token ids, or a list of those");
    }
    return status;
}

static int get_chat(const cJSON *b, const struct api_env *env, struct api_request *r, struct err *e)
{
    r->prompt = calloc(1, sizeof *r->prompt);
    if (!r->prompt) return err_set(e, ERR_NOMEM, "out of memory");
    r->n_prompt = 1;
    int status = chat_tokens(b, env, &r->prompt->ids, e);
    return status ? status : api_check_length(r->prompt->ids.n, env, "messages", e);
}

int api_parse(enum api_kind kind, const cJSON *body, const struct api_env *env, struct api_request *r,
              struct err *e)
{
    *r = (struct api_request){.kind = kind, .n = 1};
    *e = (struct err){0};
    if (!cJSON_IsObject(body)) return err_set(e, ERR_INVALID, "the body must be a JSON object");
    int status = api_check_model(body, env, e);
    if (!status) status = fields_check(body, &r->ignored, e);
    if (!status) status = get_sampling(body, env, r, e);
    if (!status) status = get_lengths(body, env, r, e);
    if (!status) status = get_stream(body, r, e);
    if (!status) status = get_logprobs(body, r, e);
    if (!status) status = get_stops(body, env, &r->gen, e);
    if (!status) status = get_bias(body, env, &r->gen, e);
    if (!status) status = get_cache_salt(body, &r->gen, e);
    if (!status) {
        get_int(body, "n", 1, N_MAX, &r->n, e);
        status = e->code;
    }
    if (!status) status = kind == API_CHAT ? get_chat(body, env, r, e) : get_prompts(body, env, r, e);
    if (!status && (int64_t)r->n * r->n_prompt > CHOICES_MAX)
        status = err_param(e, ERR_INVALID, "n", "n: n times the number of prompts must be at most %d",
                           CHOICES_MAX);
    return status;
}

void api_request_free(struct api_request *r)
{
    for (int i = 0; i < r->n_prompt; i++) {
        vec_i32_free(&r->prompt[i].ids);
        buf_free(&r->prompt[i].text);
    }
    free(r->prompt);
    buf_free(&r->ignored);
    gen_params_free(&r->gen);
    *r = (struct api_request){0};
}
