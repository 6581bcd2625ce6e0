/* The ops with the shapes of a model of about 1 billion parameters; what their cases share. */
#include "bench_case.h"
#include <math.h>
#include <stdlib.h>
#include "rng.h"

float bench_uniform(uint64_t *s) { return (float)(int32_t)(rng_next(s) >> 32) * 0x1p-31f; }

float *bench_floats(size_t n)
{
    static uint64_t seed = 88172645463325252u;
    float *x = malloc(n * sizeof *x);
    if (x)
        for (size_t i = 0; i < n; i++) x[i] = bench_uniform(&seed);
    return x;
}

double bench_nmse(const float *x, const float *ref, size_t n)
{
    double err = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        err += ((double)x[i] - ref[i]) * ((double)x[i] - ref[i]);
        sum += (double)ref[i] * ref[i];
    }
    return sum > 0 ? err / sum : err;
}

int bench_no_memory(struct err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }

int bench_cases(struct bench *b, struct err *e)
{
    int rc = 0;
    if (bench_wants(b, "linear")) rc = bench_matrices(b, false, e);
    if (!rc && bench_wants(b, "glu")) rc = bench_matrices(b, true, e);
    if (!rc && bench_wants(b, "attn")) rc = bench_attn(b, e);
    return rc ? rc : bench_rows(b, e);
}
