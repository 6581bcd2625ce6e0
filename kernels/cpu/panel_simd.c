/* The kernels of one SIMD level: compiled once for each, with that level's flags and LEVEL(name), the name
 * with that level. */
#if defined(__AVX512F__) || defined(VEC_EMULATED)
#include "vec_avx512.h"
#else
#include "vec_avx2.h"
#endif
#include "glu.h"
#include "panel_float.h"

#define ROWS(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) TILE_ROWS(X, __VA_ARGS__)
#if LANES == 8
#define TILE_ROWS(X, ...) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__)
#elif !defined(vi_dot)
#define TILE_ROWS(X, ...) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)
#else
#define TILE_ROWS(X, ...)                                                                                    \
    X(3, __VA_ARGS__)                                                                                        \
    X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__)
#endif

/* One function for each type and each number of rows, so that each has its own stack frame and registers. */
#define DOT(r, t, b, g, m, s)                                                                                \
    static __attribute__((noinline)) void dot_##t##_##r(const uint8_t *p, const struct act_unit *a, int n,   \
                                                        float *f)                                            \
    {                                                                                                        \
        panel_dot(b, g, m, s, r, p, a, n, f);                                                                \
    }
#define FORM(t, ...) ROWS(DOT, t, __VA_ARGS__)
PANEL_FORMS(FORM)

#define DOT_CASE(r, t, ...)                                                                                  \
    case r:                                                                                                  \
        dot_##t##_##r(panel, a, n_unit, f);                                                                  \
        return;
#define FORM_CASE(t, ...)                                                                                    \
    case DT_##t:                                                                                             \
        switch (rows) {                                                                                      \
            ROWS(DOT_CASE, t)                                                                                \
        }                                                                                                    \
        return;
static void dot(enum dtype t, int rows, const uint8_t *panel, int first, const struct act_unit *a, int n_unit,
                float *f)
{
    panel += unit_offset(panel_form(t), first);
    switch (t) {
        PANEL_FORMS(FORM_CASE)
    default: return;
    }
}

/* VNNI unpacks in registers as fast as it multiplies; the others gain from tiles as soon as a panel is used
 * twice. */
#ifndef vi_dot
#define EXPAND(t, b, g, m, s)                                                                                \
    static __attribute__((noinline)) void expand_##t(const uint8_t *p, int n, struct panel_tile *tile)       \
    {                                                                                                        \
        panel_expand(b, g, m, s, p, n, tile);                                                                \
    }
PANEL_FORMS(EXPAND)
#define EXPAND_CASE(t, ...)                                                                                  \
    case DT_##t: expand_##t(panel, n_unit, tile); return;
static void expand(enum dtype t, const uint8_t *panel, int first, int n_unit, struct panel_tile *tile)
{
    panel += unit_offset(panel_form(t), first);
    switch (t) {
        PANEL_FORMS(EXPAND_CASE)
    default: return;
    }
}

/* Once expanded, types differ in little: name, planes, group, mins. */
#define TILE_FORMS(X) X(p32, 1, 32, 0) X(p32m, 1, 32, 1) X(p16, 1, 16, 0) X(p16m, 1, 16, 1) X(pp32, 2, 32, 0)
#define TILE(r, name, np, g, m)                                                                              \
    static __attribute__((noinline)) void tile_##name##_##r(vi zero, const struct panel_tile *w,             \
                                                            const struct act_unit *a, int n, float *f)       \
    {                                                                                                        \
        tile_dot(np, g, m, r, zero, w, a, n, f);                                                             \
    }
#define TILE_FORM(name, np, g, m)                                                                            \
    TILE_ROWS(TILE, name, np, g, m)                                                                          \
    static void tile_##name(int rows, vi zero, const struct panel_tile *w, const struct act_unit *a, int n,  \
                            float *f)                                                                        \
    {                                                                                                        \
        switch (rows) {                                                                                      \
            TILE_ROWS(TILE_CASE, name)                                                                       \
        }                                                                                                    \
    }
#define TILE_CASE(r, name, ...)                                                                              \
    case r: tile_##name##_##r(zero, w, a, n, f); break;
TILE_FORMS(TILE_FORM)

static void dot_tile(enum dtype t, int rows, const struct panel_tile *w, const struct act_unit *a, int n,
                     float *f)
{
    const struct panel_form *form = panel_form(t);
    vi zero = zero_point(form->bits);
    if (form->bits == 8 && PLANES(8) == 2)
        tile_pp32(rows, zero, w, a, n, f);
    else if (form->group == UNIT && form->mins)
        tile_p32m(rows, zero, w, a, n, f);
    else if (form->group == UNIT)
        tile_p32(rows, zero, w, a, n, f);
    else if (form->mins)
        tile_p16m(rows, zero, w, a, n, f);
    else
        tile_p16(rows, zero, w, a, n, f);
}
#else
#define expand   NULL
#define dot_tile NULL
#endif

#define PLAIN(r, t)                                                                                          \
    static __attribute__((noinline)) void plain_##t##_##r(const uint8_t *p, const float *a, int n, float *f) \
    {                                                                                                        \
        plain_dot(DT_##t, r, p, a, n, f);                                                                    \
    }
ROWS(PLAIN, F32)
ROWS(PLAIN, F16)
ROWS(PLAIN, BF16)
#define PLAIN_CASE(r, t)                                                                                     \
    case r: plain_##t##_##r(panel, a, n_in, f); return;
static void dot_plain(enum dtype t, int rows, const uint8_t *panel, const float *a, int n_in, float *f)
{
    switch (t) {
    case DT_F32:
        switch (rows) {
            ROWS(PLAIN_CASE, F32)
        }
        return;
    case DT_F16:
        switch (rows) {
            ROWS(PLAIN_CASE, F16)
        }
        return;
    default:
        switch (rows) {
            ROWS(PLAIN_CASE, BF16)
        }
        return;
    }
}

#ifdef vf_dot_bf16
#define BF16(r, ...)                                                                                         \
    case r: bf16_dot(r, panel, a, n_in, f); return;
static void dot_bf16(int rows, const uint8_t *panel, const uint16_t *a, int n_in, float *f)
{
    switch (rows) {
        ROWS(BF16, )
        BF16(9) BF16(10) BF16(11) BF16(12)
    }
}
#else
#define dot_bf16 NULL
#endif

/* Four vectors of eight, also with AVX-512: a unit is too short for more. */
static inline void quantise_unit(const float *x, struct act_unit *a)
{
    const __m256i abs_mask = _mm256_set1_epi32(0x7fffffff);
    __m256 v[4];
    for (int i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(x + 8 * i);
    /* Bits of magnitudes order like integers; NaN comes out largest. */
    __m256i m = _mm256_and_si256(_mm256_castps_si256(v[0]), abs_mask);
    for (int i = 1; i < 4; i++)
        m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_castps_si256(v[i]), abs_mask));
    __m128i m4 = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    m4 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0x4e));
    m4 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0xb1));
    float amax = _mm_cvtss_f32(_mm_castsi128_ps(m4)), inv = amax >= ACT_TINY ? 127 / amax : 0;
    a->scale = amax >= ACT_TINY || amax != amax ? amax / 127 : 0;

    __m256i q[4];
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inv)));
    __m256i b = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    b = _mm256_permutevar8x32_epi32(
        b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); /* packing interleaved the halves */
    _mm256_storeu_si256((__m256i *)(void *)a->q, b);

    /* Pairs of neighbours, then the four steps of each half; a 32-bit lane keeps its two 16-bit sums apart.
     */
    __m256i s = _mm256_maddubs_epi16(_mm256_set1_epi8(1), b);
    s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, 0xb1));
    s = _mm256_sub_epi16(_mm256_setzero_si256(), s);
    __m128i h0 = _mm256_castsi256_si128(s), h1 = _mm256_extracti128_si256(s, 1), all = _mm_add_epi16(h0, h1);
    _mm_storeu_si32(a->neg[0], h0);
    _mm_storeu_si32(a->neg[1], h1);
    _mm_storeu_si32(a->neg[2], all);
    a->sum = a->scale * (float)-(a->neg[2][0] + a->neg[2][1]);
}

static void quantise(const float *x, int x_stride, int rows, int n_unit, struct act_unit *a)
{
    for (int u = 0; u < n_unit; u++)
        for (int r = 0; r < rows; r++) quantise_unit(x + (size_t)x_stride * r + UNIT * u, a++);
}

/* Less than half of an L2 cache of 512 KiB; with AVX-512 it is 1 MiB or more. */
#define ACT_BYTES (LANES == 8 ? 216 << 10 : 512 << 10)
const struct panel_kernels LEVEL(panel) = {quantise,  dot,      expand,    dot_tile,   dot_plain, dot_bf16,
                                           glu_apply, ROWS_MAX, ROWS_MANY, BLOCK_ROWS, ACT_BYTES};
