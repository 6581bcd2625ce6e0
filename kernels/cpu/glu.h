/* Gated activations: y = act(gate) * up, in vectors of the compiler's own. Without contraction the result
 * does not depend on their width. */
#pragma once
#include <math.h>
#include <string.h>
#include "ops.h"

#if defined(__AVX512F__)
#define GLU_BYTES 64
#elif defined(__AVX__)
#define GLU_BYTES 32
#else
#define GLU_BYTES 16
#endif
#define GLU_LANES (GLU_BYTES / 4)
typedef float glu_f __attribute__((vector_size(GLU_BYTES)));
typedef int32_t glu_i __attribute__((vector_size(GLU_BYTES)));  /* of comparisons */
typedef uint32_t glu_u __attribute__((vector_size(GLU_BYTES))); /* bits */

/* Where the mask is set, x, elsewhere y. */
static inline glu_f glu_pick(glu_i mask, glu_f x, glu_f y)
{
    return (glu_f)(((glu_u)mask & (glu_u)x) | (~(glu_u)mask & (glu_u)y));
}

/* e^x to about 2 ulp, x clamped to where the result is a normal number: x = n ln 2 + r, |r| <= ln 2 / 2, and
 * the polynomial of Cephes' expf for e^r. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low
 * bits. */
static inline glu_f glu_exp(glu_f x)
{
    const glu_f zero = {0};
    x = glu_pick(x > 88.0f, zero + 88.0f, x);
    x = glu_pick(x < -87.0f, zero - 87.0f, x);
    glu_f shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    glu_f r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    glu_f p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1;
    return (glu_f)((glu_u)p + ((glu_u)shifted << 23));
}

/* GELU's tanh form, 0.5 x (1 + tanh u) = x / (1 + e^-2u) with u = sqrt(2/pi) (x + 0.044715 x^3)
 * (Hendrycks & Gimpel 2016) */
static inline glu_f glu_act(enum act act, glu_f x)
{
    switch (act) {
    case ACT_SILU: return x / (1 + glu_exp(-x));
    case ACT_GELU_TANH: return x / (1 + glu_exp(-1.5957691216f * (x + 0.044715f * x * x * x)));
    case ACT_RELU: return glu_pick(x > 0, x, (glu_f){0});
    case ACT_GELU: break;
    }
    for (int i = 0; i < GLU_LANES; i++) x[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f));
    return x;
}

/* n is a multiple of 16; y may be gate */
static inline void glu_apply(enum act act, const float *gate, const float *up, float *y, int n)
{
    for (int i = 0; i < n; i += GLU_LANES) {
        glu_f g, u;
        memcpy(&g, gate + i, sizeof g);
        memcpy(&u, up + i, sizeof u);
        g = glu_act(act, g) * u;
        memcpy(y + i, &g, sizeof g);
    }
}
