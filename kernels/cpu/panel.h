/* The inner kernels of the matrix products: one panel of 32 outputs (weight.h) times a block of a few rows.
 * There is one table for each instruction level; all state is the caller's.
 *
 * Quantised weights meet activations in int8 with a scale for each 32 values. What is computed, the same at
 * every level bit for bit (integer sums are exact, and the float operations are fixed): for each group g of
 * weights that share a scale, in ascending order: x = sum over k in g of (code[k] - zero) * q[k] f = fma(x *
 * ws, s, f);  with mins: f = fma(fma(ws, zero, wm), s * sum(q over g), f) Plain weights (F32, F16, BF16): f =
 * fma(w[k], x[k], f) in ascending k, one accumulator; with bfloat16 dot products BF16 weights meet
 * activations rounded to BF16. */
#pragma once
#include "backend.h"
#include "weight.h"

#define BLOCK_ROWS 12 /* most rows of a block at any level */
#define TILE_UNITS 8  /* K of a tile: 256, so that a tile stays in the L1 cache */

/* 32 values of one row. The sums let kernels take the zero point off where it costs nothing, as the start
 * value: neg[h] is minus the sums over k % 4 < 2 and k % 4 >= 2, in the halves k < 16, k >= 16 and in all. */
struct act_unit {
    int8_t q[UNIT];
    float scale, sum; /* sum = scale * (sum of q) */
    int16_t neg[3][2];
};

/* Groups whose largest magnitude is below this become zero, so that 127 / max stays finite. */
#define ACT_TINY 0x1p-100f

/* TILE_UNITS units of one panel as bytes and floats, so that many rows share the work of unpacking. 8-bit
 * codes may be cut into two planes of 4 bits. The order is the kernels' own. */
struct panel_tile {
    _Alignas(64) uint8_t code[2 * TILE_UNITS * UNIT * PANEL];
    float scale[TILE_UNITS * 2 * PANEL], min[TILE_UNITS * 2 * PANEL];
};

/* In all calls: rows is 1 to that block's limit below; a block's activations are [unit or k][rows]; units
 * [first, first + n_unit) of the panel are used (first is a multiple of TILE_UNITS), or k from where the
 * pointers point; f [rows][PANEL] is added to, so that K can be taken in pieces. */
struct panel_kernels {
    void (*quantise)(const float *x, int x_stride, int rows, int n_unit, struct act_unit *a);
    void (*dot)(enum dtype t, int rows, const uint8_t *panel, int first, const struct act_unit *a, int n_unit,
                float *f);
    /* For more than many_rows: units of a panel into a tile, then any number of blocks. NULL where dot is as
     * fast. */
    void (*expand)(enum dtype t, const uint8_t *panel, int first, int n_unit, struct panel_tile *tile);
    void (*dot_tile)(enum dtype t, int rows, const struct panel_tile *tile, const struct act_unit *a,
                     int n_unit, float *f);
    void (*dot_plain)(enum dtype t, int rows, const uint8_t *panel, const float *a, int n_in, float *f);
    /* BF16 weights by bfloat16 dot products; a is [k/2][rows][2]. NULL where dot_plain takes them. */
    void (*dot_bf16)(int rows, const uint8_t *panel, const uint16_t *a, int n_in, float *f);
    /* n is a multiple of 16; y may be gate */
    void (*glu)(enum act act, const float *gate, const float *up, float *y, int n);
    /* Most rows of a block when there are few in all, and weights should come from memory just once; when
     * there are many; and of BF16 weights alone (dot_bf16). */
    int few_rows, many_rows, bf16_rows;
    int act_bytes; /* of quantised activations that stay in the L2 cache from panel to panel */
};
const struct panel_kernels *panel_kernels(enum cpu_isa isa);

extern const struct panel_kernels panel_scalar, panel_avx2, panel_avx512, panel_vnni, panel_bf16;
