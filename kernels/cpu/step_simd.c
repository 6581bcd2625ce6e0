/* Norms, query and key preparation, soft cap: see step.h. Sums run over the dimensions in an order that
 * depends on nothing but their number. */
#include <math.h>
#include <string.h>
#include "kv_store.h"
#include "rope.h"
#include "simd.h"
#include "step.h"

/* 1 / sqrt(mean(v^2) + eps), four vectors of sums */
static float inv_rms(const float *v, int dim, float eps)
{
    vf s[4] = {vf_set(0), vf_set(0), vf_set(0), vf_set(0)};
    int i = 0;
    for (; i + 4 * LANES <= dim; i += 4 * LANES) UNROLL for (int j = 0; j < 4; j++)
        {
            vf x = vf_load(v + i + j * LANES);
            s[j] = vf_fma(x, x, s[j]);
        }
    for (; i < dim; i += LANES) {
        vf x = i + LANES <= dim ? vf_load(v + i) : vf_load_n(v + i, dim - i);
        s[0] = vf_fma(x, x, s[0]);
    }
    float sum = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
    return 1 / sqrtf(sum / (float)dim + eps);
}

static void row_norm(float *x, int r0, int r1, int dim, int stride, const float *w, float eps)
{
    for (int r = r0; r < r1; r++) {
        float *v = x + (size_t)r * stride, k = inv_rms(v, dim, eps);
        for (int i = 0; i < dim; i++) v[i] = v[i] * k * w[i];
    }
}

static void add_norm(const struct norm_args *a, int r0, int r1)
{
    const float *post = a->post_w, *pre = a->pre_w;
    float scale = a->scale;
    int dim = a->dim;
    for (int r = r0; r < r1; r++) {
        float *restrict x = a->x + (size_t)r * dim;
        if (a->delta) {
            const float *restrict d = a->delta + (size_t)r * dim;
            float k = post ? inv_rms(d, dim, a->eps) * scale : scale;
            if (post)
                for (int i = 0; i < dim; i++) x[i] += d[i] * k * post[i];
            else
                for (int i = 0; i < dim; i++) x[i] += d[i] * k;
        }
        float *restrict y = (float *)a->y + (size_t)r * dim;
        if (pre) {
            float k = inv_rms(x, dim, a->eps);
            for (int i = 0; i < dim; i++) y[i] = x[i] * k * pre[i];
        } else {
            memcpy(y, x, (size_t)dim * sizeof *y);
        }
    }
}

/* n floats in the cache's type; the same bits as kv_store.c's scalar conversion */
static void convert(enum dtype t, const float *x, int n, void *to)
{
    vf max = vf_set(t == DT_F32   ? 0x1.fffffep127f
                    : t == DT_F16 ? 65504
                                  : 0x1.fep127f),
       min = vf_sub(vf_set(0), max);
    for (int i = 0; i < n; i += LANES) {
        int m = n - i < LANES ? n - i : LANES;
        vf v = m == LANES ? vf_load(x + i) : vf_load_n(x + i, m);
        v = vf_max(min, vf_min(max, v)); /* a NaN is the second operand and stays */
        float f[LANES];
        uint16_t h[LANES];
        if (t == DT_F32) {
            vf_store_n((float *)to + i, v, m);
        } else if (t == DT_F16) {
            store_half(h, v);
            memcpy((uint16_t *)to + i, h, (size_t)m * 2);
        } else {
            vf_store(f, v);
            for (int j = 0; j < LANES; j++) h[j] = bf16_from_f32(f[j]);
            memcpy((uint16_t *)to + i, h, (size_t)m * 2);
        }
    }
}

/* One token's key and value of one head into their tiles. */
static void store(const struct kv_store *kv, unsigned char *key, unsigned char *value, int t, const float *k,
                  const float *v)
{
    int dim = kv->g.head_dim;
    union {
        float f[KV_MAX_HEAD];
        uint16_t h[KV_MAX_HEAD];
    } x;
    convert(kv->g.type, k, dim, &x);
    if (kv->g.type == DT_F32)
        for (int d = 0; d < dim; d++) ((float *)(void *)key)[kv_key_at(kv, d, t)] = x.f[d];
    else
        for (int d = 0; d < dim; d++) ((uint16_t *)(void *)key)[kv_key_at(kv, d, t)] = x.h[d];
    if (!kv->paired) {
        convert(kv->g.type, v, dim, value + (size_t)t * kv->row);
        return;
    }
    convert(kv->g.type, v, dim, &x);
    for (int d = 0; d < dim; d++) ((uint16_t *)(void *)value)[kv_value_at(kv, d, t)] = x.h[d];
}

static void store_int8(const struct kv_store *kv, unsigned char *key, unsigned char *value, int t,
                       const float *k, const float *v)
{
    int dim = kv->g.head_dim;
    int16_t code[KV_MAX_HEAD + LANES];
    float turned[KV_MAX_HEAD];
    rotate(k, dim, turned);
    ((float *)(void *)key)[t] = quantise(turned, dim, KV_CODE_MAX, code);
    for (int d = 0; d < dim; d++) key[kv->head + kv_key_at(kv, d, t)] = (unsigned char)code[d];
    ((float *)(void *)value)[t] = quantise(v, dim, KV_CODE_MAX, code);
    for (int d = 0; d < dim; d++) value[kv->head + kv_value_at(kv, d, t)] = (unsigned char)code[d];
}

static void prep_row(const struct qkv_args *a, int row, int block, int token)
{
    int d = a->head_dim;
    float *q = a->q + (size_t)row * a->q_stride, *k = a->k + (size_t)row * a->k_stride;
    const float *v = a->v + (size_t)row * a->v_stride, *cs = a->rot ? a->cs + (size_t)row * a->rot : NULL;
    if (a->q_norm) row_norm(q, 0, a->n_head, d, d, a->q_norm, a->eps);
    if (a->k_norm) row_norm(k, 0, a->n_kv_head, d, d, a->k_norm, a->eps);
    for (int h = 0; h < a->n_head; h++) rope_rotate(q + (size_t)h * d, a->rot, a->style, cs);
    for (int h = 0; h < a->n_kv_head; h++) {
        rope_rotate(k + (size_t)h * d, a->rot, a->style, cs);
        unsigned char *tile = kv_tile(a->kv, block, a->slot, h, token);
        (a->kv->g.type == DT_I8 ? store_int8 : store)(a->kv, tile, tile + a->kv->half, token % a->kv->kt,
                                                      k + (size_t)h * d, v + (size_t)h * d);
    }
}

static void qkv_prep(const struct qkv_args *a, int r0, int r1)
{
    int bs = a->kv->g.block_size;
    const struct attn_list *l = &a->b->list[a->list];
    for (int k = 0; k < l->n_item; k++) {
        const struct attn_item *it = &l->item[k];
        int i0 = r0 > it->row ? r0 - it->row : 0, i1 = r1 - it->row < it->len ? r1 - it->row : it->len;
        for (int i = i0; i < i1; i++) {
            int pos = it->pos + i;
            prep_row(a, it->row + i, it->table[pos / bs], pos % bs);
        }
    }
}

static void scale_cap(float *x, int64_t i0, int64_t i1, float scale, float cap)
{
    if (!(cap > 0)) {
        for (int64_t i = i0; i < i1; i++) x[i] *= scale;
        return;
    }
    vf k = vf_set(scale / cap), top = vf_set(cap);
    for (int64_t i = i0; i < i1; i += LANES) {
        int m = i1 - i < LANES ? (int)(i1 - i) : LANES;
        vf v = m == LANES ? vf_load(x + i) : vf_load_n(x + i, m);
        v = vf_mul(top, vf_tanh(vf_mul(v, k)));
        if (m == LANES)
            vf_store(x + i, v);
        else
            vf_store_n(x + i, v, m);
    }
}

const struct step_kernels LEVEL(step) = {
    .attn_tile = LEVEL(attn_tile),
    .attn_span = LEVEL(attn_span),
    .attn_join = LEVEL(attn_join),
    .add_norm = add_norm,
    .row_norm = row_norm,
    .qkv_prep = qkv_prep,
    .scale_cap = scale_cap,
};
