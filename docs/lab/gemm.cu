/* Matrix times matrix, what prefill does: c[m][n] = a[m][k] b[n][k]^T; a, b BF16, c float32. a are
 * activations, b weights. Floor: 2 m n k operations. Bytes matter little once every value that was fetched is
 * used often enough: a tile of T x T outputs does T operations for each byte it reads. */
#include "lab.cuh"

static struct lab_size size[] = {{"m", 4096, 130, 1}, {"n", 4096, 136, 8}, {"k", 4096, 320, 64}, {}};
static struct {
    int m, n, k;
    const bf16 *host_a, *host_b, *a, *b;
    float *c;
    tma_map map_a, map_b;
} p;

static dim3 tiles(int edge) { return dim3((p.n + edge - 1) / edge, (p.m + edge - 1) / edge); }

/* 0. A thread for each output. Lanes have neighbouring columns of c, which are rows of b far apart: every
 * load of b is 32 lines for 2 bytes of each. And every multiplication brings two loads with it. */
static __global__ void naive(float *c, const bf16 *a, const bf16 *b, int m, int n, int k)
{
    int col = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
    if (row >= m || col >= n) return;
    float sum = 0;
    for (int i = 0; i < k; i++)
        sum = fmaf(__bfloat162float(a[(size_t)row * k + i]), __bfloat162float(b[(size_t)col * k + i]), sum);
    c[(size_t)row * n + col] = sum;
}
static void run_naive(void) { LAUNCH(naive, tiles(32), dim3(32, 32), 0, 0, p.c, p.a, p.b, p.m, p.n, p.k); }

/* 1. Tiles of 32 x 32 of both matrices come into shared memory, by neighbours, and each of their values
 * serves 32 outputs: global memory is read 32 times less. Now shared memory is the limit: two reads of it for
 * each multiplication. */
enum { EDGE = 32 };
struct edge_tiles {
    float a[EDGE][EDGE], b[EDGE][EDGE + 1]; /* lanes read down a column of b: padded */
};
static __global__ void tiled(float *c, const bf16 *a, const bf16 *b, int m, int n, int k)
{
    SHARED(struct edge_tiles, t);
    int tx = threadIdx.x, ty = threadIdx.y, col = blockIdx.x * EDGE + tx, row = blockIdx.y * EDGE + ty;
    const bf16 *from_a =
        a + (size_t)min(row, m - 1) * k + tx; /* rows that are not there: the last one again */
    const bf16 *from_b = b + (size_t)min((int)blockIdx.x * EDGE + ty, n - 1) * k + tx;
    float sum = 0;
    for (int k0 = 0; k0 < k; k0 += EDGE) {
        t.a[ty][tx] = __bfloat162float(from_a[k0]);
        t.b[ty][tx] = __bfloat162float(from_b[k0]);
        __syncthreads();
        for (int i = 0; i < EDGE; i++) sum = fmaf(t.a[ty][i], t.b[tx][i], sum);
        __syncthreads();
    }
    if (row < m && col < n) c[(size_t)row * n + col] = sum;
}
static void run_tiled(void)
{
    LAUNCH(tiled, tiles(EDGE), dim3(EDGE, EDGE), 0, 0, p.c, p.a, p.b, p.m, p.n, p.k);
}

/* 2. Each thread computes 8 x 8 outputs: 16 values from shared memory feed 64 multiplications from registers.
 * Tiles lie with k outermost, so that the 16 are four reads of 16 bytes. This is about what the ordinary
 * float units can give. */
enum { BLOCK = 128, SLAB = 16, PITCH = BLOCK + 4, GRID = 16 }; /* 16 x 16 threads */
struct slab_tiles {
    float a[SLAB][PITCH], b[SLAB][PITCH];
};
static __device__ void load_slab(float to[SLAB][PITCH], const bf16 *from, int row0, int rows, int k, int k0)
{
    int row = threadIdx.x / 2, half = threadIdx.x % 2 * 8; /* a thread has eight values of a row */
    float v[8];
    bf16x8_unpack(*(const uint4 *)(from + (size_t)min(row0 + row, rows - 1) * k + k0 + half), v);
    for (int i = 0; i < 8; i++) to[half + i][row] = v[i];
}
/* Rows 4 t to 4 t + 3 of the first half of the tile, and of the second. */
static __device__ void eight(float v[8], const float *from, int t)
{
    float4 lo = *(const float4 *)(from + 4 * t), hi = *(const float4 *)(from + BLOCK / 2 + 4 * t);
    v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w;
    v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
}
static __global__ void __launch_bounds__(GRID *GRID)
    registers(float *c, const bf16 *a, const bf16 *b, int m, int n, int k)
{
    SHARED(struct slab_tiles, t);
    int tx = threadIdx.x % GRID, ty = threadIdx.x / GRID, row0 = blockIdx.y * BLOCK,
        col0 = blockIdx.x * BLOCK;
    float sum[8][8] = {};
    for (int k0 = 0; k0 < k; k0 += SLAB) {
        load_slab(t.a, a, row0, m, k, k0);
        load_slab(t.b, b, col0, n, k, k0);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SLAB; i++) {
            float u[8], v[8];
            eight(u, t.a[i], ty);
            eight(v, t.b[i], tx);
#pragma unroll
            for (int y = 0; y < 8; y++)
#pragma unroll
                for (int x = 0; x < 8; x++) sum[y][x] = fmaf(u[y], v[x], sum[y][x]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int y = 0; y < 8; y++)
#pragma unroll
        for (int x = 0; x < 8; x++) {
            int row = row0 + y / 4 * (BLOCK / 2) + 4 * ty + y % 4,
                col = col0 + x / 4 * (BLOCK / 2) + 4 * tx + x % 4;
            if (row < m && col < n) c[(size_t)row * n + col] = sum[y][x];
        }
}
static void run_registers(void)
{
    LAUNCH(registers, tiles(BLOCK), dim3(GRID * GRID), 0, 0, p.c, p.a, p.b, p.m, p.n, p.k);
}

/* 3. Tensor cores: one instruction of a warp multiplies 16 x 16 by 16 x 8. The tiles stay BF16; ldmatrix
 * hands a warp four 8 x 8 matrices in the layout that mma wants. A row of a tile is 128 bytes, all banks:
 * eight rows of one column would lie in the same four. So 16-byte chunk c of row r lies at chunk c ^ (r % 8).
 * Eight warps, 64 x 32 outputs each. */
enum { DEPTH = 64, ROW = 2 * DEPTH, WARP_M = 64, WARP_N = 32, THREADS = 256, EACH = BLOCK * 8 / THREADS };
struct stage {
    unsigned char a[BLOCK * ROW], b[BLOCK * ROW];
};
typedef float warp_sums[WARP_M / 16][WARP_N / 8][4];

static __device__ int chunk_at(int row, int chunk) { return row * ROW + (chunk ^ row % 8) * 16; }

static __device__ void multiply(const struct stage *s, warp_sums sum)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp / 4 * WARP_M, col = warp % 4 * WARP_N;
#pragma unroll
    for (int i = 0; i < DEPTH / 16; i++) {
        unsigned a[WARP_M / 16][4], b[WARP_N / 16][4];
        for (int y = 0; y < WARP_M / 16; y++)
            ldmatrix4(a[y], s->a + chunk_at(row + 16 * y + lane % 16, 2 * i + lane / 16));
        for (int x = 0; x < WARP_N / 16; x++) /* two blocks of 8 columns, each with both halves of k */
            ldmatrix4(b[x], s->b + chunk_at(col + 16 * x + lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
        for (int y = 0; y < WARP_M / 16; y++)
            for (int x = 0; x < WARP_N / 8; x++) mma16816(sum[y][x], a[y], b[x / 2] + x % 2 * 2);
    }
}
static __device__ void store_sums(float *c, int m, int n, const warp_sums sum)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int y = 0; y < WARP_M / 16; y++)
        for (int x = 0; x < WARP_N / 8; x++)
            for (int h = 0; h < 2; h++) {
                int row = blockIdx.y * BLOCK + warp / 4 * WARP_M + 16 * y + 8 * h + lane / 4;
                int col = blockIdx.x * BLOCK + warp % 4 * WARP_N + 8 * x + lane % 4 * 2;
                if (row < m && col < n)
                    *(float2 *)&c[(size_t)row * n + col] =
                        make_float2(sum[y][x][2 * h], sum[y][x][2 * h + 1]);
            }
}
static __device__ const bf16 *chunk_from(const bf16 *x, int row, int rows, int k, int chunk)
{
    return x + (size_t)min(row, rows - 1) * k + chunk * 8;
}
static __global__ void __launch_bounds__(THREADS)
    tensor(float *c, const bf16 *a, const bf16 *b, int m, int n, int k)
{
    SHARED(struct stage, s);
    warp_sums sum = {};
    for (int k0 = 0; k0 < k; k0 += DEPTH) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int row = (i * THREADS + threadIdx.x) / 8, chunk = threadIdx.x % 8;
            *(uint4 *)(s.a + chunk_at(row, chunk)) =
                *(const uint4 *)chunk_from(a + k0, blockIdx.y * BLOCK + row, m, k, chunk);
            *(uint4 *)(s.b + chunk_at(row, chunk)) =
                *(const uint4 *)chunk_from(b + k0, blockIdx.x * BLOCK + row, n, k, chunk);
        }
        __syncthreads();
        multiply(&s, sum);
        __syncthreads();
    }
    store_sums(c, m, n, sum);
}
static void run_tensor(void)
{
    LAUNCH(tensor, tiles(BLOCK), dim3(THREADS), 0, 0, p.c, p.a, p.b, p.m, p.n, p.k);
}

/* 4. Asynchronous copies, three stages: while a tile is multiplied, the next two are on their way from global
 * to shared memory, past the registers. One barrier a step: it says both that this tile is complete and that
 * the one before is nobody's any more, so that its place may be filled. */
enum { STAGES = 3 };
static __device__ void copy_stage(struct stage *s, const bf16 *a, const bf16 *b, int m, int n, int k)
{
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int row = (i * THREADS + threadIdx.x) / 8, chunk = threadIdx.x % 8;
        cp_async16(s->a + chunk_at(row, chunk), chunk_from(a, blockIdx.y * BLOCK + row, m, k, chunk));
        cp_async16(s->b + chunk_at(row, chunk), chunk_from(b, blockIdx.x * BLOCK + row, n, k, chunk));
    }
}
static __global__ void __launch_bounds__(THREADS)
    staged(float *c, const bf16 *a, const bf16 *b, int m, int n, int k)
{
    DYNAMIC_SHARED(struct stage, s);
    int steps = k / DEPTH;
    warp_sums sum = {};
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < steps) copy_stage(&s[i], a + i * DEPTH, b + i * DEPTH, m, n, k);
        cp_commit(); /* a group for each step, empty or not: so waiting can count */
    }
    for (int i = 0; i < steps; i++) {
        int next = i + STAGES - 1;
        cp_wait<STAGES - 2>();
        __syncthreads();
        if (next < steps) copy_stage(&s[next % STAGES], a + next * DEPTH, b + next * DEPTH, m, n, k);
        cp_commit();
        multiply(&s[i % STAGES], sum);
    }
    cp_wait<0>();
    store_sums(c, m, n, sum);
}
static void run_staged(void)
{
    int bytes = STAGES * (int)sizeof(struct stage);
    lab_cuda(cudaFuncSetAttribute((const void *)staged, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "shared memory");
    LAUNCH(staged, tiles(BLOCK), dim3(THREADS), bytes, 0, p.c, p.a, p.b, p.m, p.n, p.k);
}

/* 5. sm_90: a warp does nothing but ask the copy engine for tiles, one instruction for a whole one, and two
 * groups of four warps multiply straight from shared memory (wgmma): no ldmatrix, no addresses, no operand in
 * registers. Barriers in shared memory count bytes (full) and readers (empty) in place of __syncthreads. */
enum { RING = 4, GROUP = 128 };
struct ring {
    struct stage s[RING];
    uint64_t full[RING], empty[RING];
};
#ifdef HAVE_WGMMA
static __device__ void fetch(struct ring *r, const tma_map *ma, const tma_map *mb, int steps)
{
    for (int i = 0; i < steps; i++) {
        int at = i % RING;
        mbar_wait(&r->empty[at], i / RING % 2 ^ 1); /* the first time round, it is */
        mbar_expect(&r->full[at], sizeof(struct stage));
        tma_load2(r->s[at].a, ma, &r->full[at], i * DEPTH, blockIdx.y * BLOCK);
        tma_load2(r->s[at].b, mb, &r->full[at], i * DEPTH, blockIdx.x * BLOCK);
    }
}
/* Rows of group `group`, 64 of them, and all 128 columns in two halves. */
static __device__ void multiply_ring(struct ring *r, int group, int steps, float sum[2][32])
{
    for (int i = 0; i < steps; i++) {
        struct stage *s = &r->s[i % RING];
        mbar_wait(&r->full[i % RING], i / RING % 2);
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < DEPTH / 16; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                wgmma_m64n64k16(sum[h], wgmma_desc128(s->a + group * 64 * ROW + j * 32),
                                wgmma_desc128(s->b + h * 64 * ROW + j * 32), 1);
        wgmma_commit();
        wgmma_wait<0>();
        mbar_arrive(&r->empty[i % RING]);
    }
}
#endif
static __global__ void __launch_bounds__(2 * GROUP + 32)
    hopper(float *c, int m, int n, int k, const __grid_constant__ tma_map ma,
           const __grid_constant__ tma_map mb)
{
#ifdef HAVE_WGMMA
    DYNAMIC_SHARED(struct ring, r);
    int group = threadIdx.x / GROUP, lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    if (threadIdx.x == 0) {
        for (int i = 0; i < RING; i++) mbar_init(&r->full[i], 1), mbar_init(&r->empty[i], 2 * GROUP);
        mbar_fence();
    }
    __syncthreads();
    if (group == 2) {
        if (lane == 0) fetch(r, &ma, &mb, k / DEPTH);
        return;
    }
    float sum[2][32] = {};
    multiply_ring(r, group, k / DEPTH, sum);
#pragma unroll
    for (int i = 0; i < 32; i++) { /* pairs of columns: 2 halves, 8 blocks of 8, 2 rows */
        int h = i / 16, j = i / 2 % 8, y = i % 2;
        int row = blockIdx.y * BLOCK + group * 64 + warp * 16 + lane / 4 + 8 * y;
        int col = blockIdx.x * BLOCK + h * 64 + j * 8 + lane % 4 * 2;
        if (row < m && col < n)
            *(float2 *)&c[(size_t)row * n + col] =
                make_float2(sum[h][4 * j + 2 * y], sum[h][4 * j + 2 * y + 1]);
    }
#endif
}
static void run_hopper(void)
{
    int bytes = (int)sizeof(struct ring);
    lab_cuda(cudaFuncSetAttribute((const void *)hopper, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "shared memory");
    LAUNCH(hopper, tiles(BLOCK), dim3(2 * GROUP + 32), bytes, 0, p.c, p.m, p.n, p.k, p.map_a, p.map_b);
}

static double want(size_t at)
{
    const bf16 *a = p.host_a + at / p.n * p.k, *b = p.host_b + at % p.n * p.k;
    double sum = 0;
    for (int i = 0; i < p.k; i++) sum += (double)__bfloat162float(a[i]) * __bfloat162float(b[i]);
    return sum;
}

static const struct lab_version versions[] = {
    {"a thread for each output", run_naive},   {"tiles in shared memory", run_tiled},
    {"8 x 8 outputs a thread", run_registers}, {"tensor cores, ldmatrix, swizzle", run_tensor},
    {"copies three stages ahead", run_staged}, {"copy engine and wgmma", run_hopper, 9}};

int main(int argc, char **argv)
{
    unsigned chosen;
    int rc = lab_args(argc, argv, size, &chosen);
    if (rc) return rc;
    p.m = size[0].value, p.n = size[1].value, p.k = size[2].value;
    size_t n_a = (size_t)p.m * p.k, n_b = (size_t)p.n * p.k, n_c = (size_t)p.m * p.n;
    p.host_a = lab_bf16s(n_a), p.host_b = lab_bf16s(n_b);
    p.a = lab_up(p.host_a, n_a), p.b = lab_up(p.host_b, n_b);
    p.c = (float *)lab_alloc(n_c * sizeof(float));
    cudaDeviceProp device;
    lab_cuda(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
    if (device.major == 9) {
        lab_cuda(tma_map2(&p.map_a, p.a, p.m, p.k, BLOCK), "tensor map");
        lab_cuda(tma_map2(&p.map_b, p.b, p.n, p.k, BLOCK), "tensor map");
    }
    struct lab_job j = {};
    j.what = "gemm", j.bytes = 2.0 * (n_a + n_b) + 4.0 * n_c, j.flops = 2.0 * n_c * p.k;
    j.want = want, j.out = p.c, j.n_out = n_c, j.tolerance = 1e-10;
    j.version = versions, j.n_version = 6;
    return lab_main(&j, size, chosen);
}
