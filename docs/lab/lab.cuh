/* What the lab files share: the command line, input, the check and the clock.
 *
 * A lab file has one problem, several versions of its kernel, and a float64 reference that computes one
 * output at a time. It includes this header, describes the problem in a struct lab_job and calls lab_main.
 * One host thread, the default stream; device memory is never freed, the program ends instead.
 *
 *   ./gemm              all versions
 *   ./gemm 3 5          some of them
 *   ./gemm m=64 k=512   other sizes
 *
 * On a GPU the program prints times; compiled for the emulator (-DCUEMU) it only checks, at small sizes. */
#pragma once
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ptx.cuh"

struct lab_size {
    const char *name;
    int gpu, emulated; /* defaults */
    int multiple;      /* which it must be of */
    int value;
};
struct lab_version {
    const char *name;
    void (*run)(void); /* enqueues */
    int only;          /* 0, or the major compute capability that alone runs it */
};
struct lab_job {
    const char *what;
    double bytes, flops;      /* the least that a call has to move and to compute */
    double (*want)(size_t i); /* output i, from the host's copy of the input */
    void *out;                /* device */
    bool out_bf16;
    size_t n_out;
    void *scratch; /* what else versions write, or NULL; it and out are NaN when one starts */
    size_t scratch_bytes;
    double tolerance; /* of |got - want|^2 / |want|^2 over all outputs that are checked */
    const struct lab_version *version;
    int n_version;
};

static inline void lab_cuda(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

/* ---- input ---- */

/* Uniform in [-1, 1); the same numbers in every run. */
static inline float lab_random(void)
{
    static uint64_t s = 0x9e3779b97f4a7c15u;
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return (float)(s >> 40) * 0x1p-23f - 1;
}
static inline void *lab_alloc(size_t bytes)
{
    void *p = NULL;
    lab_cuda(cudaMalloc(&p, bytes), "cudaMalloc");
    return p;
}
/* A copy of the host's array in device memory. */
template <class T> static inline T *lab_up(const T *host, size_t n)
{
    T *p = (T *)lab_alloc(n * sizeof(T));
    lab_cuda(cudaMemcpy(p, host, n * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
    return p;
}
static inline void *lab_host(size_t bytes)
{
    void *p = malloc(bytes);
    if (!p) fprintf(stderr, "out of memory\n"), exit(1);
    return p;
}
static inline float *lab_floats(size_t n)
{
    float *x = (float *)lab_host(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = lab_random();
    return x;
}
static inline bf16 *lab_bf16s(size_t n)
{
    bf16 *x = (bf16 *)lab_host(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = __float2bfloat16(lab_random());
    return x;
}

/* ---- the check ---- */

enum { LAB_CHECKED = 4096 };

/* The outputs that are checked: all, or that many spread over them. */
static inline size_t lab_step(size_t n) { return n <= LAB_CHECKED ? 1 : n / LAB_CHECKED | 1; }

static inline double lab_error(const struct lab_job *j, const double *want)
{
    size_t bytes = j->n_out * (j->out_bf16 ? sizeof(bf16) : sizeof(float)), step = lab_step(j->n_out);
    void *got = lab_host(bytes);
    double bad = 0, all = 0;
    lab_cuda(cudaMemcpy(got, j->out, bytes, cudaMemcpyDeviceToHost), "the kernel");
    for (size_t i = 0; i < j->n_out; i += step) {
        double w = want[i / step], g = j->out_bf16 ? __bfloat162float(((bf16 *)got)[i]) : ((float *)got)[i];
        bad += (g - w) * (g - w); /* a NaN, which an output has that nobody wrote, stays one */
        all += w * w;
    }
    free(got);
    return bad / all;
}

/* ---- the clock and the limits ---- */
#ifndef CUEMU

static inline int lab_by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}
/* Seconds of a call: the median of 21. Inputs are larger than the second-level cache, so none is warm. */
static inline double lab_seconds(void (*run)(void))
{
    enum { CALLS = 21 };
    cudaEvent_t at[2];
    float ms[CALLS];
    for (int i = 0; i < 2; i++) lab_cuda(cudaEventCreate(&at[i]), "cudaEventCreate");
    for (int i = -3; i < CALLS; i++) {
        float t = 0;
        cudaEventRecord(at[0], 0);
        run();
        cudaEventRecord(at[1], 0);
        lab_cuda(cudaEventSynchronize(at[1]), "the kernel");
        cudaEventElapsedTime(&t, at[0], at[1]);
        if (i >= 0) ms[i] = t;
    }
    qsort(ms, CALLS, sizeof *ms, lab_by_value);
    for (int i = 0; i < 2; i++) cudaEventDestroy(at[i]);
    return ms[CALLS / 2] * 1e-3;
}

static __global__ void lab_copy(uint4 *to, const uint4 *from, size_t n)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        to[i] = from[i];
}
static __global__ void lab_read(uint4 *to, const uint4 *from, size_t n)
{
    unsigned x = 0;
#pragma unroll 8
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint4 v = from[i];
        x ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (x == 1) to[0].x = x; /* so that the loop is not dropped */
}
/* Tensor cores fed from registers. */
enum { LAB_ROUNDS = 4096, LAB_CHAINS = 8 };
static __global__ void lab_multiply(float *to)
{
    float d[LAB_CHAINS][4] = {};
    unsigned a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = bf16x2_pack(threadIdx.x * 0.01f, i * 0.1f);
    for (int i = 0; i < 2; i++) b[i] = bf16x2_pack(threadIdx.x * -0.01f, i * 0.1f);
    for (int r = 0; r < LAB_ROUNDS; r++)
#pragma unroll
        for (int c = 0; c < LAB_CHAINS; c++) mma16816(d[c], a, b);
    float sum = 0;
    for (int c = 0; c < LAB_CHAINS; c++) sum += d[c][0] + d[c][1] + d[c][2] + d[c][3];
    if (sum == 1) *to = sum;
}
/* The same through wgmma, which alone reaches the full rate of sm_90. */
static __global__ void lab_multiply_sm90(float *to)
{
#ifdef HAVE_WGMMA
    DYNAMIC_SHARED(uint4, s);                            /* two operands [64][64] */
    for (int i = threadIdx.x; i < 1024; i += blockDim.x) /* about 1 and -1 */
        s[i] = make_uint4(0x3f803f80u ^ i, 0xbf803f80u ^ i, 0x3f80bf80u ^ i, 0xbf80bf80u ^ i);
    mbar_fence();
    __syncthreads();
    float d[32] = {};
    for (int r = 0; r < LAB_ROUNDS; r++) {
        wgmma_fence();
        for (int k = 0; k < 4; k++)
            wgmma_m64n64k16(d, wgmma_desc128(s + 2 * k), wgmma_desc128(s + 512 + 2 * k), 1);
        wgmma_commit();
        wgmma_wait<0>();
    }
    float sum = 0;
    for (int i = 0; i < 32; i++) sum += d[i];
    if (sum == 1) *to = sum;
#endif
}

struct lab_limits {
    double bytes, flops; /* a second */
};
static struct {
    uint4 *a, *b;
    int sm;
} lab_limit_job;
#define LAB_LIMIT_BYTES ((size_t)512 << 20)
static inline void lab_run_copy(void)
{
    LAUNCH(lab_copy, dim3(lab_limit_job.sm * 16), dim3(512), 0, 0, lab_limit_job.a, lab_limit_job.b,
           LAB_LIMIT_BYTES / 16);
}
static inline void lab_run_read(void)
{
    LAUNCH(lab_read, dim3(lab_limit_job.sm * 16), dim3(512), 0, 0, lab_limit_job.a, lab_limit_job.b,
           LAB_LIMIT_BYTES / 16);
}
static inline void lab_run_multiply(void)
{
    LAUNCH(lab_multiply, dim3(lab_limit_job.sm), dim3(512), 0, 0, (float *)lab_limit_job.a);
}
static inline void lab_run_multiply_sm90(void)
{
    LAUNCH(lab_multiply_sm90, dim3(lab_limit_job.sm * 4), dim3(128), 16384, 0, (float *)lab_limit_job.a);
}
/* What this card does in this run: the better of a copy and a read loop, the better of two multiply loops. */
static inline struct lab_limits lab_limits(void)
{
    cudaDeviceProp p;
    lab_cuda(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties");
    lab_limit_job.a = (uint4 *)lab_alloc(LAB_LIMIT_BYTES);
    lab_limit_job.b = (uint4 *)lab_alloc(LAB_LIMIT_BYTES);
    lab_limit_job.sm = p.multiProcessorCount;
    double size = (double)LAB_LIMIT_BYTES, rounds = LAB_ROUNDS, sm = lab_limit_job.sm;
    struct lab_limits l;
    l.bytes = fmax(2 * size / lab_seconds(lab_run_copy), size / lab_seconds(lab_run_read));
    l.flops = rounds * LAB_CHAINS * 2 * 16 * 8 * 16 * 16 * sm / lab_seconds(lab_run_multiply);
    if (p.major == 9)
        l.flops = fmax(l.flops, rounds * 4 * 2 * 64 * 64 * 16 * 4 * sm / lab_seconds(lab_run_multiply_sm90));
    cudaFree(lab_limit_job.a);
    cudaFree(lab_limit_job.b);
    printf("%s: %.0f GB/s, %.0f TFLOP/s (bf16) measured\n", p.name, l.bytes * 1e-9, l.flops * 1e-12);
    return l;
}

static inline void lab_print_time(const struct lab_job *j, const struct lab_version *v,
                                  const struct lab_limits *l)
{
    double t = lab_seconds(v->run), floor = fmax(j->bytes / l->bytes, j->flops / l->flops);
    printf(" | %.1f | %.0f | %.2f | %.2f", t * 1e6, j->bytes / t * 1e-9, j->flops / t * 1e-12, floor / t);
}
#define LAB_TIMED " | us | GB/s | TFLOP/s | of the limit"
#define LAB_RULE  " | --- | --- | --- | ---"

#else /* times of the emulator would say nothing */

struct lab_limits {
    int none;
};
static inline struct lab_limits lab_limits(void) { return (struct lab_limits){0}; }
static inline void lab_print_time(const struct lab_job *, const struct lab_version *,
                                  const struct lab_limits *)
{
}
#define LAB_TIMED ""
#define LAB_RULE  ""
#endif

/* ---- the program ---- */

static inline int lab_usage(const char *arg, const struct lab_size *size)
{
    fprintf(stderr, "%s: neither a version nor a size; sizes are", arg);
    for (; size->name; size++) fprintf(stderr, " %s (a multiple of %d)", size->name, size->multiple);
    fprintf(stderr, "\n");
    return 2;
}

/* Sets the sizes (the list ends without a name) and the versions (a bit each); 0 or an exit status. */
static inline int lab_args(int argc, char **argv, struct lab_size *size, unsigned *versions)
{
    *versions = 0;
    for (struct lab_size *s = size; s->name; s++) {
#ifdef CUEMU
        s->value = s->emulated;
#else
        s->value = s->gpu;
#endif
    }
    for (int i = 1; i < argc; i++) {
        char *eq = strchr(argv[i], '='), *end, *digits = eq ? eq + 1 : argv[i];
        long v = strtol(digits, &end, 10);
        if (end == digits || *end || v < (eq ? 1 : 0) || v > (eq ? 1 << 20 : 31))
            return lab_usage(argv[i], size);
        if (!eq) {
            *versions |= 1u << v;
            continue;
        }
        struct lab_size *s = size;
        while (s->name &&
               (strlen(s->name) != (size_t)(eq - argv[i]) || strncmp(s->name, argv[i], strlen(s->name))))
            s++;
        if (!s->name || v % s->multiple) return lab_usage(argv[i], size);
        s->value = (int)v;
    }
    if (!*versions) *versions = ~0u;
    return 0;
}

/* Runs the versions: check, then time. 1 if one is wrong. */
static inline int lab_main(const struct lab_job *j, const struct lab_size *size, unsigned versions)
{
    size_t step = lab_step(j->n_out), bytes = j->n_out * (j->out_bf16 ? sizeof(bf16) : sizeof(float));
    double *want = (double *)lab_host((j->n_out / step + 1) * sizeof *want);
    int wrong = 0;
    if (!(versions & ((1u << j->n_version) - 1)))
        return fprintf(stderr, "versions are 0 to %d\n", j->n_version - 1), 2;
    printf("%s,", j->what);
    for (; size->name; size++) printf(" %s=%d", size->name, size->value);
    printf("\n");
    struct lab_limits l = lab_limits();
    cudaDeviceProp device;
    lab_cuda(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
    for (size_t i = 0; i < j->n_out; i += step) want[i / step] = j->want(i);
    printf("| version | error" LAB_TIMED " |\n| --- | ---" LAB_RULE " |\n");
    for (int i = 0; i < j->n_version; i++) {
        const struct lab_version *v = &j->version[i];
        if (!(versions >> i & 1)) continue;
        if (v->only && v->only != device.major) {
            printf("| %d %s | not for this device |\n", i, v->name);
            continue;
        }
        lab_cuda(cudaMemset(j->out, 0xff, bytes), "cudaMemset");
        if (j->scratch) lab_cuda(cudaMemset(j->scratch, 0xff, j->scratch_bytes), "cudaMemset");
        v->run();
        lab_cuda(cudaGetLastError(), v->name);
        double e = lab_error(j, want);
        bool ok = e <= j->tolerance;
        printf("| %d %s | %.1e%s", i, v->name, e, ok ? "" : " WRONG");
        lab_print_time(j, v, &l);
        printf(" |\n");
        wrong |= !ok;
    }
    free(want);
    return wrong;
}
