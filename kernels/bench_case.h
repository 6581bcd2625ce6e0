/* Between the bench's table (bench_ops.c) and its cases (bench_case.c). One thread. */
#pragma once
#include <stdbool.h>
#include <stdio.h>
#include "machine_limits.h"

struct bench {
    const char *op; /* only this one, or NULL */
    int rows[8], n_rows;
    bool json;
    double seconds; /* to spend on a line */
    struct pool *pool;
    struct backend *be;
    struct limits limits; /* of the machine's best level */
    int lines;
    int failed; /* lines whose error is too large */
};
struct result {
    const char *op, *type;
    char shape[48];
    int rows;
    double bytes; /* that must be read or written */
    double work;  /* operations of the kind below */
    bool int8;
    double err, max_err; /* nmse against the reference, and the most allowed */
};
/* Times fn(arg) and prints a line. */
void bench_line(struct bench *b, const struct result *r, void (*fn)(void *), void *arg);
bool bench_wants(const struct bench *b, const char *op);

int bench_cases(struct bench *b, struct err *e);
