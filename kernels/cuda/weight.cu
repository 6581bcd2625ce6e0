/* Matrices: their memory, filled slice by slice through two pinned buffers in turn, so that the pool's
 * threads pack one (pack.cu) while the other is copied; and back to numbers for the embedding and for
 * products of many rows. The buffers last from the first matrix until `reserve`, when the weights are all
 * there. */
#include <stdlib.h>
#include "gemm.cuh"

#define MAX_IN      (1 << 24) /* so that sizes need no overflow checks */
#define SLICE_BYTES ((size_t)16 << 20)

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

/* ---- slices ---- */

struct cu_pack {
    uint8_t *host[2]; /* [bytes] */
    cudaEvent_t copied[2];
    size_t bytes;
    int turn;
};

void cu_pack_close(struct cuda *c)
{
    struct cu_pack *p = c->pack;
    if (!p) return;
    for (int i = 0; i < 2; i++) {
        if (p->copied[i]) CU(c, cudaEventSynchronize(p->copied[i]));
        if (p->copied[i]) cudaEventDestroy(p->copied[i]);
        if (p->host[i]) cudaFreeHost(p->host[i]);
    }
    free(p);
    c->pack = NULL;
}

static int pack_open(struct cuda *c, size_t bytes, struct err *e)
{
    if (c->pack && c->pack->bytes >= bytes) return 0;
    cu_pack_close(c);
    struct cu_pack *p = c->pack = (struct cu_pack *)calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NOMEM, "out of memory");
    p->bytes = bytes;
    for (int i = 0; i < 2; i++)
        if (cudaHostAlloc((void **)&p->host[i], bytes, cudaHostAllocDefault) ||
            cudaEventCreateWithFlags(&p->copied[i], cudaEventDisableTiming)) {
            cudaGetLastError();
            cu_pack_close(c);
            return err_set(e, ERR_NOMEM, "cuda: no pinned memory for packing (%zu MiB)", bytes >> 20);
        }
    return 0;
}

static size_t tile_bytes(const struct weight *w)
{
    return w->kind == KIND_BF16 ? (size_t)w->info.n_in * 2 * TILE : (size_t)w->n_unit * unit_bytes(w->kind);
}

struct slice {
    const struct weight *w;
    const uint8_t *src;
    int first, n; /* tiles */
    uint8_t *to;  /* [n][tile_bytes] */
    float *scale; /* [n][TILE] */
};
static int rows_from(const struct slice *s, int tile, int n)
{
    int left = s->w->info.n_out - (s->first + tile) * TILE;
    return left < n * TILE ? left : n * TILE;
}
static void pack_task(void *arg, int i, int worker)
{
    const struct slice *s = (const struct slice *)arg;
    const struct weight_info *in = &s->w->info;
    (void)worker;
    pack_tile(s->w, s->src + (size_t)(s->first + i) * TILE * dtype_row_bytes(in->type, in->n_in),
              rows_from(s, i, 1), s->to + (size_t)i * tile_bytes(s->w), s->scale + (size_t)i * TILE);
}

static cudaError_t send(struct cuda *c, const struct slice *s)
{
    const struct weight *w = s->w;
    size_t rows = (size_t)rows_from(s, 0, s->n), bytes = (size_t)s->n * tile_bytes(w);
    if (w->kind == KIND_BF16) bytes = rows * (size_t)w->info.n_in * 2; /* the last tile may be short */
    cudaError_t bad = cudaMemcpyAsync(w->data + (size_t)s->first * tile_bytes(w), s->to, bytes,
                                      cudaMemcpyHostToDevice, c->stream);
    if (bad || !w->row_scale) return bad;
    return cudaMemcpyAsync(w->row_scale + (size_t)s->first * TILE, s->scale, rows * sizeof(float),
                           cudaMemcpyHostToDevice, c->stream);
}

/* Enqueues the matrix: src has been read when it returns. */
static int fill(struct cuda *c, const struct weight *w, const void *src, struct err *e)
{
    size_t one = tile_bytes(w) + TILE * sizeof(float), fit = SLICE_BYTES / one;
    int tiles = tiles_of(w->info.n_out), most = fit < 1 ? 1 : fit < (size_t)tiles ? (int)fit : tiles;
    int rc = pack_open(c, (size_t)most * one, e);
    for (int at = 0; !rc && at < tiles; at += most) {
        struct cu_pack *p = c->pack;
        int n = tiles - at < most ? tiles - at : most, turn = p->turn ^= 1;
        uint8_t *to = p->host[turn];
        struct slice s = {w, (const uint8_t *)src, at, n, to, (float *)(to + (size_t)n * tile_bytes(w))};
        cudaError_t bad = cudaEventSynchronize(p->copied[turn]);
        if (!bad) {
            c->o.run(c->o.pool, n, pack_task, &s);
            bad = send(c, &s);
        }
        if (!bad) bad = cudaEventRecord(p->copied[turn], c->stream);
        if (bad) rc = err_set(e, ERR_IO, "cuda: copying a matrix: %s", cudaGetErrorString(bad));
    }
    return rc;
}

/* ---- the matrix ---- */

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
    size_t codes =
        w->kind == KIND_BF16 ? (size_t)n_out * (size_t)n_in * 2 : (size_t)tiles_of(n_out) * tile_bytes(w);
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
static __global__ void embed_kernel(const struct table w, const int32_t *ids, const int32_t *drawn,
                                    const struct sample_result *result, float scale, float *y)
{
    pdl_launch();
    pdl_wait();
    int from = drawn[blockIdx.x], id = from < 0 ? ids[blockIdx.x] : result[from].token;
    bool there = id >= 0 && id < w.n_out;
    float s = there && w.row_scale ? w.row_scale[id] * scale : scale;
    for (int k = threadIdx.x; k < w.n_in; k += blockDim.x)
        y[(size_t)blockIdx.x * w.n_in + k] = there ? table_value(w, id, k) * s : 0;
}

void cu_embed(struct backend *be, const struct weight *w, const struct batch *b, float scale, float *y)
{
    struct cuda *c = cuda_of(be);
    struct table t = {w->data, w->row_scale, w->kind, w->info.n_out, w->info.n_in, w->n_unit};
    LAUNCH_PDL(embed_kernel, dim3(b->n), dim3(256), 0, c->stream, t, c->step.ids, c->step.drawn, cu_drawn(c),
               scale, y);
    CU_LAUNCHED(c);
}
