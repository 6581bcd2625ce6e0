/* Scalar conversions between number formats: the oracle for everything that reads weights. Stateless. The
 * block layouts are GGUF's; all multi-byte fields are little endian, and blocks have no alignment. */
#include "dtype.h"
#include <math.h>
#include <string.h>
#include "half.h"

static const struct dtype_info infos[DT_COUNT] = {
    [DT_F32] = {"F32", 1, 4},       [DT_F16] = {"F16", 1, 2},       [DT_BF16] = {"BF16", 1, 2},
    [DT_Q8_0] = {"Q8_0", 32, 34},   [DT_Q4_0] = {"Q4_0", 32, 18},   [DT_Q4_1] = {"Q4_1", 32, 20},
    [DT_Q5_0] = {"Q5_0", 32, 22},   [DT_Q5_1] = {"Q5_1", 32, 24},   [DT_Q2_K] = {"Q2_K", 256, 84},
    [DT_Q3_K] = {"Q3_K", 256, 110}, [DT_Q4_K] = {"Q4_K", 256, 144}, [DT_Q5_K] = {"Q5_K", 256, 176},
    [DT_Q6_K] = {"Q6_K", 256, 210}, [DT_I8] = {"I8", 1, 1},         [DT_E4M3] = {"E4M3", 1, 1},
};

const struct dtype_info *dtype_info(enum dtype t) { return &infos[t]; }

size_t dtype_row_bytes(enum dtype t, int64_t n)
{
    const struct dtype_info *d = &infos[t];
    size_t bytes;
    if (n <= 0 || n % d->block || __builtin_mul_overflow((size_t)(n / d->block), (size_t)d->bytes, &bytes))
        return 0;
    return bytes;
}

static float load_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return half_to_f32(h);
}

static void from_q8_0(const uint8_t *b, float *y)
{
    float d = load_half(b);
    for (int i = 0; i < 32; i++) y[i] = d * (int8_t)b[2 + i];
}

/* Q4_0, Q4_1, Q5_0, Q5_1: value i and i + 16 share byte i (low and high nibble); a fifth bit lies in qh. */
static void from_nibbles(const uint8_t *qs, uint32_t qh, float d, float bias, int zero, float *y)
{
    for (int i = 0; i < 16; i++) {
        int lo = (qs[i] & 15) | (int)(qh >> i & 1) << 4, hi = qs[i] >> 4 | (int)(qh >> (i + 16) & 1) << 4;
        y[i] = d * (float)(lo - zero) + bias;
        y[i + 16] = d * (float)(hi - zero) + bias;
    }
}

static uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* Q4_K and Q5_K: eight 6-bit scales and mins in 12 bytes; the last four borrow the top bits of the first. */
static void scale_min(const uint8_t *s, int g, int *scale, int *min)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        *min = s[g + 4] >> 4 | s[g] >> 6 << 4;
    }
}

/* Groups 2i and 2i + 1 are the nibbles of 32 bytes; the fifth bit of group g is bit g of qh (NULL for Q4_K).
 */
static void from_q45_k(const uint8_t *b, const uint8_t *qh, const uint8_t *qs, float *y)
{
    float d = load_half(b), dmin = load_half(b + 2);
    for (int g = 0; g < 8; g++) {
        int scale, min;
        scale_min(b + 4, g, &scale, &min);
        float ds = d * (float)scale, m = dmin * (float)min;
        const uint8_t *q = qs + 32 * (g / 2);
        for (int i = 0; i < 32; i++) {
            int v = q[i] >> 4 * (g & 1) & 15;
            if (qh) v |= (qh[i] >> g & 1) << 4;
            *y++ = ds * (float)v - m;
        }
    }
}

static void from_q2_k(const uint8_t *b, float *y)
{
    const uint8_t *sc = b, *qs = b + 16;
    float d = load_half(b + 80), dmin = load_half(b + 82);
    for (int i = 0; i < 256; i++) {
        int q = qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3, s = sc[i / 16];
        y[i] = d * (float)(s & 15) * (float)q - dmin * (float)(s >> 4);
    }
}

/* Sixteen 6-bit scales (zero 32): low nibbles in bytes 0..7, top bits in bytes 8..11. */
static int q3_k_scale(const uint8_t *s, int g)
{
    int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
    return (low | (s[8 + g % 4] >> (g / 4 * 2) & 3) << 4) - 32;
}

static void from_q3_k(const uint8_t *b, float *y)
{
    const uint8_t *hmask = b, *qs = b + 32, *sc = b + 96;
    float d = load_half(b + 108);
    for (int i = 0; i < 256; i++) {
        int q = qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
        if (!(hmask[i % 32] >> (i / 32) & 1)) q -= 4;
        y[i] = d * (float)q3_k_scale(sc, i / 16) * (float)q;
    }
}

static void from_q6_k(const uint8_t *b, float *y)
{
    const uint8_t *ql = b, *qh = b + 128;
    const int8_t *sc = (const int8_t *)b + 192;
    float d = load_half(b + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, part = i / 32 % 4, low = ql[64 * half + i % 64] >> (part >= 2 ? 4 : 0) & 15;
        int q = (low | (qh[32 * half + i % 32] >> 2 * part & 3) << 4) - 32;
        y[i] = d * (float)sc[i / 16] * (float)q;
    }
}

static void block_to_f32(enum dtype t, const uint8_t *b, float *y)
{
    switch (t) {
    case DT_Q8_0: from_q8_0(b, y); break;
    case DT_Q4_0: from_nibbles(b + 2, 0, load_half(b), 0, 8, y); break;
    case DT_Q4_1: from_nibbles(b + 4, 0, load_half(b), load_half(b + 2), 0, y); break;
    case DT_Q5_0: from_nibbles(b + 6, load_u32(b + 2), load_half(b), 0, 16, y); break;
    case DT_Q5_1: from_nibbles(b + 8, load_u32(b + 4), load_half(b), load_half(b + 2), 0, y); break;
    case DT_Q2_K: from_q2_k(b, y); break;
    case DT_Q3_K: from_q3_k(b, y); break;
    case DT_Q4_K: from_q45_k(b, NULL, b + 16, y); break;
    case DT_Q5_K: from_q45_k(b, b + 16, b + 48, y); break;
    case DT_Q6_K: from_q6_k(b, y); break;
    default: break;
    }
}

void dtype_to_f32(enum dtype t, const void *src, float *dst, int64_t n)
{
    const uint8_t *p = src;
    const struct dtype_info *d = &infos[t];
    if (t == DT_F32) {
        memcpy(dst, src, (size_t)n * 4);
    } else if (t == DT_I8) {
        for (int64_t i = 0; i < n; i++) dst[i] = (int8_t)p[i];
    } else if (t == DT_E4M3) {
        for (int64_t i = 0; i < n; i++) dst[i] = e4m3_to_f32(p[i]);
    } else if (t == DT_F16 || t == DT_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, p + 2 * i, 2);
            dst[i] = t == DT_F16 ? half_to_f32(h) : bf16_to_f32(h);
        }
    } else {
        for (int64_t i = 0; i < n; i += d->block, p += d->bytes) block_to_f32(t, p, dst + i);
    }
}

/* Q8_0: d = max|x| / 127. The codes are computed with the unrounded d, as writers of GGUF files do. */
static void to_q8_0(const float *x, uint8_t *b)
{
    float max = 0;
    for (int i = 0; i < 32; i++) max = fmaxf(max, fabsf(x[i]));
    float d = max / 127, inv = d > 0 ? 1 / d : 0;
    uint16_t h = half_from_f32(d);
    memcpy(b, &h, 2);
    for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)(int8_t)lrintf(x[i] * inv);
}

/* Q4_0: the value of largest magnitude becomes code 0 (that is -8), so all of the range is used. */
static void to_q4_0(const float *x, uint8_t *b)
{
    float max = 0;
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > fabsf(max)) max = x[i];
    float d = max / -8, inv = d != 0 ? 1 / d : 0;
    uint16_t h = half_from_f32(d);
    memcpy(b, &h, 2);
    for (int i = 0; i < 16; i++) {
        long lo = lrintf(x[i] * inv) + 8, hi = lrintf(x[i + 16] * inv) + 8;
        b[2 + i] = (uint8_t)((lo > 15 ? 15 : lo) | (hi > 15 ? 15 : hi) << 4);
    }
}

bool dtype_from_f32(enum dtype t, const float *src, void *dst, int64_t n)
{
    uint8_t *p = dst;
    if (t == DT_F16 || t == DT_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t h = t == DT_F16 ? half_from_f32(src[i]) : bf16_from_f32(src[i]);
            memcpy(p + 2 * i, &h, 2);
        }
        return true;
    }
    if (t != DT_Q8_0 && t != DT_Q4_0) return false;
    for (int64_t i = 0; i < n; i += 32, p += infos[t].bytes)
        if (t == DT_Q8_0)
            to_q8_0(src + i, p);
        else
            to_q4_0(src + i, p);
    return true;
}
