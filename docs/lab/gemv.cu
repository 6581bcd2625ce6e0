/* Matrix times few vectors, what decoding does: y[m][n] = x[m][k] w[n][k]^T with m = 1 to 8 tokens; x, w
 * BF16, y float32. Floor: the matrix is read once, 2 n k bytes. 2 m n k operations are m a byte, and a
 * tensor-core GPU needs well over a hundred a byte to be limited by arithmetic: so this is a stream of
 * weights, and up to 8 tokens should cost what one does. Try m=8, and n=1024 k=4096, a matrix of few rows. */
#include "lab.cuh"

static struct lab_size size[] = {{"n", 16384, 48, 16}, {"k", 8192, 800, 32}, {"m", 1, 3, 1}, {}};
static struct {
    int n, k, m;
    const bf16 *host_w, *host_x, *w, *x;
    float *y;
} p;

enum { WARPS = 8, THREADS = 32 * WARPS };

/* 0. A thread for each output. Lanes walk through 32 rows side by side: each load touches 32 lines for 2
 * bytes of each; what the first-level cache cannot keep until the next step is fetched again. */
static __global__ void naive(float *y, const bf16 *w, const bf16 *x, int n, int k)
{
    int o = blockIdx.x * blockDim.x + threadIdx.x;
    if (o >= n) return;
    w += (size_t)o * k, x += (size_t)blockIdx.y * k;
    float sum = 0;
    for (int i = 0; i < k; i++) sum = fmaf(__bfloat162float(w[i]), __bfloat162float(x[i]), sum);
    y[(size_t)blockIdx.y * n + o] = sum;
}
static void run_naive(void)
{
    LAUNCH(naive, dim3((p.n + 127) / 128, p.m), dim3(128), 0, 0, p.y, p.w, p.x, p.n, p.k);
}

/* 1. A warp for each output: lanes take neighbours of one row, so that a load is 64 bytes in a row; shuffles
 * join the lanes. */
static __global__ void warp_row(float *y, const bf16 *w, const bf16 *x, int n, int k)
{
    int o = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (o >= n) return;
    w += (size_t)o * k, x += (size_t)blockIdx.y * k;
    float sum = 0;
    for (int i = lane; i < k; i += 32) sum = fmaf(__bfloat162float(w[i]), __bfloat162float(x[i]), sum);
    sum = warp_sum(sum);
    if (lane == 0) y[(size_t)blockIdx.y * n + o] = sum;
}
static void run_warp_row(void)
{
    LAUNCH(warp_row, dim3((p.n + WARPS - 1) / WARPS, p.m), dim3(THREADS), 0, 0, p.y, p.w, p.x, p.n, p.k);
}

/* 2. 16 bytes a lane: a load is 512 bytes of a row, and an eighth of the instructions do the job. */
static __device__ float dot8(uint4 a, uint4 b, float sum)
{
    float u[8], v[8];
    bf16x8_unpack(a, u);
    bf16x8_unpack(b, v);
    for (int i = 0; i < 8; i++) sum = fmaf(u[i], v[i], sum);
    return sum;
}
static __global__ void wide(float *y, const uint4 *w, const uint4 *x, int n, int k8)
{
    int o = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (o >= n) return;
    w += (size_t)o * k8, x += (size_t)blockIdx.y * k8;
    float sum = 0;
#pragma unroll 1
    for (int i = lane; i < k8; i += 32) sum = dot8(w[i], x[i], sum);
    sum = warp_sum(sum);
    if (lane == 0) y[(size_t)blockIdx.y * n + o] = sum;
}
static void run_wide(void)
{
    LAUNCH(wide, dim3((p.n + WARPS - 1) / WARPS, p.m), dim3(THREADS), 0, 0, p.y, (const uint4 *)p.w,
           (const uint4 *)p.x, p.n, p.k / 8);
}

/* 3. Four loads of weights under way before the first is used. Memory answers after some 600 to 800 ns, so
 * the bandwidth is what all lanes together have asked for, divided by that time (Little's law): at 4 TB/s
 * about 3 MB. Streaming loads
 * (__ldcs): nobody reads a weight twice, so it need not push x out of the cache. */
static __device__ float dot_span(const uint4 *w, const uint4 *x, int begin, int end)
{
    enum { DEPTH = 4 };
    float sum = 0;
    int i = begin + threadIdx.x % 32;
    for (; i + 32 * (DEPTH - 1) < end; i += 32 * DEPTH) {
        uint4 v[DEPTH];
#pragma unroll
        for (int d = 0; d < DEPTH; d++) v[d] = __ldcs(w + i + 32 * d);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) sum = dot8(v[d], x[i + 32 * d], sum);
    }
    for (; i < end; i += 32) sum = dot8(__ldcs(w + i), x[i], sum);
    return warp_sum(sum);
}
static __global__ void deep(float *y, const uint4 *w, const uint4 *x, int n, int k8)
{
    int o = blockIdx.x * WARPS + threadIdx.x / 32;
    if (o >= n) return;
    float sum = dot_span(w + (size_t)o * k8, x + (size_t)blockIdx.y * k8, 0, k8);
    if (threadIdx.x % 32 == 0) y[(size_t)blockIdx.y * n + o] = sum;
}
static void run_deep(void)
{
    LAUNCH(deep, dim3((p.n + WARPS - 1) / WARPS, p.m), dim3(THREADS), 0, 0, p.y, (const uint4 *)p.w,
           (const uint4 *)p.x, p.n, p.k / 8);
}

/* 4. The eight warps of a block share a row, an eighth of k each: a matrix of few rows gets eight times the
 * warps, and with them the bytes under way. The eight sums are added in the order of the warps, and where
 * they are cut follows from k alone: the result has the same bits in every launch. (Adding by atomics would
 * not.) */
typedef float parts_t[WARPS];
static __global__ void split(float *y, const uint4 *w, const uint4 *x, int n, int k8)
{
    SHARED(parts_t, part);
    int o = blockIdx.x, warp = threadIdx.x / 32, each = (k8 + WARPS - 1) / WARPS;
    float sum = dot_span(w + (size_t)o * k8, x + (size_t)blockIdx.y * k8, min(warp * each, k8),
                         min((warp + 1) * each, k8));
    if (threadIdx.x % 32 == 0) part[warp] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    sum = 0;
    for (int i = 0; i < WARPS; i++) sum += part[i];
    y[(size_t)blockIdx.y * n + o] = sum;
}
static void run_split(void)
{
    LAUNCH(split, dim3(p.n, p.m), dim3(THREADS), 0, 0, p.y, (const uint4 *)p.w, (const uint4 *)p.x, p.n,
           p.k / 8);
}

/* 5. Tensor cores, for the sake of the other tokens: one mma takes 16 rows of w and 8 tokens, so 8 tokens
 * read the matrix once. The weights are the side of 16, for then a single token wastes arithmetic, of which
 * there is plenty, and no bytes. An mma adds products over 16 values of k in whatever order both operands
 * agree on; in the order taken here the values of a lane are 16 bytes in a row, straight from global memory:
 * no shared memory, no ldmatrix. */
enum { ROWS = 16, TOKENS = 8 };
typedef float sums_t[WARPS][TOKENS][ROWS];
static __global__ void __launch_bounds__(THREADS)
    tensor(float *y, const uint4 *w, const uint4 *x, int n, int k8, int m)
{
    SHARED(sums_t, sums);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = blockIdx.x * ROWS;
    int units = k8 / 4, each = (units + WARPS - 1) / WARPS; /* of 32 values, four chunks */
    const uint4 *w0 = w + (size_t)(row + g) * k8 + t, *w1 = w0 + (size_t)8 * k8;
    const uint4 *xt =
        x + (size_t)min(g, m - 1) * k8 + t; /* tokens that are not there: sums that nobody reads */
    float acc[4] = {};
#pragma unroll 4
    for (int u = warp * each; u < min((warp + 1) * each, units); u++) {
        uint4 a0 = __ldcs(w0 + 4 * u), a1 = __ldcs(w1 + 4 * u), b = xt[4 * u];
        unsigned first[4] = {a0.x, a1.x, a0.y, a1.y}, second[4] = {a0.z, a1.z, a0.w, a1.w};
        unsigned b_first[2] = {b.x, b.y}, b_second[2] = {b.z, b.w};
        mma16816(acc, first, b_first);
        mma16816(acc, second, b_second);
    }
    for (int e = 0; e < 4; e++) sums[warp][2 * t + e % 2][g + 8 * (e / 2)] = acc[e];
    __syncthreads();
    int token = threadIdx.x / ROWS, o = threadIdx.x % ROWS;
    if (token >= m) return;
    float sum = 0;
    for (int i = 0; i < WARPS; i++) sum += sums[i][token][o];
    y[(size_t)token * n + row + o] = sum;
}
static void run_tensor(void)
{
    LAUNCH(tensor, dim3(p.n / ROWS), dim3(THREADS), 0, 0, p.y, (const uint4 *)p.w, (const uint4 *)p.x, p.n,
           p.k / 8, p.m);
}

static double want(size_t at)
{
    const bf16 *w = p.host_w + at % p.n * p.k, *x = p.host_x + at / p.n * p.k;
    double sum = 0;
    for (int i = 0; i < p.k; i++) sum += (double)__bfloat162float(w[i]) * __bfloat162float(x[i]);
    return sum;
}

static const struct lab_version versions[] = {{"a thread for each output", run_naive},
                                              {"a warp for each output", run_warp_row},
                                              {"16-byte loads", run_wide},
                                              {"four loads under way", run_deep},
                                              {"eight warps share a row", run_split},
                                              {"tensor cores", run_tensor}};

int main(int argc, char **argv)
{
    unsigned chosen;
    int rc = lab_args(argc, argv, size, &chosen);
    if (rc) return rc;
    p.n = size[0].value, p.k = size[1].value, p.m = size[2].value = min(size[2].value, (int)TOKENS);
    size_t n_w = (size_t)p.n * p.k, n_x = (size_t)p.m * p.k, n_y = (size_t)p.m * p.n;
    p.host_w = lab_bf16s(n_w), p.host_x = lab_bf16s(n_x);
    p.w = lab_up(p.host_w, n_w), p.x = lab_up(p.host_x, n_x);
    p.y = (float *)lab_alloc(n_y * sizeof(float));
    struct lab_job j = {};
    j.what = "gemv", j.bytes = 2.0 * n_w, j.flops = 2.0 * p.m * n_w;
    j.want = want, j.out = p.y, j.n_out = n_y, j.tolerance = 1e-10;
    j.version = versions, j.n_version = 6;
    return lab_main(&j, size, chosen);
}
