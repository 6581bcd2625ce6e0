#include "metrics.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum kind { COUNTER, GAUGE, HISTOGRAM, INFO };
struct metric {
    struct metric *next; /* in order of registration, so that series of one name stay together */
    enum kind kind;
    char *name, *help, *label, *value;
    _Atomic double v; /* counter, gauge: value; histogram: sum */
    int n_edges;
    double *edge;             /* [n_edges] upper bounds, ascending */
    _Atomic uint64_t *bucket; /* [n_edges + 1] the last one is above every edge */
};
struct metrics {
    struct metric *first, *last;
};

struct metrics *metrics_new(void) { return calloc(1, sizeof(struct metrics)); }

static void metric_free(struct metric *m)
{
    free(m->name);
    free(m->help);
    free(m->label);
    free(m->value);
    free(m->edge);
    free(m->bucket);
    free(m);
}

void metrics_free(struct metrics *ms)
{
    if (!ms) return;
    for (struct metric *m = ms->first, *next; m; m = next) {
        next = m->next;
        metric_free(m);
    }
    free(ms);
}

static struct metric *add(struct metrics *ms, enum kind kind, const char *name, const char *help,
                          const char *label, const char *value)
{
    struct metric *m = ms ? calloc(1, sizeof *m) : NULL;
    if (!m) return NULL;
    m->kind = kind;
    m->name = strdup(name);
    m->help = strdup(help);
    m->label = label ? strdup(label) : NULL;
    m->value = value ? strdup(value) : NULL;
    if (!m->name || !m->help || (label && !m->label) || (value && !m->value)) {
        metric_free(m);
        return NULL;
    }
    if (ms->last)
        ms->last->next = m;
    else
        ms->first = m;
    ms->last = m;
    return m;
}

struct metric *metrics_counter(struct metrics *ms, const char *name, const char *help, const char *label,
                               const char *value)
{
    return add(ms, COUNTER, name, help, label, value);
}

struct metric *metrics_gauge(struct metrics *ms, const char *name, const char *help)
{
    return add(ms, GAUGE, name, help, NULL, NULL);
}

struct metric *metrics_info(struct metrics *ms, const char *name, const char *help, const char *labels)
{
    return add(ms, INFO, name, help, labels, NULL);
}

struct metric *metrics_histogram(struct metrics *ms, const char *name, const char *help, const double *edges,
                                 int n)
{
    double *edge = malloc((size_t)n * sizeof *edge);
    _Atomic uint64_t *bucket = calloc((size_t)n + 1, sizeof *bucket);
    struct metric *m = edge && bucket ? add(ms, HISTOGRAM, name, help, NULL, NULL) : NULL;
    if (!m) {
        free(edge);
        free(bucket);
        return NULL;
    }
    memcpy(edge, edges, (size_t)n * sizeof *edge);
    m->edge = edge;
    m->bucket = bucket;
    m->n_edges = n;
    return m;
}

void metric_add(struct metric *c, double v)
{
    if (!c) return;
    double old = atomic_load_explicit(&c->v, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&c->v, &old, old + v, memory_order_relaxed,
                                                  memory_order_relaxed)) {}
}

void metric_set(struct metric *g, double v)
{
    if (g) atomic_store_explicit(&g->v, v, memory_order_relaxed);
}

void metric_observe(struct metric *h, double v)
{
    if (!h) return;
    int i = 0;
    while (i < h->n_edges && v > h->edge[i]) i++;
    atomic_fetch_add_explicit(&h->bucket[i], 1, memory_order_relaxed);
    metric_add(h, v);
}

double metric_value(const struct metric *m)
{
    if (!m) return 0;
    if (m->kind != HISTOGRAM) return atomic_load_explicit(&m->v, memory_order_relaxed);
    uint64_t n = 0;
    for (int i = 0; i <= m->n_edges; i++) n += atomic_load_explicit(&m->bucket[i], memory_order_relaxed);
    return (double)n;
}

static void label_value(struct buf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '\\' || *s == '"') buf_chr(b, '\\');
        if (*s == '\n')
            buf_str(b, "\\n");
        else
            buf_chr(b, *s);
    }
}

static void sample(struct buf *out, const struct metric *m, const char *suffix, const char *labels,
                   const char *le, double v)
{
    buf_fmt(out, "%s%s{%s", m->name, suffix, labels);
    if (m->kind == INFO) {
        buf_fmt(out, ",%s", m->label);
    } else if (m->label) {
        buf_fmt(out, ",%s=\"", m->label);
        label_value(out, m->value);
        buf_chr(out, '"');
    }
    if (le) buf_fmt(out, ",le=\"%s\"", le);
    buf_fmt(out, "} %.17g\n", v);
}

static void render_histogram(struct buf *out, const struct metric *m, const char *labels)
{
    uint64_t n = 0;
    char le[32];
    for (int i = 0; i <= m->n_edges; i++) {
        struct buf edge = {0};
        n += atomic_load_explicit(&m->bucket[i], memory_order_relaxed);
        if (i < m->n_edges) buf_fmt(&edge, "%.10g", m->edge[i]);
        memcpy(le, "+Inf", 5);
        if (edge.data && edge.len < sizeof le) memcpy(le, edge.data, edge.len + 1);
        buf_free(&edge);
        sample(out, m, "_bucket", labels, le, (double)n);
    }
    sample(out, m, "_sum", labels, NULL, atomic_load_explicit(&m->v, memory_order_relaxed));
    sample(out, m, "_count", labels, NULL, (double)n);
}

void metrics_render(struct metrics *ms, const char *model_name, struct buf *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram", "gauge"};
    struct buf labels = {0};
    buf_str(&labels, "model_name=\"");
    label_value(&labels, model_name);
    buf_chr(&labels, '"');
    const char *last = "";
    for (const struct metric *m = ms && !labels.failed ? ms->first : NULL; m; m = m->next) {
        if (strcmp(m->name, last))
            buf_fmt(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name, types[m->kind]);
        last = m->name;
        if (m->kind == HISTOGRAM)
            render_histogram(out, m, labels.data);
        else
            sample(out, m, "", labels.data, NULL, m->kind == INFO ? 1 : metric_value(m));
    }
    buf_free(&labels);
}
