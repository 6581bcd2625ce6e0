/* Softmax of the rows of a matrix, float32: y[i] = exp(x[i] - max) / sum exp(x[j] - max). The maximum is
 * subtracted so that nothing overflows. Floor: a row is read once and written once, 8 bytes a value;
 * arithmetic is free beside that. */
#include "lab.cuh"

static struct lab_size size[] = {{"rows", 8192, 5, 1}, {"cols", 8192, 1036, 4}, {}};
static struct {
    int rows, cols;
    const float *host, *x;
    float *y;
} p;

enum { THREADS = 256, WARPS = THREADS / 32 };
typedef float line_t[THREADS];
typedef float parts_t[2][WARPS];

/* 0. A thread for each row, three walks over it: maximum, sum, result. The 32 lanes of a warp stand in 32
 * rows, so each load touches 32 lines for 4 bytes of each, and 8192 rows are only 256 warps for the whole
 * device. */
static __global__ void naive(float *y, const float *x, int rows, int cols)
{
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += (size_t)row * cols, y += (size_t)row * cols;
    float m = -INFINITY, sum = 0;
    for (int i = 0; i < cols; i++) m = fmaxf(m, x[i]);
    for (int i = 0; i < cols; i++) sum += __expf(x[i] - m);
    for (int i = 0; i < cols; i++) y[i] = __expf(x[i] - m) / sum;
}
static void run_naive(void)
{
    LAUNCH(naive, dim3((p.rows + 127) / 128), dim3(128), 0, 0, p.y, p.x, p.rows, p.cols);
}

/* 1. A block for each row: neighbouring threads take neighbouring values (coalesced), and there are rows x 8
 * warps. What the threads found is joined in shared memory, by halves: eight rounds, each with a barrier. */
template <bool MAX> static __device__ float join_tree(float v, float *line)
{
    line[threadIdx.x] = v;
    __syncthreads();
    for (int n = THREADS / 2; n; n /= 2) {
        if ((int)threadIdx.x < n) {
            float u = line[threadIdx.x], w = line[threadIdx.x + n];
            line[threadIdx.x] = MAX ? fmaxf(u, w) : u + w;
        }
        __syncthreads();
    }
    v = line[0];
    __syncthreads(); /* all have read it before the next use */
    return v;
}
static __global__ void block_row(float *y, const float *x, int cols)
{
    SHARED(line_t, line);
    x += (size_t)blockIdx.x * cols, y += (size_t)blockIdx.x * cols;
    float m = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < cols; i += THREADS) m = fmaxf(m, x[i]);
    m = join_tree<true>(m, line);
    for (int i = threadIdx.x; i < cols; i += THREADS) sum += __expf(x[i] - m);
    sum = join_tree<false>(sum, line);
    for (int i = threadIdx.x; i < cols; i += THREADS) y[i] = __expf(x[i] - m) / sum;
}
static void run_block_row(void) { LAUNCH(block_row, dim3(p.rows), dim3(THREADS), 0, 0, p.y, p.x, p.cols); }

/* 2. Lanes of a warp join through shuffles, from register to register; only the eight warps' results go
 * through shared memory. One barrier where there were nine. */
template <bool MAX> static __device__ float join(float v, float *part)
{
    v = MAX ? warp_max(v) : warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[threadIdx.x % WARPS]; /* every eight lanes have all */
    for (int step = WARPS / 2; step; step /= 2) {
        float w = __shfl_xor_sync(0xffffffffu, v, step);
        v = MAX ? fmaxf(v, w) : v + w;
    }
    return v;
}
static __global__ void shuffled(float *y, const float *x, int cols)
{
    SHARED(parts_t, part); /* one for each use, so that nobody has to wait before the second */
    x += (size_t)blockIdx.x * cols, y += (size_t)blockIdx.x * cols;
    float m = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < cols; i += THREADS) m = fmaxf(m, x[i]);
    m = join<true>(m, part[0]);
    for (int i = threadIdx.x; i < cols; i += THREADS) sum += __expf(x[i] - m);
    sum = join<false>(sum, part[1]);
    for (int i = threadIdx.x; i < cols; i += THREADS) y[i] = __expf(x[i] - m) / sum;
}
static void run_shuffled(void) { LAUNCH(shuffled, dim3(p.rows), dim3(THREADS), 0, 0, p.y, p.x, p.cols); }

/* 3. Online (Milakov and Gimelshein 2018): maximum and sum in one walk. When a greater maximum comes, the sum
 * so far is scaled by exp(old - new). Two walks read the row instead of three; attention needs it even more,
 * because there the values do not exist in memory. */
struct state {
    float m, sum;
};
static __device__ void add_value(struct state *s, float x)
{
    float m = fmaxf(s->m, x);
    s->sum = s->sum * __expf(s->m - m) + __expf(x - m);
    s->m = m;
}
/* Of the block: the threads' maxima first, then their sums, scaled to it. */
static __device__ struct state join_state(struct state s, parts_t part)
{
    float m = join<true>(s.m, part[0]);
    return (struct state){m, join<false>(s.sum * __expf(s.m - m), part[1])};
}
static __global__ void online(float *y, const float *x, int cols)
{
    SHARED(parts_t, part);
    x += (size_t)blockIdx.x * cols, y += (size_t)blockIdx.x * cols;
    struct state s = {-1e30f, 0}; /* finite, so that m - m is no NaN in a thread without values */
    for (int i = threadIdx.x; i < cols; i += THREADS) add_value(&s, x[i]);
    s = join_state(s, part);
    for (int i = threadIdx.x; i < cols; i += THREADS) y[i] = __expf(x[i] - s.m) / s.sum;
}
static void run_online(void) { LAUNCH(online, dim3(p.rows), dim3(THREADS), 0, 0, p.y, p.x, p.cols); }

/* 4. Four values an access: a quarter of the load instructions, four times the bytes under way for each. One
 * rescaling serves four values, and the division became a multiplication by the inverse. */
static __device__ float most(float4 v) { return fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)); }
static __device__ float4 weights(float4 v, float m, float scale)
{
    return make_float4(__expf(v.x - m) * scale, __expf(v.y - m) * scale, __expf(v.z - m) * scale,
                       __expf(v.w - m) * scale);
}
static __device__ float sum4(float4 v) { return v.x + v.y + (v.z + v.w); }

static __global__ void online4(float4 *y, const float4 *x, int n4)
{
    SHARED(parts_t, part);
    x += (size_t)blockIdx.x * n4, y += (size_t)blockIdx.x * n4;
    struct state s = {-1e30f, 0};
    for (int i = threadIdx.x; i < n4; i += THREADS) {
        float4 v = x[i];
        float m = fmaxf(s.m, most(v));
        s.sum = s.sum * __expf(s.m - m) + sum4(weights(v, m, 1));
        s.m = m;
    }
    s = join_state(s, part);
    float inverse = 1 / s.sum;
    for (int i = threadIdx.x; i < n4; i += THREADS) y[i] = weights(x[i], s.m, inverse);
}
static void run_online4(void)
{
    LAUNCH(online4, dim3(p.rows), dim3(THREADS), 0, 0, (float4 *)p.y, (const float4 *)p.x, p.cols / 4);
}

/* 5. The row stays in registers: SLOTS float4 a thread, all loaded before any is used. It is read once, which
 * is the floor, and with the values at hand the maximum and the sum need no trick. The row's length is now
 * limited; longer ones take version 4. */
template <int SLOTS>
static __global__ void __launch_bounds__(THREADS) resident(float4 *y, const float4 *x, int n4)
{
    SHARED(parts_t, part);
    x += (size_t)blockIdx.x * n4, y += (size_t)blockIdx.x * n4;
    float4 v[SLOTS];
    float m = -INFINITY, sum = 0;
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * THREADS;
        v[s] = i < n4 ? x[i] : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    }
#pragma unroll
    for (int s = 0; s < SLOTS; s++) m = fmaxf(m, most(v[s]));
    m = join<true>(m, part[0]);
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        v[s] = weights(v[s], m, 1);
        sum += sum4(v[s]);
    }
    float inverse = 1 / join<false>(sum, part[1]);
#pragma unroll
    for (int s = 0; s < SLOTS; s++) {
        int i = threadIdx.x + s * THREADS;
        if (i < n4)
            y[i] = make_float4(v[s].x * inverse, v[s].y * inverse, v[s].z * inverse, v[s].w * inverse);
    }
}
static void run_resident(void)
{
    int n4 = p.cols / 4;
    float4 *y = (float4 *)p.y;
    const float4 *x = (const float4 *)p.x;
    if (n4 <= 2 * THREADS)
        LAUNCH((resident<2>), dim3(p.rows), dim3(THREADS), 0, 0, y, x, n4);
    else if (n4 <= 8 * THREADS)
        LAUNCH((resident<8>), dim3(p.rows), dim3(THREADS), 0, 0, y, x, n4);
    else
        run_online4();
}

static double want(size_t at)
{
    const float *x = p.host + at / p.cols * p.cols;
    double sum = 0;
    for (int i = 0; i < p.cols; i++) sum += exp((double)x[i]);
    return exp((double)p.host[at]) / sum;
}

static const struct lab_version versions[] = {
    {"a thread for each row", run_naive}, {"a block for each row", run_block_row},
    {"warp shuffles", run_shuffled},      {"online: two walks", run_online},
    {"16-byte accesses", run_online4},    {"row in registers", run_resident}};

int main(int argc, char **argv)
{
    unsigned chosen;
    int rc = lab_args(argc, argv, size, &chosen);
    if (rc) return rc;
    p.rows = size[0].value, p.cols = size[1].value;
    size_t n = (size_t)p.rows * p.cols;
    float *x = lab_floats(n);
    for (size_t i = 0; i < n; i++) x[i] *= 8;
    p.host = x;
    p.x = lab_up(p.host, n);
    p.y = (float *)lab_alloc(n * sizeof(float));
    struct lab_job j = {};
    j.what = "softmax", j.bytes = 8.0 * n;
    j.want = want, j.out = p.y, j.n_out = n, j.tolerance = 1e-10;
    j.version = versions, j.n_version = 6;
    return lab_main(&j, size, chosen);
}
