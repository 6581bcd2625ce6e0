#include "result.h"
#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void result_sort(double *v, int n) { qsort(v, (size_t)n, sizeof *v, ascending); }

double result_percentile(const double *v, int n, double p)
{
    if (!n) return 0;
    double at = p / 100 * (n - 1);
    int i = (int)at;
    return i + 1 < n ? v[i] + (v[i + 1] - v[i]) * (at - i) : v[n - 1];
}
