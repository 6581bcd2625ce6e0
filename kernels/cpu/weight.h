/* Packed matrices. A weight is read-only after weight_pack; any thread may read it.
 *
 * Layout. 32 outputs form a panel; panels follow each other, each a strictly ascending run of whole cache
 * lines, so that one row (decode) streams it. n_out is padded to whole panels with weights of value 0.
 *
 * Quantised types: K is cut into units of 32. A unit is [scales][mins][codes], and types with super-blocks
 * have a header of [32] f16 d, [32] f16 dmin before every 8 units: scales, mins   simple types: [32] f16;
 * with super-blocks: [32/group][32] int8, to be multiplied by d, dmin codes          128 * bits bytes: [high
 * bits][low bits], made of lines of [32 outputs][4 k] bytes, one line for each step of 4 k (8 steps a unit)
 * or, for less than 8 bits, for several steps: low part   8 bits: line j is step j;  4: line j%4 holds step j
 * in its low (j < 4) or high nibble; 2: line j/4, bits 2(j%4) high part  1 bit: one line, bit j;  2 bits:
 * line j/4, bits 2(j%4) Codes are unsigned with zero 2^(bits-1). The value is ws * (code - zero) + wm, where
 * ws is the scale and wm the min (0 without mins). Mins are stored negated where the file subtracts them.
 *
 * Plain types: F32, F16 [n_in][32]; BF16 [n_in/2][32][2], as the bfloat16 dot product wants it (n_in padded
 * to even). */
#pragma once
#include "half.h"
#include "ops.h"

#define PANEL 32 /* outputs */
#define UNIT  32 /* k */

/* type, bits of a code, k that share a scale, has mins, has super-blocks of 256 */
#define PANEL_FORMS(X)                                                                                       \
    X(Q4_0, 4, 32, 0, 0)                                                                                     \
    X(Q4_1, 4, 32, 1, 0)                                                                                     \
    X(Q5_0, 5, 32, 0, 0)                                                                                     \
    X(Q5_1, 5, 32, 1, 0)                                                                                     \
    X(Q8_0, 8, 32, 0, 0)                                                                                     \
    X(Q2_K, 2, 16, 1, 1)                                                                                     \
    X(Q3_K, 3, 16, 0, 1)                                                                                     \
    X(Q4_K, 4, 32, 1, 1)                                                                                     \
    X(Q5_K, 5, 32, 1, 1)                                                                                     \
    X(Q6_K, 6, 16, 0, 1)

#define HAS_HIGH1(bits)  ((bits) == 3 || (bits) == 5)
#define HAS_HIGH2(bits)  ((bits) == 6)
#define HIGH_BYTES(bits) (HAS_HIGH1(bits) ? 128 : HAS_HIGH2(bits) ? 256 : 0)
#define CODE_BYTES(bits) (128 * (bits))
/* Bytes of one [32] array of scales or mins times the groups in a unit. */
#define SCALE_BYTES(group, super)            ((super) ? PANEL * (UNIT / (group)) : PANEL * 2)
#define HEAD_BYTES(mins, super)              ((super) ? PANEL * 2 * (1 + (mins)) : 0)
#define UNIT_BYTES(bits, group, mins, super) (SCALE_BYTES(group, super) * (1 + (mins)) + CODE_BYTES(bits))

struct panel_form {
    int bits, group;
    bool mins, super;
    int head_bytes, unit_bytes;
};
const struct panel_form *panel_form(enum dtype t); /* bits is 0 for plain types */

struct weight {
    enum dtype type;
    int n_out, n_in;
    int n_panel;
    size_t panel_bytes;
    uint8_t *data; /* [n_panel][panel_bytes], aligned to 64 */
    struct slab *slab;
};
static inline const uint8_t *weight_panel(const struct weight *w, int p)
{
    return w->data + w->panel_bytes * (size_t)p;
}

/* Offset of unit u (a multiple of 8) in a panel, of its head if it has one. */
static inline size_t unit_offset(const struct panel_form *f, int u)
{
    return (size_t)u * (size_t)f->unit_bytes + (size_t)(u / 8) * (size_t)f->head_bytes;
}

/* Scalar access to one value of a panel. codes: the code bytes of a unit. */
static inline int panel_code(int bits, const uint8_t *codes, int col, int k)
{
    int j = k / 4, at = 4 * col + k % 4;
    const uint8_t *low = codes + HIGH_BYTES(bits);
    if (bits == 8) return low[128 * j + at];
    int v = bits < 4 ? low[128 * (j / 4) + at] >> 2 * (j % 4) & 3
                     : low[128 * (j % 4) + at] >> (j < 4 ? 0 : 4) & 15;
    if (HAS_HIGH1(bits)) v |= (codes[at] >> j & 1) << (bits - 1);
    if (HAS_HIGH2(bits)) v |= (codes[128 * (j / 4) + at] >> 2 * (j % 4) & 3) << 4;
    return v;
}
static inline float panel_half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return half_to_f32(h);
}
static inline float panel_plain(enum dtype t, const uint8_t *panel, int col, int k)
{
    size_t at = (size_t)k * PANEL + (size_t)col;
    float v;
    uint16_t h;
    if (t == DT_F32) return memcpy(&v, panel + 4 * at, 4), v;
    if (t == DT_F16) return panel_half(panel + 2 * at);
    memcpy(&h, panel + 4 * ((size_t)(k / 2) * PANEL + (size_t)col) + 2 * (k % 2), 2);
    return bf16_to_f32(h);
}

/* pack.c: one source row into column `col` of a panel (zeroed beforehand); unpack.c: back to floats, exactly
 * the values dtype_to_f32 gives. */
void panel_pack_row(enum dtype t, int n_in, const uint8_t *row, uint8_t *panel, int col);
void panel_unpack_row(enum dtype t, int n_in, const uint8_t *panel, int col, float *y);
