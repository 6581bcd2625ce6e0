/* Vectors of the kernel templates: AVX-512 F, BW, DQ, VL; VNNI and BF16 if the compiler was told to use them.
 * A test brings emulated intrinsics itself: VEC_EMULATED is 1 for this level, 2 with VNNI and BF16. */
#pragma once
#ifndef VEC_EMULATED
#include <immintrin.h>
#endif

typedef __m512i vi;
typedef __m512 vf;
#define LANES            16 /* of 32 bits */
#define vi_load(p)       _mm512_load_si512((const void *)(p))
#define vi_store(p, v)   _mm512_store_si512((void *)(p), v)
#define vi_bcast(p)      _mm512_castps_si512(vf_bcast((const float *)(const void *)(p)))
#define vi_set8(x)       _mm512_set1_epi8(x)
#define vi_set16(x)      _mm512_set1_epi16(x)
#define vi_zero()        _mm512_setzero_si512()
#define vi_and(a, b)     _mm512_and_si512(a, b)
#define vi_or(a, b)      _mm512_or_si512(a, b)
#define vi_shl16(a, n)   _mm512_slli_epi16(a, n)
#define vi_shr16(a, n)   _mm512_srli_epi16(a, n)
#define vi_shl32(a, n)   _mm512_slli_epi32(a, n)
#define vi_high16(a)     _mm512_and_si512(a, _mm512_set1_epi32((int)0xffff0000))
#define vi_low16(a)      _mm512_and_si512(a, _mm512_set1_epi32(0xffff))
#define vi_add16(a, b)   _mm512_add_epi16(a, b)
#define vi_add32(a, b)   _mm512_add_epi32(a, b)
#define vi_mul16(a, b)   _mm512_mullo_epi16(a, b)
#define vi_madd16(a, b)  _mm512_madd_epi16(a, b)
#define vi_maddubs(u, s) _mm512_maddubs_epi16(u, s)
#define vf_load(p)       _mm512_loadu_ps(p)
#define vf_store(p, v)   _mm512_storeu_ps(p, v)
#define vf_bcast(p)      _mm512_set1_ps(*(p))
#define vf_set(x)        _mm512_set1_ps(x)
#define vf_mul(a, b)     _mm512_mul_ps(a, b)
#define vf_fma(a, b, c)  _mm512_fmadd_ps(a, b, c)
#define vf_from_i32(v)   _mm512_cvtepi32_ps(v)
#define vf_cast(v)       _mm512_castsi512_ps(v)
#define vf_half(p)       _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define vf_i8(p)         _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#ifndef VEC_EMULATED
#define VEC_EMULATED 0
#endif
#if defined(__AVX512VNNI__) || VEC_EMULATED >= 2
#define vi_dot(acc, u, s)   _mm512_dpbusd_epi32(acc, u, s)
#define vi_dot16(acc, a, b) _mm512_dpwssd_epi32(acc, a, b)
#endif
#if defined(__AVX512BF16__) || VEC_EMULATED >= 2
#define vf_dot_bf16(acc, a, b) _mm512_dpbf16_ps(acc, (__m512bh)(a), (__m512bh)(b))
#define vf_to_bf16(v)          ((__m256i)_mm512_cvtneps_pbh(v))
#endif
#if VEC_EMULATED
#define vi_keep(v) ((void)0)
#else
#define vi_keep(v) __asm__("" : "+v"(v))
#endif
#define PREFETCH 0 /* a unit is few instructions, so that the hardware runs far enough ahead by itself */
