/* Planted bugs. Each names the text that must appear when it runs; without that text the test fails. */
#include "selftest.h"
#include <pthread.h>

/* A block reverses its 64 numbers through shared memory. */
typedef float row_t[64];
enum { NO_BARRIER = 1, SPLIT_BARRIER, EARLY_EXIT, SHARED_OVERRUN };
template <int BUG> static __global__ void reverse_kernel(float *out, const float *in)
{
    SHARED(row_t, s);
    int t = threadIdx.x;
    if (BUG == EARLY_EXIT && t == 5) return;
    s[BUG == SHARED_OVERRUN ? t + 1 : t] = in[t];
    if (BUG == SPLIT_BARRIER) {
        if (t < 32)
            __syncthreads();
        else
            __syncthreads();
    } else if (BUG != NO_BARRIER)
        __syncthreads();
    out[t] = s[63 - t];
}
template <int BUG> static int reverse_row(void)
{
    float in[64], out[64];
    for (int i = 0; i < 64; i++) in[i] = (float)i;
    float *d = device_array(64, in), *o = device_array<float>(64);
    LAUNCH((reverse_kernel<BUG>), dim3(1), dim3(64), 0, 0, o, d);
    fetch(out, o, 64);
    for (int i = 0; i < 64; i++) CHECK(out[i] == (float)(63 - i));
    return 0;
}

/* Global memory: far out of bounds, and a few bytes. */
static __global__ void write_kernel(float *p, int at) { p[at] = 1; }
template <int AT> static int write_beyond(void)
{
    float *p = device_array<float>(100);
    LAUNCH(write_kernel, dim3(1), dim3(1), 0, 0, p, AT);
    cudaFree(p);
    return 0;
}

/* cp.async */
enum { NO_WAIT = 1, LATE_WAIT, MISALIGNED };
template <int BUG> static __global__ void copy_kernel(float *out, const float *in)
{
    SHARED(row_t, s);
    int t = threadIdx.x; /* 0 .. 15, 4 numbers each */
    cp_async16(&s[t * 4], in + t * 4 + (BUG == MISALIGNED));
    cp_commit();
    if (BUG != NO_WAIT) cp_wait<BUG == LATE_WAIT ? 1 : 0>();
    __syncthreads();
    for (int i = 0; i < 4; i++) out[t * 4 + i] = s[(63 - t * 4 - i)];
    cp_wait<0>();
}
template <int BUG> static int copy_row(void)
{
    float in[68], out[64];
    for (int i = 0; i < 68; i++) in[i] = (float)i;
    float *d = device_array(68, in), *o = device_array<float>(64);
    LAUNCH((copy_kernel<BUG>), dim3(1), dim3(16), 0, 0, o, d);
    fetch(out, o, 64);
    for (int i = 0; i < 64; i++) CHECK(out[i] == (float)(63 - i));
    return 0;
}

/* Waits that never end. */
static __global__ void mbar_kernel(void)
{
    SHARED(uint64_t, bar);
    if (threadIdx.x == 0) mbar_init(&bar, 2);
    __syncthreads();
    if (threadIdx.x == 0) mbar_arrive(&bar);
    mbar_wait(&bar, 0);
}
static int mbar_stuck(void)
{
    LAUNCH(mbar_kernel, dim3(1), dim3(32), 0, 0);
    return 0;
}
static __global__ void meet_kernel(unsigned *n)
{
    add_acq_rel(n, 1);
    spin_until(ld_acquire(n) == gridDim.x);
}
static int blocks_wait(void)
{
    unsigned zero = 0, *n = device_array(1, &zero);
    LAUNCH(meet_kernel, dim3(2), dim3(1), 0, 0, n);
    return 0;
}

/* Warp collectives. */
static __global__ void shuffle_kernel(float *out, unsigned mask)
{
    out[threadIdx.x] = __shfl_sync(mask, (float)threadIdx.x, 0);
}
static int shuffle_outside(void)
{
    float *o = device_array<float>(32);
    LAUNCH(shuffle_kernel, dim3(1), dim3(32), 0, 0, o, 0xffffu);
    return 0;
}
static __global__ void half_kernel(float *out)
{
    float v = 1;
    if (threadIdx.x < 16) v = warp_sum(v);
    out[threadIdx.x] = v;
}
static int half_warp(void)
{
    float *o = device_array<float>(32);
    LAUNCH(half_kernel, dim3(1), dim3(32), 0, 0, o);
    return 0;
}

/* Host mistakes. */
static int host_reads(void)
{
    float *p = device_array<float>(8);
    printf("%g\n", (double)p[0]);
    return 0;
}
static __global__ void double_kernel(float *p) { p[threadIdx.x] *= 2; }
static int pinned_too_early(void)
{
    float *pin, out[32], *d = device_array<float>(32);
    cudaMallocHost((void **)&pin, sizeof out);
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    for (int i = 0; i < 32; i++) pin[i] = (float)i;
    cudaMemcpyAsync(d, pin, sizeof out, cudaMemcpyHostToDevice, s);
    LAUNCH(double_kernel, dim3(1), dim3(32), 0, s, d);
    for (int i = 0; i < 32; i++) pin[i] = -1; /* nothing says that the copy is done */
    cudaStreamSynchronize(s);
    fetch(out, d, 32);
    for (int i = 0; i < 32; i++) CHECK(out[i] == (float)(2 * i));
    return 0;
}
static int result_too_early(void)
{
    float *pin, *d = device_array<float>(1);
    cudaMallocHost((void **)&pin, sizeof *pin);
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMemsetAsync(d, 0, 4, s);
    cudaMemcpyAsync(pin, d, 4, cudaMemcpyDeviceToHost, s);
    CHECK(pin[0] == 0);
    cudaStreamSynchronize(s);
    return 0;
}
static __global__ void big_kernel(void) {}
static int too_much_shared(void)
{
    LAUNCH(big_kernel, dim3(1), dim3(32), 64 << 10, 0);
    return 0;
}
static int stream_elsewhere(void)
{
    cudaStream_t s;
    cudaStreamCreate(&s);
    cudaSetDevice(1);
    LAUNCH(big_kernel, dim3(1), dim3(32), 0, s);
    return 0;
}

/* Races that no schedule shows. */
static __global__ void slot_kernel(float *p) { *p = 1; }
static int blocks_race(void)
{
    float *p = device_array<float>(1);
    LAUNCH(slot_kernel, dim3(2), dim3(1), 0, 0, p);
    return 0;
}
static int streams_race(void)
{
    float *p = device_array<float>(1);
    for (int i = 0; i < 2; i++) {
        cudaStream_t s;
        cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
        LAUNCH(big_kernel, dim3(1), dim3(1), 0, s); /* orders nothing between streams */
        LAUNCH(slot_kernel, dim3(1), dim3(1), 0, s, p);
    }
    cudaDeviceSynchronize();
    return 0;
}

/* The block that counts last adds up what all blocks have written. */
enum { NO_BARRIER_BEFORE = 1, NO_FENCE };
template <int BUG> static __global__ void last_kernel(float *part, float *out, unsigned *count)
{
    SHARED(bool, last);
    int t = threadIdx.x;
    float sum = 0;
    __syncthreads(); /* with the last it makes two: barriers take turns in what they keep */
    part[blockIdx.x * 64 + t] = (float)t;
    if (BUG != NO_BARRIER_BEFORE) __syncthreads();
    if (t == 0) last = (BUG == NO_FENCE ? atomicAdd(count, 1) : add_acq_rel(count, 1)) == gridDim.x - 1;
    __syncthreads();
    for (unsigned b = 0; last && b < gridDim.x; b++) sum += part[b * 64 + (63 - t)];
    if (last) out[t] = sum;
}
template <int BUG> static int last_block(void)
{
    enum { BLOCKS = 4 };
    unsigned zero = 0, *n = device_array(1, &zero);
    float *part = device_array<float>(BLOCKS * 64), *o = device_array<float>(64);
    LAUNCH((last_kernel<BUG>), dim3(BLOCKS), dim3(64), 0, 0, part, o, n);
    return 0;
}
static __global__ void warp_kernel(float *out)
{
    SHARED(row_t, s);
    s[threadIdx.x] = (float)threadIdx.x;
    float v = __shfl_sync(0xffffffffu, 1.f, 0); /* meets the lanes, orders no memory */
    out[threadIdx.x] = v + s[threadIdx.x ^ 1];
}
static int warp_race(void)
{
    float *o = device_array<float>(32);
    LAUNCH(warp_kernel, dim3(1), dim3(32), 0, 0, o);
    return 0;
}

/* Two ranks add up their buffers; the flag is raised before all threads have written. */
struct ranks {
    float *buf[2], *out[2];
    unsigned *flag[2];
};
static __global__ void sum_kernel(ranks r, int me)
{
    int t = threadIdx.x;
    r.buf[me][t] = (float)(t + me);
    if (t == 0) {
        st_release(r.flag[me], 1);
        spin_until(ld_acquire(r.flag[1 - me]));
    }
    __syncthreads();
    r.out[me][t] = r.buf[0][t] + r.buf[1][t];
}
static ranks both;
static void *rank_main(void *arg)
{
    int me = arg != nullptr;
    cudaSetDevice(me);
    LAUNCH(sum_kernel, dim3(1), dim3(64), 0, 0, both, me);
    cudaDeviceSynchronize();
    return 0;
}
static int peer_race(void)
{
    unsigned zero = 0;
    for (int i = 0; i < 2; i++) {
        cudaSetDevice(i);
        both.buf[i] = device_array<float>(64);
        both.out[i] = device_array<float>(64);
        both.flag[i] = device_array(1, &zero);
    }
    pthread_t t[2];
    for (size_t i = 0; i < 2; i++) pthread_create(&t[i], 0, rank_main, i ? &both : nullptr);
    for (size_t i = 0; i < 2; i++) pthread_join(t[i], 0);
    return 0;
}

const program bug_programs[] = {
    {"no __syncthreads", reverse_row<NO_BARRIER>, "wrong", 0, ANY},
    {"no __syncthreads, race", reverse_row<NO_BARRIER>, "data race", 0, TSAN},
    {"barrier on two lines", reverse_row<SPLIT_BARRIER>, "divergent barrier", 0, ANY},
    {"thread ends before the barrier", reverse_row<EARLY_EXIT>, "barrier", 0, ANY},
    {"shared memory overrun", reverse_row<SHARED_OVERRUN>, "AddressSanitizer", 0, ASAN},
    {"global memory overrun", write_beyond<1100>, "out of bounds of the 400 bytes", "CUEMU_STRICT=1", ANY},
    {"global memory underrun", write_beyond<-1000>, "out of bounds of the 400 bytes", "CUEMU_STRICT=1", ANY},
    {"write behind the end", write_beyond<100>, "wrote behind the 400 bytes", 0, ANY},
    {"write behind the end, seen at once", write_beyond<100>, "AddressSanitizer", 0, ASAN},
    {"no cp_wait", copy_row<NO_WAIT>, "wrong", 0, ANY},
    {"cp_wait for too few", copy_row<LATE_WAIT>, "wrong", 0, ANY},
    {"no cp_wait, race", copy_row<NO_WAIT>, "data race", 0, TSAN},
    {"misaligned cp_async16", copy_row<MISALIGNED>, "not 16-byte aligned", 0, ANY},
    {"mbarrier without its arrivals", mbar_stuck, "waits at ", 0, ANY},
    {"blocks that wait for each other", blocks_wait, "spins at ", "CUEMU_SPIN=1", ANY},
    {"lane outside its mask", shuffle_outside, "not in its own mask", 0, ANY},
    {"half a warp sums", half_warp, "lanes that have ended", 0, ANY},
    {"host reads device memory", host_reads, "host touched device memory", "CUEMU_STRICT=1", ANY},
    {"pinned buffer reused too early", pinned_too_early, "wrong", "CUEMU_LAZY=1", ANY},
    {"pinned buffer reused too early, race", pinned_too_early, "data race", 0, TSAN},
    {"result read too early", result_too_early, "wrong", "CUEMU_LAZY=1", ANY},
    {"result read too early, race", result_too_early, "data race", 0, TSAN},
    {"64 KB of shared memory, not asked for", too_much_shared, "cudaFuncSetAttribute", 0, ANY},
    {"stream of another device", stream_elsewhere, "belongs to device 0", 0, ANY},
    {"two blocks write one slot", blocks_race, "data race", 0, TSAN},
    {"two streams write one slot", streams_race, "data race", 0, TSAN},
    {"a block is counted before all its threads have written", last_block<NO_BARRIER_BEFORE>, "data race", 0,
     TSAN},
    {"a block is counted without a fence", last_block<NO_FENCE>, "data race", 0, TSAN},
    {"no __syncwarp", warp_race, "data race", 0, TSAN},
    {"flag raised before the rank has written", peer_race, "data race", 0, TSAN},
    {0, 0, 0, 0, ANY},
};
