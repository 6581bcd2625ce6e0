#include "ref.h"
#include "backend.h"
#include "kv_store.h"

static int kv_alloc(struct backend *be, const struct kv_geom *g, struct kv_store **out, struct err *e)
{
    (void)be;
    return kv_store_alloc(g, out, e);
}

static void kv_free(struct backend *be, struct kv_store *kv)
{
    (void)be;
    kv_store_free(kv);
}

static int reserve(struct backend *be, int max_rows, int max_in, int max_heads, int max_head_dim, int max_ctx,
                   struct err *e)
{
    (void)be, (void)max_rows, (void)max_in, (void)max_heads, (void)max_head_dim, (void)max_ctx, (void)e;
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

static void rope_angles(struct backend *be, const int32_t *pos, int n, const float *inv_freq, int half,
                        float mscale, float *cs)
{
    (void)be;
    ref_rope_angles_rows(pos, 0, n, inv_freq, half, mscale, cs);
}

static void qkv_prep(struct backend *be, const struct qkv_args *a)
{
    (void)be;
    ref_qkv_rows(a, 0, a->n);
}

static void attn(struct backend *be, const struct attn_args *a)
{
    (void)be;
    for (int k = 0; k < a->n_item; k++)
        for (int i = 0; i < a->item[k].len; i++)
            for (int h = 0; h < a->n_head; h++) ref_attn_head(a, &a->item[k], i, h);
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

struct backend *ref_backend(void)
{
    static const struct ops ops = {
        .weight_pack = ref_weight_pack,
        .weight_free = ref_weight_free,
        .weight_info = ref_weight_info,
        .kv_alloc = kv_alloc,
        .kv_free = kv_free,
        .reserve = reserve,
        .embed = ref_embed,
        .linear = ref_linear,
        .linear_glu = ref_linear_glu,
        .add_norm = add_norm,
        .row_norm = row_norm,
        .rope_angles = rope_angles,
        .qkv_prep = qkv_prep,
        .attn = attn,
        .scale_cap = scale_cap,
        .sync = sync_steps,
    };
    static struct backend be = {"ref", "scalar", &ops};
    return &be;
}
