/* Residual and RMS norm. The order of a row's sum follows from `dim` alone, so that a row's result does not
 * depend on the rows beside it. */
#include "device.cuh"
#include "ptx.cuh"

#define NORM_THREADS 512 /* at most, in a block of one row */
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

/* One block for each row, which it keeps in registers: thread t holds the float4 number t + s * blockDim. */
template <int SLOTS> static __global__ void __launch_bounds__(NORM_THREADS) add_norm_block(struct norm_args a)
{
    SHARED(norm_parts, part);
    const float4 one = make_float4(1, 1, 1, 1), zero = make_float4(0, 0, 0, 0);
    size_t row = (size_t)blockIdx.x * a.dim;
    int n4 = a.dim / 4;
    float4 *x = (float4 *)(a.x + row), v[SLOTS];
    pdl_wait();
    pdl_launch();
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * blockDim.x;
        v[s] = i < n4 ? x[i] : zero;
    }
    if (a.delta) {
        float4 d[SLOTS];
        float k = a.scale, sum = 0;
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            int i = threadIdx.x + s * blockDim.x;
            d[s] = i < n4 ? ((const float4 *)(a.delta + row))[i] : zero;
            sum += sum_sq(d[s]);
        }
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
    uint2 *y = (uint2 *)((bf16 *)a.y + row);
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * blockDim.x;
        if (i >= n4) continue;
        float4 o = times(v[s], k, a.pre_w ? ((const float4 *)a.pre_w)[i] : one);
        y[i] = make_uint2(bf16x2_pack(o.x, o.y), bf16x2_pack(o.z, o.w));
    }
}

/* Any dim; each thread reads again what it wrote. */
static __global__ void add_norm_plain(struct norm_args a)
{
    SHARED(norm_parts, part);
    size_t row = (size_t)blockIdx.x * a.dim;
    float *x = a.x + row;
    bf16 *y = (bf16 *)a.y + row;
    if (a.delta) {
        const float *d = a.delta + row;
        float k = a.scale, sum = 0;
        if (a.post_w) {
            for (int i = threadIdx.x; i < a.dim; i += blockDim.x) sum += d[i] * d[i];
            k *= inv_rms(sum, a.dim, a.eps, part[0]);
        }
        for (int i = threadIdx.x; i < a.dim; i += blockDim.x)
            x[i] += d[i] * k * (a.post_w ? a.post_w[i] : 1.f);
    }
    float k = 1, sum = 0;
    if (a.pre_w) {
        for (int i = threadIdx.x; i < a.dim; i += blockDim.x) sum += x[i] * x[i];
        k = inv_rms(sum, a.dim, a.eps, part[1]);
    }
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x)
        y[i] = __float2bfloat16(x[i] * k * (a.pre_w ? a.pre_w[i] : 1.f));
}

static __global__ void row_norm(float *x, int dim, int stride, const float *w, float eps)
{
    SHARED(norm_parts, part);
    x += (size_t)blockIdx.x * stride;
    float sum = 0;
    for (int i = threadIdx.x; i < dim; i += blockDim.x) sum += x[i] * x[i];
    float k = inv_rms(sum, dim, eps, part[0]);
    for (int i = threadIdx.x; i < dim; i += blockDim.x) x[i] = x[i] * k * w[i];
}

static bool aligned(const void *p, size_t to) { return (uintptr_t)p % to == 0; }

void cu_add_norm(struct backend *be, const struct norm_args *a)
{
    struct cuda *c = cuda_of(be);
    if (!a->n) return;
    int n4 = a->dim / 4, threads = n4 < NORM_THREADS ? (n4 + 31) / 32 * 32 : NORM_THREADS;
    bool whole = c->o.norm == CUDA_NORM_BLOCK && a->dim % 4 == 0 && n4 <= 8 * NORM_THREADS &&
                 aligned(a->x, 16) && aligned(a->delta, 16) && aligned(a->post_w, 16) &&
                 aligned(a->pre_w, 16) && aligned(a->y, 8);
    dim3 grid((unsigned)a->n);
    if (!whole)
        LAUNCH(add_norm_plain, grid, dim3(256), 0, c->stream, *a);
    else if (n4 <= threads)
        LAUNCH_PDL((add_norm_block<1>), grid, dim3(threads), 0, c->stream, *a);
    else if (n4 <= 2 * threads)
        LAUNCH_PDL((add_norm_block<2>), grid, dim3(threads), 0, c->stream, *a);
    else if (n4 <= 4 * threads)
        LAUNCH_PDL((add_norm_block<4>), grid, dim3(threads), 0, c->stream, *a);
    else
        LAUNCH_PDL((add_norm_block<8>), grid, dim3(threads), 0, c->stream, *a);
    CU_LAUNCHED(c);
}

void cu_row_norm(struct backend *be, float *x, int n, int dim, int stride, const float *w, float eps)
{
    struct cuda *c = cuda_of(be);
    if (!n) return;
    LAUNCH(row_norm, dim3((unsigned)n), dim3(256), 0, c->stream, x, dim, stride, w, eps);
    CU_LAUNCHED(c);
}
