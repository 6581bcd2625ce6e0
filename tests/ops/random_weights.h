/* Random numbers and random matrices of every type, for the tests of the kernels. */
#pragma once
#include <stdint.h>
#include <string.h>
#include "dtype.h"
#include "half.h"

static uint64_t random_state = 88172645463325252u;
static inline uint32_t random_u32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}
/* About normal, variance 1. */
static inline float random_normal(void)
{
    float s = 0;
    for (int i = 0; i < 3; i++) s += (float)(random_u32() & 0xffffff) * 0x1p-23f - 1;
    return s;
}
static inline void random_floats(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = random_normal();
}

/* n values of type t: any codes, scales of either sign in [0.005, 0.015]. */
static inline void random_weights(enum dtype t, uint8_t *p, size_t n)
{
    static const short halves[DT_COUNT][2] = {
        [DT_Q8_0] = {0, -1}, [DT_Q4_0] = {0, -1},  [DT_Q4_1] = {0, 2},    [DT_Q5_0] = {0, -1},
        [DT_Q5_1] = {0, 2},  [DT_Q2_K] = {80, 82}, [DT_Q3_K] = {108, -1}, [DT_Q4_K] = {0, 2},
        [DT_Q5_K] = {0, 2},  [DT_Q6_K] = {208, -1}};
    const struct dtype_info *d = dtype_info(t);
    for (size_t i = 0; i < n; i += (size_t)d->block, p += d->bytes) {
        if (!dtype_is_quant(t)) {
            float f = random_normal();
            if (t == DT_F32)
                memcpy(p, &f, 4);
            else
                dtype_from_f32(t, &f, p, 1);
            continue;
        }
        for (int k = 0; k < d->bytes; k++) p[k] = (uint8_t)random_u32();
        for (int k = 0; k < 2; k++) {
            int at = halves[t][k];
            float v = 0.005f + 0.01f * (float)(random_u32() & 255) / 255;
            uint16_t h = half_from_f32(random_u32() & 1 ? v : -v);
            if (at >= 0) memcpy(p + at, &h, 2);
        }
    }
}
