/* From panels back to floats: embedding look-up. */
#include "weight.h"

/* The products and the sum are those of dtype_to_f32, so the values agree with it exactly: where there are
 * mins, they go with codes without a zero point. */
static void unpack_quant_row(enum dtype t, int n_in, const uint8_t *panel, int col, float *y)
{
    const struct panel_form *f = panel_form(t);
    int zero = f->mins ? 0 : 1 << (f->bits - 1);
    float d = 0, dmin = 0;
    for (int u = 0; u < n_in / UNIT; u++) {
        if (f->super && u % 8 == 0) {
            d = panel_half(panel + 2 * col);
            dmin = f->mins ? panel_half(panel + 2 * PANEL + 2 * col) : 0;
            panel += f->head_bytes;
        }
        const uint8_t *min = panel + SCALE_BYTES(f->group, f->super);
        const uint8_t *codes = panel + f->unit_bytes - CODE_BYTES(f->bits);
        for (int k = 0; k < UNIT; k++) {
            int at = PANEL * (k / f->group) + col;
            float ws = f->super ? d * (int8_t)panel[at] : panel_half(panel + 2 * col), wm = 0;
            if (f->mins) wm = f->super ? dmin * (int8_t)min[at] : panel_half(min + 2 * col);
            *y++ = ws * (float)(panel_code(f->bits, codes, col, k) - zero) + wm;
        }
        panel += f->unit_bytes;
    }
}

void panel_unpack_row(enum dtype t, int n_in, const uint8_t *panel, int col, float *y)
{
    if (dtype_is_quant(t))
        unpack_quant_row(t, n_in, panel, col, y);
    else
        for (int k = 0; k < n_in; k++) y[k] = panel_plain(t, panel, col, k);
}
