/* Gated activations: y = act(gate) * up. Plain C that the compiler turns into vectors; without contraction
 * the result does not depend on their width. */
#pragma once
#include <math.h>
#include "half.h"
#include "ops.h"

/* e^x to about 2 ulp, x clamped to where the result is a normal number: x = n ln 2 + r, |r| <= ln 2 / 2, and
 * the polynomial of Cephes' expf for e^r. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low
 * bits. */
static inline float glu_exp(float x)
{
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1;
    return f32_from_bits(f32_bits(p) + (f32_bits(shifted) << 23));
}

/* tanh form of GELU, 0.5 x (1 + tanh u) = x / (1 + e^-2u) with u = sqrt(2/pi) (x + 0.044715 x^3)
 * (Hendrycks & Gimpel 2016) */
static inline void glu_apply(enum act act, const float *gate, const float *up, float *y, int n)
{
    switch (act) {
    case ACT_SILU:
        for (int i = 0; i < n; i++) y[i] = gate[i] / (1 + glu_exp(-gate[i])) * up[i];
        return;
    case ACT_GELU_TANH:
        for (int i = 0; i < n; i++) {
            float x = gate[i];
            y[i] = x / (1 + glu_exp(-1.5957691216f * (x + 0.044715f * x * x * x))) * up[i];
        }
        return;
    case ACT_GELU:
        for (int i = 0; i < n; i++) y[i] = 0.5f * gate[i] * (1 + erff(gate[i] * 0.70710678f)) * up[i];
        return;
    case ACT_RELU:
        for (int i = 0; i < n; i++) y[i] = (gate[i] > 0 ? gate[i] : 0) * up[i];
        return;
    }
}
