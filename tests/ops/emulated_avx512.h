/* AVX-512 intrinsics by SIMDe, so that machines without AVX-512 can test its kernels; built with AVX2. Mends
 * what Debian 12's SIMDe lacks or names wrongly, in halves of 256 bits. */
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <immintrin.h>

#undef _mm512_madd_epi16
#undef _mm512_mullo_epi16
#undef _mm512_maddubs_epi16
#undef _mm512_set1_epi16
#undef _mm512_cvtph_ps
#undef _mm512_dpbusd_epi32
#undef _mm512_dpbf16_ps
#define HALVES(name, op)                                                                                     \
    static inline simde__m512i name(simde__m512i a, simde__m512i b)                                          \
    {                                                                                                        \
        simde__m512i_private x = simde__m512i_to_private(a), y = simde__m512i_to_private(b);                 \
        for (int i = 0; i < 2; i++) x.m256i[i] = op(x.m256i[i], y.m256i[i]);                                 \
        return simde__m512i_from_private(x);                                                                 \
    }
HALVES(_mm512_madd_epi16, _mm256_madd_epi16)
HALVES(_mm512_mullo_epi16, _mm256_mullo_epi16)
HALVES(_mm512_maddubs_epi16, _mm256_maddubs_epi16)

static inline simde__m512i _mm512_set1_epi16(short v)
{
    simde__m512i_private x;
    for (int i = 0; i < 2; i++) x.m256i[i] = _mm256_set1_epi16(v);
    return simde__m512i_from_private(x);
}
static inline simde__m512 _mm512_cvtph_ps(__m256i v)
{
    simde__m512_private x;
    x.m256[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
    x.m256[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
    return simde__m512_from_private(x);
}
static inline simde__m512 emulated_cvtepi32_ps(simde__m512i v)
{
    simde__m512i_private x = simde__m512i_to_private(v);
    simde__m512_private f;
    for (int i = 0; i < 2; i++) f.m256[i] = _mm256_cvtepi32_ps(x.m256i[i]);
    return simde__m512_from_private(f);
}
static inline simde__m512i emulated_cvtepi8_epi32(__m128i v)
{
    simde__m512i_private x;
    x.m256i[0] = _mm256_cvtepi8_epi32(v);
    x.m256i[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8));
    return simde__m512i_from_private(x);
}
/* Four products of an unsigned and a signed byte in each lane: even and odd bytes apart, in 16 bits. */
static inline simde__m512i emulated_dpbusd(simde__m512i acc, simde__m512i u, simde__m512i s)
{
    simde__m512i_private f = simde__m512i_to_private(acc), x = simde__m512i_to_private(u);
    simde__m512i_private y = simde__m512i_to_private(s);
    for (int i = 0; i < 2; i++) {
        __m256i even = _mm256_madd_epi16(_mm256_and_si256(x.m256i[i], _mm256_set1_epi16(255)),
                                         _mm256_srai_epi16(_mm256_slli_epi16(y.m256i[i], 8), 8));
        __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x.m256i[i], 8), _mm256_srai_epi16(y.m256i[i], 8));
        f.m256i[i] = _mm256_add_epi32(f.m256i[i], _mm256_add_epi32(even, odd));
    }
    return simde__m512i_from_private(f);
}
/* acc + odd products + even products, rounding after each, as Intel's manual has it. */
static inline simde__m512 emulated_dpbf16(simde__m512 acc, simde__m512i a, simde__m512i b)
{
    simde__m512_private f = simde__m512_to_private(acc);
    simde__m512i_private x = simde__m512i_to_private(a), y = simde__m512i_to_private(b);
    const __m256i high = _mm256_set1_epi32((int)0xffff0000);
    for (int i = 0; i < 2; i++) {
        f.m256[i] = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(x.m256i[i], high)),
                                    _mm256_castsi256_ps(_mm256_and_si256(y.m256i[i], high)), f.m256[i]);
        f.m256[i] = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(x.m256i[i], 16)),
                                    _mm256_castsi256_ps(_mm256_slli_epi32(y.m256i[i], 16)), f.m256[i]);
    }
    return simde__m512_from_private(f);
}
#define _mm512_cvtepi32_ps   emulated_cvtepi32_ps
#define _mm512_cvtepi8_epi32 emulated_cvtepi8_epi32
#define _mm512_dpbusd_epi32  emulated_dpbusd
#define _mm512_dpbf16_ps     emulated_dpbf16
#define __m512bh             simde__m512i
