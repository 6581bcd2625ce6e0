/* What norms, rotary embedding and attention need beyond vec_*.h: sums over lanes, partial loads,
 * exponentials. */
#pragma once
#if defined __AVX512F__ || defined VEC_EMULATED
#include "vec_avx512.h"
#else
#include "vec_avx2.h"
#endif
#include <float.h>
#include "dtype.h"
#include "half.h"
#include "kv_store.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

#if LANES == 16
#define vf_add(a, b)  _mm512_add_ps(a, b)
#define vf_sub(a, b)  _mm512_sub_ps(a, b)
#define vf_div(a, b)  _mm512_div_ps(a, b)
#define vf_max(a, b)  _mm512_max_ps(a, b)
#define vf_min(a, b)  _mm512_min_ps(a, b)
#define vf_abs(a)     _mm512_andnot_ps(vf_set(-0.0f), a)
#define vf_sign(m, s) _mm512_or_ps(m, _mm512_and_ps(vf_set(-0.0f), s)) /* m >= 0 with the sign of s */
#define vf_exponent(m)                                                                                       \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(m), 23)) /* low bits become the exponent */
#define vf_low(v)  _mm512_castps512_ps256(v)
#define vf_high(v) _mm512_extractf32x8_ps(v, 1)
INLINE vf vf_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void vf_store_n(float *p, vf v, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v); }
INLINE float vf_sum(vf v)
{
    __m256 a = _mm256_add_ps(vf_low(v), vf_high(v));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
INLINE float vf_hmax(vf v)
{
    __m256 a = _mm256_max_ps(vf_low(v), vf_high(v));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
/* 16 values from two places */
#define load_2(p, q)                                                                                         \
    _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(p))),     \
                            _mm_loadu_si128((const __m128i *)(const void *)(q)), 1)
#define load_2_f32(p, q)                                                                                     \
    _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps((const float *)(const void *)(p))),            \
                       _mm256_loadu_ps((const float *)(const void *)(q)), 1)
#define load_pairs(p) /* 16 pairs of int8 as int16, in floats' places */                                     \
    _mm512_castsi512_ps(_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(p))))
#define vi_cast(v)        _mm512_castps_si512(v)
#define vi_max32(a, b)    _mm512_max_epi32(a, b)
#define vi_round(v)       _mm512_cvtps_epi32(v)
#define store_short(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), _mm512_cvtepi32_epi16(v))
#define to_half(v)        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define store_half(p, v)  _mm256_storeu_si256((__m256i *)(void *)(p), to_half(v))
#define store_bf16(p, v)  _mm256_storeu_si256((__m256i *)(void *)(p), vf_to_bf16(v))
#else
#define vf_add(a, b)  _mm256_add_ps(a, b)
#define vf_sub(a, b)  _mm256_sub_ps(a, b)
#define vf_div(a, b)  _mm256_div_ps(a, b)
#define vf_max(a, b)  _mm256_max_ps(a, b)
#define vf_min(a, b)  _mm256_min_ps(a, b)
#define vf_abs(a)     _mm256_andnot_ps(vf_set(-0.0f), a)
#define vf_sign(m, s) _mm256_or_ps(m, _mm256_and_ps(vf_set(-0.0f), s)) /* m >= 0 with the sign of s */
#define vf_exponent(m)                                                                                       \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(m), 23)) /* low bits become the exponent */
INLINE __m256i lane_mask(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf vf_load_n(const float *p, int n) { return _mm256_maskload_ps(p, lane_mask(n)); }
INLINE void vf_store_n(float *p, vf v, int n) { _mm256_maskstore_ps(p, lane_mask(n), v); }
INLINE float vf_sum(vf v)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
INLINE float vf_hmax(vf v)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
#define load_pairs(p) /* 8 pairs of int8 as int16, in floats' places */                                      \
    _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#define vi_cast(v)     _mm256_castps_si256(v)
#define vi_max32(a, b) _mm256_max_epi32(a, b)
#define vi_round(v)    _mm256_cvtps_epi32(v)
#define store_short(p, v)                                                                                    \
    _mm_storeu_si128((__m128i *)(void *)(p),                                                                 \
                     _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)))
#define store_half(p, v)                                                                                     \
    _mm_storeu_si128((__m128i *)(void *)(p),                                                                 \
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#endif

/* Of the cache. A word is what one lane takes at a time: a value, or a pair. It becomes 32 bits: a float, a
 * pair of int16, or the pair of bfloat16 as it lies in memory. */
#define PAIR(type)       ((type) == DT_I8 || (type) == DT_BF16 ? 2 : 1)  /* values in a word */
#define WORD_BYTES(type) ((type) == DT_F32 || (type) == DT_BF16 ? 4 : 2) /* of a word in memory */
#ifdef vf_dot_bf16
#define BF16_TURNS 1
#else
#define BF16_TURNS 2 /* each value of a pair as a float */
#endif
#define TURNS(type) ((type) == DT_BF16 ? BF16_TURNS : 1) /* multiplications for a word */

/* Words of LANES keys at byte offset `at` of KV tiles of 8 keys. */
INLINE vf load_keys(enum dtype t, const unsigned char *const *tile, size_t at)
{
#if LANES == 16
    if (WORD_BYTES(t) == 4) return load_2_f32(tile[0] + at, tile[1] + at);
    __m256i u = load_2(tile[0] + at, tile[1] + at);
    return t == DT_F16 ? _mm512_cvtph_ps(u) : vf_cast(_mm512_cvtepi8_epi16(u));
#else
    if (WORD_BYTES(t) == 4) return vf_load((const float *)(const void *)(tile[0] + at));
    return t == DT_F16 ? vf_half(tile[0] + at) : load_pairs(tile[0] + at);
#endif
}
/* Words of LANES dimensions. */
INLINE vf load_values(enum dtype t, const unsigned char *p)
{
    if (WORD_BYTES(t) == 4) return vf_load((const float *)(const void *)p);
    return t == DT_F16 ? vf_half(p) : load_pairs(p);
}
/* What the turn multiplies of a word. */
INLINE vf turn_of(enum dtype t, vf word, int turn)
{
    if (TURNS(t) == 1) return word;
    return vf_cast(turn ? vi_high16(vi_cast(word)) : vi_shl32(vi_cast(word), 16));
}
/* c + a * b: floats, also as sums of pairs of bfloat16; or int32 sums of pairs of int16. */
INLINE vf vf_dot(enum dtype t, vf a, vf b, vf c)
{
#ifdef vf_dot_bf16
    if (t == DT_BF16) return vf_dot_bf16(c, vi_cast(a), vi_cast(b));
#endif
    if (t != DT_I8) return vf_fma(a, b, c);
#ifdef vi_dot16
    return vf_cast(vi_dot16(vi_cast(c), vi_cast(a), vi_cast(b)));
#else
    vi sum = vi_add32(vi_cast(c), vi_madd16(vi_cast(a), vi_cast(b)));
    vi_keep(sum);
    return vf_cast(sum);
#endif
}

/* kv_rotate's bits: within vectors of 8, with either sign for the half that is subtracted, then between them.
 */
INLINE void rotate(const float *x, int n, float *out)
{
    const __m256 s1 = _mm256_setr_ps(0, -0.0f, 0, -0.0f, 0, -0.0f, 0, -0.0f),
                 s2 = _mm256_setr_ps(0, 0, -0.0f, -0.0f, 0, 0, -0.0f, -0.0f),
                 s4 = _mm256_setr_ps(0, 0, 0, 0, -0.0f, -0.0f, -0.0f, -0.0f);
    for (int i = 0; i < n; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        v = _mm256_add_ps(_mm256_permute_ps(v, 0xb1), _mm256_xor_ps(v, s1));
        v = _mm256_add_ps(_mm256_permute_ps(v, 0x4e), _mm256_xor_ps(v, s2));
        v = _mm256_add_ps(_mm256_permute2f128_ps(v, v, 1), _mm256_xor_ps(v, s4));
        _mm256_storeu_ps(out + i, v);
    }
    for (int h = 8; h < kv_rotation(n); h *= 2)
        for (int i = 0; i < n; i += 2 * h)
            for (int j = i; j < i + h; j += 8) {
                __m256 a = _mm256_loadu_ps(out + j), b = _mm256_loadu_ps(out + j + h);
                _mm256_storeu_ps(out + j, _mm256_add_ps(a, b));
                _mm256_storeu_ps(out + j + h, _mm256_sub_ps(a, b));
            }
}

/* Codes in [-top, top] of n floats, n divisible by 8; returns their scale. q has room for whole vectors. The
 * maximum is taken of bit patterns, where a NaN is above all: it becomes the scale. */
INLINE float quantise(const float *x, int n, float top, int16_t *q)
{
    vi most = vi_zero();
    for (int i = 0; i < n; i += LANES) {
        vf v = i + LANES <= n ? vf_load(x + i) : vf_load_n(x + i, n - i);
        most = vi_max32(most, vi_cast(vf_abs(v)));
    }
    uint32_t lane[LANES], bits = 0;
    vf_store((float *)(void *)lane, vf_cast(most));
    for (int i = 0; i < LANES; i++) bits = lane[i] > bits ? lane[i] : bits;
    float max = bits == 0x7f800000 ? FLT_MAX : f32_from_bits(bits), inv = max >= 0x1p-100f ? top / max : 0;
    for (int i = 0; i < n; i += LANES) {
        vf v = i + LANES <= n ? vf_load(x + i) : vf_load_n(x + i, n - i);
        v = vf_min(vf_max(vf_mul(v, vf_set(inv)), vf_set(-top)), vf_set(top));
        store_short(q + i, vi_round(v));
    }
    return max / top;
}

/* 2^x for x <= 127, to 2 ulp; exactly 1 at 0; 0 below -126.5. 2^x = 2^n (1 + r P(r)) with n = round(x): P is
 * the polynomial of least relative error on [-0.5, 0.5], 9e-8. Adding 1.5 * 2^23 rounds to an integer and
 * leaves n + 127, 2^n's exponent, in the low bits. */
INLINE vf vf_exp2(vf x)
{
    const vf magic = vf_set(0x1.8p23f + 127);
    vf y = vf_max(vf_set(-127.0f), x) /* a NaN stays */, m = vf_add(y, magic),
       r = vf_sub(y, vf_sub(m, magic));
    vf p = vf_fma(vf_set(0x1.5bba14p-10f), r, vf_set(0x1.3cea88p-7f));
    p = vf_fma(p, r, vf_set(0x1.c6b752p-5f));
    p = vf_fma(p, r, vf_set(0x1.ebf9bcp-3f));
    p = vf_fma(p, r, vf_set(0x1.62e42ap-1f));
    p = vf_fma(p, r, vf_set(1.0f));
    return vf_mul(p, vf_exponent(m));
}

/* tanh|x| = m / (m + 2) with m = e^(2|x|) - 1, where e^s - 1 = 2^n (r + r^2 P(r)) + (2^n - 1), so that small
 * x keep their relative precision. From 9.02 on tanh is 1 in float. */
INLINE vf vf_tanh(vf x)
{
    vf s = vf_mul(vf_min(vf_abs(x), vf_set(9.02f)), vf_set(2.0f));
    const vf magic = vf_set(0x1.8p23f + 127);
    vf shifted = vf_fma(s, vf_set(0x1.715476p+0f), magic), n = vf_sub(shifted, magic);
    vf r = vf_fma(n, vf_set(-0x1.62e400p-1f), s); /* ln 2 in two parts */
    r = vf_fma(n, vf_set(-0x1.7f7d1cp-20f), r);
    vf p = vf_fma(vf_set(0.0013946554f), r, vf_set(0.008366644f));
    p = vf_fma(p, r, vf_set(0.04166628f));
    p = vf_fma(p, r, vf_set(0.16666542f));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(vf_mul(p, r), r, r);
    vf two_n = vf_exponent(shifted), m = vf_fma(p, two_n, vf_sub(two_n, vf_set(1.0f)));
    return vf_sign(vf_div(m, vf_add(m, vf_set(2.0f))), x);
}
