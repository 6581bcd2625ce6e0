/* Counters, gauges and histograms with Prometheus text output. Metrics are registered once at start, in one
 * thread; after that add/set/observe are atomic and may be called from any thread. Series are values of at
 * most one label; the label model_name is added to all by metrics_render. */
#pragma once
#include <stdint.h>
#include "buf.h"

struct metric;
struct metrics;

struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);
/* NULL on out of memory; every call below accepts a NULL metric and does nothing. */
struct metric *metrics_counter(struct metrics *m, const char *name, const char *help, const char *label,
                               const char *value);
struct metric *metrics_gauge(struct metrics *m, const char *name, const char *help);
struct metric *metrics_histogram(struct metrics *m, const char *name, const char *help, const double *edges,
                                 int n_edges);
/* A constant gauge of value 1 whose labels carry facts, already formatted as k="v",k="v". */
struct metric *metrics_info(struct metrics *m, const char *name, const char *help, const char *labels);
void metric_add(struct metric *c, double v);
void metric_set(struct metric *g, double v);
void metric_observe(struct metric *h, double v);
double metric_value(const struct metric *m); /* counter or gauge value, histogram count */
void metrics_render(struct metrics *m, const char *model_name, struct buf *out);
