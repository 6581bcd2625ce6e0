#include "summary.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "result.h"

const struct metric_name metric_names[METRIC_COUNT] = {
    {"ttft", "TTFT", "Time to First Token"},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)"},
    {"itl", "ITL", "Inter-token Latency"},
    {"e2el", "E2EL", "End-to-end Latency"},
    {"client_queue_time", "Client Queue Time", "Client-side Queueing"},
    {"e2el_including_client_queue", "E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency"},
};

bool summary_shows(const struct serve_options *o, enum metric m)
{
    if (m >= METRIC_QUEUE && !o->max_concurrency) return false;
    if (m == METRIC_E2EL_QUEUE && isinf(o->request_rate)) return false;
    size_t n = strlen(metric_names[m].key);
    for (const char *s = o->percentile_metrics; *s; s += strcspn(s, ","), s += *s == ',')
        if (strcspn(s, ",") == n && !strncmp(s, metric_names[m].key, n)) return true;
    return false;
}

static void describe(struct distribution *d, double *v /* [n] seconds; gets sorted */, int n,
                     const struct serve_options *o)
{
    double sum = 0, squares = 0;
    result_sort(v, n);
    for (int i = 0; i < n; i++) sum += v[i];
    double mean = n ? sum / n : 0;
    for (int i = 0; i < n; i++) squares += (v[i] - mean) * (v[i] - mean);
    d->mean = mean * 1e3;
    d->std = n ? sqrt(squares / n) * 1e3 : 0;
    d->median = result_percentile(v, n, 50) * 1e3;
    for (int i = 0; i < o->n_percentile; i++)
        d->percentile[i] = result_percentile(v, n, o->percentile[i]) * 1e3;
}

/* Seconds per token after the first; 0 for an answer of one token, which only goodput looks at. */
static double tpot(const struct outcome *x)
{
    return x->output_tokens > 1 ? (x->latency - x->ttft) / (x->output_tokens - 1) : 0;
}

static int gather(enum metric m, const struct outcome *out, int n, double *v)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        const struct outcome *x = &out[i];
        if (!x->success) continue;
        switch (m) {
        case METRIC_TTFT: v[count++] = x->ttft; break;
        case METRIC_TPOT:
            if (x->output_tokens > 1) v[count++] = tpot(x);
            break;
        case METRIC_ITL:
            for (int k = 0; k < x->n_itl; k++) v[count++] = x->itl[k];
            break;
        case METRIC_E2EL: v[count++] = x->latency; break;
        case METRIC_QUEUE: v[count++] = x->queue_time; break;
        default: v[count++] = x->latency + x->queue_time;
        }
    }
    return count;
}

static bool is_good(const struct outcome *x, const double *slo /* [3] ms, NAN: none */)
{
    const double got[3] = {x->ttft, tpot(x), x->latency};
    for (int i = 0; i < 3; i++)
        if (!isnan(slo[i]) && got[i] > slo[i] / 1e3) return false;
    return true;
}

/* Chunks in each second since the first request, and the largest count. */
static int find_peak_rate(struct summary *s, const struct outcome *out, int n, struct err *e)
{
    double first = INFINITY, last = 0;
    for (int i = 0; i < n; i++) {
        if (!out[i].success) continue;
        if (out[i].start < first) first = out[i].start;
        if (out[i].start + out[i].latency > last) last = out[i].start + out[i].latency;
    }
    if (isinf(first)) return 0;
    if (!(last - first < 1e8)) return err_set(e, ERR_INVALID, "the load took too long to count");
    int seconds = (int)ceil(last - first) + 1;
    int *chunks = calloc((size_t)seconds, sizeof *chunks);
    if (!chunks) return err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        double t = out[i].start - first + out[i].ttft;
        for (int k = 0; out[i].success && k <= out[i].n_itl; t += k < out[i].n_itl ? out[i].itl[k] : 0, k++)
            if (t >= 0 && t < seconds) chunks[(int)t]++;
    }
    for (int i = 0; i < seconds; i++)
        if (chunks[i] > s->peak_output_rate) s->peak_output_rate = chunks[i];
    free(chunks);
    return 0;
}

/* Requests run over [start, end): at equal times one leaves before the next comes. */
static int find_peak_concurrency(struct summary *s, const struct outcome *out, int n, struct err *e)
{
    double *starts = malloc(((size_t)n * 2 + 1) * sizeof *starts), *ends = starts ? starts + n : NULL;
    if (!starts) return err_set(e, ERR_NOMEM, "out of memory");
    int count = 0, left = 0;
    for (int i = 0; i < n; i++) {
        if (!out[i].success) continue;
        starts[count] = out[i].start;
        ends[count++] = out[i].start + out[i].latency;
    }
    result_sort(starts, count);
    result_sort(ends, count);
    for (int i = 0; i < count; i++) {
        while (left < count && ends[left] <= starts[i]) left++;
        if (i + 1 - left > s->peak_concurrency) s->peak_concurrency = i + 1 - left;
    }
    free(starts);
    return 0;
}

int summary_fill(struct summary *s, const struct serve_options *o, const struct outcome *out, int n,
                 double duration, struct err *e)
{
    *s = (struct summary){.duration = duration};
    size_t room = 1;
    int good = 0;
    for (int i = 0; i < n; i++) {
        room += (size_t)out[i].n_itl + 1;
        if (!out[i].success) continue;
        s->completed++;
        s->input_tokens += out[i].prompt_len;
        s->output_tokens += out[i].output_tokens;
        good += is_good(&out[i], o->slo);
    }
    s->failed = n - s->completed;
    if (duration > 0) {
        s->request_rate = s->completed / duration;
        s->request_goodput = good / duration;
        s->output_rate = (double)s->output_tokens / duration;
        s->token_rate = (double)(s->input_tokens + s->output_tokens) / duration;
    }
    double *v = room < INT32_MAX ? malloc(room * sizeof *v) : NULL;
    if (!v) return err_set(e, ERR_NOMEM, "out of memory");
    for (int m = 0; m < METRIC_COUNT; m++) describe(&s->metric[m], v, gather(m, out, n, v), o);
    free(v);
    int status = find_peak_rate(s, out, n, e);
    return status ? status : find_peak_concurrency(s, out, n, e);
}
