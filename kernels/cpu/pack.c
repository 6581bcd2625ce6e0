/* From the blocks of a file to panels. Each type only says how to fetch the codes and scales of 32 values;
 * the layout of weight.h is then the same for all. */
#include "weight.h"
#include <string.h>

/* 32 values of one row: value = ws * (code - zero) + wm. */
struct group {
    uint8_t code[UNIT];
    uint16_t d, dmin;        /* f16: scale and min, of the super-block if there is one */
    int8_t scale[2], min[2]; /* super-blocks: per group of 32 or 16 */
};

static uint16_t load_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static void store_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static uint16_t negate_half(uint16_t h) { return h ^ 0x8000; }

static void fetch_q8_0(const uint8_t *b, struct group *o)
{
    o->d = load_u16(b);
    for (int i = 0; i < 32; i++) o->code[i] = b[2 + i] ^ 0x80; /* -128..127 to 0..255 */
}

static void fetch_nibbles(const uint8_t *qs, struct group *o)
{
    for (int i = 0; i < 16; i++) {
        o->code[i] = qs[i] & 15;
        o->code[i + 16] = qs[i] >> 4;
    }
}

static void add_fifth_bit(uint32_t qh, struct group *o)
{
    for (int i = 0; i < 32; i++) o->code[i] |= (uint8_t)((qh >> i & 1) << 4);
}

/* 6-bit scales and mins of Q4_K and Q5_K: 12 bytes, the last four pairs borrow the top bits of the first. */
static void fetch_scale_min(const uint8_t *s, int g, struct group *o)
{
    o->scale[0] = (int8_t)(g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4);
    o->min[0] = (int8_t)(g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4);
}

static void fetch_q45_k(const uint8_t *b, int g, const uint8_t *qh, const uint8_t *qs, struct group *o)
{
    o->d = load_u16(b);
    o->dmin = negate_half(load_u16(b + 2));
    fetch_scale_min(b + 4, g, o);
    int shift = 4 * (g & 1);
    for (int i = 0; i < 32; i++) o->code[i] = qs[32 * (g / 2) + i] >> shift & 15;
    if (qh)
        for (int i = 0; i < 32; i++) o->code[i] |= (uint8_t)((qh[i] >> g & 1) << 4);
}

static void fetch_q2_k(const uint8_t *b, int g, struct group *o)
{
    o->d = load_u16(b + 80);
    o->dmin = negate_half(load_u16(b + 82));
    for (int h = 0; h < 2; h++) {
        o->scale[h] = b[2 * g + h] & 15;
        o->min[h] = (int8_t)(b[2 * g + h] >> 4);
    }
    for (int i = 0; i < 32; i++) o->code[i] = b[16 + 32 * (g / 4) + i] >> (g % 4 * 2) & 3;
}

/* Sixteen 6-bit scales with zero 32: low nibbles in bytes 0..7, top bits in bytes 8..11. */
static int8_t q3_k_scale(const uint8_t *s, int g)
{
    int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
    return (int8_t)((low | (s[8 + g % 4] >> (g / 4 * 2) & 3) << 4) - 32);
}

static void fetch_q3_k(const uint8_t *b, int g, struct group *o)
{
    o->d = load_u16(b + 108);
    for (int h = 0; h < 2; h++) o->scale[h] = q3_k_scale(b + 96, 2 * g + h);
    for (int i = 0; i < 32; i++)
        o->code[i] = (uint8_t)((b[32 + 32 * (g / 4) + i] >> (g % 4 * 2) & 3) | (b[i] >> g & 1) << 2);
}

static void fetch_q6_k(const uint8_t *b, int g, struct group *o)
{
    o->d = load_u16(b + 208);
    memcpy(o->scale, b + 192 + 2 * g, 2);
    int part = g % 4, shift = part >= 2 ? 4 : 0;
    const uint8_t *low = b + 64 * (g / 4) + 32 * (part & 1), *high = b + 128 + 32 * (g / 4);
    for (int i = 0; i < 32; i++)
        o->code[i] = (uint8_t)((low[i] >> shift & 15) | (high[i] >> 2 * part & 3) << 4);
}

/* b: the block that holds group g of 32 values */
static void fetch_group(enum dtype t, const uint8_t *b, int g, struct group *o)
{
    switch (t) {
    case DT_Q8_0: fetch_q8_0(b, o); break;
    case DT_Q4_0:
        o->d = load_u16(b);
        fetch_nibbles(b + 2, o);
        break;
    case DT_Q4_1:
        o->d = load_u16(b);
        o->dmin = load_u16(b + 2);
        fetch_nibbles(b + 4, o);
        break;
    case DT_Q5_0:
        o->d = load_u16(b);
        fetch_nibbles(b + 6, o);
        add_fifth_bit(load_u32(b + 2), o);
        break;
    case DT_Q5_1:
        o->d = load_u16(b);
        o->dmin = load_u16(b + 2);
        fetch_nibbles(b + 8, o);
        add_fifth_bit(load_u32(b + 4), o);
        break;
    case DT_Q2_K: fetch_q2_k(b, g, o); break;
    case DT_Q3_K: fetch_q3_k(b, g, o); break;
    case DT_Q4_K: fetch_q45_k(b, g, NULL, b + 16, o); break;
    case DT_Q5_K: fetch_q45_k(b, g, b + 16, b + 48, o); break;
    case DT_Q6_K: fetch_q6_k(b, g, o); break;
    default: break;
    }
}

/* Writes the codes of one output: in each line (see weight.h) the four bytes at `line`. */
static void put_codes(int bits, const uint8_t *code, uint8_t *line)
{
    uint32_t w[8]; /* four codes of a step, a byte each */
    memcpy(w, code, 32);
    if (bits == 8) {
        for (int j = 0; j < 8; j++) store_u32(line + 128 * j, w[j]);
        return;
    }
    uint8_t *low = line + HIGH_BYTES(bits);
    if (HAS_HIGH1(bits)) {
        uint32_t high = 0;
        for (int j = 0; j < 8; j++) high |= (w[j] >> (bits - 1) & 0x01010101) << j;
        store_u32(line, high);
    }
    for (int s = 0; s < 2; s++) { /* fields of two bits, four steps a line */
        uint32_t two = 0;
        for (int m = 0; m < 4; m++) two |= (w[4 * s + m] >> (bits == 6 ? 4 : 0) & 0x03030303) << 2 * m;
        if (bits == 6) store_u32(line + 128 * s, two);
        if (bits < 4) store_u32(low + 128 * s, two);
    }
    if (bits >= 4)
        for (int m = 0; m < 4; m++)
            store_u32(low + 128 * m, (w[m] & 0x0f0f0f0f) | (w[m + 4] & 0x0f0f0f0f) << 4);
}

static void pack_quant_row(enum dtype t, int n_in, const uint8_t *row, uint8_t *panel, int col)
{
    const struct panel_form *f = panel_form(t);
    const struct dtype_info *d = dtype_info(t);
    int per_block = d->block / UNIT, n_unit = n_in / UNIT;
    struct group g = {0};
    for (int u = 0; u < n_unit; u++) {
        fetch_group(t, row + (size_t)(u / per_block) * d->bytes, u % per_block, &g);
        if (f->super && u % 8 == 0) {
            memcpy(panel + 2 * col, &g.d, 2);
            if (f->mins) memcpy(panel + 2 * PANEL + 2 * col, &g.dmin, 2);
            panel += f->head_bytes;
        }
        uint8_t *scale = panel, *min = scale + SCALE_BYTES(f->group, f->super);
        if (f->super) {
            for (int h = 0; h < UNIT / f->group; h++) {
                scale[PANEL * h + col] = (uint8_t)g.scale[h];
                if (f->mins) min[PANEL * h + col] = (uint8_t)g.min[h];
            }
        } else {
            memcpy(scale + 2 * col, &g.d, 2);
            if (f->mins) memcpy(min + 2 * col, &g.dmin, 2);
        }
        put_codes(f->bits, g.code, panel + f->unit_bytes - CODE_BYTES(f->bits) + 4 * col);
        panel += f->unit_bytes;
    }
}

void panel_pack_row(enum dtype t, int n_in, const uint8_t *row, uint8_t *panel, int col)
{
    if (dtype_is_quant(t)) {
        pack_quant_row(t, n_in, row, panel, col);
    } else if (t == DT_F32) {
        for (int k = 0; k < n_in; k++) memcpy(panel + 4 * ((size_t)k * PANEL + col), row + 4 * (size_t)k, 4);
    } else if (t == DT_F16) {
        for (int k = 0; k < n_in; k++) memcpy(panel + 2 * ((size_t)k * PANEL + col), row + 2 * (size_t)k, 2);
    } else {
        for (int k = 0; k < n_in; k++)
            memcpy(panel + 4 * ((size_t)(k / 2) * PANEL + col) + 2 * (k % 2), row + 2 * (size_t)k, 2);
    }
}
