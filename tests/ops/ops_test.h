/* What tests of the ops share: random numbers, the error measure, and back ends of every level this machine
 * has. */
#pragma once
#include <check.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cpu.h"
#include "step.h"

static uint64_t seed = 1;
static inline float uniform(void) /* [-1, 1)   (Marsaglia's xorshift64*) */
{
    seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
    return (float)((seed * 2685821657736338717u) >> 40) * 0x1p-23f - 1;
}
static inline void fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = uniform();
}
static inline float *floats(size_t n)
{
    float *x = calloc(n, sizeof *x);
    ck_assert_ptr_nonnull(x);
    return x;
}

/* Squared error over squared norm. */
static inline double nmse(const float *x, const float *ref, size_t n)
{
    double err = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        err += ((double)x[i] - ref[i]) * ((double)x[i] - ref[i]);
        sum += (double)ref[i] * ref[i];
    }
    return err / (sum + 1e-30);
}

extern const struct step_kernels step_emulated_avx512, step_emulated_bf16;
/* Kernels of these levels on emulated instructions, behind the machine's own levels. */
enum { EMULATED_AVX512 = ISA_COUNT, EMULATED_BF16, LEVELS };
struct device {
    struct pool *pool;
    struct backend *be;
};
/* False if this machine or build has no such level. */
static inline bool device_open(struct device *d, int level, int threads)
{
    struct err e;
    int isa = level;
    if (level >= EMULATED_AVX512) {
#ifndef HAVE_EMULATED
        return false;
#endif
        isa = ISA_AVX2; /* which the emulation uses */
    }
    if (isa > (int)cpu_isa_detect()) return false;
    ck_assert_int_eq(pool_open(threads, &d->pool, &e), 0);
    ck_assert_int_eq(cpu_backend_open(d->pool, (enum cpu_isa)isa, &d->be, &e), 0);
#ifdef HAVE_EMULATED
    if (level == EMULATED_AVX512) cpu_of(d->be)->step = &step_emulated_avx512;
    if (level == EMULATED_BF16) cpu_of(d->be)->step = &step_emulated_bf16;
#endif
    return true;
}
static inline void device_close(struct device *d)
{
    backend_close(d->be);
    pool_close(d->pool);
}
