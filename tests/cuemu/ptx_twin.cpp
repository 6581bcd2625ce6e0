/* The twins that need the runtime: shared memory, cp.async, the copy engine, mma and wgmma. */
#include "runtime.h"
#include "ptx_twin.h"

/* ---- shared memory ---- */

void *cuemu_shared(const void *tag, size_t size, size_t align)
{
    quiet q;
    block *b = cuemu_machine->cur->blk;
    for (auto &s : b->statics)
        if (s.first == tag) return b->smem + s.second;
    size_t a = align < 16 ? 16 : align, at = (b->used + a - 1) / a * a;
    b->statics_bytes += size;
    if (b->statics_bytes > SMEM_STATIC_MAX)
        cuemu_fail("%zu bytes of static shared memory, the limit is %d", b->statics_bytes, SMEM_STATIC_MAX);
    if (at + size > SMEM_MAX) cuemu_fail("%zu bytes of shared memory, a block has %d", at + size, SMEM_MAX);
    b->used = at + size;
    if (__asan_unpoison_memory_region) {
        __asan_unpoison_memory_region(b->smem + at, size);
        b->used += 32;
    }
    b->statics.push_back({tag, at});
    return b->smem + at;
}

void *cuemu_dynamic(size_t) { return cuemu_machine->cur->blk->smem; }

unsigned cuemu_smem_offset(const void *p)
{
    ptrdiff_t d = (const char *)p - cuemu_machine->cur->blk->smem;
    if (d < 0 || d >= SMEM_MAX) cuemu_fail("%p is not in this block's shared memory", p);
    return (unsigned)d;
}

/* ---- cp.async ---- */

/* The copy may happen anywhere between its issue and its wait, so both are told to ThreadSanitizer as
 * accesses. */
static void touch(const copy16 &c)
{
    if (!__tsan_read_range) return;
    __tsan_read_range((void *)c.src, (unsigned long)c.valid);
    __tsan_write_range(c.dst, (unsigned long)c.n);
}

static void copy_now(const copy16 &c)
{
    copy_bytes(c.dst, c.src, (size_t)c.valid);
    for (int i = c.valid; i < c.n; i++) c.dst[i] = 0;
}

void cp_async16(void *dst, const void *src, int n_valid)
{
    copy16 c = {(char *)dst, (const char *)src, 16, n_valid};
    if (((uintptr_t)dst | (uintptr_t)src) % 16)
        cuemu_fail("cp_async16 from %p to %p is not 16-byte aligned", src, dst);
    if (n_valid < 0 || n_valid > 16) cuemu_fail("cp_async16 of %d valid bytes", n_valid);
    cuemu_smem_offset(dst);
    if (__asan_region_is_poisoned &&
        (__asan_region_is_poisoned(dst, 16) || __asan_region_is_poisoned((void *)src, (size_t)n_valid)))
        cuemu_fail("cp_async16 from %p to %p is out of bounds", src, dst);
    touch(c);
    quiet q;
    if (cuemu_machine->ord == FORWARD) copy_now(c);
    cuemu_machine->cur->copies.op.push_back(c);
}

void cp_commit(void)
{
    quiet q;
    cuemu_machine->cur->copies.commit();
}

void cuemu_cp_wait(int newest)
{
    cuemu_machine->cur->copies.wait((size_t)newest, [](const copy16 &c) {
        touch(c);
        if (cuemu_machine->ord != FORWARD) copy_now(c);
    });
}

/* ---- mma ---- */

static inline float bf16_at(unsigned w, int hi) { return __uint_as_float(hi ? w & 0xffff0000u : w << 16); }

void cuemu_mma16816(float d[4], const unsigned a[4], const unsigned b[2], cuemu_site at)
{
    struct frag {
        unsigned a[4], b[2];
    } mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const unsigned char *table = cuemu_exchange(0xffffffffu, &mine, sizeof mine, false, at);
    int lane = cuemu_machine->cur->t.lane;
    float sum[4] = {};                     /* as d: rows lane/4 and +8, columns 2 (lane % 4) and the next */
    for (int pair = 0; pair < 8; pair++) { /* k = 2 pair and 2 pair + 1 */
        int from = pair % 4, half = pair / 4;
        const frag *fa = (const frag *)(table + (lane / 4 * 4 + from) * CUEMU_SLOT);
        const frag *fb0 = (const frag *)(table + (lane % 4 * 8 + from) * CUEMU_SLOT);
        const frag *fb1 = (const frag *)(table + (lane % 4 * 8 + 4 + from) * CUEMU_SLOT);
        for (int hi = 0; hi < 2; hi++) {
            float a0 = bf16_at(fa->a[half * 2], hi), a1 = bf16_at(fa->a[half * 2 + 1], hi);
            float b0 = bf16_at(fb0->b[half], hi), b1 = bf16_at(fb1->b[half], hi);
            sum[0] += a0 * b0;
            sum[1] += a0 * b1;
            sum[2] += a1 * b0;
            sum[3] += a1 * b1;
        }
    }
    for (int i = 0; i < 4; i++) d[i] += sum[i];
}

/* ---- the copy engine ---- */

struct tensor_map { /* in the bytes of a tma_map */
    const char *base;
    int rows, cols, box_rows;
    unsigned magic;
};
enum { BOX_COLS = 64, MAP_MAGIC = 0x6d617032, SWIZZLE_ALIGN = 1024 };

static inline unsigned swizzle128(unsigned at) { return at ^ (at >> 3 & 0x70); }

cudaError_t tma_map2(tma_map *map, const void *base, int rows, int cols, int box_rows)
{
    if ((uintptr_t)base % 16 || cols % 8 || rows < 1 || cols < 1 || box_rows < 1 || box_rows > 256)
        return cudaErrorInvalidValue;
    tensor_map t = {(const char *)base, rows, cols, box_rows, MAP_MAGIC};
    memcpy(map, &t, sizeof t);
    return cudaSuccess;
}

void tma_load2(void *dst, const tma_map *map, uint64_t *bar, int x, int y)
{
    quiet q;
    machine *m = cuemu_machine;
    tensor_map t;
    memcpy(&t, map, sizeof t);
    unsigned at = cuemu_smem_offset(dst);
    char *window = m->cur->blk->smem;
    if (t.magic != MAP_MAGIC) cuemu_fail("tma_load2: not a tensor map");
    if (at % SWIZZLE_ALIGN) cuemu_fail("tma_load2: destination not aligned to %d", SWIZZLE_ALIGN);
    if (__asan_region_is_poisoned && __asan_region_is_poisoned(dst, (size_t)t.box_rows * BOX_COLS * 2))
        cuemu_fail("tma_load2: destination out of bounds");
    auto copy = [=] {
        for (int j = 0; j < t.box_rows; j++)
            for (int i = 0; i < BOX_COLS; i++) {
                int64_t row = (int64_t)y + j, col = (int64_t)x + i;
                bool in = row >= 0 && col >= 0 && row < t.rows && col < t.cols;
                uint16_t e = 0;
                if (in) copy_bytes(&e, t.base + (row * t.cols + col) * 2, 2);
                copy_bytes(window + swizzle128(at + (unsigned)(j * BOX_COLS + i) * 2), &e, 2);
            }
        cuemu_mbar_complete(bar, t.box_rows * BOX_COLS * 2);
    };
    if (m->ord == FORWARD)
        copy();
    else
        m->engine.push_back(copy);
}

/* ---- wgmma ---- */

/* Row r of an operand, 16 elements: rows are 128 bytes, swizzled, in groups of 8. */
static void operand_row(float out[16], const char *window, uint64_t desc, int r)
{
    unsigned start = (unsigned)(desc & 0x3fff) << 4, group = (unsigned)(desc >> 32 & 0x3fff) << 4;
    unsigned at = start + (unsigned)(r / 8) * group + (unsigned)(r % 8) * 128;
    for (int chunk = 0; chunk < 2; chunk++) { /* 16 bytes stay together */
        uint16_t e[8];
        copy_bytes(e, window + swizzle128(at + (unsigned)chunk * 16), sizeof e);
        for (int i = 0; i < 8; i++) out[chunk * 8 + i] = __uint_as_float((unsigned)e[i] << 16);
    }
}

void cuemu_wgmma(float *d, int n, uint64_t a, uint64_t b, int acc, cuemu_site at)
{
    if (a >> 62 != 1 || b >> 62 != 1) cuemu_fail("wgmma: only the 128-byte swizzle has a twin");
    cuemu_exchange(0xffffffffu, 0, 0, false, at);
    quiet q;
    fiber *f = cuemu_machine->cur;
    int lane = f->t.lane, w = f->t.warp % 4;
    const char *window = f->blk->smem;
    auto work = [=] {
        float rows[2][16], col[16];
        for (int h = 0; h < 2; h++) operand_row(rows[h], window, a, w * 16 + lane / 4 + h * 8);
        for (int j = 0; j < n / 4; j++) { /* this lane's columns */
            operand_row(col, window, b, j / 2 * 8 + lane % 4 * 2 + j % 2);
            for (int h = 0; h < 2; h++) {
                float sum = 0, *to = &d[j / 2 * 4 + h * 2 + j % 2];
                for (int k = 0; k < 16; k++) sum += rows[h][k] * col[k];
                *to = (acc ? *to : 0) + sum;
            }
        }
    };
    if (cuemu_machine->ord == FORWARD) {
        work();
        f->mma.op.push_back([] {});
    } else
        f->mma.op.push_back(work);
}

void wgmma_commit(void)
{
    quiet q;
    cuemu_machine->cur->mma.commit();
}

void cuemu_wgmma_wait(int newest)
{
    quiet q;
    cuemu_machine->cur->mma.wait((size_t)newest, [](cuemu_work &w) { w(); });
}
