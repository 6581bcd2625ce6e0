/* Attention without tensor cores, for any head size: a warp for each row and head, 32 keys at a time. Keys
 * lie in lanes for the scores, dimensions for the values. It is also the check of the other kernel. */
#include "attn.cuh"

enum { WARPS = 4 };

static __device__ float value(const struct kv_view &kv, const unsigned char *x, int i)
{
    if (!kv.fp8) return __bfloat162float(((const bf16 *)x)[i]);
    __nv_fp8_e4m3 code;
    code.__x = x[i];
    return (float)code;
}

static __device__ float score(const struct attn_view &a, const float *q, int block, int kv_head, int t)
{
    const unsigned char *k = kv_values(a.kv, block, kv_head, t, 0);
    float s = 0;
    for (int i = 0; i < a.dim; i++) s = fmaf(q[i], value(a.kv, k, i), s);
    if (a.kv.fp8) s *= *kv_scale(a.kv, block, kv_head, t, 0);
    return (a.cap_in > 0 ? attn_cap(s * a.cap_in) : s) * a.to_log2;
}

/* o[dim] and weight[32] are the warp's in shared memory. */
static __device__ void attend(const struct attn_view &a, int at, int row, int head, float *o, float *weight)
{
    int lane = threadIdx.x % 32, kv_head = head / a.group, pos = a.item[at].pos + row - a.item[at].row;
    const float *q = a.q + (size_t)row * a.q_stride + (size_t)head * a.dim;
    const int32_t *table = a.table + a.item[at].table;
    bf16 *out = a.out + (size_t)row * a.out_stride + (size_t)head * a.dim;
    float m = ATTN_EMPTY, l = 0;
    int first = attn_first(pos, a.window);
    for (int i = lane; i < a.dim; i += 32) o[i] = 0;
    for (int t0 = first & ~31; t0 <= pos; t0 += 32) {
        int t = t0 + lane;
        bool seen = t >= first && t <= pos;
        int block = seen ? table[t >> a.kv.shift] : 0;
        float s = seen ? score(a, q, block, kv_head, t) : -INFINITY;
        float most = fmaxf(m, warp_max(s)), keep = exp2f(m - most), p = exp2f(s - most);
        l = fmaf(l, keep, warp_sum(p));
        m = most;
        weight[lane] = a.kv.fp8 && seen ? p * *kv_scale(a.kv, block, kv_head, t, 1) : p;
        __syncwarp();
        for (int i = lane; i < a.dim; i += 32) {
            float sum = o[i] * keep;
            for (int j = max(first - t0, 0); j < 32 && t0 + j <= pos; j++)
                sum = fmaf(weight[j],
                           value(a.kv, kv_values(a.kv, table[(t0 + j) >> a.kv.shift], kv_head, t0 + j, 1), i),
                           sum);
            o[i] = sum;
        }
        __syncwarp();
    }
    for (int i = lane; i < a.dim; i += 32) out[i] = __float2bfloat16(o[i] * attn_inverse(l));
}

static __global__ void __launch_bounds__(WARPS * 32) plain_kernel(const __grid_constant__ struct attn_view a)
{
    DYNAMIC_SHARED(float, shared); /* [WARPS][dim + 32] */
    pdl_launch();
    pdl_wait();
    int warp = threadIdx.x / 32, job = blockIdx.x * WARPS + warp;
    if (job >= a.n * a.n_head) return;
    int row = job / a.n_head, head = job % a.n_head, at = a.row_item[row];
    float *o = shared + (size_t)warp * (a.dim + 32);
    if (at >= 0) {
        attend(a, at, row, head, o, o + a.dim);
    } else {
        bf16 *out = a.out + (size_t)row * a.out_stride + (size_t)head * a.dim;
        for (int i = threadIdx.x % 32; i < a.dim; i += 32) out[i] = __float2bfloat16(0);
    }
}

void cu_attn_plain(struct cuda *c, const struct attn_view *v)
{
    size_t smem = (size_t)WARPS * (v->dim + 32) * sizeof(float);
    LAUNCH_PDL(plain_kernel, dim3((v->n * v->n_head + WARPS - 1) / WARPS), dim3(WARPS * 32), smem, c->stream,
               *v);
    CU_LAUNCHED(c);
}
