/* Vectors of the kernel templates: AVX2, FMA, F16C. */
#pragma once
#include <immintrin.h>

typedef __m256i vi;
typedef __m256 vf;
#define LANES            8 /* of 32 bits */
#define vi_load(p)       _mm256_load_si256((const __m256i *)(const void *)(p))
#define vi_store(p, v)   _mm256_store_si256((__m256i *)(void *)(p), v)
#define vi_bcast(p)      _mm256_castps_si256(_mm256_broadcast_ss((const float *)(const void *)(p)))
#define vi_set8(x)       _mm256_set1_epi8(x)
#define vi_set16(x)      _mm256_set1_epi16(x)
#define vi_zero()        _mm256_setzero_si256()
#define vi_and(a, b)     _mm256_and_si256(a, b)
#define vi_or(a, b)      _mm256_or_si256(a, b)
#define vi_shl16(a, n)   _mm256_slli_epi16(a, n)
#define vi_shr16(a, n)   _mm256_srli_epi16(a, n)
#define vi_shl32(a, n)   _mm256_slli_epi32(a, n)
#define vi_high16(a)     _mm256_and_si256(a, _mm256_set1_epi32((int)0xffff0000))
#define vi_low16(a)      _mm256_and_si256(a, _mm256_set1_epi32(0xffff))
#define vi_add16(a, b)   _mm256_add_epi16(a, b)
#define vi_add32(a, b)   _mm256_add_epi32(a, b)
#define vi_mul16(a, b)   _mm256_mullo_epi16(a, b)
#define vi_madd16(a, b)  _mm256_madd_epi16(a, b)
#define vi_maddubs(u, s) _mm256_maddubs_epi16(u, s)
#define vf_load(p)       _mm256_loadu_ps(p)
#define vf_store(p, v)   _mm256_storeu_ps(p, v)
#define vf_bcast(p)      _mm256_broadcast_ss(p)
#define vf_set(x)        _mm256_set1_ps(x)
#define vf_mul(a, b)     _mm256_mul_ps(a, b)
#define vf_fma(a, b, c)  _mm256_fmadd_ps(a, b, c)
#define vf_from_i32(v)   _mm256_cvtepi32_ps(v)
#define vf_cast(v)       _mm256_castsi256_ps(v)
#define vf_half(p)       _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define vf_i8(p)         _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p))))
/* An opaque copy: without it the compiler reorders chains of additions into more live values than registers.
 */
#define vi_keep(v) __asm__("" : "+x"(v))
/* Bytes ahead. A unit's arithmetic fills the reorder window long before enough lines are on their way from
 * memory. */
#define PREFETCH 2048
