/* Matrices of files into the layouts of gemm.cuh, packed by the host some tiles at a time, and back again for
 * the embedding and for products of many rows. Types of 4 and 8 bits with a scale for each 32 values keep
 * their codes; the others, which few matrices of a file have, become BF16. */
#include <cuda_fp8.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "gemm.cuh"
#include "half.h"

#define MAX_IN      (1 << 24) /* so that sizes need no overflow checks */
#define STAGE_BYTES ((size_t)4 << 20)

static enum weight_kind kind_for(const struct cuda *c, enum dtype t)
{
    switch (t) {
    case DT_F32:
    case DT_F16:
    case DT_BF16: return c->o.fp8 ? KIND_E4M3 : KIND_BF16;
    case DT_Q8_0: return KIND_Q8;
    case DT_Q4_0:
    case DT_Q4_1:
    case DT_Q4_K: return KIND_Q4;
    default: return KIND_BF16;
    }
}

/* How sums are cut (gemm.cuh), of the shape alone. Matrices of few outputs are split so that some 256 blocks
 * work, but each warp should have two units. */
static void cut_sums(struct weight *w)
{
    int tiles = tiles_of(w->info.n_out), most = w->n_unit / (2 * SEGMENTS);
    w->split = tiles >= 128 ? 1 : 256 / tiles;
    if (w->split > 8) w->split = 8;
    if (w->split > most) w->split = most > 1 ? most : 1;
    w->seg = (w->n_unit + w->split * SEGMENTS - 1) / (w->split * SEGMENTS);
}

/* ---- one row of a quantised kind ---- */

struct row {
    float *f;        /* [n_in] work space */
    uint8_t *code;   /* [n_in] */
    float *s, *min;  /* [n_in / 32] */
    float row_scale; /* times s, min and, of E4M3, codes */
};

/* What a scale is halved from: of blocks of type t with 32 values, or of Q4_K's eight groups. The values come
 * out of dtype_to_f32: min is that of code 0, and the scale follows from the block's header. */
static void decode_q4(enum dtype t, const uint8_t *src, int n_in, struct row *r)
{
    const int per = dtype_info(t)->block, bytes = dtype_info(t)->bytes;
    for (int k = 0; k < n_in; k += per, src += bytes) {
        uint16_t d, m;
        memcpy(&d, src, 2);
        memcpy(&m, src + 2, 2);
        for (int g = 0; g < per / 32; g++) {
            int at = (k + 32 * g) / 32;
            uint8_t *code = r->code + k + 32 * g;
            if (t == DT_Q4_K) { /* 6-bit scales and mins; the last four borrow the top bits of the first */
                const uint8_t *s = src + 4, *q = src + 16 + 32 * (g / 2);
                int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
                int min = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
                r->s[at] = half_to_f32(d) * (float)scale;
                r->min[at] = -half_to_f32(m) * (float)min;
                for (int i = 0; i < 32; i++) code[i] = q[i] >> 4 * (g & 1) & 15;
            } else {
                const uint8_t *q = src + (t == DT_Q4_0 ? 2 : 4);
                r->s[at] = half_to_f32(d);
                r->min[at] = t == DT_Q4_0 ? -8 * half_to_f32(d) : half_to_f32(m);
                for (int i = 0; i < 16; i++) code[i] = q[i] & 15, code[i + 16] = q[i] >> 4;
            }
        }
    }
}

static void decode_q8(const uint8_t *src, int n_in, struct row *r)
{
    for (int at = 0; at < n_in / 32; at++, src += 34) {
        uint16_t d;
        memcpy(&d, src, 2);
        r->s[at] = half_to_f32(d);
        r->min[at] = 0;
        for (int i = 0; i < 32; i++) r->code[32 * at + i] = src[2 + i] ^ 0x80;
    }
}

static void encode_e4m3(enum dtype t, const uint8_t *src, int n_in, struct row *r)
{
    float max = 0;
    dtype_to_f32(t, src, r->f, n_in);
    for (int k = 0; k < n_in; k++) max = fmaxf(max, fabsf(r->f[k]));
    r->row_scale = max > 0 && max <= 3e38f ? max / 448 : 1;
    float inverse = 1 / r->row_scale;
    for (int k = 0; k < n_in; k++)
        r->code[k] = (uint8_t)__nv_cvt_float_to_fp8(r->f[k] * inverse, __NV_SATFINITE, __NV_E4M3);
}

/* A power of two leaves the bits of a row's scales as they are and puts the largest near 2^14, where halves
 * neither overflow nor lose bits to subnormals. */
static void scale_row(int n_in, struct row *r)
{
    float max = 0;
    int e = 14;
    for (int i = 0; i < n_in / 32; i++) max = fmaxf(max, fmaxf(fabsf(r->s[i]), fabsf(r->min[i])));
    if (max > 0 && max <= 3e38f) frexpf(max, &e);
    r->row_scale = ldexpf(1, e - 14);
    for (int i = 0; i < n_in / 32; i++) {
        r->s[i] = ldexpf(r->s[i], 14 - e);
        r->min[i] = ldexpf(r->min[i], 14 - e);
    }
}

/* Row `r16` of a tile, into its zeroed units; where things lie: gemm.cuh. */
static void place_row(enum weight_kind kind, int n_in, const struct row *r, int r16, uint8_t *units)
{
    int g = r16 % 8, half = r16 / 8;
    for (int k = 0; k < n_in; k += 4) {
        uint8_t *unit = units + (size_t)(k / UNIT) * unit_bytes(kind);
        int i = k / 32 % 2, lane = 4 * g + k / 8 % 4, m = k / 4 % 2;
        const uint8_t *c = r->code + k;
        for (int h = 0; h < 2; h++)
            for (int e = 0; e < 2; e++, c++)
                if (kind == KIND_Q4)
                    unit[16 * lane + 4 * (2 * i + m) + h + 2 * e] |= (uint8_t)(*c << 4 * half);
                else
                    unit[512 * i + 16 * lane + 4 * (2 * m + h) +
                         (kind == KIND_Q8 ? e + 2 * half : half + 2 * e)] = *c;
    }
    for (int at = 0; at < n_in / 32 && kind != KIND_E4M3; at++) {
        uint8_t *unit = units + (size_t)(at / 2) * unit_bytes(kind);
        uint16_t v[2] = {half_from_f32(r->s[at]), half_from_f32(r->min[at])};
        int place = 4 * g + 2 * (at % 2) + half;
        if (kind == KIND_Q4)
            memcpy(unit + 512 + 4 * place, v, 4);
        else
            memcpy(unit + 1024 + 2 * place, v, 2);
    }
}

static void pack_row(enum weight_kind kind, enum dtype t, int n_in, const uint8_t *src, struct row *r,
                     int r16, uint8_t *units)
{
    if (kind == KIND_E4M3) {
        encode_e4m3(t, src, n_in, r);
    } else {
        if (kind == KIND_Q8)
            decode_q8(src, n_in, r);
        else
            decode_q4(t, src, n_in, r);
        scale_row(n_in, r);
    }
    place_row(kind, n_in, r, r16, units);
}

/* ---- the matrix ---- */

static int copy(struct cuda *c, void *to, const void *from, size_t bytes, struct err *e)
{
    cudaError_t rc = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, c->stream);
    if (rc == cudaSuccess) rc = cudaStreamSynchronize(c->stream);
    return rc == cudaSuccess ? 0 : err_set(e, ERR_IO, "cuda: copying a matrix: %s", cudaGetErrorString(rc));
}

/* Rows as BF16. */
static int fill_plain(struct cuda *c, struct weight *w, const uint8_t *src, uint8_t *stage, float *f,
                      struct err *e)
{
    int n_in = w->info.n_in, rc = 0;
    size_t from = dtype_row_bytes(w->info.type, n_in), row = (size_t)n_in * 2, fit = STAGE_BYTES / row;
    if (w->info.type == DT_BF16) return copy(c, w->data, src, row * (size_t)w->info.n_out, e);
    if (!fit) fit = 1;
    for (size_t at = 0; !rc && at < (size_t)w->info.n_out; at += fit) {
        size_t n = (size_t)w->info.n_out - at < fit ? (size_t)w->info.n_out - at : fit;
        for (size_t i = 0; i < n; i++) {
            dtype_to_f32(w->info.type, src + (at + i) * from, f, n_in);
            dtype_from_f32(DT_BF16, f, stage + i * row, n_in);
        }
        rc = copy(c, w->data + at * row, stage, n * row, e);
    }
    return rc;
}

/* Tiles of coded rows, and the rows' scales after all of them. */
static int fill_coded(struct cuda *c, struct weight *w, const uint8_t *src, uint8_t *stage, struct row *r,
                      float *scales, struct err *e)
{
    int n_out = w->info.n_out, n_in = w->info.n_in, tiles = tiles_of(n_out), rc = 0;
    size_t from = dtype_row_bytes(w->info.type, n_in), tile = (size_t)w->n_unit * unit_bytes(w->kind);
    int fit = tile < STAGE_BYTES ? (int)(STAGE_BYTES / tile) : 1;
    for (int at = 0; !rc && at < tiles; at += fit) {
        int n = tiles - at < fit ? tiles - at : fit;
        memset(stage, 0, (size_t)n * tile);
        for (int o = at * TILE; o < (at + n) * TILE && o < n_out; o++) {
            pack_row(w->kind, w->info.type, n_in, src + (size_t)o * from, r, o % TILE,
                     stage + (size_t)(o / TILE - at) * tile);
            scales[o] = r->row_scale;
        }
        rc = copy(c, w->data + (size_t)at * tile, stage, (size_t)n * tile, e);
    }
    return rc ? rc : copy(c, w->row_scale, scales, (size_t)n_out * sizeof *scales, e);
}

static int fill(struct cuda *c, struct weight *w, const void *src, struct err *e)
{
    size_t n_in = (size_t)w->info.n_in, least = n_in * 2;
    if (w->kind != KIND_BF16) least = (size_t)w->n_unit * unit_bytes(w->kind);
    uint8_t *stage = (uint8_t *)malloc(least > STAGE_BYTES ? least : STAGE_BYTES),
            *code = (uint8_t *)malloc(n_in);
    float *f = (float *)malloc((n_in + 2 * (n_in / 32)) * sizeof(float));
    float *scales = (float *)malloc((size_t)w->info.n_out * sizeof(float));
    int rc;
    if (!stage || !code || !f || !scales) {
        rc = err_set(e, ERR_NOMEM, "out of memory");
    } else if (w->kind == KIND_BF16) {
        rc = fill_plain(c, w, (const uint8_t *)src, stage, f, e);
    } else {
        struct row r = {f, code, f + n_in, f + n_in + n_in / 32, 1};
        rc = fill_coded(c, w, (const uint8_t *)src, stage, &r, scales, e);
    }
    free(stage);
    free(code);
    free(f);
    free(scales);
    return rc;
}

int cu_weight_pack(struct backend *be, enum dtype t, int n_out, int n_in, const void *src,
                   struct weight **out, struct err *e)
{
    struct cuda *c = cuda_of(be);
    if ((unsigned)t >= DT_I8) return err_set(e, ERR_UNSUPPORTED, "no matrices of type %d", (int)t);
    if (n_out < 1 || n_in > MAX_IN || !dtype_row_bytes(t, n_in))
        return err_set(e, ERR_INVALID, "%s matrix of %d x %d", dtype_info(t)->name, n_out, n_in);
    if (n_in % 8)
        return err_set(e, ERR_UNSUPPORTED, "a matrix of %d columns: the CUDA back end needs a multiple of 8",
                       n_in);
    struct weight *w = (struct weight *)calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_NOMEM, "out of memory");
    w->info = (struct weight_info){t, n_out, n_in, 0};
    w->kind = kind_for(c, t);
    w->n_unit = (n_in + UNIT - 1) / UNIT;
    cut_sums(w);
    size_t codes = w->kind == KIND_BF16 ? (size_t)n_out * (size_t)n_in * 2
                                        : (size_t)tiles_of(n_out) * (size_t)w->n_unit * unit_bytes(w->kind);
    w->info.bytes = codes + (w->kind == KIND_BF16 ? 0 : (size_t)n_out * sizeof(float));
    cudaSetDevice(c->device); /* of this thread: packing need not be the engine's */
    int rc = cu_alloc(c, w->info.bytes, "a matrix", (void **)&w->data, e);
    if (!rc && w->kind != KIND_BF16) w->row_scale = (float *)(w->data + codes);
    if (!rc) rc = fill(c, w, src, e);
    if (rc) {
        cu_weight_free(be, w);
        return rc;
    }
    *out = w;
    return 0;
}

void cu_weight_free(struct backend *be, struct weight *w)
{
    (void)be;
    if (!w) return;
    cudaFree(w->data);
    free(w);
}

struct weight_info cu_weight_info(const struct weight *w) { return w->info; }

/* ---- back to numbers ---- */

/* One warp a unit; a lane's operands are eight neighbours of two rows, twice. */
template <int KIND>
static __global__ void unpack_kernel(const uint8_t *units, const float *row_scale, int n_o, int n_in,
                                     int n_unit, uint4 *to)
{
    int lane = threadIdx.x % 32, u = (int)(blockIdx.x * blockDim.x + threadIdx.x) / 32,
        tile = (int)blockIdx.y;
    if (u >= n_unit) return;
    typename raw_of<KIND>::type r;
    unit_load(&r, units + ((size_t)tile * n_unit + u) * unit_bytes(KIND), lane,
              [](auto *p) { return __ldcs(p); });
    pdl_launch();
    pdl_wait();
    for (int i = 0; i < 2; i++) {
        unsigned a[2][4];
        for (int m = 0; m < 2; m++) dequant(r, i, m, a[m]);
        int k = u * UNIT + 32 * i + lane % 4 * 8;
        for (int half = 0; half < 2; half++) {
            int o = tile * TILE + 8 * half + lane / 4;
            if (o >= n_o || k >= n_in) continue;
            float f[8], s = row_scale[o];
            bf16x8_unpack(make_uint4(a[0][half], a[0][2 + half], a[1][half], a[1][2 + half]), f);
            for (int e = 0; e < 8; e++) f[e] *= s;
            to[((size_t)o * n_in + k) / 8] = bf16x8_pack(f);
        }
    }
}

void weight_unpack(struct cuda *c, const struct weight *w, int o0, int n_o, void *to)
{
    const uint8_t *units = w->data + (size_t)(o0 / TILE) * (size_t)w->n_unit * unit_bytes(w->kind);
    dim3 grid((w->n_unit + 7) / 8, tiles_of(n_o));
#define X(KIND)                                                                                              \
    case KIND:                                                                                               \
        LAUNCH_PDL(unpack_kernel<KIND>, grid, dim3(256), 0, c->stream, units, w->row_scale + o0, n_o,        \
                   w->info.n_in, w->n_unit, (uint4 *)to);                                                    \
        break;
    switch (w->kind) {
        X(KIND_E4M3) X(KIND_Q8) X(KIND_Q4) case KIND_BF16 : break; /* is */
    }
#undef X
    CU_LAUNCHED(c);
}

struct table {
    const uint8_t *data;
    const float *row_scale;
    int kind, n_out, n_in, n_unit;
};

static __device__ float table_value(const struct table &w, int o, int k)
{
    if (w.kind == KIND_BF16)
        return bits_float((unsigned)((const uint16_t *)w.data)[(size_t)o * w.n_in + k] << 16);
    const uint8_t *unit = w.data + ((size_t)(o / TILE) * w.n_unit + k / UNIT) * unit_bytes(w.kind);
    int g = o % 8, half = o / 8 % 2, i = k / 32 % 2, lane = 4 * g + k / 8 % 4, m = k / 4 % 2, h = k / 2 % 2,
        e = k % 2;
    int place = 4 * g + 2 * i + half;
    const uint8_t *code = unit + 512 * i + 16 * lane + 4 * (2 * m + h);
    if (w.kind == KIND_E4M3) {
        unsigned v = code[half + 2 * e];
        return bits_float((v & 0x80) << 24 | (v & 0x7f) << 20) * 0x1p120f;
    }
    if (w.kind == KIND_Q8)
        return (float)(code[e + 2 * half] - 128) * half_bits(((const uint16_t *)(unit + 1024))[place]);
    unsigned v = unit[16 * lane + 4 * (2 * i + m) + h + 2 * e] >> 4 * half & 15;
    const uint16_t *s = (const uint16_t *)(unit + 512) + 2 * place;
    return fmaf((float)v, half_bits(s[0]), half_bits(s[1]));
}

/* One block a row; an id that is not in the table gives zeros. */
static __global__ void embed_kernel(const struct table w, const int32_t *ids, float scale, float *y)
{
    pdl_launch();
    pdl_wait();
    int id = ids[blockIdx.x];
    bool there = id >= 0 && id < w.n_out;
    float s = there && w.row_scale ? w.row_scale[id] * scale : scale;
    for (int k = threadIdx.x; k < w.n_in; k += blockDim.x)
        y[(size_t)blockIdx.x * w.n_in + k] = there ? table_value(w, id, k) * s : 0;
}

void cu_embed(struct backend *be, const struct weight *w, const struct batch *b, float scale, float *y)
{
    struct cuda *c = cuda_of(be);
    struct table t = {w->data, w->row_scale, w->kind, w->info.n_out, w->info.n_in, w->n_unit};
    LAUNCH_PDL(embed_kernel, dim3(b->n), dim3(256), 0, c->stream, t, c->step.ids, scale, y);
    CU_LAUNCHED(c);
}
