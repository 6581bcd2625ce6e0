/* Portable conversions of one number between float32 and the 16-bit formats; round to nearest, ties to even.
 */
#pragma once
#include <stdint.h>
#include <string.h>

static inline float f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float bf16_to_f32(uint16_t h) { return f32_from_bits((uint32_t)h << 16); }
static inline uint16_t bf16_from_f32(float f)
{
    uint32_t u = f32_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* E4M3 (Micikevicius et al. 2022): no infinities, 0x7f is NaN, subnormals below 2^-6. */
static inline float e4m3_to_f32(uint8_t c)
{
    uint32_t sign = (uint32_t)(c & 0x80) << 24, mag = c & 0x7f;
    if (mag == 0x7f) return f32_from_bits(sign | 0x7fc00000);
    return f32_from_bits(sign | f32_bits(f32_from_bits(mag << 20) * 0x1p120f));
}

/* What is beyond 448, the largest, becomes that; any NaN 0x7f. Without branches, for the sake of loops. */
static inline uint8_t e4m3_from_f32(float f)
{
    int32_t u = (int32_t)f32_bits(f), mag = u & 0x7fffffff;
    /* below 2^-6 codes are 2^-9 apart, as floats are from 2^14 on */
    int32_t small = (int32_t)f32_bits(f32_from_bits((uint32_t)mag) + 0x1p14f) - 0x46800000,
            normal = (mag - 0x3c000000 + 0x7ffff + (mag >> 20 & 1)) >> 20;
    int32_t is_small = -(mag < 0x3c800000), is_nan = -(mag > 0x7f800000);
    int32_t code = (small & is_small) | (normal & ~is_small);
    if (code > 0x7e) code = 0x7e;
    return (uint8_t)((((u >> 24 & 0x80) | code) & ~is_nan) | (0x7f & is_nan));
}

/* IEEE binary16: shifting exponent and mantissa into float's place leaves the exponent 112 too small, and
 * multiplying by 2^112 mends that exactly, also for subnormals. */
static inline float half_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, mag = (uint32_t)(h & 0x7fff) << 13;
    if (mag >= 0x0f800000) return f32_from_bits(sign | 0x70000000 | mag); /* infinity and NaN */
    return f32_from_bits(sign | f32_bits(f32_from_bits(mag) * 0x1p112f));
}
static inline uint16_t half_from_f32(float f)
{
    uint32_t u = f32_bits(f), sign = u >> 16 & 0x8000, mag = u & 0x7fffffff;
    if (mag > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (mag >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (mag < 0x38800000) /* below 2^-14: adding 0.5 leaves the subnormal code, rounded, in the low bits */
        return (uint16_t)(sign | (f32_bits(f32_from_bits(mag) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((mag - 0x38000000 + 0xfff + (mag >> 13 & 1)) >> 13));
}
