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
    float *pair;    /* gate and up of pair_values / 2 results each */
    size_t pair_values;
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
    size_t want = (size_t)c->lim.max_rows * (size_t)c->lim.max_in * 2, most = PAIR_BYTES / sizeof(float);
    size_t least =
        (size_t)c->lim.max_in * 2 * PAIR_ROWS; /* so that even the widest pair goes by some rows at a time */
    int rc = 0;
    if (l->lt && !l->unpacked && c->lim.max_rows >= LT_MIN_ROWS_UNPACKED)
        rc = cu_alloc(c, UNPACK_BYTES, "unpacked matrices", &l->unpacked, e);
    if (want > most) want = most > least ? most : least;
    if (rc || want <= l->pair_values) return rc;
    cudaFree(l->pair);
    l->pair = NULL;
    l->pair_values = 0;
    rc = cu_alloc(c, want * sizeof(float), "results of gate and up", (void **)&l->pair, e);
    if (!rc) l->pair_values = want;
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

static bool by_library(struct cuda *c, const struct linear_out *o, const void *x, int n)
{
    struct cu_linear *l = c->linear;
    const struct weight *w = o->w;
    if (!wants_library(l, w, n) || (uintptr_t)x % LT_ALIGNMENT || (uintptr_t)o->y % LT_ALIGNMENT)
        return false;
    int n_out = w->info.n_out, n_in = w->info.n_in, fit = n_out;
    if (w->kind != KIND_BF16) fit = (int)(UNPACK_BYTES / 2 / (size_t)n_in) / TILE * TILE;
    if (fit < 1) return false;
    for (int at = 0; at < n_out; at += fit) {
        int part = n_out - at < fit ? n_out - at : fit;
        if (w->kind != KIND_BF16) weight_unpack(c, w, at, part, l->unpacked);
        if (!lt_linear(c, l->lt, w->kind == KIND_BF16 ? w->data : l->unpacked, part, n_in,
                       (const uint16_t *)x, n, o->y + at, o->y_stride, l->scratch))
            return false;
    }
    for (int at = 0; o->bias && at < n; at += 32768) { /* a grid's height is 16 bits */
        int rows = n - at < 32768 ? n - at : 32768;
        LAUNCH_PDL(bias_kernel, dim3((n_out + 255) / 256, rows), dim3(256), 0, c->stream,
                   o->y + (size_t)at * o->y_stride, o->y_stride, o->bias, n_out);
    }
    CU_LAUNCHED(c);
    return true;
}

void cu_linear(struct backend *be, const void *x, int n, const struct linear_out *out, int n_out)
{
    struct cuda *c = cuda_of(be);
    for (int i = 0; i < n_out;) {
        if (by_library(c, &out[i], x, n)) {
            i++;
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

/* y = act(gate) * up, all [n] values, four a thread */
static __global__ void glu_kernel(__nv_bfloat16 *y, const float *gate, const float *up, size_t n,
                                  enum act act)
{
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    pdl_launch();
    pdl_wait();
    if (i + 4 <= n) {
        float4 g = *(const float4 *)(gate + i), u = *(const float4 *)(up + i);
        uint2 v = {bf16x2_pack(activate(act, g.x) * u.x, activate(act, g.y) * u.y),
                   bf16x2_pack(activate(act, g.z) * u.z, activate(act, g.w) * u.w)};
        *(uint2 *)(y + i) = v;
    } else {
        for (; i < n; i++) y[i] = __float2bfloat16(activate(act, gate[i]) * up[i]);
    }
}

/* By products of some rows at a time, then the activation: where one launch cannot do both. */
static void glu_in_two(struct cuda *c, const void *x, int n, const struct weight *gate,
                       const struct weight *up, enum act act, void *y)
{
    struct cu_linear *l = c->linear;
    int f = gate->info.n_out, n_in = gate->info.n_in;
    int most = (int)(l->pair_values / 2 / (size_t)f);
    most -= most % (most >= 128 ? 128 : 4);
    if (most < 1) cu_note(c, cudaErrorInvalidValue, "linear_glu before reserve"), n = 0;
    for (int at = 0; at < n; at += most) {
        int rows = n - at < most ? n - at : most;
        size_t values = (size_t)rows * (size_t)f;
        float *a = l->pair, *b = l->pair + l->pair_values / 2;
        struct linear_out out[2] = {{gate, NULL, a, f}, {up, NULL, b, f}};
        cu_linear(&c->base, (const uint16_t *)x + (size_t)at * n_in, rows, out, 2);
        LAUNCH_PDL(glu_kernel, dim3((unsigned)((values + 1023) / 1024)), dim3(256), 0, c->stream,
                   (__nv_bfloat16 *)y + (size_t)at * f, a, b, values, act);
        CU_LAUNCHED(c);
    }
}

void cu_linear_glu(struct backend *be, const void *x, int n, const struct weight *gate,
                   const struct weight *up, enum act act, void *y)
{
    struct cuda *c = cuda_of(be);
    int f = gate->info.n_out;
    bool rows = by_rows(n, 2 * f), library = wants_library(c->linear, gate, n);
    /* A block of the tiled kernel that walks several parts has no place for both sums. */
    if (gate->kind != up->kind || library || (!rows && gate->split > 1)) {
        glu_in_two(c, x, n, gate, up, act, y);
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
