/* Template of the kernels for plain weights: one fused multiply-add for each value, in ascending k. Weights
 * need more registers than codes do, so four columns go with at most two rows. */
#pragma once
#include "panel_int.h"

/* w[c] of step k: F32 and F16 have a step for each k, BF16 keeps pairs of k in a 32-bit lane. */
INLINE vf plain_load(const int BYTES, const uint8_t *p, int c)
{
    return BYTES == 4 ? vf_load((const float *)(const void *)(p + VBYTES * c)) : vf_half(p + VBYTES / 2 * c);
}

INLINE void plain_dot(const enum dtype T, const int R, const uint8_t *panel, const float *act, int n_in,
                      float *out)
{
    const int C = COLS(R + 1), BYTES = T == DT_F32 ? 4 : 2;
    for (int c0 = 0; c0 < PANEL / LANES; c0 += C) {
        const uint8_t *p = panel;
        const float *a = act;
        vf f[ROWS_MAX][MAX_COLS];
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) f[r][c] =
            vf_load(out + PANEL * r + LANES * (c0 + c));
        if (T == DT_BF16) {
            for (int k = 0; k < n_in; k += 2, p += 4 * PANEL, a += 2 * R) {
                prefetch(p + PREFETCH, 4 * PANEL);
                UNROLL for (int odd = 0; odd < 2; odd++)
                {
                    vf w[MAX_COLS];
                    UNROLL for (int c = 0; c < C; c++)
                    {
                        vi pair = vi_load(p + VBYTES * (c0 + c));
                        w[c] = vf_cast(odd ? vi_high16(pair) : vi_shl32(pair, 16));
                    }
                    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) f[r][c] =
                        vf_fma(w[c], vf_bcast(a + odd * R + r), f[r][c]);
                    IN_ORDER();
                }
            }
        } else {
            for (int k = 0; k < n_in; k++, p += BYTES * PANEL, a += R) {
                vf w[MAX_COLS];
                UNROLL for (int c = 0; c < C; c++) w[c] = plain_load(BYTES, p, c0 + c);
                UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++) f[r][c] =
                    vf_fma(w[c], vf_bcast(a + r), f[r][c]);
            }
        }
        UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < C; c++)
            vf_store(out + PANEL * r + LANES * (c0 + c), f[r][c]);
    }
}

#ifdef vf_dot_bf16
INLINE void bf16_dot(const int R, const uint8_t *panel, const uint16_t *a, int n_in, float *out)
{
    vf f[BLOCK_ROWS][2];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < 2; c++) f[r][c] =
        vf_load(out + PANEL * r + LANES * c);
    for (int k = 0; k < n_in; k += 2, panel += 4 * PANEL, a += 2 * R) {
        vi w0 = vi_load(panel), w1 = vi_load(panel + VBYTES);
        UNROLL for (int r = 0; r < R; r++)
        {
            vi x = vi_bcast(a + 2 * r);
            f[r][0] = vf_dot_bf16(f[r][0], w0, x);
            f[r][1] = vf_dot_bf16(f[r][1], w1, x);
        }
    }
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int c = 0; c < 2; c++)
        vf_store(out + PANEL * r + LANES * c, f[r][c]);
}
#endif
