/* One spelling of CUDA for two compilers: nvcc, and g++ with -DCUEMU (tests/cuemu runs the kernels on the
 * CPU).
 *
 * A kernel file includes this header or ptx.cuh and differs from ordinary CUDA in three places: LAUNCH for
 * the triple angle brackets, SHARED for __shared__ and DYNAMIC_SHARED for extern __shared__. A template
 * kernel goes into LAUNCH in parentheses; an array becomes SHARED through a typedef or a struct. The header
 * has no state. */
#pragma once
/* Whether LAUNCH_PDL may let kernels overlap: devices of 9.0 and later can. Set when a device is opened. */
inline int dev_overlaps = 0; /* by __atomic: threads of several ranks */

#ifdef CUEMU
#include "cuemu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define SHARED(type, name) __shared__ type name
/* The copy engine and wgmma want 1024-byte alignment; asking for it always costs nothing. */
#define DYNAMIC_SHARED(type, name)                                                                           \
    extern __shared__ __align__(1024) unsigned char dynamic_shared_raw[];                                    \
    type *name = (type *)dynamic_shared_raw

#define LAUNCH(kernel, grid, block, smem, stream, ...)                                                       \
    launch_with((cudaLaunchAttributeID)0, grid, block, smem, stream, kernel, ##__VA_ARGS__)
/* All blocks are resident at once and may wait for each other. */
#define LAUNCH_COOP(kernel, grid, block, smem, stream, ...)                                                  \
    launch_with(cudaLaunchAttributeCooperative, grid, block, smem, stream, kernel, ##__VA_ARGS__)
/* May start before the kernel ahead of it ends; it must call pdl_wait() before it reads what that one wrote.
 */
#define LAUNCH_PDL(kernel, grid, block, smem, stream, ...)                                                   \
    launch_with(cudaLaunchAttributeProgrammaticStreamSerialization, grid, block, smem, stream, kernel,       \
                ##__VA_ARGS__)

template <class... P, class... A>
static inline void launch_with(cudaLaunchAttributeID id, dim3 grid, dim3 block, size_t smem,
                               cudaStream_t stream, void (*kernel)(P...), A... args)
{
    cudaLaunchConfig_t cfg = {};
    cudaLaunchAttribute attr = {};
    cfg.gridDim = grid;
    cfg.blockDim = block;
    cfg.dynamicSmemBytes = smem;
    cfg.stream = stream;
    if (id == cudaLaunchAttributeCooperative) attr.val.cooperative = 1;
    if (id == cudaLaunchAttributeProgrammaticStreamSerialization)
        attr.val.programmaticStreamSerializationAllowed = 1;
    attr.id = id;
    cfg.attrs = &attr;
    cfg.numAttrs = id != 0 && (id != cudaLaunchAttributeProgrammaticStreamSerialization ||
                               __atomic_load_n(&dev_overlaps, __ATOMIC_RELAXED));
    (void)cudaLaunchKernelEx(&cfg, kernel, args...); /* cudaGetLastError reports it */
}
#endif

typedef __nv_bfloat16 bf16;

/* Sum over the 32 lanes, in every lane; the order of the additions is fixed. */
static __device__ __forceinline__ float warp_sum(float v)
{
    for (int step = 16; step; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

static __device__ __forceinline__ float warp_max(float v)
{
    for (int step = 16; step; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}

/* Two bf16 in one register, the first in the low half. */
static __device__ __forceinline__ unsigned bf16x2_pack(float lo, float hi)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *(unsigned *)&v;
}

static __device__ __forceinline__ void bf16x2_unpack(unsigned w, float *lo, float *hi)
{
    *lo = __uint_as_float(w << 16);
    *hi = __uint_as_float(w & 0xffff0000u);
}

/* Eight bf16 in 16 bytes: load or store the uint4 in one access and convert it here. A struct of bf16 would
 * be moved in pieces, because the type has constructors. */
static __device__ __forceinline__ void bf16x8_unpack(uint4 u, float f[8])
{
    bf16x2_unpack(u.x, f + 0, f + 1);
    bf16x2_unpack(u.y, f + 2, f + 3);
    bf16x2_unpack(u.z, f + 4, f + 5);
    bf16x2_unpack(u.w, f + 6, f + 7);
}

static __device__ __forceinline__ uint4 bf16x8_pack(const float f[8])
{
    return make_uint4(bf16x2_pack(f[0], f[1]), bf16x2_pack(f[2], f[3]), bf16x2_pack(f[4], f[5]),
                      bf16x2_pack(f[6], f[7]));
}
