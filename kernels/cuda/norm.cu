/* Residual and RMS norm. The order of a row's sum follows from `dim` alone, so that a row's result does not
 * depend on the rows beside it. */
#include "norm.cuh"
#include "ptx.cuh"

/* One block for each row, which it keeps in registers: thread t holds the float4 number t + s * blockDim. */
template <int SLOTS> static __global__ void __launch_bounds__(NORM_THREADS) add_norm_block(struct norm_args a)
{
    SHARED(norm_parts, part);
    const float4 zero = make_float4(0, 0, 0, 0);
    size_t row = (size_t)blockIdx.x * a.dim;
    float4 v[SLOTS], d[SLOTS];
    pdl_launch();
    pdl_wait();
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * blockDim.x;
        v[s] = i < a.dim / 4 ? ((const float4 *)(a.x + row))[i] : zero;
        d[s] = a.delta && i < a.dim / 4 ? ((const float4 *)(a.delta + row))[i] : zero;
    }
    norm_row<SLOTS>(a, blockIdx.x, v, d, part);
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

void cu_add_norm(struct backend *be, const struct norm_args *a)
{
    struct cuda *c = cuda_of(be);
    if (!a->n) return;
    if (a->reduce && c->base.size > 1 && cu_reduce_norm(c, a)) return;
    int n4 = a->dim / 4, threads = norm_threads(a->dim);
    dim3 grid((unsigned)a->n);
    if (!norm_fits(c, a))
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
