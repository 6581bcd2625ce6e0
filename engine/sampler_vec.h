/* The sampler's passes over a whole row, on explicit vectors, each compiled twice: for the baseline and for
 * AVX2. Neither contracts to FMA nor reassociates, so both give the same bits. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define BLOCK 256 /* logits handled at a time; a multiple of LANES */
/* exp(v) * 2^30 < 1 below this, so the weight is 0 */
#define WEIGHT_FLOOR (-21.0f)

#define INLINE static inline __attribute__((always_inline))

/* gcc's vectors; passed by address, since by value their ABI depends on the instruction set */
typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));

INLINE void load(vf *v, const float *x, int n, float fill) /* n < LANES: the rest is fill */
{
    if (n >= LANES) {
        memcpy(v, x, sizeof *v);
    } else {
        *v = (vf){0} + fill;
        memcpy(v, x, (size_t)n * sizeof *x);
    }
}

INLINE void store(int32_t *q, const vi *v, int n)
{
    if (n >= LANES) {
        memcpy(q, v, sizeof *v);
    } else {
        memcpy(q, v, (size_t)n * sizeof *q);
    }
}

/* v = max(v, w), a NaN in v counting as w's value */
INLINE void raise_to(vf *v, const vf *w)
{
    vi above = *v > *w;
    *v = (vf)(((vi)*v & above) | ((vi)*w & ~above));
}

/* v = exp(v) for v <= 0, NaN counting as -80. v = n ln2 + r with |r| <= ln2/2, Taylor to r^6 / 720: relative
 * error below 2e-7; exp(0) is exactly 1. Adding 1.5 * 2^23 rounds to the nearest integer; ln2 is split as in
 * Cody & Waite. */
INLINE void exp_neg(vf *v)
{
    vf least = (vf){0} - 80.0f;
    raise_to(v, &least);
    vf n = (*v * 1.44269504f + 12582912.0f) - 12582912.0f;
    vf r = (*v - n * 0.693359375f) + n * 2.12194440e-4f;
    vf p = r * (1.0f / 720) + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    *v = p * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}

INLINE float max_body(const float *x, int n)
{
    vf m, v;
    load(&m, x, 0, -INFINITY);
    for (int i = 0; i < n; i += LANES) {
        load(&v, x + i, n - i, -INFINITY);
        raise_to(&v, &m);
        m = v;
    }
    float best = -INFINITY;
    for (int j = 0; j < LANES; j++) best = m[j] > best ? m[j] : best;
    return best;
}

/* sum of exp(x[i] - m) over at most BLOCK logits, in a fixed order */
INLINE float sum_body(const float *x, int n, float m)
{
    vf v, lane = {0};
    for (int i = 0; i < n; i += LANES) {
        load(&v, x + i, n - i, -INFINITY);
        v = v - m;
        exp_neg(&v);
        lane += v;
    }
    float sum = 0;
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

/* q[i] = floor(exp((x[i] - m) * inv_t) * 2^30) for at most BLOCK logits; their largest in *top; returns their
 * sum,
 * <= 2^38. It is added up in halves of 15 bits, so that 32-bit lanes hold it. */
INLINE int64_t weights_body(const float *x, int n, float m, float inv_t, int32_t *q, int32_t *top)
{
    vf v;
    vi high = {0}, low = {0}, most = {0};
    for (int i = 0; i < n; i += LANES) {
        load(&v, x + i, n - i, -INFINITY);
        v = (v - m) * inv_t;
        exp_neg(&v);
        vi w = __builtin_convertvector(v * 1073741824.0f, vi);
        store(q + i, &w, n - i);
        high += w >> 15;
        low += w & 0x7fff;
        vi above = w > most;
        most = (w & above) | (most & ~above);
    }
    int64_t sum = 0;
    *top = 0;
    for (int j = 0; j < LANES; j++) {
        sum += ((int64_t)high[j] << 15) + low[j];
        if (most[j] > *top) *top = most[j];
    }
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
    int64_t (*weights)(const float *x, int n, float m, float inv_t, int32_t *q, int32_t *top);
    int (*rank)(const float *x, int n, float v, int before);
};

#define VEC_OPS(SUFFIX, ATTR)                                                                                \
    ATTR static float max_##SUFFIX(const float *x, int n) { return max_body(x, n); }                         \
    ATTR static float sum_##SUFFIX(const float *x, int n, float m) { return sum_body(x, n, m); }             \
    ATTR static int64_t weights_##SUFFIX(const float *x, int n, float m, float inv_t, int32_t *q,            \
                                         int32_t *top)                                                       \
    {                                                                                                        \
        return weights_body(x, n, m, inv_t, q, top);                                                         \
    }                                                                                                        \
    ATTR static int rank_##SUFFIX(const float *x, int n, float v, int before)                                \
    {                                                                                                        \
        return rank_body(x, n, v, before);                                                                   \
    }                                                                                                        \
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
