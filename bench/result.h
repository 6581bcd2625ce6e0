/* What all benchmarks share: percentiles and result files. Pure functions over their arguments. */
#pragma once
#include <stdbool.h>
#include "buf.h"
#include "err.h"

/* v[n] sorted ascending, p in 0..100: linear between the closest ranks, as numpy does; 0 if n is 0. */
double result_percentile(const double *v, int n, double p);
/* Replaces the file, or appends a line to it. */
int result_save(const char *path, const struct buf *text, bool append, struct err *e);
