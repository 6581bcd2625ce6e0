/* Residual and RMS norm of one row by one block that keeps the row in registers: what norm.cu does with a
 * delta from memory, and allreduce.cu with one that it sums over the ranks. No state. */
#pragma once
#include "device.cuh"

#define NORM_THREADS 512 /* at most, in a block of one row */
#define NORM_SLOTS   8   /* float4 that a thread holds, at most */
typedef float norm_parts[2][32];

/* 1 / sqrt(mean(v^2) + eps) in every thread, from each thread's sum of squares. `part` is used once. */
static __device__ __forceinline__ float inv_rms(float sum, int dim, float eps, float part[32])
{
    int lane = threadIdx.x % 32;
    sum = warp_sum(sum);
    if (!lane) part[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(lane < (int)blockDim.x / 32 ? part[lane] : 0.f);
    return rsqrtf(sum / (float)dim + eps);
}

static __device__ __forceinline__ float sum_sq(float4 v)
{
    return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
}

static __device__ __forceinline__ float4 times(float4 v, float k, float4 w)
{
    return make_float4(v.x * k * w.x, v.y * k * w.y, v.z * k * w.z, v.w * k * w.w);
}

/* x[row] and y[row] from v, which is x[row], and d, the delta (unused where a.delta is NULL). Thread t holds
 * the float4 number t + s * blockDim; what lies beyond the row is zero. */
template <int SLOTS>
static __device__ __forceinline__ void norm_row(const struct norm_args &a, size_t row, float4 v[SLOTS],
                                                const float4 d[SLOTS], norm_parts &part)
{
    const float4 one = make_float4(1, 1, 1, 1);
    int n4 = a.dim / 4;
    if (a.delta) {
        float4 *x = (float4 *)(a.x + row * a.dim);
        float k = a.scale, sum = 0;
#pragma unroll
        for (int s = 0; s < SLOTS; s++) sum += sum_sq(d[s]);
        if (a.post_w) k *= inv_rms(sum, a.dim, a.eps, part[0]);
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            int i = threadIdx.x + s * blockDim.x;
            if (i >= n4) continue;
            float4 add = times(d[s], k, a.post_w ? ((const float4 *)a.post_w)[i] : one);
            v[s] = make_float4(v[s].x + add.x, v[s].y + add.y, v[s].z + add.z, v[s].w + add.w);
            x[i] = v[s];
        }
    }
    float k = 1, sum = 0;
    if (a.pre_w) {
#pragma unroll
        for (int s = 0; s < SLOTS; s++) sum += sum_sq(v[s]);
        k = inv_rms(sum, a.dim, a.eps, part[1]);
    }
    uint2 *y = (uint2 *)((bf16 *)a.y + row * a.dim);
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * blockDim.x;
        if (i >= n4) continue;
        float4 o = times(v[s], k, a.pre_w ? ((const float4 *)a.pre_w)[i] : one);
        y[i] = make_uint2(bf16x2_pack(o.x, o.y), bf16x2_pack(o.z, o.w));
    }
}

/* Whether rows can be held so; the threads of a block for it. */
static inline bool is_aligned(const void *p, size_t to) { return (uintptr_t)p % to == 0; }
static inline bool norm_fits(const struct cuda *c, const struct norm_args *a)
{
    return c->o.norm == CUDA_NORM_BLOCK && a->dim % 4 == 0 && a->dim / 4 <= NORM_SLOTS * NORM_THREADS &&
           is_aligned(a->x, 16) && is_aligned(a->delta, 16) && is_aligned(a->post_w, 16) &&
           is_aligned(a->pre_w, 16) && is_aligned(a->y, 8);
}
static inline int norm_threads(int dim)
{
    return dim / 4 < NORM_THREADS ? (dim / 4 + 31) / 32 * 32 : NORM_THREADS;
}
