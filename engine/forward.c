#include "forward.h"
#include <string.h>

size_t forward_place(struct forward *f, const struct arch *a, int n_row, enum dtype mat, char *arena)
{
    size_t n = (size_t)n_row, q = (size_t)a->n_head * a->head_dim, kv = (size_t)a->n_kv_head * a->head_dim,
           m = (size_t)dtype_info(mat)->bytes, s = sizeof(float), at = 0;
    struct {
        void *to;
        size_t bytes;
    } part[] = {{&f->x, n * a->dim * s},
                {&f->delta, n * a->dim * s},
                {&f->h, n * a->dim * m},
                {&f->q, n * q * s},
                {&f->k, n * kv * s},
                {&f->v, n * kv * s},
                {&f->att, n * q * m},
                {&f->ff, n * a->ffn_dim * m},
                {&f->cs[0], n * a->rope[0].rot * s},
                {&f->cs[1], n * (a->n_rope > 1 ? a->rope[1].rot : 0) * s},
                {&f->inv_freq[0], ROPE_MAX_HALF * s},
                {&f->inv_freq[1], ROPE_MAX_HALF * s}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        char *p = arena + at;
        if (arena) memcpy(part[i].to, &p, sizeof p);
        at += (part[i].bytes + 255) & ~(size_t)255;
    }
    if (arena) f->mat_size = m;
    return at;
}

/* One RMS norm with everything around it: x += branch, then h = norm(x). The branch, its own norm and the
 * next norm are all optional. */
static void add_norm(const struct forward *f, int n, float *x, float *delta, const float *post,
                     const float *pre)
{
    const struct arch *a = &f->m->arch;
    struct backend *be = f->m->be;
    be->ops->add_norm(be, &(struct norm_args){.n = n,
                                              .dim = a->dim,
                                              .x = x,
                                              .delta = delta,
                                              .reduce = delta && be->size > 1,
                                              .scale = a->resid_scale,
                                              .post_w = post,
                                              .pre_w = pre,
                                              .y = f->h,
                                              .eps = a->eps});
}

/* q, k, v of the rows of h; rotated, and k and v stored. */
static void project(const struct forward *f, const struct batch *b, int l)
{
    const struct arch *a = &f->m->arch;
    const struct layer_weights *w = &f->m->layer[l];
    struct backend *be = f->m->be;
    int q = a->n_head * a->head_dim, kv = a->n_kv_head * a->head_dim, rope = f->rope_of[a->layer[l].rope];
    bool head_norm = a->qk_norm == QK_NORM_HEAD;
    be->ops->linear(be, f->h, b->n,
                    (struct linear_out[]){
                        {w->q, w->q_bias, f->q, q}, {w->k, w->k_bias, f->k, kv}, {w->v, w->v_bias, f->v, kv}},
                    3);
    if (a->qk_norm == QK_NORM_ROW) {
        be->ops->row_norm(be, f->q, b->n, q, q, w->q_norm, a->eps);
        be->ops->row_norm(be, f->k, b->n, kv, kv, w->k_norm, a->eps);
    }
    be->ops->qkv_prep(be, &(struct qkv_args){.n = b->n,
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
                                             .b = b,
                                             .list = f->layout->group_of[l]});
}

static void attend(const struct forward *f, const struct batch *b, int l, bool last)
{
    const struct arch *a = &f->m->arch;
    struct backend *be = f->m->be;
    int q = a->n_head * a->head_dim;
    be->ops->attn(be, &(struct attn_args){.n = b->n,
                                          .n_head = a->n_head,
                                          .n_kv_head = a->n_kv_head,
                                          .head_dim = a->head_dim,
                                          .q = f->q,
                                          .q_stride = q,
                                          .out = f->att,
                                          .out_stride = q,
                                          .scale = a->attn_scale,
                                          .cap = a->attn_cap,
                                          .kv = f->kv,
                                          .slot = f->layout->slot_of[l],
                                          .b = b,
                                          .list = f->layout->group_of[l] + (last ? f->layout->n_group : 0)});
}

void forward_run(const struct forward *f, const struct batch *b)
{
    const struct arch *a = &f->m->arch;
    struct backend *be = f->m->be;
    const struct ops *ops = be->ops;
    const float *post = NULL; /* norm of the branch not yet added to x */
    float *x = f->x, *delta = f->delta;
    void *att = f->att;
    int n = b->n, q = a->n_head * a->head_dim;

    ops->embed(be, f->m->embed, b, a->embed_scale, x);
    if (be->size > 1) /* each row of the table is one rank's; the others gave zeros */
        ops->all_reduce(be, x, (size_t)n * a->dim);
    for (int i = 0; i < a->n_rope; i++)
        if (f->rope_of[0] == i || f->rope_of[1] == i)
            ops->rope_angles(be, b, f->inv_freq[i], a->rope[i].rot / 2, a->rope[i].mscale, f->cs[i]);

    for (int l = 0; l < a->n_layer; l++) {
        const struct layer_weights *w = &f->m->layer[l];
        bool last = l == a->n_layer - 1;
        add_norm(f, n, x, l ? delta : NULL, post, w->attn_norm);
        project(f, b, l);
        if (last && !b->n_out) return;
        attend(f, b, l, last);
        if (last && b->n_out < n) { /* the rest of the last layer matters only where logits are wanted */
            ops->gather(be, b, f->att, (size_t)q * f->mat_size, f->q);
            ops->gather(be, b, f->x, (size_t)a->dim * sizeof *x, f->delta);
            att = f->q, x = f->delta, delta = f->x;
            n = b->n_out;
        }
        ops->linear(be, att, n, &(struct linear_out){w->o, w->o_bias, delta, a->dim}, 1);
        add_norm(f, n, x, delta, w->attn_post_norm, w->ffn_norm);
        ops->linear_glu(be, f->h, n, w->gate, w->up, a->act, f->ff);
        ops->linear(be, f->ff, n, &(struct linear_out){w->down, NULL, delta, a->dim}, 1);
        post = w->ffn_post_norm;
    }
    add_norm(f, n, x, delta, post, f->m->final_norm);
}
