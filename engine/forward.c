#include "forward.h"
#include <string.h>

/* One RMS norm with everything around it: x += branch, then y = norm(x). The branch's own norm, its scale and
 * the next norm are all optional; without a next norm the input is x itself. Returns that input. */
static const float *add_norm(const struct forward *f, int n, const float *delta, const float *post,
                             const float *pre)
{
    const struct arch *a = &f->m->arch;
    struct backend *be = f->m->be;
    if (!delta && !pre) return f->x;
    be->ops->add_norm(be, &(struct norm_args){.n = n,
                                              .dim = a->dim,
                                              .x = f->x,
                                              .delta = delta,
                                              .scale = a->resid_scale,
                                              .post_w = post,
                                              .pre_w = pre,
                                              .y = f->h,
                                              .eps = a->eps});
    return pre ? f->h : f->x;
}

/* q, k, v of the rows of in; rotated, and k and v stored. */
static void project(const struct forward *f, const struct step *s, int l, const float *in)
{
    const struct arch *a = &f->m->arch;
    const struct layer_weights *w = &f->m->layer[l];
    struct backend *be = f->m->be;
    int q = a->n_head * a->head_dim, kv = a->n_kv_head * a->head_dim, rope = f->rope_of[a->layer[l].rope];
    bool head_norm = a->qk_norm == QK_NORM_HEAD;
    be->ops->linear(be, in, s->n,
                    (struct linear_out[]){
                        {w->q, w->q_bias, f->q, q}, {w->k, w->k_bias, f->k, kv}, {w->v, w->v_bias, f->v, kv}},
                    3);
    if (a->qk_norm == QK_NORM_ROW) {
        be->ops->row_norm(be, f->q, s->n, q, q, w->q_norm, a->eps);
        be->ops->row_norm(be, f->k, s->n, kv, kv, w->k_norm, a->eps);
    }
    be->ops->qkv_prep(be, &(struct qkv_args){.n = s->n,
                                             .n_head = a->n_head,
                                             .n_kv_head = a->n_kv_head,
                                             .head_dim = a->head_dim,
                                             .q = f->q,
                                             .q_stride = q,
                                             .k = f->k,
                                             .k_stride = kv,
                                             .v = f->v,
                                             .v_stride = kv,
                                             .q_norm = head_norm ? w->q_norm : NULL,
                                             .k_norm = head_norm ? w->k_norm : NULL,
                                             .eps = a->eps,
                                             .rot = a->rope[rope].rot,
                                             .style = a->rope[rope].style,
                                             .cs = f->cs[rope],
                                             .kv = f->kv,
                                             .slot = f->layout->slot_of[l],
                                             .item = s->item[f->layout->group_of[l]],
                                             .n_item = s->n_item});
}

static void attend(const struct forward *f, const struct step *s, int l, bool last)
{
    const struct arch *a = &f->m->arch;
    struct backend *be = f->m->be;
    int q = a->n_head * a->head_dim, group = f->layout->group_of[l];
    be->ops->attn(be, &(struct attn_args){.n = s->n,
                                          .n_head = a->n_head,
                                          .n_kv_head = a->n_kv_head,
                                          .head_dim = a->head_dim,
                                          .q = f->q,
                                          .q_stride = q,
                                          .out = f->att,
                                          .out_stride = q,
                                          .scale = a->attn_scale,
                                          .cap = a->attn_cap,
                                          .window = a->layer[l].window,
                                          .kv = f->kv,
                                          .slot = f->layout->slot_of[l],
                                          .item = last ? s->out_item[group] : s->item[group],
                                          .n_item = last ? s->n_out_item : s->n_item});
}

static void keep_rows(float *x, int dim, const int *row, int n)
{
    for (int i = 0; i < n; i++) /* ascending, so nothing is overwritten before it was read */
        if (row[i] != i) memcpy(x + (size_t)i * dim, x + (size_t)row[i] * dim, (size_t)dim * sizeof *x);
}

void forward_run(const struct forward *f, const struct step *s)
{
    const struct arch *a = &f->m->arch;
    struct backend *be = f->m->be;
    const struct ops *ops = be->ops;
    const float *in, *delta = NULL, *post = NULL; /* the branch not yet added to x, and its norm */
    int n = s->n;

    ops->embed(be, f->m->embed, s->ids, n, a->embed_scale, f->x);
    for (int i = 0; i < a->n_rope; i++)
        if (f->rope_of[0] == i || f->rope_of[1] == i)
            ops->rope_angles(be, s->pos, n, a->rope[i].inv_freq, a->rope[i].rot / 2, a->rope[i].mscale,
                             f->cs[i]);

    for (int l = 0; l < a->n_layer; l++) {
        const struct layer_weights *w = &f->m->layer[l];
        bool last = l == a->n_layer - 1;
        in = add_norm(f, n, delta, post, w->attn_norm);
        project(f, s, l, in);
        if (last && !s->n_out) return;
        attend(f, s, l, last);
        if (last && s->n_out < n) { /* the rest of the last layer matters only where logits are wanted */
            keep_rows(f->att, a->n_head * a->head_dim, s->out_row, s->n_out);
            keep_rows(f->x, a->dim, s->out_row, s->n_out);
            n = s->n_out;
        }
        ops->linear(be, f->att, n, &(struct linear_out){w->o, w->o_bias, f->delta, a->dim}, 1);
        in = add_norm(f, n, f->delta, w->attn_post_norm, w->ffn_norm);
        ops->linear_glu(be, in, n, w->gate, w->up, a->act, f->ff);
        ops->linear(be, f->ff, n, &(struct linear_out){w->down, NULL, f->delta, a->dim}, 1);
        delta = f->delta;
        post = w->ffn_post_norm;
    }
    add_norm(f, n, delta, post, f->m->final_norm);
}
