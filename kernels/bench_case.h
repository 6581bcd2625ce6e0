/* Between the bench's table (bench_ops.c) and its cases (bench_matrix.c, bench_attn.c, bench_rows.c). One
 * thread. */
#pragma once
#include <stdbool.h>
#include <stdio.h>
#include "machine_limits.h"

enum { HEADS = 16, KV_HEADS = 8, BLOCK = 16 }; /* attention of the cases' model */

struct bench {
    const char *op; /* only this one, or NULL */
    int rows[8], n_rows;
    bool json;
    double seconds; /* to spend on a line */
    struct pool *pool;
    struct backend *be;
    struct limits limits; /* of the machine's best level */
    const char *plot;     /* file for the roofline picture, or NULL */
    struct roof_dot *dot; /* [lines] if there is a plot */
    int lines;
    int failed; /* lines whose error is too large */
};
struct result {
    const char *op, *type;
    char shape[48];
    int rows;
    double bytes; /* that must be read or written */
    double work;  /* operations of the kind below */
    enum peak kind;
    double err, max_err; /* nmse against the reference, and the most allowed */
};
/* Times fn(arg) and prints a line. */
void bench_line(struct bench *b, const struct result *r, void (*fn)(void *), void *arg);
bool bench_wants(const struct bench *b, const char *op);

int bench_cases(struct bench *b, struct err *e);
int bench_matrices(struct bench *b, bool glu, struct err *e);
int bench_attn(struct bench *b, struct err *e);
int bench_rows(struct bench *b, struct err *e);

float bench_uniform(uint64_t *state); /* [-1, 1) */
float *bench_floats(size_t n);        /* random ones, or NULL; the caller frees them */
/* Error over signal: sum (x - ref)^2 / sum ref^2. */
double bench_nmse(const float *x, const float *ref, size_t n);
int bench_no_memory(struct err *e);
