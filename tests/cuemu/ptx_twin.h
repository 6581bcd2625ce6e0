/* The emulated twins of kernels/cuda/ptx.cuh, written from the fragment tables of the PTX manual. Included by
 * it, after dev.cuh. Asynchronous work lands at once under CUEMU_ORDER=forward and as late as its wait allows
 * otherwise, so a missing wait shows in one of the two. No state. */
#pragma once
#include "cuemu.h"

struct tma_map; /* ptx.cuh; here it holds the arguments of tma_map2 */

unsigned cuemu_smem_offset(const void *p); /* in its block's window; aborts when p is no shared memory */
#define smem_addr cuemu_smem_offset

/* ---- order ---- */
static inline void st_release(unsigned *p, unsigned v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline unsigned ld_acquire(const unsigned *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline unsigned add_acq_rel(unsigned *p, unsigned v)
{
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
#define spin_until(cond)                                                                                     \
    while (!(cond)) cuemu_yield(CUEMU_HERE)
#define named_barrier(id, n) cuemu_named_barrier(id, n, CUEMU_HERE)
static inline void pdl_wait(void) {}
static inline void pdl_launch(void) {}

/* ---- cp.async ---- */
void cp_async16(void *dst, const void *src, int n_valid = 16);
void cp_commit(void);
void cuemu_cp_wait(int newest);
template <int N> static inline void cp_wait(void) { cuemu_cp_wait(N); }

/* ---- tensor cores of a warp ---- */
static inline void cuemu_ldmatrix(unsigned r[4], const void *row, bool transposed, cuemu_site at)
{
    if (cuemu_smem_offset(row) % 16) cuemu_fail("ldmatrix: row not 16-byte aligned, %s:%d", at.file, at.line);
    const unsigned char *rows = cuemu_exchange(0xffffffffu, &row, sizeof row, false, at);
    int lane = cuemu_me()->lane, y = lane / 4, x = lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
        const uint16_t *m[2];
        uint16_t e[2];
        for (int j = 0; j < 2; j++) {
            cuemu_pick(&m[j], rows, 8 * i + (transposed ? x + j : y), sizeof m[j]);
            e[j] = m[j][transposed ? y : x + j];
        }
        r[i] = e[0] | (unsigned)e[1] << 16;
    }
}
#define ldmatrix4(r, p)  cuemu_ldmatrix(r, p, false, CUEMU_HERE)
#define ldmatrix4t(r, p) cuemu_ldmatrix(r, p, true, CUEMU_HERE)
void cuemu_mma16816(float d[4], const unsigned a[4], const unsigned b[2], cuemu_site at);
#define mma16816(d, a, b) cuemu_mma16816(d, a, b, CUEMU_HERE)

/* ---- mbarrier and the copy engine ---- */
void mbar_init(uint64_t *b, int count);
static inline void mbar_fence(void) {}
void mbar_expect(uint64_t *b, int bytes);
static inline void mbar_arrive(uint64_t *b) { mbar_expect(b, 0); }
void cuemu_mbar_complete(uint64_t *b, int bytes);
void cuemu_mbar_wait(uint64_t *b, int parity, cuemu_site at);
#define mbar_wait(b, parity) cuemu_mbar_wait(b, parity, CUEMU_HERE)
void tma_load2(void *dst, const tma_map *map, uint64_t *b, int x, int y);
cudaError_t tma_map2(tma_map *map, const void *base, int rows, int cols, int box_rows);

/* ---- wgmma ---- */
static inline void wgmma_fence(void) {}
void wgmma_commit(void);
void cuemu_wgmma_wait(int newest);
template <int N> static inline void wgmma_wait(void) { cuemu_wgmma_wait(N); }
void cuemu_wgmma(float *d, int n, uint64_t a, uint64_t b, int acc, cuemu_site at);
#define wgmma_m64n64k16(d, a, b, acc) cuemu_wgmma(d, 64, a, b, acc, CUEMU_HERE)
