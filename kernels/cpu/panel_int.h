/* Template of the quantised kernels (see panel.h for what they compute). Everything is inlined with constant
 * parameters: BITS, GROUP, MINS, SUPER as in weight.h, R rows. COLS vectors of outputs are handled at a time,
 * so a panel takes PANEL / (COLS * LANES) passes.
 *
 * Without VNNI, maddubs adds pairs of products to 16-bit lanes and a whole group is summed there before
 * widening. That is exact although the raw codes would overflow: the sums start at minus zero * sum(q), so a
 * finished lane holds a sum of (code - zero) * q with at most 16 * 16 * 127 or 8 * 32 * 127 in magnitude,
 * below 2^15, and 16-bit addition that wraps on the way is still right at the end. 8-bit codes are taken as
 * two planes of 4 bits: 16 * high + low. */
#pragma once
#include "panel.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#ifdef vi_dot
#define PLANES(bits) 1
#else
#define PLANES(bits) ((bits) == 8 ? 2 : 1)
#endif
/* Rows of a block. 16 registers hold the sums of 5 rows by 2 vectors beside what else is live, 32 those of 6.
 * With 8 rows VNNI kernels keep a few float sums on the stack: worth it where a second block would have to
 * wait for the weights, not among many blocks. */
#define ROWS_MANY (LANES == 8 ? 5 : 6)
#ifdef vi_dot
#define ROWS_MAX 8
#else
#define ROWS_MAX ROWS_MANY
#endif
/* AVX2 has registers for 12 sums: few rows take a whole panel in one ascending pass. */
#define COLS(rows) (LANES == 8 && (rows) <= 3 ? 4 : 2)
/* Keeps the compiler from loading far ahead of use, or once for two uses: both end in spilled registers. */
#define IN_ORDER()  __asm__ volatile("" ::: "memory")
#define VBYTES      (LANES * 4)
#define TILE_COLS   2
#define TILE_PASSES (PANEL / (TILE_COLS * LANES))
#define MAX_COLS    4

/* A unit's worth of lines from p on; beyond the end of a matrix this does nothing. */
INLINE void prefetch(const uint8_t *p, const int bytes)
{
    UNROLL for (int i = 0; i < bytes && PREFETCH; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* The codes of step j (4 k) for vector c of a panel, a byte each; of an 8-bit code with two planes, one
 * plane. */
INLINE vi unit_codes(const int BITS, const int plane, const uint8_t *codes, int c, int j)
{
    const uint8_t *low = codes + HIGH_BYTES(BITS) + VBYTES * c;
    vi v;
    if (BITS == 8) {
        v = vi_load(low + 128 * j);
        if (PLANES(8) == 1) return v;
        return vi_and(plane ? vi_shr16(v, 4) : v, vi_set8(15));
    }
    if (BITS < 4) {
        v = vi_load(low + 128 * (j / 4));
        v = vi_and(j % 4 ? vi_shr16(v, 2 * (j % 4)) : v, vi_set8(3));
    } else {
        v = vi_load(low + 128 * (j % 4));
        v = vi_and(j > 3 ? vi_shr16(v, 4) : v, vi_set8(15));
    }
    if (HAS_HIGH1(BITS)) {
        vi h = vi_load(codes + VBYTES * c);
        int up = BITS - 1 - j;
        h = up > 0 ? vi_shl16(h, up) : up < 0 ? vi_shr16(h, -up) : h;
        v = vi_or(v, vi_and(h, vi_set8(1 << (BITS - 1))));
    }
    if (HAS_HIGH2(BITS)) {
        vi h = vi_load(codes + 128 * (j / 4) + VBYTES * c);
        int up = 4 - 2 * (j % 4);
        h = up > 0 ? vi_shl16(h, up) : up < 0 ? vi_shr16(h, -up) : h;
        v = vi_or(v, vi_and(h, vi_set8(0x30)));
    }
    return v;
}

/* Where codes come from: TILE reads [plane][8 steps][TILE_COLS] vectors, otherwise a packed unit. */
INLINE vi fetch(const int TILE, const int BITS, const int plane, const uint8_t *codes, int c, int j)
{
    if (TILE) return vi_load(codes + VBYTES * ((8 * plane + j) * TILE_COLS + c));
    return unit_codes(BITS, plane, codes, c, j);
}

/* x[r][c] = sum over the group of (code - zero) * q. `part` is the index into neg; steps [j0, j1); zero holds
 * the zero point in 16-bit lanes. */
INLINE void group_dot(const int TILE, const int BITS, const int NP, const int R, const int C, const int j0,
                      const int j1, const int part, const vi zero, const uint8_t *codes, const int c0,
                      const struct act_unit *a, vi x[ROWS_MAX][MAX_COLS])
{
#ifdef vi_dot
    (void)NP;
    UNROLL for (int r = 0; r < R; r++)
    {
        vi start = vi_madd16(vi_bcast(a[r].neg[part]), zero);
        UNROLL for (int c = 0; c < C; c++) x[r][c] = start;
    }
    UNROLL for (int j = j0; j < j1; j++)
    {
        vi w[MAX_COLS];
        UNROLL for (int c = 0; c < C; c++) w[c] = fetch(TILE, BITS, 0, codes, c0 + c, j);
        UNROLL for (int r = 0; r < R; r++)
        {
            vi q = vi_bcast(a[r].q + 4 * j);
            UNROLL for (int c = 0; c < C; c++) x[r][c] = vi_dot(x[r][c], w[c], q);
        }
        if (R > 4) IN_ORDER(); /* with fewer, scales may stay in registers */
    }
#else
    UNROLL for (int p = 0; p < NP; p++)
    {
        vi s[ROWS_MAX][MAX_COLS];
        UNROLL for (int r = 0; r < R; r++)
        {
            /* Of two planes only the high one has a zero point, 8: 128 = 16 * 8. */
            vi start = p == NP - 1 ? vi_mul16(vi_bcast(a[r].neg[part]), zero) : vi_zero();
            UNROLL for (int c = 0; c < C; c++) s[r][c] = start;
        }
        UNROLL for (int j = j0; j < j1; j++)
        {
            vi w[MAX_COLS];
            UNROLL for (int c = 0; c < C; c++) w[c] = fetch(TILE, BITS, p, codes, c0 + c, j);
            UNROLL for (int r = 0; r < R; r++)
            {
                vi q = vi_bcast(a[r].q + 4 * j);
                UNROLL for (int c = 0; c < C; c++)
                {
                    s[r][c] = vi_add16(s[r][c], vi_maddubs(w[c], q));
                    vi_keep(s[r][c]);
                }
            }
            IN_ORDER();
        }
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
        {
            vi wide = vi_madd16(s[r][c], vi_set16(p ? 16 : 1));
            x[r][c] = p ? vi_add32(x[r][c], wide) : wide;
        }
    }
#endif
}

/* f += scales times x, and mins times the sums of the activations. */
INLINE void group_scale(const int MINS, const int GROUP, const int R, const int C, const int part,
                        const struct act_unit *a, vi x[ROWS_MAX][MAX_COLS], const vf ws[MAX_COLS],
                        const vf wm[MAX_COLS], vf f[ROWS_MAX][MAX_COLS])
{
    UNROLL for (int r = 0; r < R; r++)
    {
        vf s = vf_bcast(&a[r].scale), sum = s;
        if (MINS)
            sum = GROUP == UNIT ? vf_bcast(&a[r].sum)
                                : vf_mul(s, vf_from_i32(vi_madd16(vi_bcast(a[r].neg[part]), vi_set16(-1))));
        UNROLL for (int c = 0; c < C; c++)
        {
            f[r][c] = vf_fma(vf_mul(vf_from_i32(x[r][c]), ws[c]), s, f[r][c]);
            if (MINS) f[r][c] = vf_fma(wm[c], sum, f[r][c]);
        }
    }
}

/* Scale and min (for codes with a zero point) of part h of a unit; head: d and dmin of the super-block. */
INLINE void group_head(const int BITS, const int GROUP, const int MINS, const int SUPER, const uint8_t *head,
                       const uint8_t *unit, int h, int c, vf *ws, vf *wm)
{
    const uint8_t *min = unit + SCALE_BYTES(GROUP, SUPER);
    int at = LANES * c;
    *ws = SUPER ? vf_mul(vf_half(head + 2 * at), vf_i8(unit + PANEL * h + at)) : vf_half(unit + 2 * at);
    if (!MINS) return;
    *wm = SUPER ? vf_mul(vf_half(head + 2 * PANEL + 2 * at), vf_i8(min + PANEL * h + at))
                : vf_half(min + 2 * at);
    *wm = vf_fma(*ws, vf_set(1 << (BITS - 1)), *wm);
}

INLINE vi zero_point(const int bits) { return vi_set16((short)(1 << ((PLANES(bits) == 2 ? 4 : bits) - 1))); }

INLINE void panel_dot(const int BITS, const int GROUP, const int MINS, const int SUPER, const int R,
                      const uint8_t *panel, const struct act_unit *act, int n_unit, float *out)
{
    const int C = COLS(R), BYTES = UNIT_BYTES(BITS, GROUP, MINS, SUPER);
    const vi zero = zero_point(BITS);
    for (int c0 = 0; c0 < PANEL / LANES; c0 += C) {
        const uint8_t *p = panel, *head = panel;
        const struct act_unit *a = act;
        vf f[ROWS_MAX][MAX_COLS];
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) f[r][c] =
            vf_load(out + PANEL * r + LANES * (c0 + c));
        for (int u = 0; u < n_unit;) {
            if (SUPER) head = p, p += HEAD_BYTES(MINS, SUPER);
            for (int end = SUPER ? u + 8 : n_unit; u < end; u++, p += BYTES, a += R) {
                prefetch(p + PREFETCH, BYTES);
                UNROLL for (int h = 0; h < UNIT / GROUP; h++)
                {
                    const int part = GROUP == UNIT ? 2 : h;
                    vi x[ROWS_MAX][MAX_COLS];
                    vf ws[MAX_COLS], wm[MAX_COLS];
                    UNROLL for (int c = 0; c < C; c++)
                        group_head(BITS, GROUP, MINS, SUPER, head, p, h, c0 + c, &ws[c], &wm[c]);
                    group_dot(0, BITS, PLANES(BITS), R, C, h * GROUP / 4, (h + 1) * GROUP / 4, part, zero,
                              p + BYTES - CODE_BYTES(BITS), c0, a, x);
                    group_scale(MINS, GROUP, R, C, part, a, x, ws, wm, f);
                }
            }
        }
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
            vf_store(out + PANEL * r + LANES * (c0 + c), f[r][c]);
    }
}

/* Tile: code [pass][unit][plane][step][TILE_COLS vectors], scale and min [pass][unit][part][TILE_COLS
 * vectors]. */
INLINE void panel_expand(const int BITS, const int GROUP, const int MINS, const int SUPER,
                         const uint8_t *panel, int n_unit, struct panel_tile *tile)
{
    const int BYTES = UNIT_BYTES(BITS, GROUP, MINS, SUPER), NP = PLANES(BITS), PARTS = UNIT / GROUP;
    const uint8_t *head = panel, *p = panel + HEAD_BYTES(MINS, SUPER);
    for (int u = 0; u < n_unit; u++, p += BYTES) {
        prefetch(p + TILE_UNITS * BYTES, BYTES); /* the next tile, while the rows use this one */
        UNROLL for (int c = 0; c < PANEL / LANES; c++)
        {
            int at = (c / TILE_COLS) * TILE_UNITS + u; /* pass and unit */
            uint8_t *code = tile->code + VBYTES * (at * NP * 8 * TILE_COLS + c % TILE_COLS);
            UNROLL for (int pl = 0; pl < NP; pl++) UNROLL for (int j = 0; j < 8; j++)
                vi_store(code + VBYTES * (8 * pl + j) * TILE_COLS,
                         unit_codes(BITS, pl, p + BYTES - CODE_BYTES(BITS), c, j));
            UNROLL for (int h = 0; h < PARTS; h++)
            {
                int i = LANES * ((at * PARTS + h) * TILE_COLS + c % TILE_COLS);
                vf ws, wm;
                group_head(BITS, GROUP, MINS, SUPER, head, p, h, c, &ws, &wm);
                vf_store(tile->scale + i, ws);
                if (MINS) vf_store(tile->min + i, wm);
            }
        }
    }
}

INLINE void tile_dot(const int NP, const int GROUP, const int MINS, const int R, const vi zero,
                     const struct panel_tile *tile, const struct act_unit *act, int n_unit, float *out)
{
    const int PARTS = UNIT / GROUP, W = TILE_COLS * LANES;
    for (int pass = 0; pass < TILE_PASSES; pass++, out += W) {
        const uint8_t *code = tile->code + 4 * W * 8 * NP * TILE_UNITS * pass;
        const float *scale = tile->scale + W * PARTS * TILE_UNITS * pass;
        const float *min = tile->min + W * PARTS * TILE_UNITS * pass;
        const struct act_unit *a = act;
        vf f[ROWS_MAX][MAX_COLS];
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < TILE_COLS; c++) f[r][c] =
            vf_load(out + PANEL * r + LANES * c);
        for (int u = 0; u < n_unit; u++, a += R, code += 4 * W * 8 * NP) {
            UNROLL for (int h = 0; h < PARTS; h++, scale += W, min += W)
            {
                const int part = GROUP == UNIT ? 2 : h;
                vi x[ROWS_MAX][MAX_COLS];
                vf ws[MAX_COLS], wm[MAX_COLS];
                group_dot(1, 0, NP, R, TILE_COLS, h * GROUP / 4, (h + 1) * GROUP / 4, part, zero, code, 0, a,
                          x);
                UNROLL for (int c = 0; c < TILE_COLS; c++)
                {
                    ws[c] = vf_load(scale + LANES * c);
                    if (MINS) wm[c] = vf_load(min + LANES * c);
                }
                group_scale(MINS, GROUP, R, TILE_COLS, part, a, x, ws, wm, f);
            }
        }
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < TILE_COLS; c++)
            vf_store(out + PANEL * r + LANES * c, f[r][c]);
    }
}
