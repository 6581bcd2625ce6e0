/* Products: which kernel for how many rows. Few rows stream the weights (gemm_rows.cu); more go by tiles
 * (gemm_tile.cu), and many by cublasLt unless the back end is to be batch invariant. */
#include <stdlib.h>
#include "gemm.cuh"

struct cu_linear {
    struct cu_lt *lt; /* NULL: not there, or not wanted */
    float4 *scratch;  /* SCRATCH_BYTES: partial sums, or cublasLt's */
    unsigned *count;  /* [MAX_COUNTS] */
    void *unpacked; /* UNPACK_BYTES: outputs of a quantised matrix as BF16; with lt, if steps may be that long
                     */
    void *pair;     /* products of a gated unit on their way to the activation */
    size_t pair_bytes;
};
#define PAIR_BYTES   ((size_t)64 << 20)
#define UNPACK_BYTES ((size_t)64 << 20)
/* From how many rows cublasLt wins: of BF16, and where a matrix must be unpacked for it. */
enum { LT_MIN_ROWS = 65, LT_MIN_ROWS_UNPACKED = 512, PAIR_ROWS = 32 };

int cu_linear_open(struct cuda *c, struct err *e)
{
    struct cu_linear *l = c->linear = (struct cu_linear *)calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_NOMEM, "out of memory");
    if (!c->o.deterministic) l->lt = lt_open();
    gemm_tile_open(c);
    int rc = cu_alloc(c, SCRATCH_BYTES, "partial sums of products", (void **)&l->scratch, e);
    if (!rc) rc = cu_alloc(c, MAX_COUNTS * sizeof *l->count, "counters of products", (void **)&l->count, e);
    if (rc) return rc;
    CU(c, cudaMemsetAsync(l->count, 0, MAX_COUNTS * sizeof *l->count, c->stream));
    return 0;
}

int cu_linear_reserve(struct cuda *c, struct err *e)
{
    struct cu_linear *l = c->linear;
    size_t row = (size_t)c->lim.max_in * 2 * sizeof(float), want = (size_t)c->lim.max_rows * row;
    size_t least = PAIR_ROWS * row; /* so that even the widest pair goes by some rows at a time */
    int rc = 0;
    if (l->lt && !l->unpacked && c->lim.max_rows >= LT_MIN_ROWS_UNPACKED)
        rc = cu_alloc(c, UNPACK_BYTES, "unpacked matrices", &l->unpacked, e);
    if (want > PAIR_BYTES) want = PAIR_BYTES > least ? PAIR_BYTES : least;
    if (rc || want <= l->pair_bytes) return rc;
    cudaFree(l->pair);
    l->pair = NULL;
    l->pair_bytes = 0;
    rc = cu_alloc(c, want, "results of gate and up", &l->pair, e);
    if (!rc) l->pair_bytes = want;
    return rc;
}

void cu_linear_close(struct cuda *c)
{
    struct cu_linear *l = c->linear;
    if (!l) return;
    lt_close(l->lt);
    cudaFree(l->scratch);
    cudaFree(l->count);
    cudaFree(l->unpacked);
    cudaFree(l->pair);
    free(l);
    c->linear = NULL;
}

static struct gemm_out job_out(const struct weight *w, const float *bias, void *y, int y_stride)
{
    return (struct gemm_out){w->data, w->row_scale, bias, y, y_stride, w->info.n_out, w->split, w->seg, 0, 0};
}

static struct gemm_job job(struct cuda *c, const struct weight *w, const void *x, int n)
{
    struct gemm_job j = {};
    j.x = (const uint16_t *)x;
    j.n = n;
    j.n_in = w->info.n_in;
    j.n_unit = w->n_unit;
    j.part = c->linear->scratch;
    j.count = c->linear->count;
    return j;
}

/* Beyond a few rows the streaming kernel reads x as often as the weights: only for small matrices, of which
 * the tiled one has too few blocks. */
enum { FEW_ROWS = 16 };
static bool by_rows(int n, int n_out) { return n <= FEW_ROWS || (n <= ROWS_MAX && n_out < 8192); }

static void multiply(struct cuda *c, enum weight_kind kind, struct gemm_job *j, int n_out)
{
    if (by_rows(j->n, n_out))
        gemm_rows(c, kind, j);
    else
        gemm_tile(c, kind, j);
}

/* bias: y[i][o] += bias[o], after cublasLt */
static __global__ void bias_kernel(float *y, int y_stride, const float *bias, int n_out)
{
    int o = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    pdl_launch();
    pdl_wait();
    if (o < n_out) y[(size_t)blockIdx.y * y_stride + o] += bias[o];
}

static bool wants_library(const struct cu_linear *l, const struct weight *w, int n)
{
    return l->lt && (w->kind == KIND_BF16 ? n >= LT_MIN_ROWS : l->unpacked && n >= LT_MIN_ROWS_UNPACKED);
}

/* y = x w^T by cublasLt. False if it refused: then some of y may have been written. */
static bool by_library(struct cuda *c, const struct weight *w, const void *x, int n, struct lt_out to)
{
    struct cu_linear *l = c->linear;
    if ((uintptr_t)x % LT_ALIGNMENT || (uintptr_t)to.y % LT_ALIGNMENT) return false;
    int n_out = w->info.n_out, n_in = w->info.n_in, fit = n_out;
    if (w->kind != KIND_BF16) fit = (int)(UNPACK_BYTES / 2 / (size_t)n_in) / TILE * TILE;
    if (fit < 1) return false;
    for (int at = 0; at < n_out; at += fit) {
        struct lt_out part = {(char *)to.y + (size_t)at * dtype_info(to.type)->bytes, to.stride, to.type};
        int few = n_out - at < fit ? n_out - at : fit;
        if (w->kind != KIND_BF16) weight_unpack(c, w, at, few, l->unpacked);
        if (!lt_linear(c, l->lt, w->kind == KIND_BF16 ? w->data : l->unpacked, few, n_in, (const uint16_t *)x,
                       n, part, l->scratch))
            return false;
    }
    return true;
}

static void add_bias(struct cuda *c, const struct linear_out *o, int n)
{
    int n_out = o->w->info.n_out;
    for (int at = 0; o->bias && at < n; at += 32768) { /* a grid's height is 16 bits */
        int rows = n - at < 32768 ? n - at : 32768;
        LAUNCH_PDL(bias_kernel, dim3((n_out + 255) / 256, rows), dim3(256), 0, c->stream,
                   o->y + (size_t)at * o->y_stride, o->y_stride, o->bias, n_out);
    }
    CU_LAUNCHED(c);
}

void cu_linear(struct backend *be, const void *x, int n, const struct linear_out *out, int n_out)
{
    struct cuda *c = cuda_of(be);
    for (int i = 0; i < n_out;) {
        if (wants_library(c->linear, out[i].w, n) &&
            by_library(c, out[i].w, x, n, (struct lt_out){out[i].y, out[i].y_stride, DT_F32})) {
            add_bias(c, &out[i++], n);
            continue;
        }
        struct gemm_job j = job(c, out[i].w, x, n); /* neighbours of one kind share a launch */
        enum weight_kind kind = out[i].w->kind;
        int sum = 0, split = out[i].w->split;
        for (; i < n_out && out[i].w->kind == kind && j.n_outs < MAX_OUTS; i++) {
            if (n > FEW_ROWS && out[i].w->split != split) break; /* tiles fill the device only if cut alike */
            j.out[j.n_outs++] = job_out(out[i].w, out[i].bias, out[i].y, out[i].y_stride);
            sum += out[i].w->info.n_out;
        }
        multiply(c, kind, &j, sum);
    }
}

static __device__ __forceinline__ void load8(const float *p, float v[8])
{
    float4 a = *(const float4 *)p, b = *(const float4 *)(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
static __device__ __forceinline__ void load8(const bf16 *p, float v[8])
{
    bf16x8_unpack(*(const uint4 *)p, v);
}

/* y = act(gate) * up, all [n] values, eight a thread: n is a multiple, as rows are inputs of a matrix. y may
 * be gate. */
template <class T>
static __global__ void glu_kernel(bf16 *y, const T *gate, const T *up, size_t n, enum act act)
{
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    float g[8], u[8];
    pdl_launch();
    pdl_wait();
    if (i >= n) return;
    load8(gate + i, g);
    load8(up + i, u);
#pragma unroll
    for (int k = 0; k < 8; k++) g[k] = activate(act, g[k]) * u[k];
    *(uint4 *)(y + i) = bf16x8_pack(g);
}
template <class T>
static void activate_all(struct cuda *c, bf16 *y, const T *gate, const T *up, size_t n, enum act act)
{
    LAUNCH_PDL((glu_kernel<T>), dim3((unsigned)((n + 2047) / 2048)), dim3(256), 0, c->stream, y, gate, up, n,
               act);
    CU_LAUNCHED(c);
}

/* Of how many rows at a time `pair` has room for the products, row_bytes each: nearly equal shares of n. 0 if
 * there is no room. */
static int rows_at_once(struct cuda *c, int n, size_t row_bytes)
{
    int most = (int)(c->linear->pair_bytes / row_bytes);
    if (most < 1) {
        cu_note(c, cudaErrorInvalidValue, "linear_glu before reserve");
        return 0;
    }
    int turns = (n + most - 1) / most;
    int share = ((n + turns - 1) / turns + 127) / 128 * 128;
    return share < most ? share : most;
}

/* Where one launch cannot do all: both products of some rows at a time, then the activation. Products are
 * BF16 if cublasLt makes both, and then the gate's lies in y itself; else they are float, as our own kernels
 * keep sums where the result goes. */
static bool glu_by_library(struct cuda *c, const void *x, int n, const struct weight *gate,
                           const struct weight *up, enum act act, bf16 *y)
{
    int f = gate->info.n_out, most = rows_at_once(c, n, f * sizeof(bf16));
    bf16 *u = (bf16 *)c->linear->pair;
    for (int at = 0; most && at < n; at += most) {
        int rows = n - at < most ? n - at : most;
        const uint16_t *xs = (const uint16_t *)x + (size_t)at * gate->info.n_in;
        bf16 *g = y + (size_t)at * f;
        if (!by_library(c, gate, xs, rows, (struct lt_out){g, f, DT_BF16}) ||
            !by_library(c, up, xs, rows, (struct lt_out){u, f, DT_BF16}))
            return false;
        activate_all(c, g, g, u, (size_t)rows * f, act);
    }
    return true;
}
static void glu_by_floats(struct cuda *c, const void *x, int n, const struct weight *gate,
                          const struct weight *up, enum act act, bf16 *y)
{
    int f = gate->info.n_out, most = rows_at_once(c, n, 2 * f * sizeof(float));
    for (int at = 0; most && at < n; at += most) {
        int rows = n - at < most ? n - at : most;
        float *g = (float *)c->linear->pair, *u = g + (size_t)rows * f;
        struct linear_out out[2] = {{gate, NULL, g, f}, {up, NULL, u, f}};
        cu_linear(&c->base, (const uint16_t *)x + (size_t)at * gate->info.n_in, rows, out, 2);
        activate_all(c, y + (size_t)at * f, g, u, (size_t)rows * f, act);
    }
}

void cu_linear_glu(struct backend *be, const void *x, int n, const struct weight *gate,
                   const struct weight *up, enum act act, void *y)
{
    struct cuda *c = cuda_of(be);
    int f = gate->info.n_out;
    if (wants_library(c->linear, gate, n) && wants_library(c->linear, up, n) &&
        glu_by_library(c, x, n, gate, up, act, (bf16 *)y))
        return;
    /* A block of the tiled kernel that walks several parts has no place for both sums. */
    if (gate->kind != up->kind || (!by_rows(n, 2 * f) && gate->split > 1)) {
        glu_by_floats(c, x, n, gate, up, act, (bf16 *)y);
        return;
    }
    struct gemm_job j = job(c, gate, x, n);
    j.pair = true;
    j.act = act;
    j.n_outs = 2;
    j.out[0] = job_out(gate, NULL, y, f);
    j.out[1] = job_out(up, NULL, NULL, 0);
    multiply(c, gate->kind, &j, 2 * f);
}
