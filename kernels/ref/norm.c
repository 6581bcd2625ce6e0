#include <math.h>
#include "ref.h"

/* 1 / sqrt(mean(v^2) + eps)   (Zhang & Sennrich 2019) */
static double inv_rms(const float *v, int dim, float eps)
{
    double s = 0;
    for (int i = 0; i < dim; i++) s += (double)v[i] * v[i];
    return 1 / sqrt(s / dim + (double)eps);
}

void ref_add_norm_rows(const struct norm_args *a, int r0, int r1)
{
    for (int r = r0; r < r1; r++) {
        float *x = a->x + (size_t)r * a->dim;
        if (a->delta) {
            const float *d = a->delta + (size_t)r * a->dim;
            double k = a->post_w ? inv_rms(d, a->dim, a->eps) : 1;
            for (int i = 0; i < a->dim; i++)
                x[i] = (float)(x[i] + a->scale * (k * d[i] * (a->post_w ? a->post_w[i] : 1.0f)));
        }
        float *y = (float *)a->y + (size_t)r * a->dim;
        double k = a->pre_w ? inv_rms(x, a->dim, a->eps) : 1;
        for (int i = 0; i < a->dim; i++) y[i] = (float)(k * x[i] * (a->pre_w ? a->pre_w[i] : 1.0f));
    }
}

void ref_row_norm_rows(float *x, int r0, int r1, int dim, int stride, const float *w, float eps)
{
    for (int r = r0; r < r1; r++) {
        float *v = x + (size_t)r * stride;
        double k = inv_rms(v, dim, eps);
        for (int i = 0; i < dim; i++) v[i] = (float)(k * v[i] * w[i]);
    }
}

void ref_scale_cap_range(float *x, int64_t i0, int64_t i1, float scale, float cap)
{
    for (int64_t i = i0; i < i1; i++) x[i] = cap > 0 ? cap * tanhf(x[i] * scale / cap) : x[i] * scale;
}
