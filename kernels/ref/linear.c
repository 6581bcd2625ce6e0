#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "ref.h"

struct weight {
    struct weight_info info;
    size_t row;          /* bytes of a row of src */
    unsigned char *rows; /* [n_out] rows as they were given */
};

int ref_weight_pack(struct backend *be, enum dtype t, int n_out, int n_in, const void *src,
                    struct weight **out, struct err *e)
{
    (void)be;
    size_t row = n_in > 0 ? dtype_row_bytes(t, n_in) : 0, bytes;
    if (!row || n_out < 1)
        return err_set(e, ERR_INVALID, "matrix [%d][%d] of type %s", n_out, n_in, dtype_info(t)->name);
    if (__builtin_mul_overflow(row, (size_t)n_out, &bytes)) return err_set(e, ERR_NOMEM, "matrix too large");
    struct weight *w = malloc(sizeof *w);
    unsigned char *rows = malloc(bytes);
    if (!w || !rows) {
        free(w);
        free(rows);
        return err_set(e, ERR_NOMEM, "no memory for a matrix of %zu bytes", bytes);
    }
    memcpy(rows, src, bytes);
    *w = (struct weight){{t, n_out, n_in, bytes}, row, rows};
    *out = w;
    return 0;
}

void ref_weight_free(struct backend *be, struct weight *w)
{
    (void)be;
    if (!w) return;
    free(w->rows);
    free(w);
}

struct weight_info ref_weight_info(const struct weight *w) { return w->info; }

enum { CHUNK = 256 }; /* values dequantised at a time: a whole number of blocks of every type */

void ref_embed(struct backend *be, const struct weight *w, const struct batch *b, float scale, float *y)
{
    (void)be;
    int dim = w->info.n_in;
    for (int i = 0; i < b->n; i++) {
        float *o = y + (size_t)i * dim;
        if (b->ids[i] < 0 || b->ids[i] >= w->info.n_out) {
            memset(o, 0, (size_t)dim * sizeof *o);
            continue;
        }
        dtype_to_f32(w->info.type, w->rows + (size_t)b->ids[i] * w->row, o, dim);
        for (int j = 0; j < dim; j++) o[j] *= scale;
    }
}

/* x [n_in] . row o of w */
static double dot_row(const struct weight *w, int o, const float *x)
{
    const unsigned char *row = w->rows + (size_t)o * w->row;
    float buf[CHUNK];
    double s = 0;
    for (int i = 0; i < w->info.n_in; i += CHUNK) {
        int m = w->info.n_in - i < CHUNK ? w->info.n_in - i : CHUNK;
        dtype_to_f32(w->info.type, row + dtype_row_bytes(w->info.type, i), buf, m);
        for (int j = 0; j < m; j++) s += (double)buf[j] * x[i + j];
    }
    return s;
}

void ref_linear(struct backend *be, const void *in, int n, const struct linear_out *out, int n_out)
{
    const float *x = in;
    (void)be;
    for (int k = 0; k < n_out; k++)
        for (int o = 0; o < out[k].w->info.n_out; o++)
            for (int r = 0; r < n; r++) {
                double s = dot_row(out[k].w, o, x + (size_t)r * out[k].w->info.n_in);
                out[k].y[(size_t)r * out[k].y_stride + o] =
                    (float)(s + (out[k].bias ? (double)out[k].bias[o] : 0));
            }
}

static double activate(enum act act, double v)
{
    switch (act) {
    case ACT_SILU: return v / (1 + exp(-v));
    case ACT_GELU_TANH: return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case ACT_GELU: return 0.5 * v * (1 + erf(v / sqrt(2)));
    case ACT_RELU: break;
    }
    return v > 0 ? v : 0;
}

void ref_linear_glu(struct backend *be, const void *in, int n, const struct weight *gate,
                    const struct weight *up, enum act act, void *out)
{
    const float *x = in;
    float *y = out;
    (void)be;
    int f = gate->info.n_out, dim = gate->info.n_in;
    for (int r = 0; r < n; r++)
        for (int o = 0; o < f; o++) {
            const float *xr = x + (size_t)r * dim;
            y[(size_t)r * f + o] = (float)(activate(act, dot_row(gate, o, xr)) * dot_row(up, o, xr));
        }
}
