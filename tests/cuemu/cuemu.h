/* Runs CUDA kernels on the CPU: what a .cu file sees when g++ compiles it with -DCUEMU
 * (kernels/cuda/dev.cuh).
 *
 * Every CUDA thread is a fiber that runs until it has to wait, blocks run one after the other (all at once in
 * a cooperative launch), and the host API (cudaMalloc, streams, graphs) is link-time symbols of the emulator,
 * so host code keeps the real headers. A launch runs on the host thread that drains its stream; several host
 * threads may each drive a device. Shared memory and fresh device memory hold 0xFF bytes (NaN). A mistake
 * prints "cuemu: ..." and aborts. The environment chooses the schedule:
 *
 * - CUEMU_ORDER=forward|reverse|random:N: which thread goes first. In forward asynchronous copies land at
 *   once, else as late as their wait allows. A correct kernel gives the same bits under all.
 * - CUEMU_LAZY=1: a stream runs only when something waits for it.
 * - CUEMU_STRICT=1: the host cannot touch device memory.
 * - CUEMU_DEVICES=N: pretended devices, default 2.
 * - CUEMU_MEM=BYTES: memory of each, default 1 GB.
 * - CUEMU_SPIN=SECONDS: a kernel that only spins for so long is deadlocked, default 20.
 * - CUEMU_STATS=1: one line for every launch. */
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <functional>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

/* ---- who am I ---- */

struct cuemu_thread {
    uint3 tid, bid;
    dim3 block, grid;
    int lane, warp;
};
extern "C" __thread struct cuemu_thread *cuemu_self __attribute__((tls_model("initial-exec")));
#ifdef __SANITIZE_THREAD__ /* a fiber reads what belongs to its host thread: no race */
#define CUEMU_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#else
#define CUEMU_UNSEEN
#endif
CUEMU_UNSEEN static inline struct cuemu_thread *cuemu_me(void) { return cuemu_self; }
#define threadIdx (cuemu_me()->tid)
#define blockIdx  (cuemu_me()->bid)
#define blockDim  (cuemu_me()->block)
#define gridDim   (cuemu_me()->grid)
static const int warpSize = 32;

#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#ifndef __noinline__
#define __noinline__
#endif

/* Where in the source a thread waits; every collective takes one, for the reports. */
struct cuemu_site {
    const char *file;
    int line;
};
#define CUEMU_HERE (cuemu_site{__FILE__, __LINE__})
[[noreturn]] void cuemu_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#define __trap() cuemu_fail("__trap at %s:%d", __FILE__, __LINE__)

/* ---- launch ---- */

typedef std::function<void()> cuemu_work;
struct cuemu_launch {
    const char *name;
    const void *kernel;
    dim3 grid, block;
    size_t smem;
    bool coop;
    cuemu_work body;
};
void cuemu_enqueue(cuemu_launch l, cudaStream_t stream);

/* The arguments become the parameters' types here, as on a real launch, and are copied once. */
template <class... P, class... A>
static inline void cuemu_launch_with(const char *name, bool coop, dim3 grid, dim3 block, size_t smem,
                                     cudaStream_t stream, void (*kernel)(P...), A... args)
{
    std::tuple<std::decay_t<P>...> params{args...};
    cuemu_enqueue({name, (const void *)kernel, grid, block, smem, coop, [=] { std::apply(kernel, params); }},
                  stream);
}
#define LAUNCH(kernel, grid, block, smem, stream, ...)                                                       \
    cuemu_launch_with(#kernel, false, grid, block, smem, stream, kernel, ##__VA_ARGS__)
#define LAUNCH_COOP(kernel, grid, block, smem, stream, ...)                                                  \
    cuemu_launch_with(#kernel, true, grid, block, smem, stream, kernel, ##__VA_ARGS__)
#define LAUNCH_PDL LAUNCH

/* ---- shared memory: one arena per block; a static variable is known by the address of a tag ---- */

void *cuemu_shared(const void *tag, size_t size, size_t align);
void *cuemu_dynamic(size_t align);
#define SHARED(type, name)                                                                                   \
    static char name##_tag;                                                                                  \
    type &name = *(type *)cuemu_shared(&name##_tag, sizeof(type), alignof(type))
#define DYNAMIC_SHARED(type, name) type *name = (type *)cuemu_dynamic(alignof(type))

/* ---- barriers ---- */

void cuemu_syncthreads(cuemu_site at);
int cuemu_syncthreads_count(int p, cuemu_site at);
void cuemu_named_barrier(int id, int n, cuemu_site at);
void cuemu_grid_sync(cuemu_site at);
void cuemu_yield(cuemu_site at); /* one round of a spin loop */
void cuemu_fence(void);
#define __syncthreads()        cuemu_syncthreads(CUEMU_HERE)
#define __syncthreads_count(p) cuemu_syncthreads_count((p) != 0, CUEMU_HERE)
#define __syncthreads_or(p)    (cuemu_syncthreads_count((p) != 0, CUEMU_HERE) != 0)
#define __syncthreads_and(p)   (cuemu_syncthreads_count((p) == 0, CUEMU_HERE) == 0)
#define __nanosleep(ns)        cuemu_yield(CUEMU_HERE)
static inline void __threadfence_block(void) { cuemu_fence(); }
static inline void __threadfence(void) { cuemu_fence(); }
static inline void __threadfence_system(void) { cuemu_fence(); }

/* ---- warp collectives ---- */

/* Every lane of mask deposits some bytes and gets the table of all deposits, CUEMU_SLOT bytes per lane, valid
 * until its next collective. Only with `order` are memory accesses before and after ordered
 * (ThreadSanitizer's view). */
enum { CUEMU_SLOT = 32 };
const unsigned char *cuemu_exchange(unsigned mask, const void *v, size_t bytes, bool order, cuemu_site at);
void cuemu_pick(void *dst, const unsigned char *table, int lane, size_t bytes);
unsigned cuemu_ballot(unsigned mask, int p, cuemu_site at);
struct cuemu_syncwarp {
    cuemu_site at;
    void operator()(unsigned mask = 0xffffffffu) const { cuemu_exchange(mask, 0, 0, true, at); }
};
#define __syncwarp                                                                                           \
    cuemu_syncwarp { CUEMU_HERE }
#define __ballot_sync(m, p) cuemu_ballot(m, (p) != 0, CUEMU_HERE)
#define __any_sync(m, p)    (cuemu_ballot(m, (p) != 0, CUEMU_HERE) != 0)
#define __all_sync(m, p)    (cuemu_ballot(m, (p) == 0, CUEMU_HERE) == 0)

enum cuemu_shuffle { CUEMU_IDX, CUEMU_XOR, CUEMU_DOWN, CUEMU_UP };
/* A lane whose source lies outside its segment of `width` lanes keeps its own value. */
template <cuemu_shuffle K, class T>
static inline T cuemu_shfl(cuemu_site at, unsigned mask, T v, int arg, int width = 32)
{
    static_assert(sizeof(T) <= CUEMU_SLOT && std::is_trivially_copyable_v<T>);
    int lane = cuemu_me()->lane, first = lane & ~(width - 1), from;
    if (K == CUEMU_IDX)
        from = first + (arg & (width - 1));
    else if (K == CUEMU_XOR)
        from = lane ^ arg;
    else
        from = K == CUEMU_DOWN ? lane + arg : lane - arg;
    if (from < (K == CUEMU_XOR ? 0 : first) || from >= first + width) from = lane;
    const unsigned char *table = cuemu_exchange(mask, &v, sizeof v, false, at);
    if (!(mask >> from & 1))
        cuemu_fail("shuffle from lane %d, not in mask %08x, %s:%d", from, mask, at.file, at.line);
    T r;
    cuemu_pick(&r, table, from, sizeof r);
    return r;
}
#define __shfl_sync(m, ...)      cuemu_shfl<CUEMU_IDX>(CUEMU_HERE, m, __VA_ARGS__)
#define __shfl_xor_sync(m, ...)  cuemu_shfl<CUEMU_XOR>(CUEMU_HERE, m, __VA_ARGS__)
#define __shfl_down_sync(m, ...) cuemu_shfl<CUEMU_DOWN>(CUEMU_HERE, m, __VA_ARGS__)
#define __shfl_up_sync(m, ...)   cuemu_shfl<CUEMU_UP>(CUEMU_HERE, m, __VA_ARGS__)

template <class T, class F> static inline T cuemu_reduce(cuemu_site at, unsigned mask, T v, F f)
{
    const unsigned char *table = cuemu_exchange(mask, &v, sizeof v, false, at);
    T r = v, x;
    for (int i = 0, first = 1; i < 32; i++)
        if (mask >> i & 1) {
            cuemu_pick(&x, table, i, sizeof x);
            r = first ? x : f(r, x);
            first = 0;
        }
    return r;
}
#define CUEMU_REDUCE(m, v, e)   cuemu_reduce(CUEMU_HERE, m, v, [](auto a, auto b) { return e; })
#define __reduce_add_sync(m, v) CUEMU_REDUCE(m, v, a + b)
#define __reduce_min_sync(m, v) CUEMU_REDUCE(m, v, a < b ? a : b)
#define __reduce_max_sync(m, v) CUEMU_REDUCE(m, v, a > b ? a : b)
#define __reduce_or_sync(m, v)  CUEMU_REDUCE(m, v, a | b)
#define __reduce_and_sync(m, v) CUEMU_REDUCE(m, v, a &b)

#include "cuemu_math.h"
