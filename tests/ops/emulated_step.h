/* What the ops other than matrix products need beyond emulated_avx512.h, in halves of 256 bits. */
#pragma once
#include <string.h>
#include "emulated_avx512.h"

#undef _mm512_extractf32x8_ps
#undef _mm512_insertf32x8
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_epi16
#define _mm512_maskz_loadu_ps        emulated_load_n
#define _mm512_mask_storeu_ps        emulated_store_n
#define _mm512_cvtepu16_epi32        emulated_cvtepu16
#define _mm512_extractf32x8_ps(v, i) (simde__m512_to_private(v).m256[i])
#define _mm512_insertf32x8(v, h, i)  emulated_insert(v, h)
static inline simde__m512 emulated_insert(simde__m512 v, __m256 high)
{
    simde__m512_private x = simde__m512_to_private(v);
    x.m256[1] = high;
    return simde__m512_from_private(x);
}
static inline simde__m512 emulated_load_n(unsigned mask, const float *p)
{
    simde__m512_private x;
    for (int i = 0; i < 16; i++) x.f32[i] = mask >> i & 1 ? p[i] : 0;
    return simde__m512_from_private(x);
}
static inline void emulated_store_n(float *p, unsigned mask, simde__m512 v)
{
    simde__m512_private x = simde__m512_to_private(v);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) p[i] = x.f32[i];
}
#define _mm512_cvtps_ph(v, how) emulated_cvtps_ph(v)
static inline __m256i emulated_cvtps_ph(simde__m512 v)
{
    simde__m512_private x = simde__m512_to_private(v);
    return _mm256_setr_m128i(_mm256_cvtps_ph(x.m256[0], 0), _mm256_cvtps_ph(x.m256[1], 0));
}
static inline simde__m512i emulated_cvtepu16(__m256i v)
{
    simde__m512i_private x;
    x.m256i[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v));
    x.m256i[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1));
    return simde__m512i_from_private(x);
}
static inline simde__m512i emulated_round(simde__m512 v)
{
    simde__m512_private x = simde__m512_to_private(v);
    simde__m512i_private i;
    for (int k = 0; k < 2; k++) i.m256i[k] = _mm256_cvtps_epi32(x.m256[k]);
    return simde__m512i_from_private(i);
}
static inline __m256i emulated_narrow(simde__m512i v)
{
    simde__m512i_private x = simde__m512i_to_private(v);
    int16_t low[16];
    for (int i = 0; i < 16; i++) low[i] = (int16_t)x.i32[i];
    return _mm256_loadu_si256((const __m256i *)(const void *)low);
}
#define _mm512_cvtps_epi32    emulated_round
#define _mm512_cvtepi32_epi16 emulated_narrow
static inline simde__m512i emulated_dpwssd(simde__m512i acc, simde__m512i a, simde__m512i b)
{
    simde__m512i_private f = simde__m512i_to_private(acc), x = simde__m512i_to_private(a);
    simde__m512i_private y = simde__m512i_to_private(b);
    for (int i = 0; i < 2; i++)
        f.m256i[i] = _mm256_add_epi32(f.m256i[i], _mm256_madd_epi16(x.m256i[i], y.m256i[i]));
    return simde__m512i_from_private(f);
}
/* Rounds to the nearest, ties to even; a number too small for a normal float becomes 0, a NaN stays one. */
static inline __m256i emulated_to_bf16(simde__m512 v)
{
    simde__m512_private x = simde__m512_to_private(v);
    uint16_t h[16];
    for (int i = 0; i < 16; i++) {
        uint32_t u;
        memcpy(&u, &x.f32[i], sizeof u);
        if (!(u & 0x7f800000))
            u &= 0x80000000;
        else if (x.f32[i] != x.f32[i])
            u |= 0x400000;
        else
            u += 0x7fff + (u >> 16 & 1);
        h[i] = (uint16_t)(u >> 16);
    }
    return _mm256_loadu_si256((const __m256i *)(const void *)h);
}
#undef _mm512_dpwssd_epi32
#undef _mm512_cvtneps_pbh
#define _mm512_dpwssd_epi32 emulated_dpwssd
#define _mm512_cvtneps_pbh  emulated_to_bf16
