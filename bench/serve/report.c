/* The block that vLLM's tool prints, byte for byte: 50 columns, labels in 40, numbers left-aligned in 10. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "summary.h"

#define WIDTH 50

void summary_number(struct buf *b, double v)
{
    char text[40];
    if (isinf(v)) {
        buf_str(b, v > 0 ? "inf" : "-inf");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    buf_str(b, text);
    if (!strpbrk(text, ".en")) buf_str(b, ".0");
}

void summary_percent(struct buf *b, double p)
{
    if (p == floor(p))
        buf_fmt(b, "%.0f", p);
    else
        summary_number(b, p);
}

static void rule(struct buf *b, const char *title, char fill)
{
    int pad = WIDTH - (int)strlen(title), left = pad / 2;
    for (int i = 0; i < left; i++) buf_chr(b, fill);
    buf_str(b, title);
    for (int i = left; i < pad; i++) buf_chr(b, fill);
    buf_chr(b, '\n');
}

static void count(struct buf *b, const char *label, long long v) { buf_fmt(b, "%-40s %-10lld\n", label, v); }

static void number(struct buf *b, const char *label, double v) { buf_fmt(b, "%-40s %-10.2f\n", label, v); }

static void section(struct buf *b, const struct summary *s, const struct serve_options *o, enum metric m)
{
    const struct metric_name *name = &metric_names[m];
    const struct distribution *d = &s->metric[m];
    char label[80];
    rule(b, name->title, '-');
    snprintf(label, sizeof label, "Mean %s (ms):", name->label);
    number(b, label, d->mean);
    snprintf(label, sizeof label, "Median %s (ms):", name->label);
    number(b, label, d->median);
    for (int i = 0; i < o->n_percentile; i++) {
        struct buf p = {0};
        summary_percent(&p, o->percentile[i]);
        snprintf(label, sizeof label, "P%s %s (ms):", p.failed ? "?" : p.data, name->label);
        number(b, label, d->percentile[i]);
        buf_free(&p);
    }
}

void summary_report(struct buf *b, const struct summary *s, const struct serve_options *o)
{
    bool goodput = o->goodput.n > 0;
    rule(b, " Serving Benchmark Result ", '=');
    count(b, "Successful requests:", s->completed);
    count(b, "Failed requests:", s->failed);
    if (o->max_concurrency) count(b, "Maximum request concurrency:", o->max_concurrency);
    if (isfinite(o->request_rate)) number(b, "Request rate configured (RPS):", o->request_rate);
    number(b, "Benchmark duration (s):", s->duration);
    count(b, "Total input tokens:", s->input_tokens);
    count(b, "Total generated tokens:", s->output_tokens);
    number(b, "Request throughput (req/s):", s->request_rate);
    if (goodput) number(b, "Request goodput (req/s):", s->request_goodput);
    number(b, "Output token throughput (tok/s):", s->output_rate);
    number(b, "Peak output token throughput (tok/s):", s->peak_output_rate);
    number(b, "Peak concurrent requests:", s->peak_concurrency);
    number(b, "Total token throughput (tok/s):", s->token_rate);
    for (int m = 0; m < METRIC_COUNT; m++)
        if (summary_shows(o, m)) section(b, s, o, m);
    rule(b, "", '=');
}
