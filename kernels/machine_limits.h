/* This machine's limits, measured: what benchmarks of kernels are compared with. */
#pragma once
#include <stddef.h>
#include "backend.h"

struct limit_kernels {
    double (*read)(const void *p, size_t n); /* n a multiple of 256; the result depends on every byte */
    double (*fma)(long n);                   /* n rounds; returns float operations done */
    double (*int8)(long n);                  /* the same for products and sums of bytes */
};
extern const struct limit_kernels limits_avx2, limits_avx512, limits_vnni, limits_bf16;

struct limits {
    double read; /* bytes a second from memory, all threads */
    double fma;  /* float operations a second */
    double int8; /* integer operations a second */
};
/* All 0 where the level has no SIMD. Takes about a second; needs 256 MiB for a moment. */
struct limits limits_measure(struct pool *pool, enum cpu_isa isa);
