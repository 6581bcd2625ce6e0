/* Percentiles, for all benchmarks. Pure functions over their arguments. */
#pragma once

void result_sort(double *v, int n); /* ascending */
/* v[n] sorted ascending, p in 0..100: linear between the closest ranks, as numpy does; 0 if n is 0. */
double result_percentile(const double *v, int n, double p);
