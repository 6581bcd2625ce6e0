#include "result_json.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static void string(struct buf *b, const char *s)
{
    if (s)
        buf_json(b, s, strlen(s));
    else
        buf_str(b, "null");
}

static void key(struct buf *b, const char *k)
{
    if (b->len > 1) buf_str(b, ", ");
    string(b, k);
    buf_str(b, ": ");
}

static void put_string(struct buf *b, const char *k, const char *v)
{
    key(b, k);
    string(b, v);
}

static void put_int(struct buf *b, const char *k, long long v)
{
    key(b, k);
    buf_fmt(b, "%lld", v);
}

static void put_number(struct buf *b, const char *k, double v)
{
    key(b, k);
    if (isinf(v))
        buf_str(b, "\"inf\"");
    else
        summary_number(b, v);
}

static void write_setup(struct buf *b, const struct serve_options *o, const char *model, const char *date)
{
    put_string(b, "date", date);
    put_string(b, "endpoint_type", o->backend);
    put_string(b, "backend", o->backend);
    put_string(b, "label", o->label);
    put_string(b, "model_id", model);
    put_string(b, "tokenizer_id", o->tokenizer ? o->tokenizer : model);
    put_int(b, "num_prompts", o->num_prompts);
    for (int i = 0; i < o->metadata.n; i++) {
        const char *k = o->metadata.v[i], *equals = strchr(k, '=');
        buf_str(b, ", ");
        buf_json(b, k, (size_t)(equals - k));
        buf_str(b, ": ");
        string(b, equals + 1);
    }
    put_number(b, "request_rate", o->request_rate);
    put_number(b, "burstiness", o->burstiness);
    key(b, "max_concurrency");
    if (o->max_concurrency)
        buf_fmt(b, "%d", o->max_concurrency);
    else
        buf_str(b, "null");
}

static void put_itls(struct buf *b, const struct outcome *out, int n)
{
    key(b, "itls");
    for (int i = 0; i < n; i++) {
        buf_str(b, i ? ", [" : "[[");
        for (int k = 0; k < out[i].n_itl; k++) {
            if (k) buf_str(b, ", ");
            summary_number(b, out[i].itl[k]);
        }
        buf_chr(b, ']');
    }
    buf_str(b, n ? "]" : "[]");
}

/* One number or text of every request, in the order they were sent. */
static void put_each(struct buf *b, const char *k, const struct outcome *out, int n,
                     void (*put)(struct buf *, const struct outcome *))
{
    key(b, k);
    buf_chr(b, '[');
    for (int i = 0; i < n; i++) {
        if (i) buf_str(b, ", ");
        put(b, &out[i]);
    }
    buf_chr(b, ']');
}

static void each_input(struct buf *b, const struct outcome *x) { buf_fmt(b, "%d", x->prompt_len); }
static void each_output(struct buf *b, const struct outcome *x)
{
    buf_fmt(b, "%d", x->success ? x->output_tokens : 0);
}
static void each_ttft(struct buf *b, const struct outcome *x) { summary_number(b, x->ttft); }
static void each_latency(struct buf *b, const struct outcome *x) { summary_number(b, x->latency); }
static void each_start(struct buf *b, const struct outcome *x) { summary_number(b, x->start); }
static void each_queue(struct buf *b, const struct outcome *x) { summary_number(b, x->queue_time); }
static void each_text(struct buf *b, const struct outcome *x)
{
    buf_json(b, x->text.data ? x->text.data : "", x->text.len);
}
static void each_error(struct buf *b, const struct outcome *x) { string(b, x->error); }

static void write_details(struct buf *b, const struct outcome *out, int n)
{
    put_each(b, "input_lens", out, n, each_input);
    put_each(b, "output_lens", out, n, each_output);
    put_each(b, "ttfts", out, n, each_ttft);
    put_itls(b, out, n);
    put_each(b, "latencies", out, n, each_latency);
    put_each(b, "start_times", out, n, each_start);
    put_each(b, "queue_times", out, n, each_queue);
    put_each(b, "generated_texts", out, n, each_text);
    put_each(b, "errors", out, n, each_error);
}

static void write_metric(struct buf *b, const struct serve_options *o, const struct summary *s, enum metric m)
{
    const struct distribution *d = &s->metric[m];
    const char *name = metric_names[m].key;
    char k[96];
    snprintf(k, sizeof k, "mean_%s_ms", name);
    put_number(b, k, d->mean);
    snprintf(k, sizeof k, "median_%s_ms", name);
    put_number(b, k, d->median);
    snprintf(k, sizeof k, "std_%s_ms", name);
    put_number(b, k, d->std);
    for (int i = 0; i < o->n_percentile; i++) {
        buf_str(b, ", \"p");
        summary_percent(b, o->percentile[i]);
        buf_fmt(b, "_%s_ms\": ", name);
        summary_number(b, d->percentile[i]);
    }
}

void result_json_write(struct buf *b, const struct serve_options *o, const char *model, const char *date,
                       const struct summary *s, const struct outcome *out, int n)
{
    buf_clear(b);
    buf_chr(b, '{');
    write_setup(b, o, model, date);
    put_number(b, "duration", s->duration);
    put_int(b, "completed", s->completed);
    put_int(b, "failed", s->failed);
    put_int(b, "total_input_tokens", s->input_tokens);
    put_int(b, "total_output_tokens", s->output_tokens);
    put_number(b, "request_throughput", s->request_rate);
    key(b, "request_goodput");
    if (o->goodput.n)
        summary_number(b, s->request_goodput);
    else
        buf_str(b, "null");
    put_number(b, "output_throughput", s->output_rate);
    put_number(b, "total_token_throughput", s->token_rate);
    if (o->save_detailed) write_details(b, out, n);
    put_number(b, "max_output_tokens_per_s", s->peak_output_rate);
    put_int(b, "max_concurrent_requests", s->peak_concurrency);
    for (int m = 0; m < METRIC_COUNT; m++)
        if (summary_shows(o, m)) write_metric(b, o, s, m);
    buf_chr(b, '}');
}

void result_json_name(struct buf *b, const struct serve_options *o, const char *model, const char *date)
{
    if (o->result_dir) buf_fmt(b, "%s/", o->result_dir);
    if (o->result_filename) {
        buf_str(b, o->result_filename);
        return;
    }
    const char *base = strrchr(model, '/');
    buf_fmt(b, "%s-", o->label ? o->label : o->backend);
    summary_number(b, o->request_rate);
    buf_str(b, "qps");
    if (o->max_concurrency) buf_fmt(b, "-concurrency%d", o->max_concurrency);
    buf_fmt(b, "-%s-%s.json", base ? base + 1 : model, date);
}
