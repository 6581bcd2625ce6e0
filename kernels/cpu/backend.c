/* The CPU back end's table, and its ops that are a loop over rows. */
#include <stdlib.h>
#include "cpu.h"
#include "host.h"
#include "ref.h"
#include "step.h"

/* Below so many values an op costs less than waking the pool is worth. */
enum { SMALL = 32768 };
enum { PARTS = 2 }; /* for each thread, so that one which comes late costs little */

struct rows {
    const struct step_kernels *k;
    void (*fn)(const struct rows *r, int64_t r0, int64_t r1);
    const void *args;
    int64_t n, unit; /* items in all; a part is a multiple of unit */
    int parts;
};

static void run_part(void *arg, int i, int worker)
{
    const struct rows *r = arg;
    (void)worker;
    int64_t units = (r->n + r->unit - 1) / r->unit, r0 = units * i / r->parts * r->unit,
            r1 = units * (i + 1) / r->parts * r->unit;
    if (r1 > r->n) r1 = r->n;
    if (r0 < r1) r->fn(r, r0, r1);
}

/* Items [0, n), `size` values each, over the pool if there is enough to do. */
static void run_rows(struct backend *base, struct rows *r, int64_t size)
{
    struct cpu_backend *be = cpu_of(base);
    r->k = be->step;
    if (!r->unit) r->unit = 1;
    if (r->n * size < SMALL)
        r->fn(r, 0, r->n);
    else
        pool_run(be->pool, r->parts = PARTS * pool_size(be->pool), run_part, r);
}

static void add_norm_rows(const struct rows *r, int64_t r0, int64_t r1)
{
    (r->k ? r->k->add_norm : ref_add_norm_rows)(r->args, (int)r0, (int)r1);
}

static void add_norm(struct backend *be, const struct norm_args *a)
{
    struct rows r = {.fn = add_norm_rows, .args = a, .n = a->n};
    if (a->reduce) cpu_all_reduce(be, a->delta, (size_t)a->n * a->dim);
    run_rows(be, &r, a->dim);
}

struct row_norm_args {
    float *x;
    int dim, stride;
    const float *w;
    float eps;
};

static void row_norm_rows(const struct rows *r, int64_t r0, int64_t r1)
{
    const struct row_norm_args *a = r->args;
    (r->k ? r->k->row_norm : ref_row_norm_rows)(a->x, (int)r0, (int)r1, a->dim, a->stride, a->w, a->eps);
}

static void row_norm(struct backend *be, float *x, int n, int dim, int stride, const float *w, float eps)
{
    struct row_norm_args a = {x, dim, stride, w, eps};
    struct rows r = {.fn = row_norm_rows, .args = &a, .n = n};
    run_rows(be, &r, dim);
}

struct angle_args {
    const int32_t *pos;
    const float *inv_freq;
    int half;
    float mscale, *cs;
};

static void angle_rows(const struct rows *r, int64_t r0, int64_t r1)
{
    const struct angle_args *a = r->args;
    ref_rope_angles_rows(a->pos, (int)r0, (int)r1, a->inv_freq, a->half, a->mscale, a->cs);
}

static void rope_angles(struct backend *be, const struct batch *b, const float *inv_freq, int half,
                        float mscale, float *cs)
{
    struct angle_args a = {b->pos, inv_freq, half, mscale, cs};
    struct rows r = {.fn = angle_rows, .args = &a, .n = b->n};
    run_rows(be, &r, (int64_t)half * 32); /* a sine costs some 20 ns */
}

static void qkv_rows(const struct rows *r, int64_t r0, int64_t r1)
{
    (r->k ? r->k->qkv_prep : ref_qkv_rows)(r->args, (int)r0, (int)r1);
}

static void qkv_prep(struct backend *be, const struct qkv_args *a)
{
    struct rows r = {.fn = qkv_rows, .args = a, .n = a->n};
    run_rows(be, &r, (int64_t)(a->n_head + 2 * a->n_kv_head) * a->head_dim);
}

struct cap_args {
    float *x, scale, cap;
};

static void cap_range(const struct rows *r, int64_t i0, int64_t i1)
{
    const struct cap_args *a = r->args;
    (r->k ? r->k->scale_cap : ref_scale_cap_range)(a->x, i0, i1, a->scale, a->cap);
}

static void scale_cap(struct backend *be, float *x, int64_t n, float scale, float cap)
{
    struct cap_args a = {x, scale, cap};
    struct rows r = {.fn = cap_range, .args = &a, .n = n, .unit = 64};
    run_rows(be, &r, 1);
}

static int reserve(struct backend *base, const struct step_limits *l, struct err *e)
{
    struct cpu_backend *be = cpu_of(base);
    int rc = cpu_linear_reserve(be, l->max_rows, l->max_in, e);
    return rc ? rc : cpu_attn_reserve(be, l->max_rows, l->n_head, l->head_dim, l->max_ctx, e);
}

static const struct step_kernels *step_kernels(enum cpu_isa isa)
{
#if defined(__x86_64__)
    switch (isa) {
    case ISA_AVX2: return &step_avx2;
    case ISA_AVX512: return &step_avx512;
    case ISA_AVX512_VNNI: return &step_vnni;
    case ISA_AVX512_BF16: return &step_bf16;
    default: return NULL;
    }
#else
    (void)isa;
    return NULL;
#endif
}

static void close_cpu(struct backend *base)
{
    struct cpu_backend *be = cpu_of(base);
    cpu_attn_close(be);
    cpu_linear_close(be);
    cpu_weight_close(be);
    free(be->gathered);
    free(be);
}

int cpu_backend_open(struct pool *pool, enum cpu_isa isa, struct backend **out, struct err *e)
{
    static const struct ops ops = {
        .mem_alloc = host_mem_alloc,
        .mem_free = host_mem_free,
        .mem_write = host_mem_write,
        .mem_read = host_mem_read,
        .mem_available = host_mem_available,
        .weight_pack = cpu_weight_pack,
        .weight_free = cpu_weight_free,
        .weight_info = cpu_weight_info,
        .kv_alloc = host_kv_alloc,
        .kv_free = host_kv_free,
        .reserve = reserve,
        .begin = host_begin,
        .embed = cpu_embed,
        .gather = host_gather,
        .linear = cpu_linear,
        .linear_glu = cpu_linear_glu,
        .add_norm = add_norm,
        .row_norm = row_norm,
        .rope_angles = rope_angles,
        .qkv_prep = qkv_prep,
        .attn = cpu_attn,
        .scale_cap = scale_cap,
        .join = cpu_join,
        .all_reduce = cpu_all_reduce,
        .all_gather = cpu_all_gather,
        .sync = cpu_sync,
        .close = close_cpu,
    };
    if (isa > cpu_isa_detect())
        return err_param(e, ERR_UNSUPPORTED, "cpu-isa", "this machine's processor has no %s",
                         cpu_isa_name(isa));
    struct cpu_backend *be = calloc(1, sizeof *be);
    if (!be) return err_set(e, ERR_NOMEM, "out of memory");
    *be = (struct cpu_backend){.base = {"cpu", cpu_isa_name(isa), &ops,
                                        .kv_type = isa == ISA_AVX512_BF16 ? DT_BF16 : DT_F16, .host = true,
                                        .size = 1},
                               .pool = pool,
                               .isa = isa,
                               .step = step_kernels(isa)};
    int rc = cpu_linear_open(be, e);
    if (rc) {
        close_cpu(&be->base);
        return rc;
    }
    *out = &be->base;
    return 0;
}
