/* From rows of a file to tiles of a matrix (gemm.cuh), on the host: pure functions, for any thread. Types of
 * 4 and 8 bits with a scale for each 32 values keep their codes, plain ones become BF16 or E4M3, and the
 * others, which few matrices of a file have, BF16. */
#include <math.h>
#include <string.h>
#include "gemm.cuh"
#include "half.h"

enum {
    GROUP = 32,
    CHUNK = 256
}; /* values that share a scale; values converted at a time, whole blocks of any type */

struct row {
    const uint8_t *src; /* in the file, NULL behind the last */
    float scale, inverse;
};
struct group { /* 32 values of a row: scale * code + min, or E4M3 codes */
    uint8_t code[GROUP];
    float scale, min;
};

/* ---- groups of the quantised types ---- */

static const uint8_t *block_of(enum dtype t, const uint8_t *src, int at)
{
    const struct dtype_info *d = dtype_info(t);
    return src + (size_t)(at / (d->block / GROUP)) * (size_t)d->bytes;
}

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return half_to_f32(h);
}

/* The min is that of code 0. */
static void group_scale(enum dtype t, const uint8_t *src, int at, struct group *o)
{
    const uint8_t *b = block_of(t, src, at);
    float d = half_at(b), m = half_at(b + 2);
    o->scale = d;
    o->min = t == DT_Q4_0 ? -8 * d : t == DT_Q4_1 ? m : 0;
    if (t == DT_Q4_K) { /* 6-bit scales and mins; the last four borrow the top bits of the first */
        const uint8_t *s = b + 4;
        int g = at % 8, scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4,
            min = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
        o->scale = d * (float)scale;
        o->min = -m * (float)min;
    }
}

static void group_codes(enum dtype t, const uint8_t *src, int at, uint8_t code[GROUP])
{
    const uint8_t *b = block_of(t, src, at);
    if (t == DT_Q8_0) {
        for (int i = 0; i < GROUP; i++) code[i] = b[2 + i] ^ 0x80;
    } else if (t == DT_Q4_K) {
        const uint8_t *q = b + 16 + 32 * (at % 8 / 2);
        for (int i = 0; i < GROUP; i++) code[i] = q[i] >> 4 * (at & 1) & 15;
    } else {
        const uint8_t *q = b + (t == DT_Q4_0 ? 2 : 4);
        for (int i = 0; i < 16; i++) code[i] = q[i] & 15;
        for (int i = 0; i < 16; i++) code[i + 16] = q[i] >> 4;
    }
}

/* ---- rows ---- */

/* A NaN is not larger. */
static float larger(float max, float v) { return fabsf(v) > max ? fabsf(v) : max; }

/* A power of two leaves the bits of a row's scales as they are and puts the largest near 2^14, where halves
 * neither overflow nor lose bits to subnormals. */
static void scale_groups(enum dtype t, int n_in, struct row *r)
{
    float max = 0;
    int e = 14;
    for (int at = 0; at < n_in / GROUP; at++) {
        struct group g;
        group_scale(t, r->src, at, &g);
        max = larger(larger(max, g.scale), g.min);
    }
    if (max > 0 && max <= 3e38f) frexpf(max, &e);
    r->scale = ldexpf(1, e - 14);
    r->inverse = ldexpf(1, 14 - e);
}

static void scale_plain(enum dtype t, int n_in, struct row *r)
{
    float f[CHUNK], of[8] = {}, max = 0;
    for (int k = 0; k < n_in; k += CHUNK) {
        int n = n_in - k < CHUNK ? n_in - k : CHUNK;
        dtype_to_f32(t, r->src + dtype_row_bytes(t, k), f, n);
        for (int i = 0; i < n; i += 8)
            for (int j = 0; j < 8; j++) of[j] = larger(of[j], f[i + j]);
    }
    for (int j = 0; j < 8; j++) max = larger(max, of[j]);
    r->scale = max > 0 && max <= 3e38f ? max / 448 : 1;
    r->inverse = 1 / r->scale;
}

/* Group `at` of a row: nothing behind the last row and column. */
static void get_group(const struct weight *w, const struct row *r, int at, struct group *o)
{
    enum dtype t = w->info.type;
    int n = r->src ? w->info.n_in - GROUP * at : 0;
    if (n < GROUP) memset(o, 0, sizeof *o);
    if (n <= 0) return;
    if (w->kind == KIND_E4M3) {
        float f[GROUP];
        if (n < GROUP) memset(f, 0, sizeof f);
        dtype_to_f32(t, r->src + (size_t)(GROUP * at) * (size_t)dtype_info(t)->bytes, f,
                     n < GROUP ? n : GROUP);
        for (int i = 0; i < GROUP; i++) o->code[i] = e4m3_from_f32(f[i] * r->inverse);
    } else {
        group_scale(t, r->src, at, o);
        group_codes(t, r->src, at, o->code);
        o->scale *= r->inverse;
        o->min *= r->inverse;
    }
}

/* ---- tiles ---- */

/* Four bytes of v with room between each two, or (twos) between the pairs. */
static uint64_t spread(uint64_t v, bool twos)
{
    v = (v | v << 16) & 0x0000ffff0000ffff;
    return twos ? v : (v | v << 8) & 0x00ff00ff00ff00ff;
}

/* Eight inputs of rows g and g + 8, to their lane. */
static void put_codes(enum weight_kind kind, const uint8_t a[8], const uint8_t b[8], uint8_t *lane)
{
    uint64_t x, y;
    memcpy(&x, a, 8);
    memcpy(&y, b, 8);
    if (kind == KIND_Q4) { /* of four bytes, the two in the middle change places */
        const uint64_t second = 0x0000ff000000ff00;
        x |= y << 4;
        x = (x & ~(second | second << 8)) | (x & second) << 8 | (x >> 8 & second);
        memcpy(lane, &x, 8);
    } else {
        bool twos = kind == KIND_Q8;
        uint64_t to[2];
        for (int m = 0; m < 2; m++)
            to[m] = spread((uint32_t)(x >> 32 * m), twos) | spread((uint32_t)(y >> 32 * m), twos)
                                                                << (twos ? 16 : 8);
        memcpy(lane, to, 16);
    }
}

/* Group i of a unit, of rows g and g + 8. */
static void put_groups(enum weight_kind kind, int g, int i, const struct group *a, const struct group *b,
                       uint8_t *unit)
{
    for (int t = 0; t < 4; t++)
        put_codes(kind, a->code + 8 * t, b->code + 8 * t,
                  unit + 16 * (4 * g + t) + (kind == KIND_Q4 ? 8 : 512) * i);
    for (int half = 0; half < 2; half++) {
        const struct group *o = half ? b : a;
        uint16_t v[2] = {half_from_f32(o->scale), half_from_f32(o->min)};
        int place = 4 * g + 2 * i + half;
        if (kind == KIND_Q4) memcpy(unit + 512 + 4 * place, v, 4);
        if (kind == KIND_Q8) memcpy(unit + 1024 + 2 * place, v, 2);
    }
}

static void coded_tile(const struct weight *w, const uint8_t *src, int n_row, uint8_t *to, float *scale)
{
    enum dtype t = w->info.type;
    struct row row[TILE] = {};
    for (int i = 0; i < n_row; i++) {
        row[i].src = src + (size_t)i * dtype_row_bytes(t, w->info.n_in);
        (w->kind == KIND_E4M3 ? scale_plain : scale_groups)(t, w->info.n_in, &row[i]);
        scale[i] = row[i].scale;
    }
    for (int g = 0; g < TILE / 2; g++)
        for (int at = 0; at < 2 * w->n_unit; at++) {
            struct group a, b;
            get_group(w, &row[g], at, &a);
            get_group(w, &row[g + 8], at, &b);
            put_groups(w->kind, g, at % 2, &a, &b, to + (size_t)(at / 2) * unit_bytes(w->kind));
        }
}

/* Rows as BF16. */
static void plain_tile(const struct weight *w, const uint8_t *src, int n_row, uint8_t *to)
{
    enum dtype t = w->info.type;
    int n_in = w->info.n_in;
    size_t from = dtype_row_bytes(t, n_in), row = (size_t)n_in * 2;
    if (t == DT_BF16) memcpy(to, src, (size_t)n_row * row);
    for (int i = 0; i < n_row && t != DT_BF16; i++, to += row, src += from)
        for (int k = 0; k < n_in; k += CHUNK) {
            float f[CHUNK];
            int n = n_in - k < CHUNK ? n_in - k : CHUNK;
            dtype_to_f32(t, src + dtype_row_bytes(t, k), f, n);
            dtype_from_f32(DT_BF16, f, to + 2 * (size_t)k, n);
        }
}

void pack_tile(const struct weight *w, const uint8_t *src, int n_row, uint8_t *to, float *scale)
{
    if (w->kind == KIND_BF16)
        plain_tile(w, src, n_row, to);
    else
        coded_tile(w, src, n_row, to, scale);
}
