/* The only inline PTX of the project. Every wrapper has an emulated twin in tests/cuemu/ptx_twin.h, and
 * kernels call the wrappers only. What each needs: cp_async, ldmatrix, mma, barriers: sm_80; mbarrier and the
 * copy engine (tma): sm_90; wgmma: sm_90a, so a kernel that uses it guards its body with HAVE_WGMMA. The
 * header has no state. */
#pragma once
#include "dev.cuh"

/* The driver's description of a matrix for the copy engine (its CUtensorMap); a kernel takes it as a
 * const __grid_constant__ parameter. */
struct alignas(64) tma_map {
    unsigned char opaque[128];
};

#ifdef CUEMU
#define HAVE_TMA   1
#define HAVE_WGMMA 1
#include "ptx_twin.h"
#else

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define HAVE_TMA 1
#endif
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#endif

static __device__ __forceinline__ unsigned smem_addr(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

/* ---- asynchronous copies of one thread, global to shared ---- */

/* 16 bytes, both ends 16-byte aligned; bytes from n_valid on are filled with zero and not read. */
static __device__ __forceinline__ void cp_async16(void *dst, const void *src, int n_valid = 16)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_addr(dst)), "l"(src), "r"(n_valid)
                 : "memory");
}
static __device__ __forceinline__ void cp_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most the N newest groups of this thread are under way. */
template <int N> static __device__ __forceinline__ void cp_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* ---- tensor cores, one warp ---- */

/* Four 8x8 matrices of 16-bit elements. Lane 8i+r passes the address of row r of matrix i (16 bytes,
 * aligned); r[i] of lane l gets row l/4, columns 2(l%4) and the next. The t form hands out the transposes. */
static __device__ __forceinline__ void ldmatrix4(unsigned r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_addr(row))
                 : "memory");
}
static __device__ __forceinline__ void ldmatrix4t(unsigned r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_addr(row))
                 : "memory");
}
/* d[16][8] += a[16][16] b[16][8], bf16 in, float sums. Lane l: d rows l/4 (d0 d1) and l/4+8 (d2 d3), columns
 * 2(l%4) and the next; a rows l/4 (a0 a2) and l/4+8 (a1 a3), k 2(l%4) (a0 a1) and +8 (a2 a3); b column l/4.
 */
static __device__ __forceinline__ void mma16816(float d[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ---- order between threads, blocks and devices ---- */

static __device__ __forceinline__ void st_release(unsigned *p, unsigned v)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
static __device__ __forceinline__ unsigned ld_acquire(const unsigned *p)
{
    unsigned v;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
/* Adds and gives the old value; orders like both of the above, on one device. For "the last block finishes".
 */
static __device__ __forceinline__ unsigned add_acq_rel(unsigned *p, unsigned v)
{
    unsigned old;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(v) : "memory");
    return old;
}
#define spin_until(cond)                                                                                     \
    while (!(cond)) {}
/* A barrier of n threads of the block (a multiple of 32); id 1 to 15, 0 is that of __syncthreads. */
static __device__ __forceinline__ void named_barrier(int id, int n)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}

/* ---- programmatic dependent launch: with LAUNCH_PDL, and nothing otherwise ---- */

static __device__ __forceinline__ void pdl_wait(void)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
static __device__ __forceinline__ void pdl_launch(void)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- mbarrier and the copy engine ---- */
#ifdef HAVE_TMA
static __device__ __forceinline__ void mbar_init(uint64_t *b, int count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(smem_addr(b)), "r"(count) : "memory");
}
/* After mbar_init, before the copy engine or another thread sees the barrier. */
static __device__ __forceinline__ void mbar_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
}
static __device__ __forceinline__ void mbar_arrive(uint64_t *b)
{
    asm volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(smem_addr(b)) : "memory");
}
/* Arrives, and makes the phase wait for that many bytes of the copy engine too. */
static __device__ __forceinline__ void mbar_expect(uint64_t *b, int bytes)
{
    asm volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared.b64 t, [%0], %1; }" ::"r"(smem_addr(b)),
                 "r"(bytes)
                 : "memory");
}
/* Waits for the end of the phase with this parity (0, 1, 0, ...). */
static __device__ __forceinline__ void mbar_wait(uint64_t *b, int parity)
{
    asm volatile("{ .reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n"
                 "@!p bra again;\n}" ::"r"(smem_addr(b)),
                 "r"(parity)
                 : "memory");
}
/* Copies the map's box whose first element is column x of row y; what lies outside the tensor becomes zero.
 */
static __device__ __forceinline__ void tma_load2(void *dst, const tma_map *map, uint64_t *b, int x, int y)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
        "[%2];" ::"r"(smem_addr(dst)),
        "l"(map), "r"(smem_addr(b)), "r"(x), "r"(y)
        : "memory");
}
#endif

/* Describes a bf16 matrix [rows][cols] to the copy engine, box [box_rows][64]: 128-byte rows in shared
 * memory, whose 16-byte chunk c of row r lies at chunk c ^ (r & 7). cols must be a multiple of 8. */
static inline cudaError_t tma_map2(tma_map *map, const void *base, int rows, int cols, int box_rows)
{
    /* cuTensorMapEncodeTiled, fetched from the driver at run time; the enums are ints there. */
    typedef int (*encode_fn)(tma_map *, int type, uint32_t rank, void *base, const uint64_t *dim,
                             const uint64_t *stride, const uint32_t *box, const uint32_t *step,
                             int interleave, int swizzle, int l2, int fill);
    enum {
        TYPE_BF16 = 9,
        INTERLEAVE_NONE = 0,
        SWIZZLE_128B = 3,
        L2_256B = 3,
        FILL_ZERO = 0,
        DRIVER_12 = 12000
    };
    void *fn = 0;
    cudaDriverEntryPointQueryResult found;
    cudaError_t e =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, DRIVER_12, cudaEnableDefault, &found);
    if (e != cudaSuccess) return e;
    if (!fn || found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
    uint64_t dim[2] = {(uint64_t)cols, (uint64_t)rows}, stride[1] = {(uint64_t)cols * 2};
    uint32_t box[2] = {64, (uint32_t)box_rows}, step[2] = {1, 1};
    int r = ((encode_fn)fn)(map, TYPE_BF16, 2, (void *)base, dim, stride, box, step, INTERLEAVE_NONE,
                            SWIZZLE_128B, L2_256B, FILL_ZERO);
    return r ? cudaErrorInvalidValue : cudaSuccess;
}

/* ---- wgmma: one warpgroup (4 warps), both operands in shared memory ---- */
#ifdef HAVE_WGMMA
static __device__ __forceinline__ void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* d[64][64] = (acc ? d : 0) + a[64][16] b[64][16]^T. Warp w, lane l: d[4j + 2h + e] is row 16w + l/4 + 8h,
 * column 8j + 2(l%4) + e. */
static __device__ __forceinline__ void wgmma_m64n64k16(float d[32], uint64_t a, uint64_t b, int acc)
{
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
        "%11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
        "%31}, %32, %33, p, 1, 1, 0, 0; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
          "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),
          "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),
          "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(acc));
}
#endif
#endif /* CUEMU */

/* Where a wgmma operand lies: rows of 64 bf16 (128 bytes, swizzled as tma_load2 leaves them), groups of 8
 * rows 1024 bytes apart. k step i of 16 begins at p + 16 i. Fields: address / 16, stride / 16 at bit 32,
 * 128-byte swizzle. */
static __device__ __forceinline__ uint64_t wgmma_desc128(const void *p)
{
    return (uint64_t)(smem_addr(p) >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
