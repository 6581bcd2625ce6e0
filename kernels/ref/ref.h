/* The scalar oracle of every op: plain loops in the order of the formulas, sums in double. Functions on rows
 * [r0, r1) of a step are pure, so the CPU back end also runs them through its pool where it has no SIMD
 * kernel. */
#pragma once
#include "ops.h"

int ref_weight_pack(struct backend *be, enum dtype t, int n_out, int n_in, const void *src,
                    struct weight **out, struct err *e);
void ref_weight_free(struct backend *be, struct weight *w);
struct weight_info ref_weight_info(const struct weight *w);
void ref_embed(struct backend *be, const struct weight *w, const struct batch *b, float scale, float *y);
void ref_linear(struct backend *be, const void *x, int n, const struct linear_out *out, int n_out);
void ref_linear_glu(struct backend *be, const void *x, int n, const struct weight *gate,
                    const struct weight *up, enum act act, void *y);

void ref_add_norm_rows(const struct norm_args *a, int r0, int r1);
void ref_row_norm_rows(float *x, int r0, int r1, int dim, int stride, const float *w, float eps);
void ref_rope_angles_rows(const int32_t *pos, int r0, int r1, const float *inv_freq, int half, float mscale,
                          float *cs);
void ref_qkv_rows(const struct qkv_args *a, int r0, int r1);
void ref_attn_head(const struct attn_args *a, const struct attn_item *it, int i,
                   int head); /* row i of the item */
void ref_scale_cap_range(float *x, int64_t i0, int64_t i1, float scale, float cap);
