/* This machine's limits, measured: what benchmarks of kernels are compared with. */
#pragma once
#include <stddef.h>
#include "backend.h"

enum peak { PEAK_FLOAT, PEAK_BF16, PEAK_INT8, PEAK_COUNT };
struct limit_kernels {
    double (*read)(const void *p, size_t n); /* n a multiple of 256; the result depends on every byte */
    double (*rounds[PEAK_COUNT])(long n);    /* n rounds of multiply-adds; returns the operations done */
};
extern const struct limit_kernels limits_avx2, limits_avx512, limits_vnni, limits_bf16;

struct limits {
    double read;             /* bytes a second from memory, all threads */
    double peak[PEAK_COUNT]; /* operations a second; of bfloat16 the float ones if there are no others */
};
/* All 0 where the level has no SIMD. Takes about a second; needs 256 MiB for a moment. */
struct limits limits_measure(struct pool *pool, enum cpu_isa isa);
