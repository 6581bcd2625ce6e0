/* The JSON body of a request, with the fields that vLLM's tool sends. */
#include <limits.h>
#include <math.h>
#include <string.h>
#include "dataset.h"

struct fields {
    struct buf *out;
    const cJSON *extra; /* its keys replace ours */
};

/* Starts a member; false if --extra-body has the key. */
static bool begin(const struct fields *f, const char *key)
{
    if (cJSON_GetObjectItemCaseSensitive(f->extra, key)) return false;
    buf_fmt(f->out, f->out->len > 1 ? ", \"%s\": " : "\"%s\": ", key);
    return true;
}

static void put_raw(const struct fields *f, const char *key, const char *json)
{
    if (begin(f, key)) buf_str(f->out, json);
}

static void put_int(const struct fields *f, const char *key, int v)
{
    if (v != INT_MIN && begin(f, key)) buf_fmt(f->out, "%d", v);
}

static void put_number(const struct fields *f, const char *key, double v)
{
    if (!isnan(v) && begin(f, key)) buf_json_f(f->out, v);
}

static void put_prompt(struct buf *out, const struct prompt *p)
{
    if (p->text) {
        buf_json(out, p->text, strlen(p->text));
        return;
    }
    buf_chr(out, '[');
    for (int i = 0; i < p->ids.n; i++) buf_fmt(out, i ? ",%d" : "%d", p->ids.v[i]);
    buf_chr(out, ']');
}

static void put_messages(struct buf *out, const struct prompt *p)
{
    buf_str(out, "[{\"role\": \"user\", \"content\": ");
    put_prompt(out, p);
    buf_str(out, "}]");
}

int dataset_body(const struct prompt *p, const struct serve_options *o, const char *model, const cJSON *extra,
                 struct buf *out, struct err *e)
{
    struct fields f = {out, extra};
    buf_clear(out);
    buf_chr(out, '{');
    if (begin(&f, "model")) buf_json(out, model, strlen(model));
    if (o->chat) {
        if (begin(&f, "messages")) put_messages(out, p);
        put_int(&f, "max_completion_tokens", p->output_len);
    } else {
        if (begin(&f, "prompt")) put_prompt(out, p);
        put_number(&f, "repetition_penalty", isnan(o->repetition_penalty) ? 1 : o->repetition_penalty);
        put_int(&f, "max_tokens", p->output_len);
        put_int(&f, "logprobs", o->logprobs);
    }
    put_raw(&f, "stream", "true");
    put_raw(&f, "stream_options", "{\"include_usage\": true}");
    if (o->ignore_eos) put_raw(&f, "ignore_eos", "true");
    put_number(&f, "temperature", o->temperature);
    put_number(&f, "top_p", o->top_p);
    put_int(&f, "top_k", o->top_k);
    put_number(&f, "min_p", o->min_p);
    put_number(&f, "frequency_penalty", o->frequency_penalty);
    put_number(&f, "presence_penalty", o->presence_penalty);
    if (o->chat) put_number(&f, "repetition_penalty", o->repetition_penalty);
    for (const cJSON *x = extra ? extra->child : NULL; x; x = x->next) {
        char *json = cJSON_PrintUnformatted(x);
        if (!json) return err_set(e, ERR_NOMEM, "out of memory");
        if (out->len > 1) buf_str(out, ", ");
        buf_json(out, x->string, strlen(x->string));
        buf_str(out, ": ");
        buf_str(out, json);
        cJSON_free(json);
    }
    buf_chr(out, '}');
    return out->failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}
