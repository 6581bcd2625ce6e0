/* Norm of q and k by head, their rotation, and the cache: one warp for each row and head. */
#include <float.h>
#include "kv.cuh"

enum { WARPS = 4 };

struct qkv_view {
    float *x[3]; /* q, k, v */
    int stride[3];
    const float *norm[2];
    int n, n_head, n_kv_head, dim, rot;
    float eps;
    bool pairs;
    const float *cs;
    struct kv_view kv;
    const struct cu_item *item;
    const int32_t *table, *row_item;
};

/* One head's vector in place, by a warp. */
static __device__ void norm_and_turn(const struct qkv_view &a, float *x, const float *w, const float *cs)
{
    int lane = threadIdx.x % 32, half = a.rot / 2;
    float scale = 1;
    if (w) {
        float sum = 0;
        for (int i = lane; i < a.dim; i += 32) sum = fmaf(x[i], x[i], sum);
        scale = rsqrtf(warp_sum(sum) / (float)a.dim + a.eps);
        __syncwarp();
    }
    for (int j = lane; j < half; j += 32) {
        int i0 = a.pairs ? 2 * j : j, i1 = a.pairs ? 2 * j + 1 : j + half;
        float c = cs[2 * j], s = cs[2 * j + 1], u = x[i0], v = x[i1];
        if (w) u = u * scale * w[i0], v = v * scale * w[i1];
        x[i0] = u * c - v * s;
        x[i1] = u * s + v * c;
    }
    if (w)
        for (int i = a.rot + lane; i < a.dim; i += 32) x[i] = x[i] * scale * w[i];
}

static __device__ void store_bf16(bf16 *dst, const float *x, int n)
{
    const float top = 0x1.fep127f;
    for (int i = threadIdx.x % 32; i < n; i += 32)
        dst[i] = __float2bfloat16(x[i] > top ? top : x[i] < -top ? -top : x[i]);
}

/* The greatest bits of |x|, so that a NaN is above all. */
static __device__ void store_e4m3(unsigned char *dst, float *scale, const float *x, int n)
{
    const float top = 448;
    unsigned bits = 0;
    for (int i = threadIdx.x % 32; i < n; i += 32) bits = max(bits, __float_as_uint(x[i]) & 0x7fffffffu);
    bits = __reduce_max_sync(0xffffffffu, bits);
    float most = bits == 0x7f800000u ? FLT_MAX : __uint_as_float(bits),
          inv = most >= 0x1p-100f ? top / most : 0;
    for (int i = threadIdx.x % 32; i < n; i += 32)
        dst[i] = __nv_cvt_float_to_fp8(x[i] * inv, __NV_SATFINITE, __NV_E4M3);
    if (threadIdx.x % 32 == 0) *scale = most / top;
}

static __global__ void __launch_bounds__(WARPS * 32) qkv_kernel(const __grid_constant__ struct qkv_view a)
{
    pdl_launch();
    pdl_wait();
    int heads = a.n_head + 2 * a.n_kv_head, job = blockIdx.x * WARPS + threadIdx.x / 32;
    if (job >= a.n * heads) return;
    int row = job / heads, h = job % heads;
    int which = h < a.n_head ? 0 : h < a.n_head + a.n_kv_head ? 1 : 2;
    if (which) h -= a.n_head + (which - 1) * a.n_kv_head;
    float *x = a.x[which] + (size_t)row * a.stride[which] + (size_t)h * a.dim;
    if (which < 2) norm_and_turn(a, x, a.norm[which], a.cs + (size_t)row * a.rot);
    int at = which ? a.row_item[row] : -1;
    if (at < 0) return;
    __syncwarp(); /* the row as its other lanes left it */
    struct cu_item it = a.item[at];
    int t = it.pos + row - it.row, block = a.table[it.table + (t >> a.kv.shift)];
    unsigned char *dst = kv_values(a.kv, block, h, t, which - 1);
    if (a.kv.fp8)
        store_e4m3(dst, kv_scale(a.kv, block, h, t, which - 1), x, a.dim);
    else
        store_bf16((bf16 *)dst, x, a.dim);
}

void cu_qkv_prep(struct backend *be, const struct qkv_args *a)
{
    struct cuda *c = cuda_of(be);
    const struct cu_list *l = &c->step.list[a->list];
    struct qkv_view v = {};
    v.x[0] = a->q, v.x[1] = a->k, v.x[2] = a->v;
    v.stride[0] = a->q_stride, v.stride[1] = a->k_stride, v.stride[2] = a->v_stride;
    v.norm[0] = a->q_norm, v.norm[1] = a->k_norm;
    v.n = a->n, v.n_head = a->n_head, v.n_kv_head = a->n_kv_head, v.dim = a->head_dim;
    v.rot = a->rot, v.pairs = a->style == ROPE_PAIRS, v.cs = a->cs, v.eps = a->eps;
    v.kv = kv_view(a->kv, a->slot);
    v.item = l->item, v.table = l->table, v.row_item = l->row_item;
    int jobs = a->n * (a->n_head + 2 * a->n_kv_head);
    if (!jobs) return;
    LAUNCH_PDL(qkv_kernel, dim3((jobs + WARPS - 1) / WARPS), dim3(WARPS * 32), 0, c->stream, v);
    CU_LAUNCHED(c);
}
