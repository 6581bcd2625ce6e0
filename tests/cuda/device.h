/* The CUDA back end for tests: the module named by INFERD_MODULES, which is the emulated one unless someone
 * has a GPU. And what goes to it and comes back. One thread. */
#pragma once
#include <check.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backend.h"
#include "half.h"
#include "cuda/module.h"
#include "module.h"
#include "ref.h"

static inline struct backend *cuda_device(struct cuda_options o)
{
    const void *table;
    struct backend *be;
    struct err e = {0};
    ck_assert_msg(!module_open("inferd_cuda", CUDA_MODULE_SYMBOL, CUDA_MODULE_ABI, &table, &e), "%s", e.msg);
    const struct cuda_module *m = table;
    o.run = pool_run;
    ck_assert_msg(!m->open(&o, &be, &e), "%s", e.msg);
    return be;
}

/* For steps of so many rows without attention. */
static inline void cuda_reserve(struct backend *be, int rows, int max_in, int vocab)
{
    struct err e = {0};
    struct step_limits l = {.max_rows = rows,
                            .max_seqs = rows,
                            .max_ctx = 64,
                            .max_in = max_in,
                            .n_head = 1,
                            .n_kv_head = 1,
                            .head_dim = 64,
                            .vocab = vocab,
                            .n_list = 1,
                            .block_size = 16};
    ck_assert_msg(!be->ops->reserve(be, &l, &e), "%s", e.msg);
}

static inline void cuda_sync(struct backend *be)
{
    struct err e = {0};
    ck_assert_msg(!be->ops->sync(be, &e), "%s", e.msg);
}

/* Device memory; with src NULL it is left as it came, which the emulator fills with NaN. */
static inline void *up(struct backend *be, const void *src, size_t bytes)
{
    void *p;
    struct err e = {0};
    ck_assert_msg(!be->ops->mem_alloc(be, bytes, &p, &e), "%s", e.msg);
    if (src) be->ops->mem_write(be, p, src, bytes);
    return p;
}
static inline void down(struct backend *be, void *dst, const void *src, size_t bytes)
{
    be->ops->mem_read(be, dst, src, bytes);
    cuda_sync(be);
}

/* n floats as the device's inputs of matrices, and back. */
static inline void *up_mat(struct backend *be, const float *x, size_t n)
{
    uint16_t *h = malloc(n * sizeof *h);
    ck_assert_ptr_nonnull(h);
    for (size_t i = 0; i < n; i++) h[i] = bf16_from_f32(x[i]);
    void *p = up(be, h, n * sizeof *h);
    free(h);
    return p;
}
static inline void down_mat(struct backend *be, float *x, const void *src, size_t n)
{
    uint16_t *h = malloc(n * sizeof *h);
    ck_assert_ptr_nonnull(h);
    down(be, h, src, n * sizeof *h);
    for (size_t i = 0; i < n; i++) x[i] = bf16_to_f32(h[i]);
    free(h);
}
static inline void round_mat(float *x, size_t n) /* what up_mat loses */
{
    for (size_t i = 0; i < n; i++) x[i] = bf16_to_f32(bf16_from_f32(x[i]));
}

static uint64_t seed = 1;
static inline float uniform(void) /* [-1, 1)   (Marsaglia's xorshift64*) */
{
    seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
    return (float)((seed * 2685821657736338717u) >> 40) * 0x1p-23f - 1;
}
static inline float *random_floats(size_t n)
{
    float *x = malloc((n ? n : 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < n; i++) x[i] = uniform();
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
    return isnan(err) ? INFINITY : err / (sum + 1e-30);
}
