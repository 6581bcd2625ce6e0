/* Do the emulated twins of ptx.cuh do what the device does? Each wrapper runs on random registers; what the
 * twins gave lies in twins.txt (`conformance record`), and a device must give the same (`conformance check`):
 * bit for bit, but for sums of the tensor cores, whose roundings are the hardware's own. Compiled by nvcc on
 * a machine with a GPU, by the C++ compiler for the emulator. One thread; prints a JSON object a line. */
#include "ptx.cuh"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 128, MAX_WORDS = 8192, COLS = 136, ROWS = 50, BOX = 64 };

/* ---- kernels: in and out are arrays of 32-bit words ---- */

/* Each thread copies 16 bytes, of which the first thread % 17 are valid; a second group follows. */
struct copy_smem {
    uint4 a[THREADS], b[THREADS];
};
static __global__ void copies(const unsigned *in, unsigned *out)
{
    SHARED(copy_smem, s);
    int t = threadIdx.x;
    const uint4 *from = (const uint4 *)in;
    uint4 *to = (uint4 *)out;
    cp_async16(&s.a[t], from + t, t % 17);
    cp_commit();
    cp_async16(&s.b[t], from + THREADS - 1 - t);
    cp_commit();
    cp_wait<1>();
    __syncthreads();
    to[t] = s.a[(t + 40) % THREADS];
    cp_wait<0>();
    __syncthreads();
    to[THREADS + t] = s.b[(t + 40) % THREADS];
}

struct matrix_smem {
    uint4 row[32];
};
template <bool TRANSPOSED> static __global__ void matrices(const unsigned *in, unsigned *out)
{
    SHARED(matrix_smem, s);
    int t = threadIdx.x;
    unsigned r[4];
    s.row[t] = ((const uint4 *)in)[t];
    __syncthreads();
    if (TRANSPOSED)
        ldmatrix4t(r, &s.row[(t * 5) % 32]);
    else
        ldmatrix4(r, &s.row[(t * 5) % 32]);
    for (int i = 0; i < 4; i++) out[4 * t + i] = r[i];
}

static __global__ void multiply(const unsigned *in, unsigned *out)
{
    int t = threadIdx.x;
    float d[4];
    for (int i = 0; i < 4; i++) d[i] = (float)(t + i);
    mma16816(d, in + 8 * t, in + 8 * t + 4);
    mma16816(d, in + 8 * t + 2, in + 8 * t + 6);
    for (int i = 0; i < 4; i++) out[4 * t + i] = __float_as_uint(d[i]);
}

/* Two warps hand words to each other; the other two have a barrier of their own. */
struct word_smem {
    unsigned w[THREADS];
};
static __global__ void barriers(const unsigned *in, unsigned *out)
{
    SHARED(word_smem, s);
    int t = threadIdx.x, pair = t / 64;
    s.w[t] = in[t];
    named_barrier(1 + pair, 64);
    unsigned mine = s.w[t ^ 32];
    named_barrier(1 + pair, 64);
    s.w[t] = mine + 1;
    named_barrier(1 + pair, 64);
    out[t] = s.w[t ^ 32];
}

/* Block 0 writes and releases, block 1 acquires and reads; both count, and the last one tells the sum. out:
 * data [THREADS], then what was read [THREADS], the flag, the count, the last block's word. */
static __global__ void releases(const unsigned *in, unsigned *out)
{
    SHARED(unsigned, last);
    unsigned *flag = out + 2 * THREADS, *count = flag + 1, t = threadIdx.x;
    if (blockIdx.x == 0) {
        out[t] = in[t] * 3;
        __syncthreads();
        if (t == 0) st_release(flag, 7);
    } else {
        if (t == 0) spin_until(ld_acquire(flag) == 7);
        __syncthreads();
        out[THREADS + t] = ((volatile unsigned *)out)[t] + 1;
    }
    __syncthreads();
    if (t == 0) last = add_acq_rel(count, 5);
    __syncthreads();
    if (t == 0 && last == 5) count[1] = 99;
}

static __global__ void first_of_two(const unsigned *in, unsigned *out)
{
    pdl_launch();
    out[threadIdx.x] = in[threadIdx.x] ^ 0x55555555u;
}
static __global__ void second_of_two(unsigned *out)
{
    pdl_wait();
    out[THREADS + threadIdx.x] = out[THREADS - 1 - threadIdx.x];
}

/* What kernels take for granted: conversions and sums of a warp. */
static __global__ void conversions(const unsigned *in, unsigned *out)
{
    int t = threadIdx.x;
    float x = __uint_as_float(in[t]), y = ldexpf((float)(int)in[t], -24);
    float eight[8], again[8];
    for (int i = 0; i < 8; i++) eight[i] = ldexpf((float)(int)in[t + i], -20 - i);
    bf16x8_unpack(bf16x8_pack(eight), again);
    unsigned sum = 0;
    for (int i = 0; i < 8; i++) sum = sum * 31 + __float_as_uint(again[i]);
    out[t] = bf16x2_pack(x == x ? x : 0, y);
    out[THREADS + t] = __nv_fp8_e4m3(y).__x;
    out[2 * THREADS + t] = sum;
    out[3 * THREADS + t] = __float_as_uint(warp_sum((float)(in[t] & 0xffff)));
    out[4 * THREADS + t] = __float_as_uint(warp_max(y));
}

/* All threads arrive; threads of the first warp wait for each of three phases. */
static __global__ void phases(const unsigned *in, unsigned *out)
{
#ifdef HAVE_TMA
    SHARED(word_smem, s);
    SHARED(uint64_t, full);
    int t = threadIdx.x;
    if (t == 0) mbar_init(&full, THREADS - 32), mbar_fence();
    __syncthreads();
    for (int i = 0; i < 3; i++) {
        if (t >= 32) {
            s.w[t] = in[t] + i;
            mbar_arrive(&full);
        } else {
            mbar_wait(&full, i % 2);
            out[i * THREADS + t] = s.w[t + 32] + s.w[t + 64] + s.w[t + 96];
        }
        __syncthreads();
    }
#endif
}

/* Boxes over the edges of a matrix [ROWS][COLS], as they lie in shared memory. */
struct box_smem {
    unsigned w[BOX * 32];
    uint64_t full;
};
static __global__ void boxes(const __grid_constant__ tma_map map, unsigned *out)
{
#ifdef HAVE_TMA
    DYNAMIC_SHARED(box_smem, s);
    int t = threadIdx.x;
    if (t == 0) mbar_init(&s->full, 1), mbar_fence();
    __syncthreads();
    for (int i = 0; i < 2; i++) {
        if (t == 0) {
            mbar_expect(&s->full, sizeof s->w);
            tma_load2(s->w, &map, &s->full, i ? 104 : 8, i ? 0 : -3);
        }
        mbar_wait(&s->full, i);
        for (int k = t; k < BOX * 32; k += THREADS) out[i * BOX * 32 + k] = s->w[k];
        __syncthreads();
    }
#endif
}

/* d = a b^T by the whole warpgroup, the first product without what d had; a and b boxes of the matrix. */
struct group_smem {
    bf16 a[BOX][64], b[BOX][64];
    uint64_t full;
};
static __global__ void group(const __grid_constant__ tma_map map, unsigned *out)
{
#ifdef HAVE_WGMMA
    DYNAMIC_SHARED(group_smem, s);
    int t = threadIdx.x;
    if (t == 0) {
        mbar_init(&s->full, 1), mbar_fence();
        mbar_expect(&s->full, sizeof s->a + sizeof s->b);
        tma_load2(s->a, &map, &s->full, 0, 0);
        tma_load2(s->b, &map, &s->full, 64, -5);
    }
    __syncthreads();
    mbar_wait(&s->full, 0);
    float d[32];
    for (int i = 0; i < 32; i++) d[i] = 1000;
    wgmma_fence();
    for (int k = 0; k < 4; k++)
        wgmma_m64n64k16(d, wgmma_desc128(&s->a[0][k * 16]), wgmma_desc128(&s->b[0][k * 16]), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < 32; i++) out[32 * t + i] = __float_as_uint(d[i]);
#endif
}

/* ---- running them ---- */

static uint64_t hash(uint64_t x) /* splitmix64's step  (Steele, Lea, Flood 2014) */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
/* Any bits, or pairs of bf16 of either sign in [1/8, 4). */
static void fill(unsigned *w, bool pairs)
{
    for (int i = 0; i < MAX_WORDS; i++) {
        w[i] = (unsigned)hash((uint64_t)i);
        if (!pairs) continue;
        unsigned lo = w[i] & 0x807f, hi = w[i] >> 16 & 0x807f;
        lo |= (124 + (w[i] >> 8 & 0x7fff) % 5) << 7, hi |= (124 + (w[i] >> 24) % 5) << 7;
        w[i] = hi << 16 | lo;
    }
}

enum input { BITS, PAIRS };
struct program {
    const char *name;
    int words, cc; /* of the result; capability that it needs, 1000 more: exactly that one */
    enum input input;
    bool sums; /* floats whose last bits are the hardware's */
    cudaError_t (*run)(const unsigned *in, unsigned *out);
};
static cudaError_t run_copies(const unsigned *in, unsigned *out)
{
    LAUNCH(copies, dim3(1), dim3(THREADS), 0, 0, in, out);
    return cudaGetLastError();
}
template <bool T> static cudaError_t run_matrices(const unsigned *in, unsigned *out)
{
    LAUNCH((matrices<T>), dim3(1), dim3(32), 0, 0, in, out);
    return cudaGetLastError();
}
static cudaError_t run_multiply(const unsigned *in, unsigned *out)
{
    LAUNCH(multiply, dim3(1), dim3(32), 0, 0, in, out);
    return cudaGetLastError();
}
static cudaError_t run_barriers(const unsigned *in, unsigned *out)
{
    LAUNCH(barriers, dim3(1), dim3(THREADS), 0, 0, in, out);
    return cudaGetLastError();
}
static cudaError_t run_releases(const unsigned *in, unsigned *out)
{
    LAUNCH_COOP(releases, dim3(2), dim3(THREADS), 0, 0, in, out);
    return cudaGetLastError();
}
static cudaError_t run_pdl(const unsigned *in, unsigned *out)
{
    LAUNCH(first_of_two, dim3(1), dim3(THREADS), 0, 0, in, out);
    LAUNCH_PDL(second_of_two, dim3(1), dim3(THREADS), 0, 0, out);
    return cudaGetLastError();
}
static cudaError_t run_conversions(const unsigned *in, unsigned *out)
{
    LAUNCH(conversions, dim3(1), dim3(THREADS), 0, 0, in, out);
    return cudaGetLastError();
}
static cudaError_t run_phases(const unsigned *in, unsigned *out)
{
    LAUNCH(phases, dim3(1), dim3(THREADS), 0, 0, in, out);
    return cudaGetLastError();
}
static cudaError_t run_boxes(const unsigned *in, unsigned *out)
{
    tma_map map;
    cudaError_t e = tma_map2(&map, in, ROWS, COLS, BOX);
    if (e == cudaSuccess) LAUNCH(boxes, dim3(1), dim3(THREADS), sizeof(box_smem), 0, map, out);
    return e == cudaSuccess ? cudaGetLastError() : e;
}
static cudaError_t run_group(const unsigned *in, unsigned *out)
{
    tma_map map;
    cudaError_t e = tma_map2(&map, in, ROWS, COLS, BOX);
    if (e == cudaSuccess) LAUNCH(group, dim3(1), dim3(THREADS), sizeof(group_smem), 0, map, out);
    return e == cudaSuccess ? cudaGetLastError() : e;
}
static const struct program programs[] = {
    {"cp_async", 8 * THREADS, 80, BITS, false, run_copies},
    {"ldmatrix", 128, 80, BITS, false, run_matrices<false>},
    {"ldmatrix.trans", 128, 80, BITS, false, run_matrices<true>},
    {"mma", 128, 80, PAIRS, true, run_multiply},
    {"named barrier", THREADS, 80, BITS, false, run_barriers},
    {"release, acquire, add", 2 * THREADS + 3, 80, BITS, false, run_releases},
    {"dependent launch", 2 * THREADS, 80, BITS, false, run_pdl},
    {"conversions", 5 * THREADS, 80, BITS, false, run_conversions},
    {"mbarrier", 3 * THREADS, 90, BITS, false, run_phases},
    {"copy engine", 2 * BOX * 32, 90, PAIRS, false, run_boxes},
    {"wgmma", 32 * THREADS, 1090, PAIRS, true, run_group},
};

static cudaError_t run(const struct program *p, unsigned *result)
{
    static unsigned input[MAX_WORDS];
    unsigned *in = NULL, *out = NULL;
    fill(input, p->input == PAIRS);
    cudaError_t e = cudaMalloc((void **)&in, sizeof input);
    if (e == cudaSuccess) e = cudaMalloc((void **)&out, MAX_WORDS * sizeof *out);
    if (e == cudaSuccess) e = cudaMemcpy(in, input, sizeof input, cudaMemcpyHostToDevice);
    if (e == cudaSuccess) e = cudaMemset(out, 0, MAX_WORDS * sizeof *out);
    if (e == cudaSuccess) e = p->run(in, out);
    if (e == cudaSuccess) e = cudaDeviceSynchronize();
    if (e == cudaSuccess) e = cudaMemcpy(result, out, (size_t)p->words * sizeof *out, cudaMemcpyDeviceToHost);
    cudaFree(in);
    cudaFree(out);
    return e;
}

static void say(const char *name, const char *status, const char *detail)
{
    printf("{\"kind\": \"conformance\", \"name\": \"%s\", \"status\": \"%s\", \"detail\": \"%s\"}\n", name,
           status, detail);
    fflush(stdout);
}

static bool same(const struct program *p, unsigned got, unsigned want)
{
    float x, y;
    memcpy(&x, &got, 4), memcpy(&y, &want, 4);
    return p->sums ? fabsf(x - y) <= 1e-3f
                   : got == want; /* sums of up to 64 products below 16; a wrong place is off by 1 */
}

static int compare(const struct program *p, const unsigned *got, const unsigned *want)
{
    char text[120] = "";
    int bad = 0;
    for (int i = 0; i < p->words; i++)
        if (!same(p, got[i], want[i]) && !bad++)
            snprintf(text, sizeof text, ", word %d is %08x, not %08x", i, got[i], want[i]);
    if (bad) {
        char all[200];
        snprintf(all, sizeof all, "%d of %d words differ%s", bad, p->words, text);
        say(p->name, "failed", all);
        return 1;
    }
    say(p->name, "ok", "");
    return 0;
}

int main(int argc, char **argv)
{
    static unsigned got[MAX_WORDS], want[MAX_WORDS];
    bool record = argc == 3 && !strcmp(argv[1], "record");
    int bad = 0, major = 0, minor = 0;
    if (argc != 3 || (!record && strcmp(argv[1], "check")))
        return fputs("usage: conformance record|check FILE\n", stderr), 2;
    FILE *f = fopen(argv[2], record ? "w" : "r");
    if (!f) return perror(argv[2]), 1;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    if (!major) return fputs("conformance: no device\n", stderr), 1;
    for (const struct program &p : programs) {
        int cc = 10 * major + minor, needs = p.cc % 1000;
        bool can = p.cc > 1000 ? cc == needs : cc >= needs;
        for (int i = 0; !record && i < p.words; i++)
            if (fscanf(f, "%x", &want[i]) != 1) return fprintf(stderr, "%s: too short\n", argv[2]), 1;
        cudaError_t e = can ? run(&p, got) : cudaSuccess;
        if (!can) {
            say(p.name, "skipped", "another compute capability");
        } else if (e != cudaSuccess) {
            say(p.name, "failed", cudaGetErrorString(e));
            bad++;
        } else if (record) {
            for (int i = 0; i < p.words; i++)
                fprintf(f, "%x%c", got[i], i % 16 == 15 || i + 1 == p.words ? '\n' : ' ');
        } else {
            bad += compare(&p, got, want);
        }
    }
    return fclose(f) || bad;
}
