#include "ref.h"
#include "backend.h"
#include "host.h"

static int reserve(struct backend *be, const struct step_limits *l, struct err *e)
{
    (void)be, (void)l, (void)e;
    return 0;
}

static void add_norm(struct backend *be, const struct norm_args *a)
{
    (void)be;
    ref_add_norm_rows(a, 0, a->n);
}

static void row_norm(struct backend *be, float *x, int n, int dim, int stride, const float *w, float eps)
{
    (void)be;
    ref_row_norm_rows(x, 0, n, dim, stride, w, eps);
}

static void rope_angles(struct backend *be, const struct batch *b, const float *inv_freq, int half,
                        float mscale, float *cs)
{
    (void)be;
    ref_rope_angles_rows(b->pos, 0, b->n, inv_freq, half, mscale, cs);
}

static void qkv_prep(struct backend *be, const struct qkv_args *a)
{
    (void)be;
    ref_qkv_rows(a, 0, a->n);
}

static void attn(struct backend *be, const struct attn_args *a)
{
    const struct attn_list *l = &a->b->list[a->list];
    (void)be;
    for (int k = 0; k < l->n_item; k++)
        for (int i = 0; i < l->item[k].len; i++)
            for (int h = 0; h < a->n_head; h++) ref_attn_head(a, &l->item[k], i, h);
}

static void scale_cap(struct backend *be, float *x, int64_t n, float scale, float cap)
{
    (void)be;
    ref_scale_cap_range(x, 0, n, scale, cap);
}

static int sync_steps(struct backend *be, struct err *e)
{
    (void)be, (void)e;
    return 0;
}

static void keep(struct backend *be) { (void)be; } /* there is one for all */

struct backend *ref_backend(void)
{
    static const struct ops ops = {
        .mem_alloc = host_mem_alloc,
        .mem_free = host_mem_free,
        .mem_write = host_mem_write,
        .mem_read = host_mem_read,
        .mem_available = host_mem_available,
        .weight_pack = ref_weight_pack,
        .weight_free = ref_weight_free,
        .weight_info = ref_weight_info,
        .kv_alloc = host_kv_alloc,
        .kv_free = host_kv_free,
        .reserve = reserve,
        .begin = host_begin,
        .embed = ref_embed,
        .gather = host_gather,
        .linear = ref_linear,
        .linear_glu = ref_linear_glu,
        .add_norm = add_norm,
        .row_norm = row_norm,
        .rope_angles = rope_angles,
        .qkv_prep = qkv_prep,
        .attn = attn,
        .scale_cap = scale_cap,
        .sync = sync_steps,
        .close = keep,
    };
    static struct backend be = {"ref", "scalar", &ops, .kv_type = DT_F16, .host = true, .size = 1};
    return &be;
}
