/* Programs without a mistake: they must pass under every schedule, lazily and eagerly, and raise no alarm in
 * any sanitizer. Together they use most of what the emulator offers. */
#include "selftest.h"
#include <cublasLt.h>
#include <nccl.h>
#include <pthread.h>

/* ---- a block: shared memory, barriers, collectives ---- */

typedef float parts_t[32];
static __global__ void sum_kernel(float *out, const float *in, int n)
{
    SHARED(parts_t, part);
    DYNAMIC_SHARED(float, copy);
    int t = threadIdx.x, warps = blockDim.x / 32;
    float sum = 0;
    for (int i = t; i < n; i += blockDim.x) sum += copy[i] = in[(size_t)blockIdx.x * n + i];
    sum = warp_sum(sum);
    if (t % 32 == 0) part[t / 32] = sum;
    __syncthreads();
    sum = warp_sum(t % 32 < warps ? part[t % 32] : 0.f);
    float top = copy[0];
    for (int i = 1; i < n; i++) top = max(top, copy[i]);
    int ballot = __popc(__ballot_sync(0xffffffffu, t % 3 == 0)), many = __syncthreads_count(t < 40);
    if (t == 0)
        out[blockIdx.x * 3] = sum, out[blockIdx.x * 3 + 1] = top,
                         out[blockIdx.x * 3 + 2] = (float)(ballot + many);
}
static int block_sum(void)
{
    enum { N = 1000, BLOCKS = 3 };
    static float in[BLOCKS * N], out[BLOCKS * 3];
    for (int i = 0; i < BLOCKS * N; i++) in[i] = (float)(i % 7);
    float *d = device_array(BLOCKS * N, in), *o = device_array<float>(BLOCKS * 3);
    LAUNCH(sum_kernel, dim3(BLOCKS), dim3(128), N * sizeof(float), 0, o, d, N);
    fetch(out, o, BLOCKS * 3);
    cudaFree(d);
    for (int b = 0; b < BLOCKS; b++) {
        float want = 0;
        for (int i = 0; i < N; i++) want += in[b * N + i];
        CHECK(out[b * 3] == want && out[b * 3 + 1] == 6 && out[b * 3 + 2] == 11 + 40);
    }
    return 0;
}

/* ---- tensor cores: c[16][8] = a[16][16] b[8][16]^T by ldmatrix and mma ---- */

struct mma_smem {
    bf16 a[16][16], b[8][16];
};
static __global__ void mma_kernel(float *c, const bf16 *a, const bf16 *b)
{
    SHARED(mma_smem, s);
    int lane = threadIdx.x;
    cp_async16(&s.a[lane / 2][lane % 2 * 8], a + lane * 8);
    if (lane < 16) cp_async16(&s.b[lane / 2][lane % 2 * 8], b + lane * 8);
    cp_commit();
    cp_wait<0>();
    __syncwarp();
    unsigned fa[4], fb[4];
    float d[4] = {};
    ldmatrix4(fa, &s.a[lane % 16][lane / 16 * 8]);
    ldmatrix4(fb, &s.b[lane % 8][lane / 8 % 2 * 8]);
    mma16816(d, fa, fb);
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}
static int tensor_core(void)
{
    bf16 a[256], b[128];
    float c[128];
    for (int i = 0; i < 256; i++) a[i] = __float2bfloat16((float)(i % 13 - 6));
    for (int i = 0; i < 128; i++) b[i] = __float2bfloat16((float)(i % 9 - 4));
    bf16 *da = device_array(256, a), *db = device_array(128, b);
    float *dc = device_array<float>(128);
    LAUNCH(mma_kernel, dim3(1), dim3(32), 0, 0, dc, da, db);
    fetch(c, dc, 128);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float want = 0;
            for (int k = 0; k < 16; k++)
                want += __bfloat162float(a[i * 16 + k]) * __bfloat162float(b[j * 16 + k]);
            CHECK(c[i * 8 + j] == want);
        }
    return 0;
}

/* ---- copy engine, mbarrier, wgmma: c[64][64] = a[64][K] b[64][K]^T ---- */

enum { K = 136, STAGES = 2 };
struct wgmma_smem {
    bf16 a[STAGES][64][64], b[STAGES][64][64];
    uint64_t full[STAGES], empty[STAGES];
};
static __global__ void wgmma_kernel(float *c, const __grid_constant__ tma_map ma,
                                    const __grid_constant__ tma_map mb)
{
    DYNAMIC_SHARED(wgmma_smem, s);
    int t = threadIdx.x, steps = (K + 63) / 64;
    if (t == 0) {
        for (int i = 0; i < STAGES; i++) mbar_init(&s->full[i], 1), mbar_init(&s->empty[i], 128);
        mbar_fence();
    }
    __syncthreads();
    if (t >= 128) {
        for (int k = 0; k < steps && t == 128; k++) {
            int i = k % STAGES;
            mbar_wait(&s->empty[i], k / STAGES % 2 ^ 1);
            mbar_expect(&s->full[i], sizeof s->a[0] + sizeof s->b[0]);
            tma_load2(s->a[i], &ma, &s->full[i], k * 64, 0);
            tma_load2(s->b[i], &mb, &s->full[i], k * 64, 0);
        }
        return;
    }
    float d[32] = {};
    for (int k = 0; k < steps; k++) {
        int i = k % STAGES;
        mbar_wait(&s->full[i], k / STAGES % 2);
        wgmma_fence();
        for (int j = 0; j < 4; j++)
            wgmma_m64n64k16(d, wgmma_desc128(&s->a[i][0][j * 16]), wgmma_desc128(&s->b[i][0][j * 16]), 1);
        wgmma_commit();
        wgmma_wait<0>();
        mbar_arrive(&s->empty[i]);
    }
    for (int i = 0; i < 32; i++)
        c[(t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + t % 4 * 2 + i % 2] = d[i];
}
static int hopper(void)
{
    static bf16 a[64 * K], b[64 * K];
    static float c[64 * 64];
    for (int i = 0; i < 64 * K; i++)
        a[i] = __float2bfloat16((float)(i % 11 - 5)), b[i] = __float2bfloat16((float)(i % 5 - 2));
    bf16 *da = device_array(64 * K, a), *db = device_array(64 * K, b);
    float *dc = device_array<float>(64 * 64);
    tma_map ma, mb;
    CHECK(tma_map2(&ma, da, 64, K, 64) == cudaSuccess && tma_map2(&mb, db, 64, K, 64) == cudaSuccess);
    cudaFuncSetAttribute((const void *)wgmma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         sizeof(wgmma_smem));
    LAUNCH(wgmma_kernel, dim3(1), dim3(160), sizeof(wgmma_smem), 0, dc, ma, mb);
    fetch(c, dc, 64 * 64);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) {
            float want = 0;
            for (int k = 0; k < K; k++)
                want += __bfloat162float(a[i * K + k]) * __bfloat162float(b[j * K + k]);
            CHECK(c[i * 64 + j] == want);
        }
    return 0;
}

/* ---- a grid: cooperative barrier, the last block finishes ---- */

static __global__ void grid_kernel(float *part, float *out, unsigned *count)
{
    SHARED(unsigned, last);
    part[blockIdx.x * 32 + threadIdx.x] = (float)(blockIdx.x + 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        last = add_acq_rel(count, 1) == gridDim.x - 1;
        spin_until(ld_acquire(count) == gridDim.x);
    }
    __syncthreads();
    float sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += part[b * 32 + threadIdx.x];
    if (last) out[threadIdx.x] = sum;
}
static int grid_meets(void)
{
    unsigned zero = 0, *n = device_array(1, &zero);
    float out[32], *part = device_array<float>(4 * 32), *o = device_array<float>(32);
    LAUNCH_COOP(grid_kernel, dim3(4), dim3(32), 0, 0, part, o, n);
    fetch(out, o, 32);
    for (float v : out) CHECK(v == 10);
    return 0;
}

/* Blocks one after another, more than ThreadSanitizer has identities for: the counts are ordered by fences in
 * the first launch, by themselves in the second, and each launch after the one before. */
typedef float row_t[64];
static __global__ void last_kernel(float *part, float *out, unsigned *count, bool fence)
{
    SHARED(row_t, s);
    SHARED(bool, last);
    int t = threadIdx.x;
    float sum = 0;
    s[t] = (float)t;
    __syncthreads();
    part[blockIdx.x * 64 + t] = s[63 - t];
    if (fence) __threadfence();
    __syncthreads();
    if (t == 0) {
        last = (fence ? atomicAdd(count, 1) : add_acq_rel(count, 1)) == gridDim.x - 1;
        if (fence) __threadfence();
        if (last) *count = 0;
    }
    __syncthreads();
    for (unsigned b = 0; last && b < gridDim.x; b++) sum += part[b * 64 + (63 - t)];
    if (last) out[t] = sum;
}
static int last_block(void)
{
    enum { BLOCKS = 20 };
    unsigned zero = 0, *n = device_array(1, &zero);
    float out[64], *part = device_array<float>(BLOCKS * 64), *o = device_array<float>(64);
    for (int round = 0; round < 3; round++)
        LAUNCH(last_kernel, dim3(BLOCKS), dim3(64), 0, 0, part, o, n, round == 0);
    fetch(out, o, 64);
    cudaFree(part), cudaFree(n);
    for (int t = 0; t < 64; t++) CHECK(out[t] == (float)(BLOCKS * t));
    return 0;
}

/* ---- streams, events, graphs, memory limits ---- */

static __global__ void scale_kernel(float *p, float f) { p[threadIdx.x] *= f; }
static int graph_replays(void)
{
    float *pin, *back, *d = device_array<float>(32);
    cudaStream_t s, side;
    cudaEvent_t fork, join, done;
    cudaGraph_t g;
    cudaGraphExec_t x;
    cudaMallocHost((void **)&pin, 128);
    cudaMallocHost((void **)&back, 128);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreate(&fork), cudaEventCreate(&join), cudaEventCreate(&done);
    CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    void *no;
    CHECK(cudaMalloc(&no, 4) == cudaErrorStreamCaptureUnsupported && cudaGetLastError() != cudaSuccess);
    CHECK(cudaStreamSynchronize(s) != cudaSuccess);
    cudaMemcpyAsync(d, pin, 128, cudaMemcpyHostToDevice, s);
    cudaEventRecord(fork, s);
    cudaStreamWaitEvent(side, fork, 0);
    LAUNCH(scale_kernel, dim3(1), dim3(32), 0, side, d, 3.f);
    cudaEventRecord(join, side);
    cudaStreamWaitEvent(s, join, 0);
    cudaMemcpyAsync(back, d, 128, cudaMemcpyDeviceToHost, s);
    CHECK(cudaStreamEndCapture(s, &g) == cudaSuccess && cudaGraphInstantiate(&x, g, 0) == cudaSuccess);
    cudaGraphDestroy(g);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 32; i++) pin[i] = (float)(i + round);
        cudaGraphLaunch(x, s);
        cudaEventRecord(done, s);
        cudaEventSynchronize(done);
        for (int i = 0; i < 32; i++) CHECK(back[i] == 3 * (float)(i + round));
    }
    cudaGraphExecDestroy(x);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
    cudaEventRecord(fork, s);
    cudaStreamWaitEvent(side, fork, 0);
    LAUNCH(scale_kernel, dim3(1), dim3(32), 0, side, d, 3.f);
    CHECK(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureUnjoined);
    cudaEventDestroy(fork), cudaEventDestroy(join), cudaEventDestroy(done);
    cudaStreamDestroy(s), cudaStreamDestroy(side);
    cudaFreeHost(pin), cudaFreeHost(back), cudaFree(d);
    return 0;
}
static int memory_is_bounded(void)
{
    size_t free_bytes, total, before;
    void *p, *q;
    cudaMemGetInfo(&before, &total);
    CHECK(total == 1 << 20 && cudaMalloc(&p, 600 << 10) == cudaSuccess);
    CHECK(cudaMalloc(&q, 600 << 10) == cudaErrorMemoryAllocation &&
          cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaSuccess);
    cudaSetDevice(1);
    CHECK(cudaMalloc(&q, 600 << 10) == cudaSuccess); /* the other device's own memory */
    CHECK(cudaFree(p) == cudaSuccess && cudaFree(q) == cudaSuccess && cudaFree((char *)p + 1) != cudaSuccess);
    cudaSetDevice(0);
    cudaMemGetInfo(&free_bytes, &total);
    CHECK(free_bytes == before);
    char host[8];
    p = device_array<char>(8);
    CHECK(cudaMemcpy(host, p, 9, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(p, host, 8, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    return 0;
}

/* ---- two ranks ---- */

struct ranks {
    float *buf[2], *out[2];
    unsigned *flag[2];
};
static ranks both;
static pthread_barrier_t host_meet;
static __global__ void exchange_kernel(ranks r, int me)
{
    int t = threadIdx.x;
    r.buf[me][t] = (float)(t + me);
    __syncthreads();
    if (t == 0) {
        st_release(r.flag[me], 1);
        spin_until(ld_acquire(r.flag[1 - me]));
    }
    __syncthreads();
    r.out[me][t] = r.buf[0][t] + r.buf[1][t];
}
static void ranks_setup(void)
{
    unsigned zero = 0;
    for (int i = 0; i < 2; i++) {
        cudaSetDevice(i);
        both.buf[i] = device_array<float>(64);
        both.out[i] = device_array<float>(64);
        both.flag[i] = device_array(1, &zero);
    }
}
static int ranks_agree(void)
{
    float out[2][64];
    for (int i = 0; i < 2; i++) {
        cudaSetDevice(i);
        fetch(out[i], both.out[i], 64);
        for (int t = 0; t < 64; t++) CHECK(out[i][t] == (float)(2 * t + 1));
    }
    return 0;
}
/* Rank 1 never waits for its stream: rank 0's wait must let it run. */
static void *rank_main(void *arg)
{
    int me = arg != nullptr;
    cudaSetDevice(me);
    LAUNCH(exchange_kernel, dim3(1), dim3(64), 0, 0, both, me);
    if (me == 0) cudaDeviceSynchronize();
    pthread_barrier_wait(&host_meet);
    return 0;
}
static void *run_ranks(void *(*fn)(void *))
{
    pthread_t t[2];
    pthread_barrier_init(&host_meet, 0, 2);
    for (size_t i = 0; i < 2; i++) pthread_create(&t[i], 0, fn, i ? &both : nullptr);
    for (size_t i = 0; i < 2; i++) pthread_join(t[i], 0);
    return 0;
}
static int peers(void)
{
    ranks_setup();
    run_ranks(rank_main);
    return ranks_agree();
}

static ncclUniqueId id;
static float gathered[2][4];
static void *nccl_main(void *arg)
{
    int me = arg != nullptr;
    float mine[2] = {(float)(me + 1), 10}, *d, *all;
    ncclComm_t c;
    cudaStream_t s;
    cudaSetDevice(me);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    if (ncclCommInitRank(&c, 2, id, me) != ncclSuccess) return 0;
    d = device_array(2, mine);
    all = device_array<float>(4);
    ncclAllReduce(d, d, 2, ncclFloat32, ncclSum, c, s); /* 3, 20 */
    LAUNCH(scale_kernel, dim3(1), dim3(2), 0, s, d, (float)(me + 1));
    ncclGroupStart();
    ncclSend(d, 1, ncclFloat32, 1 - me, c, s);
    ncclRecv(all, 1, ncclFloat32, 1 - me, c, s); /* the other's 3 or 6 */
    ncclGroupEnd();
    ncclAllGather(d, all, 2, ncclFloat32, c, s);
    cudaMemcpyAsync(gathered[me], all, sizeof gathered[me], cudaMemcpyDeviceToHost, s);
    cudaStreamSynchronize(s);
    cudaFree(d), cudaFree(all);
    cudaStreamDestroy(s);
    ncclCommDestroy(c);
    return 0;
}
static int nccl(void)
{
    ncclGetUniqueId(&id);
    run_ranks(nccl_main);
    for (int i = 0; i < 2; i++)
        CHECK(gathered[i][0] == 3 && gathered[i][1] == 20 && gathered[i][2] == 6 && gathered[i][3] == 40);
    return 0;
}

/* ---- cublasLt: y[3][4] = x[3][16] w[4][16]^T + bias[4], row-major ---- */

static int matmul(void)
{
    bf16 w[64], x[48], bias[4];
    float y[12], one = 1, zero = 0;
    for (int i = 0; i < 64; i++) w[i] = __float2bfloat16((float)(i % 7 - 3));
    for (int i = 0; i < 48; i++) x[i] = __float2bfloat16((float)(i % 5 - 2));
    for (int i = 0; i < 4; i++) bias[i] = __float2bfloat16((float)i);
    bf16 *dw = device_array(64, w), *dx = device_array(48, x), *db = device_array(4, bias);
    float *dy = device_array<float>(12);
    cublasLtHandle_t h;
    cublasLtMatmulDesc_t d;
    cublasLtMatrixLayout_t lw, lx, ly;
    cublasOperation_t t = CUBLAS_OP_T;
    cublasLtEpilogue_t e = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType_t bt = CUDA_R_16BF;
    cublasLtCreate(&h);
    cublasLtMatmulDescCreate(&d, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t);
    cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_EPILOGUE, &e, sizeof e);
    cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &db, sizeof db);
    cublasLtMatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bt, sizeof bt);
    cublasLtMatrixLayoutCreate(&lw, CUDA_R_16BF, 16, 4, 16);
    cublasLtMatrixLayoutCreate(&lx, CUDA_R_16BF, 16, 3, 16);
    cublasLtMatrixLayoutCreate(&ly, CUDA_R_32F, 4, 3, 4);
    CHECK(cublasLtMatmul(h, d, &one, dw, lw, dx, lx, &zero, dy, ly, dy, ly, 0, 0, 0, 0) ==
          CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatmul(h, d, &one, dx, lx, dw, lw, &zero, dy, ly, dy, ly, 0, 0, 0, 0) !=
          CUBLAS_STATUS_SUCCESS);
    fetch(y, dy, 12);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            float want = (float)j;
            for (int k = 0; k < 16; k++)
                want += __bfloat162float(x[i * 16 + k]) * __bfloat162float(w[j * 16 + k]);
            CHECK(y[i * 4 + j] == want);
        }
    cublasLtMatrixLayoutDestroy(lw), cublasLtMatrixLayoutDestroy(lx), cublasLtMatrixLayoutDestroy(ly);
    cublasLtMatmulDescDestroy(d), cublasLtDestroy(h);
    return 0;
}

const program clean_programs[] = {
    {"block sum", block_sum, 0, 0, ANY},
    {"tensor core", tensor_core, 0, 0, ANY},
    {"copy engine and wgmma", hopper, 0, 0, ANY},
    {"grid meets", grid_meets, 0, 0, ANY},
    {"the last block sums", last_block, 0, 0, ANY},
    {"graph replays", graph_replays, 0, 0, ANY},
    {"memory is bounded", memory_is_bounded, 0, "CUEMU_MEM=1048576", ANY},
    {"two ranks", peers, 0, 0, ANY},
    {"nccl", nccl, 0, 0, ANY},
    {"cublasLt", matmul, 0, 0, ANY},
    {0, 0, 0, 0, ANY},
};
