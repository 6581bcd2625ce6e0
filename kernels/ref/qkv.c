#include <math.h>
#include "kv_store.h"
#include "ref.h"
#include "rope.h"

void ref_rope_angles_rows(const int32_t *pos, int r0, int r1, const float *inv_freq, int half, float mscale,
                          float *cs)
{
    for (int r = r0; r < r1; r++)
        for (int j = 0; j < half; j++) {
            float t = (float)pos[r] * inv_freq[j], *o = cs + ((size_t)r * half + j) * 2;
            o[0] = mscale * cosf(t);
            o[1] = mscale * sinf(t);
        }
}

static void prep_row(const struct qkv_args *a, int row, int block, int token)
{
    int d = a->head_dim;
    float *q = a->q + (size_t)row * a->q_stride, *k = a->k + (size_t)row * a->k_stride;
    const float *v = a->v + (size_t)row * a->v_stride, *cs = a->rot ? a->cs + (size_t)row * a->rot : NULL;
    if (a->q_norm) ref_row_norm_rows(q, 0, a->n_head, d, d, a->q_norm, a->eps);
    if (a->k_norm) ref_row_norm_rows(k, 0, a->n_kv_head, d, d, a->k_norm, a->eps);
    for (int h = 0; h < a->n_head; h++) rope_rotate(q + (size_t)h * d, a->rot, a->style, cs);
    for (int h = 0; h < a->n_kv_head; h++) {
        rope_rotate(k + (size_t)h * d, a->rot, a->style, cs);
        kv_store_k(a->kv, block, a->slot, h, token, k + (size_t)h * d);
        kv_store_v(a->kv, block, a->slot, h, token, v + (size_t)h * d);
    }
}

void ref_qkv_rows(const struct qkv_args *a, int r0, int r1)
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
