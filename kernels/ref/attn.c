#include <math.h>
#include <string.h>
#include "half.h"
#include "kv_store.h"
#include "ref.h"

/* The i-th value of a tile, or of int8 the code. */
static float load(const struct kv_store *kv, const unsigned char *tile, size_t i)
{
    const unsigned char *p = tile + kv->head;
    if (kv->g.type == DT_I8) return (int8_t)p[i];
    if (kv->g.type == DT_F32) return ((const float *)(const void *)p)[i];
    uint16_t u = ((const uint16_t *)(const void *)p)[i];
    return kv->g.type == DT_F16 ? half_to_f32(u) : bf16_to_f32(u);
}

/* Of the t-th token. A code times its scale is exact in double. */
static double scale(const struct kv_store *kv, const unsigned char *tile, int t)
{
    return kv->g.type == DT_I8 ? ((const float *)(const void *)tile)[t] : 1;
}

/* Dimension d of the t-th key (of int8: rotated) or value of a tile. */
static double key(const struct kv_store *kv, const unsigned char *tile, int t, int d)
{
    return scale(kv, tile, t) * load(kv, tile, kv_key_at(kv, d, t));
}

static double value(const struct kv_store *kv, const unsigned char *tile, int t, int d)
{
    return scale(kv, tile, t) * load(kv, tile, kv_value_at(kv, d, t));
}

/* q: as the keys are, rotated if they are int8 */
static double score(const struct attn_args *a, const float *q, const unsigned char *tile, int t)
{
    double s = 0;
    for (int d = 0; d < a->head_dim; d++) s += q[d] * key(a->kv, tile, t, d);
    s *= (double)a->scale / (a->kv->g.type == DT_I8 ? kv_rotation(a->head_dim) : 1);
    return a->cap > 0 ? a->cap * tanh(s / a->cap) : s;
}

/* Online softmax over the keys in order (Milakov & Gimelshein 2018). */
void ref_attn_head(const struct attn_args *a, const struct attn_item *it, int i, int head)
{
    const struct kv_store *kv = a->kv;
    int dim = a->head_dim, bs = kv->g.block_size, pos = it->pos + i;
    int window = a->b->list[a->list].window, first = window > 0 && pos >= window ? pos - window + 1 : 0;
    const float *q = a->q + (size_t)(it->row + i) * a->q_stride + (size_t)head * dim;
    float turned[KV_MAX_HEAD],
        *out = (float *)a->out + (size_t)(it->row + i) * a->out_stride + (size_t)head * dim;
    if (kv->g.type == DT_I8) {
        kv_rotate(q, dim, turned);
        q = turned;
    }
    double acc[KV_MAX_HEAD] = {0}, max = -INFINITY, sum = 0;
    for (int t = first; t <= pos; t++) {
        const unsigned char *tile =
            kv_tile(kv, it->table[t / bs], a->slot, head / (a->n_head / a->n_kv_head), t % bs);
        int at = t % kv->kt;
        double s = score(a, q, tile, at), m = s > max ? s : max, keep = exp(max - m), p = exp(s - m);
        for (int d = 0; d < dim; d++) acc[d] = acc[d] * keep + p * value(kv, tile + kv->half, at, d);
        sum = sum * keep + p;
        max = m;
    }
    for (int d = 0; d < dim; d++) out[d] = (float)(acc[d] / sum);
}
