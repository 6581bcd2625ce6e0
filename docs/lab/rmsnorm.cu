/* Residual and RMS norm, the op between any two matrices of a transformer:
 *   x += delta;  y = x / sqrt(mean(x^2) + eps) * w        x, delta, w float32; y BF16, as the next matrix
 * wants it Floor: x and delta are read, x and y written, 14 bytes a value. */
#include "lab.cuh"

static struct lab_size size[] = {{"rows", 8192, 5, 1}, {"dim", 4096, 1036, 4}, {}};
static struct {
    int rows, dim;
    const float *host_x, *host_delta, *host_w;
    const float *x0, *delta, *w;
    float *x;
    bf16 *y;
} p;

enum { THREADS = 256, WARPS = THREADS / 32 };
#define EPS 1e-6f
typedef float line_t[THREADS];
typedef float parts_t[WARPS];

/* In place, every call would add delta once more; so x0 stays and x is written elsewhere, which moves the
 * same bytes. x is checked by y, which follows from it. */

/* 0. Two kernels as a formula is read: add, then norm, a thread for each row. Lanes stand in different rows:
 * 32 lines a load, of which 4 bytes are used. */
static __global__ void add(float *x, const float *x0, const float *delta, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = x0[i] + delta[i];
}
static void run_add(void)
{
    size_t n = (size_t)p.rows * p.dim;
    LAUNCH(add, dim3((unsigned)((n + THREADS - 1) / THREADS)), dim3(THREADS), 0, 0, p.x, p.x0, p.delta, n);
}
static __global__ void naive(bf16 *y, const float *x, const float *w, int rows, int dim)
{
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += (size_t)row * dim, y += (size_t)row * dim;
    float sum = 0;
    for (int i = 0; i < dim; i++) sum += x[i] * x[i];
    float k = rsqrtf(sum / (float)dim + EPS);
    for (int i = 0; i < dim; i++) y[i] = __float2bfloat16(x[i] * k * w[i]);
}
static void run_naive(void)
{
    run_add();
    LAUNCH(naive, dim3((p.rows + 127) / 128), dim3(128), 0, 0, p.y, p.x, p.w, p.rows, p.dim);
}

/* 1. A block for each row, neighbours to neighbours. The sum is joined by halves in shared memory. */
static __global__ void block_row(bf16 *y, const float *x, const float *w, int dim)
{
    SHARED(line_t, line);
    x += (size_t)blockIdx.x * dim, y += (size_t)blockIdx.x * dim;
    float sum = 0;
    for (int i = threadIdx.x; i < dim; i += THREADS) sum += x[i] * x[i];
    line[threadIdx.x] = sum;
    __syncthreads();
    for (int n = THREADS / 2; n; n /= 2) {
        if ((int)threadIdx.x < n) line[threadIdx.x] += line[threadIdx.x + n];
        __syncthreads();
    }
    float k = rsqrtf(line[0] / (float)dim + EPS);
    for (int i = threadIdx.x; i < dim; i += THREADS) y[i] = __float2bfloat16(x[i] * k * w[i]);
}
static void run_block_row(void)
{
    run_add();
    LAUNCH(block_row, dim3(p.rows), dim3(THREADS), 0, 0, p.y, p.x, p.w, p.dim);
}

/* 2. Shuffles join 32 lanes without shared memory; one barrier is left of nine. */
static __device__ float inverse_rms(float sum, int dim, float *part)
{
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(threadIdx.x % 32 < WARPS ? part[threadIdx.x % 32] : 0);
    return rsqrtf(sum / (float)dim + EPS);
}
static __global__ void shuffled(bf16 *y, const float *x, const float *w, int dim)
{
    SHARED(parts_t, part);
    x += (size_t)blockIdx.x * dim, y += (size_t)blockIdx.x * dim;
    float sum = 0;
    for (int i = threadIdx.x; i < dim; i += THREADS) sum += x[i] * x[i];
    float k = inverse_rms(sum, dim, part);
    for (int i = threadIdx.x; i < dim; i += THREADS) y[i] = __float2bfloat16(x[i] * k * w[i]);
}
static void run_shuffled(void)
{
    run_add();
    LAUNCH(shuffled, dim3(p.rows), dim3(THREADS), 0, 0, p.y, p.x, p.w, p.dim);
}

/* 3. Fused: the add happens in the norm's first walk. One launch less, and x is not read back from memory by
 * another kernel; the second walk finds the block's own row in the caches. */
static __global__ void fused(bf16 *y, float *x, const float *x0, const float *delta, const float *w, int dim)
{
    SHARED(parts_t, part);
    size_t row = (size_t)blockIdx.x * dim;
    x += row, x0 += row, delta += row, y += row;
    float sum = 0;
    for (int i = threadIdx.x; i < dim; i += THREADS) {
        float v = x0[i] + delta[i];
        x[i] = v;
        sum += v * v;
    }
    float k = inverse_rms(sum, dim, part);
    for (int i = threadIdx.x; i < dim; i += THREADS) y[i] = __float2bfloat16(x[i] * k * w[i]);
}
static void run_fused(void)
{
    LAUNCH(fused, dim3(p.rows), dim3(THREADS), 0, 0, p.y, p.x, p.x0, p.delta, p.w, p.dim);
}

/* 4. 16 bytes an access (8 for the BF16 result). */
static __device__ float4 plus(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
static __device__ float squares(float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }
static __device__ uint2 scaled(float4 v, float k, float4 w)
{
    return make_uint2(bf16x2_pack(v.x * k * w.x, v.y * k * w.y), bf16x2_pack(v.z * k * w.z, v.w * k * w.w));
}
static __global__ void fused4(uint2 *y, float4 *x, const float4 *x0, const float4 *delta, const float4 *w,
                              int n4)
{
    SHARED(parts_t, part);
    size_t row = (size_t)blockIdx.x * n4;
    x += row, x0 += row, delta += row, y += row;
    float sum = 0;
    for (int i = threadIdx.x; i < n4; i += THREADS) {
        float4 v = plus(x0[i], delta[i]);
        x[i] = v;
        sum += squares(v);
    }
    float k = inverse_rms(sum, 4 * n4, part);
    for (int i = threadIdx.x; i < n4; i += THREADS) y[i] = scaled(x[i], k, w[i]);
}
static void run_fused4(void)
{
    LAUNCH(fused4, dim3(p.rows), dim3(THREADS), 0, 0, (uint2 *)p.y, (float4 *)p.x, (const float4 *)p.x0,
           (const float4 *)p.delta, (const float4 *)p.w, p.dim / 4);
}

/* 5. The row stays in registers between the two walks, and all of its loads are under way before the first is
 * used: every byte crosses once. */
template <int SLOTS>
static __global__ void __launch_bounds__(THREADS)
    resident(uint2 *y, float4 *x, const float4 *x0, const float4 *delta, const float4 *w, int n4)
{
    SHARED(parts_t, part);
    size_t row = (size_t)blockIdx.x * n4;
    const float4 none = make_float4(0, 0, 0, 0);
    float4 v[SLOTS], d[SLOTS];
    float sum = 0;
    x += row, x0 += row, delta += row, y += row;
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * THREADS;
        v[s] = i < n4 ? x0[i] : none;
        d[s] = i < n4 ? delta[i] : none;
    }
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * THREADS;
        v[s] = plus(v[s], d[s]);
        if (i < n4) x[i] = v[s];
        sum += squares(v[s]);
    }
    float k = inverse_rms(sum, 4 * n4, part);
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * THREADS;
        if (i < n4) y[i] = scaled(v[s], k, w[i]);
    }
}
static void run_resident(void)
{
    int n4 = p.dim / 4;
    uint2 *y = (uint2 *)p.y;
    float4 *x = (float4 *)p.x;
    const float4 *x0 = (const float4 *)p.x0, *delta = (const float4 *)p.delta, *w = (const float4 *)p.w;
    if (n4 <= 4 * THREADS)
        LAUNCH((resident<4>), dim3(p.rows), dim3(THREADS), 0, 0, y, x, x0, delta, w, n4);
    else if (n4 <= 8 * THREADS)
        LAUNCH((resident<8>), dim3(p.rows), dim3(THREADS), 0, 0, y, x, x0, delta, w, n4);
    else
        run_fused4();
}

static double want(size_t at)
{
    size_t row = at / p.dim * p.dim;
    double sum = 0;
    for (size_t i = row; i < row + p.dim; i++) sum += pow((double)p.host_x[i] + p.host_delta[i], 2);
    return ((double)p.host_x[at] + p.host_delta[at]) / sqrt(sum / p.dim + EPS) * p.host_w[at - row];
}

static const struct lab_version versions[] = {
    {"a thread for each row", run_naive}, {"a block for each row", run_block_row},
    {"warp shuffles", run_shuffled},      {"add and norm in one kernel", run_fused},
    {"16-byte accesses", run_fused4},     {"row in registers", run_resident}};

int main(int argc, char **argv)
{
    unsigned chosen;
    int rc = lab_args(argc, argv, size, &chosen);
    if (rc) return rc;
    p.rows = size[0].value, p.dim = size[1].value;
    size_t n = (size_t)p.rows * p.dim;
    p.host_x = lab_floats(n), p.host_delta = lab_floats(n), p.host_w = lab_floats(p.dim);
    p.x0 = lab_up(p.host_x, n), p.delta = lab_up(p.host_delta, n), p.w = lab_up(p.host_w, p.dim);
    p.x = (float *)lab_alloc(n * sizeof(float));
    p.y = (bf16 *)lab_alloc(n * sizeof(bf16));
    struct lab_job j = {};
    j.what = "rmsnorm", j.bytes = 14.0 * n;
    j.want = want, j.out = p.y, j.out_bf16 = true, j.n_out = n, j.tolerance = 1e-5;
    j.scratch = p.x, j.scratch_bytes = n * sizeof(float);
    j.version = versions, j.n_version = 6;
    return lab_main(&j, size, chosen);
}
