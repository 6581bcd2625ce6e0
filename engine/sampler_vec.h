/* The sampler's passes over a whole row, written so that gcc makes vectors of them, each compiled twice: for the
 * baseline and for AVX2. Neither contracts to FMA nor reassociates, so both give the same bits. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define BLOCK 256 /* logits handled at a time; a multiple of LANES */
/* exp(v) * 2^30 < 1 below this, so the weight is 0 */
#define WEIGHT_FLOOR (-21.0f)

#define INLINE static inline __attribute__((always_inline))

/* exp(v) for v <= 0, NaN counting as -80. v = n ln2 + r with |r| <= ln2/2, Taylor to r^6 / 720: relative error below
 * 2e-7; exp_neg(0) is exactly 1. Adding 1.5 * 2^23 rounds to the nearest integer; ln2 is split as in Cody & Waite. */
INLINE float exp_neg(float v)
{
    v = v > -80.0f ? v : -80.0f;
    float n = (v * 1.44269504f + 12582912.0f) - 12582912.0f;
    float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

INLINE float max_body(const float *x, int n)
{
    float lane[LANES], m = -INFINITY;
    for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; i++) m = x[i] > m ? x[i] : m;
    for (int j = 0; j < LANES; j++) m = lane[j] > m ? lane[j] : m;
    return m;
}

/* sum of exp(x[i] - m) over at most BLOCK logits, in a fixed order */
INLINE float sum_body(const float *x, int n, float m)
{
    float lane[LANES] = {0}, sum = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += exp_neg(x[i + j] - m);
    for (; i < n; i++) sum += exp_neg(x[i] - m);
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

/* q[i] = floor(exp((x[i] - m) * inv_t) * 2^30) for at most BLOCK logits; returns their sum (<= 2^38) */
INLINE int64_t weights_body(const float *x, int n, float m, float inv_t, int32_t *q)
{
    int64_t lane[LANES] = {0}, sum = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            q[i + j] = (int32_t)(exp_neg((x[i + j] - m) * inv_t) * 1073741824.0f);
            lane[j] += q[i + j];
        }
    for (; i < n; i++) sum += q[i] = (int32_t)(exp_neg((x[i] - m) * inv_t) * 1073741824.0f);
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

/* logits above v, plus those equal to it before index `before` */
INLINE int rank_body(const float *x, int n, float v, int before)
{
    int above = 0, ties = 0;
    for (int i = 0; i < n; i++) above += x[i] > v;
    for (int i = 0; i < before; i++) ties += x[i] == v;
    return above + ties;
}

struct vec_ops {
    float (*max)(const float *x, int n);
    float (*sum)(const float *x, int n, float m);
    int64_t (*weights)(const float *x, int n, float m, float inv_t, int32_t *q);
    int (*rank)(const float *x, int n, float v, int before);
};

#define VEC_OPS(SUFFIX, ATTR)                                                                                     \
    ATTR static float max_##SUFFIX(const float *x, int n) { return max_body(x, n); }                             \
    ATTR static float sum_##SUFFIX(const float *x, int n, float m) { return sum_body(x, n, m); }                 \
    ATTR static int64_t weights_##SUFFIX(const float *x, int n, float m, float inv_t, int32_t *q)                \
    {                                                                                                             \
        return weights_body(x, n, m, inv_t, q);                                                                   \
    }                                                                                                             \
    ATTR static int rank_##SUFFIX(const float *x, int n, float v, int before)                                    \
    {                                                                                                             \
        return rank_body(x, n, v, before);                                                                        \
    }                                                                                                             \
    static const struct vec_ops vec_##SUFFIX = {max_##SUFFIX, sum_##SUFFIX, weights_##SUFFIX, rank_##SUFFIX};

VEC_OPS(base, )
#if defined(__x86_64__)
VEC_OPS(avx2, __attribute__((target("avx2"))))
#endif

static const struct vec_ops *vec_ops(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return &vec_avx2;
#endif
    return &vec_base;
}
