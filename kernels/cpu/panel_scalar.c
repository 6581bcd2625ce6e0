/* The kernels in plain C: for machines without SIMD, and the meaning of the others. */
#include "panel.h"
#include <math.h>
#include "glu.h"

/* |x| and float order agree on the bits, so the maximum is one of integers, and NaN and infinity stand out.
 */
static void quantise_unit(const float *x, struct act_unit *a)
{
    uint32_t max = 0;
    for (int k = 0; k < UNIT; k++) {
        uint32_t m = f32_bits(x[k]) & 0x7fffffff;
        max = m > max ? m : max;
    }
    float amax = f32_from_bits(max), inv = amax >= ACT_TINY ? 127 / amax : 0;
    a->scale = amax >= ACT_TINY || amax != amax ? amax / 127 : 0;
    int sum[2][2] = {{0}};
    for (int k = 0; k < UNIT; k++) {
        /* Adding 1.5 * 2^23 rounds to the nearest even integer and leaves it in the low bits. */
        a->q[k] = (int8_t)(f32_bits(x[k] * inv + 0x1.8p23f) - 0x4b400000);
        sum[k / 16][k % 4 / 2] += a->q[k];
    }
    a->sum = a->scale * (float)(sum[0][0] + sum[0][1] + sum[1][0] + sum[1][1]);
    for (int i = 0; i < 2; i++) {
        a->neg[0][i] = (int16_t)-sum[0][i];
        a->neg[1][i] = (int16_t)-sum[1][i];
        a->neg[2][i] = (int16_t)(-sum[0][i] - sum[1][i]);
    }
}

static void quantise(const float *x, int x_stride, int rows, int n_unit, struct act_unit *a)
{
    for (int u = 0; u < n_unit; u++)
        for (int r = 0; r < rows; r++) quantise_unit(x + (size_t)x_stride * r + UNIT * u, a++);
}

static void unit_dot(const struct panel_form *f, int col, const uint8_t *unit, float d, float dmin,
                     const struct act_unit *a, float *acc)
{
    const uint8_t *min = unit + SCALE_BYTES(f->group, f->super),
                  *codes = unit + f->unit_bytes - CODE_BYTES(f->bits);
    int zero = 1 << (f->bits - 1);
    for (int g = 0; g < UNIT / f->group; g++) {
        int x = 0, sum = 0, at = PANEL * g + col;
        for (int k = g * f->group; k < (g + 1) * f->group; k++) {
            x += (panel_code(f->bits, codes, col, k) - zero) * a->q[k];
            sum += a->q[k];
        }
        float ws = f->super ? d * (int8_t)unit[at] : panel_half(unit + 2 * col);
        *acc = fmaf((float)x * ws, a->scale, *acc);
        if (!f->mins) continue;
        float wm = f->super ? dmin * (int8_t)min[at] : panel_half(min + 2 * col);
        *acc = fmaf(fmaf(ws, (float)zero, wm), a->scale * (float)sum, *acc);
    }
}

static void dot(enum dtype t, int rows, const uint8_t *panel, int first, const struct act_unit *a, int n_unit,
                float *f)
{
    const struct panel_form *form = panel_form(t);
    panel += unit_offset(form, first);
    for (int col = 0; col < PANEL; col++) {
        const uint8_t *p = panel;
        float d = 0, dmin = 0;
        for (int u = 0; u < n_unit; u++, p += form->unit_bytes) {
            if (form->super && u % 8 == 0) {
                d = panel_half(p + 2 * col);
                dmin = form->mins ? panel_half(p + 2 * PANEL + 2 * col) : 0;
                p += form->head_bytes;
            }
            for (int r = 0; r < rows; r++)
                unit_dot(form, col, p, d, dmin, a + u * rows + r, f + PANEL * r + col);
        }
    }
}

static void dot_plain(enum dtype t, int rows, const uint8_t *panel, const float *a, int n_in, float *f)
{
    for (int k = 0; k < n_in; k++)
        for (int col = 0; col < PANEL; col++) {
            float w = panel_plain(t, panel, col, k);
            for (int r = 0; r < rows; r++) f[PANEL * r + col] += w * a[k * rows + r];
        }
}

const struct panel_kernels panel_scalar = {.quantise = quantise,
                                           .dot = dot,
                                           .dot_plain = dot_plain,
                                           .glu = glu_apply,
                                           .few_rows = BLOCK_ROWS,
                                           .many_rows = BLOCK_ROWS,
                                           .act_bytes = 256 << 10};
