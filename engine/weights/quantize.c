#include "quantize.h"
#include <math.h>
#include <string.h>
#include "half.h"

/* Every block is first divided by its largest magnitude, so that no sum below can overflow or vanish. Values
 * are approximated as scale * code (- min) by weighted least squares: for given codes the best scale has a
 * closed form, so the search runs over roundings, that is over the scale used to choose the codes. */

typedef float v4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));

#define GROUP 32 /* values that share a scale, but 16 in Q6_K */
#define SUPER 256

static inline v4 load4(const float *p)
{
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline v4 all4(float f) { return (v4){f, f, f, f}; }
static inline float sum4(v4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }
static inline v4 pick4(i4 mask, v4 a, v4 b) { return (v4)(((i4)a & mask) | ((i4)b & ~mask)); }

/* The nearest code (ties to even) in [lo, hi]; adding 1.5 * 2^23 leaves no room for a fraction. */
static inline v4 code4(v4 x, float lo, float hi)
{
    const v4 magic = all4(12582912.0f);
    x = pick4(x < all4(lo), all4(lo), x);
    x = pick4(x > all4(hi), all4(hi), x);
    return (x + magic) - magic;
}

static float largest(const float *x, int n)
{
    float m = 0;
    for (int i = 0; i < n; i++) m = fmaxf(m, fabsf(x[i]));
    return m;
}

static float round_half(float f) { return half_to_f32(half_from_f32(f)); }
static void put_half(uint8_t *p, float f)
{
    uint16_t h = half_from_f32(f);
    memcpy(p, &h, 2);
}

/* y = x / max|x| and how much an error counts at each value: large weights matter more, since they meet
 * the activations that the network relies on. Returns max|x|, 0 if it is too small for any scale. */
static float normalise(const float *x, int n, int group, float *y, float *w)
{
    float max = largest(x, n);
    if (max < 1e-30f) return 0;
    for (int i = 0; i < n; i++) y[i] = x[i] / max;
    for (int g = 0; g < n; g += group) {
        float sum = 0;
        for (int i = 0; i < group; i++) sum += y[g + i] * y[g + i];
        float rms = sqrtf(sum / (float)group);
        for (int i = 0; i < group; i++) w[g + i] = rms + fabsf(y[g + i]) + 1e-10f;
    }
    return max;
}

/* ------------------------------------------------------------------------- scale * code, code in [lo, hi] */

static float error_symmetric(const float *x, const float *w, int n, float scale, float lo, float hi)
{
    v4 err = all4(0), s = all4(scale), inv = all4(scale != 0 ? 1 / scale : 0);
    for (int i = 0; i < n; i += 4) {
        v4 v = load4(x + i), d = v - s * code4(v * inv, lo, hi);
        err += load4(w + i) * d * d;
    }
    return sum4(err);
}

/* The best scale for the codes that x * inv rounds to; *gain is how much of the weighted square of x it
 * explains. */
static float fit_symmetric(const float *x, const float *w, int n, float inv, float lo, float hi, float *gain)
{
    v4 xq = all4(0), qq = all4(0);
    for (int i = 0; i < n; i += 4) {
        v4 v = load4(x + i), q = code4(v * all4(inv), lo, hi), wq = load4(w + i) * q;
        xq += wq * v;
        qq += wq * q;
    }
    float s = sum4(qq), t = sum4(xq);
    *gain = s > 0 ? t * t / s : 0;
    return s > 0 ? t / s : 0;
}

/* The scale of a group. Codes reach one further below zero than above, so both signs are tried. */
static float search_symmetric(const float *x, const float *w, int n, float lo, float hi)
{
    float max = largest(x, n), best = 0, best_gain = 0, gain;
    if (max == 0) return 0;
    for (int sign = -1; sign <= 1; sign += 2)
        for (int step = -6; step <= 5; step++) {
            float inv = (float)sign * (-lo + 0.15f * (float)step) / max;
            float s = fit_symmetric(x, w, n, inv, lo, hi, &gain);
            if (gain > best_gain) best = s, best_gain = gain;
        }
    return best;
}

static void codes_symmetric(const float *x, int n, float scale, int lo, int hi, int8_t *q)
{
    float inv = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < n; i++) {
        long c = lrintf(fmaxf(fminf(x[i] * inv, (float)hi), (float)lo));
        q[i] = (int8_t)c;
    }
}

/* With so many codes, slightly larger scales cost little, and on one of a few grids the values happen to lie
 * nearer: a fifth less squared error. All values count alike. */
static void to_q8_0(const float *x, uint8_t *b)
{
    float y[GROUP], w[GROUP], max = normalise(x, GROUP, GROUP, y, w), best = 0, best_gain = 0, gain;
    for (int i = 0; i < GROUP; i++) w[i] = 1;
    for (int top = 127; max > 0 && top >= 120; top--) {
        float s = fit_symmetric(y, w, GROUP, (float)top, -127, 127, &gain);
        if (gain > best_gain) best = s, best_gain = gain;
    }
    float d = round_half(max * best);
    put_half(b, d);
    codes_symmetric(x, GROUP, d, -127, 127, (int8_t *)b + 2);
}

static void to_q5_0(const float *x, uint8_t *b)
{
    float y[GROUP], w[GROUP], max = normalise(x, GROUP, GROUP, y, w);
    float d = max > 0 ? round_half(max * search_symmetric(y, w, GROUP, -16, 15)) : 0;
    int8_t q[GROUP];
    uint32_t high = 0;
    put_half(b, d);
    codes_symmetric(x, GROUP, d, -16, 15, q);
    for (int i = 0; i < 16; i++) {
        int lo = q[i] + 16, hi = q[i + 16] + 16;
        b[6 + i] = (uint8_t)((lo & 15) | (hi & 15) << 4);
        high |= (uint32_t)(lo >> 4) << i | (uint32_t)(hi >> 4) << (i + 16);
    }
    memcpy(b + 2, &high, 4);
}

/* ------------------------------------------------------------------------- Q5_1: scale * code + min */

/* The best scale and min for the codes that (x - min) / scale rounds to. Returns the error with these codes,
 * less the sum of x^2. */
static float fit_offset(const float *x, float *scale, float *min)
{
    v4 sx = all4(0), sq = sx, sqq = sx, sxq = sx, inv = all4(1 / *scale), off = all4(*min);
    for (int i = 0; i < GROUP; i += 4) {
        v4 v = load4(x + i), q = code4((v - off) * inv, 0, 31);
        sx += v;
        sq += q;
        sqq += q * q;
        sxq += q * v;
    }
    float X = sum4(sx), Q = sum4(sq), QQ = sum4(sqq), XQ = sum4(sxq), det = GROUP * QQ - Q * Q;
    if (det <= 0) return 0;
    float s = (GROUP * XQ - Q * X) / det, m = (X * QQ - Q * XQ) / det;
    if (s <= 0) return 0;
    *scale = s;
    *min = m;
    return s * (s * QQ + 2 * m * Q - 2 * XQ) + m * (m * GROUP - 2 * X);
}

/* For tables of tokens, whose rows are also read as they are: all values count alike. */
static void to_q5_1(const float *x, uint8_t *b)
{
    float y[GROUP], w[GROUP], max = normalise(x, GROUP, GROUP, y, w), lo, hi, scale = 0, min, best = INFINITY;
    uint32_t high = 0;
    memset(b, 0, 24);
    if (max == 0) return;
    lo = hi = y[0];
    for (int i = 0; i < GROUP; i++) lo = fminf(lo, y[i]), hi = fmaxf(hi, y[i]);
    min = lo;
    for (int step = -8; hi > lo && step <= 4; step++) {
        float s = (hi - lo) / (31 + 0.25f * (float)step), m = lo;
        for (int round = 0; round < 2; round++) {
            float err = fit_offset(y, &s, &m);
            if (err < best) best = err, scale = s, min = m;
        }
    }
    scale = round_half(scale * max);
    min = round_half(fmaxf(fminf(min * max, QUANTIZE_MAX), -QUANTIZE_MAX));
    put_half(b, scale);
    put_half(b + 2, min);
    for (int i = 0; i < GROUP; i++) {
        long q = scale > 0 ? lrintf(fmaxf(fminf((x[i] - min) / scale, 31), 0)) : 0;
        b[8 + i % 16] |= (uint8_t)((q & 15) << 4 * (i / 16));
        high |= (uint32_t)(q >> 4) << i;
    }
    memcpy(b + 4, &high, 4);
}

/* ------------------------------------------------------------------------- Q6_K: d * 16 scales of 8 bits */

struct q6_super {
    float x[SUPER], w[SUPER];
    int sc[16];
};

/* Integer scales for the given d, each the best of its neighbourhood; returns the error. */
static float q6_scales(struct q6_super *s, const float *ideal, float d)
{
    float total = 0;
    for (int g = 0; g < 16; g++) {
        long nearest = d > 0 ? lrintf(ideal[g] / d) : 0;
        float best = INFINITY;
        for (long c = nearest - 1; c <= nearest + 1; c++) {
            if (c < -127 || c > 127) continue;
            float err = error_symmetric(s->x + 16 * g, s->w + 16 * g, 16, d * (float)c, -32, 31);
            if (err < best) best = err, s->sc[g] = (int)c;
        }
        total += best;
    }
    return total;
}

/* The best d for given scales and the codes that the present d leads to. */
static float q6_refit(const struct q6_super *s, float d)
{
    double xq = 0, qq = 0;
    for (int i = 0; i < SUPER; i++) {
        int group = i / 16;
        float sc = (float)s->sc[group], scale = d * sc, q = 0;
        if (scale != 0) q = rintf(fmaxf(fminf(s->x[i] / scale, 31), -32)) * sc;
        xq += (double)s->w[i] * s->x[i] * q;
        qq += (double)s->w[i] * q * q;
    }
    return qq > 0 ? (float)(xq / qq) : d;
}

static void to_q6_k(const float *x, uint8_t *b)
{
    struct q6_super s;
    float ideal[16], top, max = normalise(x, SUPER, 16, s.x, s.w);
    memset(b, 0, 210);
    if (max == 0) return;
    for (int g = 0; g < 16; g++) ideal[g] = search_symmetric(s.x + 16 * g, s.w + 16 * g, 16, -32, 31);
    top = largest(ideal, 16);
    float d = round_half(max * top / 127) / max, err = q6_scales(&s, ideal, d);
    float again = round_half(max * q6_refit(&s, d)) / max;
    if (again != d && q6_scales(&s, ideal, again) < err)
        d = again;
    else
        q6_scales(&s, ideal, d);
    put_half(b + 208, d * max);
    d = round_half(d * max);
    for (int i = 0; i < SUPER; i++) {
        int8_t q;
        int group = i / 16;
        codes_symmetric(x + i, 1, d * (float)s.sc[group], -32, 31, &q);
        int v = q + 32, half = i / 128, part = i / 32 % 4;
        b[64 * half + i % 64] |= (uint8_t)((v & 15) << (part >= 2 ? 4 : 0));
        b[128 + 32 * half + i % 32] |= (uint8_t)(v >> 4 << 2 * part);
    }
    for (int g = 0; g < 16; g++) b[192 + g] = (uint8_t)(int8_t)s.sc[g];
}

/* ------------------------------------------------------------------------- Q4_K: d * scale * code - dmin *
 * min */

static float error_affine(const float *x, const float *w, float scale, float min)
{
    v4 err = all4(0), s = all4(scale), m = all4(min), inv = all4(scale != 0 ? 1 / scale : 0);
    for (int i = 0; i < GROUP; i += 4) {
        v4 v = load4(x + i), d = v + m - s * code4((v + m) * inv, 0, 15);
        err += load4(w + i) * d * d;
    }
    return sum4(err);
}

/* The best scale and min for the codes that (x + min) / scale rounds to; min must not be negative. Returns
 * the error with these codes, less the sum of w x^2. */
static float fit_affine(const float *x, const float *w, float *scale, float *min)
{
    v4 sw = all4(0), sx = sw, sq = sw, sqq = sw, sxq = sw, inv = all4(1 / *scale), off = all4(*min);
    for (int i = 0; i < GROUP; i += 4) {
        v4 v = load4(x + i), q = code4((v + off) * inv, 0, 15), wi = load4(w + i), wq = wi * q;
        sw += wi;
        sx += wi * v;
        sq += wq;
        sqq += wq * q;
        sxq += wq * v;
    }
    float W = sum4(sw), X = sum4(sx), Q = sum4(sq), QQ = sum4(sqq), XQ = sum4(sxq), det = W * QQ - Q * Q;
    if (det <= 0 || QQ <= 0) return 0;
    float s = (W * XQ - Q * X) / det, m = (Q * XQ - QQ * X) / det;
    if (m < 0) m = 0, s = XQ / QQ;
    if (s <= 0) return 0;
    *scale = s;
    *min = m;
    return s * (s * QQ - 2 * m * Q - 2 * XQ) + m * (m * W + 2 * X);
}

static void search_affine(const float *x, const float *w, float *scale, float *min)
{
    float lo = 0, hi = 0, best = INFINITY;
    for (int i = 0; i < GROUP; i++) lo = fminf(lo, x[i]), hi = fmaxf(hi, x[i]);
    *scale = (hi - lo) / 15;
    *min = -lo;
    if (hi == lo) return;
    for (int step = -6; step <= 6; step++) {
        float s = (hi - lo) / (15 + 0.4f * (float)step), m = -lo;
        for (int round = 0; round < 2; round++) {
            float err = fit_affine(x, w, &s, &m);
            if (err < best) best = err, *scale = s, *min = m;
        }
    }
}

struct q4_super {
    float x[SUPER], w[SUPER];
    float scale[8], min[8]; /* as if they were stored exactly */
    int sc[8], mn[8];
};

/* Integer scales and mins for d and dmin, each pair the best of its neighbourhood; returns the error. */
static float q4_scales(struct q4_super *s, float d, float dmin)
{
    float total = 0;
    for (int g = 0; g < 8; g++) {
        long sc = d > 0 ? lrintf(s->scale[g] / d) : 0, mn = dmin > 0 ? lrintf(s->min[g] / dmin) : 0;
        float best = INFINITY;
        for (long i = sc - 1; i <= sc + 1; i++)
            for (long k = mn - 1; k <= mn + 1; k++) {
                if (i < 0 || i > 63 || k < 0 || k > 63) continue;
                float err = error_affine(s->x + GROUP * g, s->w + GROUP * g, d * (float)i, dmin * (float)k);
                if (err < best) best = err, s->sc[g] = (int)i, s->mn[g] = (int)k;
            }
        total += best;
    }
    return total;
}

/* The best d and dmin for given integers and the codes that the present ones lead to. */
static void q4_refit(const struct q4_super *s, float *d, float *dmin)
{
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0; /* x = d * a - dmin * b */
    for (int i = 0; i < SUPER; i++) {
        int g = i / GROUP;
        float scale = *d * (float)s->sc[g], min = *dmin * (float)s->mn[g], q = 0;
        if (scale != 0) q = rintf(fmaxf(fminf((s->x[i] + min) / scale, 15), 0));
        double a = q * (float)s->sc[g], b = s->mn[g], w = s->w[i];
        aa += w * a * a;
        ab += w * a * b;
        bb += w * b * b;
        ax += w * a * s->x[i];
        bx += w * b * s->x[i];
    }
    double det = aa * bb - ab * ab;
    if (det <= 1e-12 * aa * bb) return;
    *d = fmaxf((float)((ax * bb - ab * bx) / det), 0);
    *dmin = fmaxf((float)((ab * ax - aa * bx) / det), 0);
}

static void q4_pack(const struct q4_super *s, const float *x, float d, float dmin, uint8_t *b)
{
    put_half(b, d);
    put_half(b + 2, dmin);
    for (int g = 0; g < 8; g++) { /* the last four borrow the top bits of the first */
        uint8_t *p = b + 4;
        int sc = s->sc[g], mn = s->mn[g];
        if (g < 4) {
            p[g] |= (uint8_t)sc;
            p[g + 4] |= (uint8_t)mn;
        } else {
            p[g + 4] |= (uint8_t)((sc & 15) | (mn & 15) << 4);
            p[g - 4] |= (uint8_t)(sc >> 4 << 6);
            p[g] |= (uint8_t)(mn >> 4 << 6);
        }
        float scale = d * (float)sc, min = dmin * (float)mn, inv = scale != 0 ? 1 / scale : 0;
        for (int i = 0; i < GROUP; i++) {
            long q = lrintf(fmaxf(fminf((x[GROUP * g + i] + min) * inv, 15), 0));
            b[16 + GROUP * (g / 2) + i] |= (uint8_t)(q << 4 * (g & 1));
        }
    }
}

static void to_q4_k(const float *x, uint8_t *b)
{
    struct q4_super s;
    float max = normalise(x, SUPER, GROUP, s.x, s.w);
    memset(b, 0, 144);
    if (max == 0) return;
    for (int g = 0; g < 8; g++) search_affine(s.x + GROUP * g, s.w + GROUP * g, &s.scale[g], &s.min[g]);
    /* in what follows d and dmin are the stored numbers divided by max */
    float d = round_half(max * largest(s.scale, 8) / 63) / max,
          dmin = round_half(max * largest(s.min, 8) / 63) / max, err = q4_scales(&s, d, dmin);
    for (int round = 0; round < 2; round++) {
        float d2 = d, dmin2 = dmin;
        struct q4_super was = s;
        q4_refit(&s, &d2, &dmin2);
        d2 = round_half(max * d2) / max;
        dmin2 = round_half(max * dmin2) / max;
        float err2 = q4_scales(&s, d2, dmin2);
        if (!(err2 < err)) {
            s = was;
            break;
        }
        d = d2, dmin = dmin2, err = err2;
    }
    q4_pack(&s, x, round_half(d * max), round_half(dmin * max), b);
}

bool quantize_row(enum dtype t, const float *x, void *dst, int64_t n)
{
    uint8_t *p = dst;
    const struct dtype_info *d = dtype_info(t);
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= QUANTIZE_MAX)) return false;
    for (int64_t i = 0; i < n; i += d->block, p += d->bytes) switch (t) {
        case DT_Q8_0: to_q8_0(x + i, p); break;
        case DT_Q5_0: to_q5_0(x + i, p); break;
        case DT_Q5_1: to_q5_1(x + i, p); break;
        case DT_Q4_K: to_q4_k(x + i, p); break;
        case DT_Q6_K: to_q6_k(x + i, p); break;
        default: return false;
        }
    return true;
}
