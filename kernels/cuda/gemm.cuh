/* Matrices in device memory, and the pieces that the product kernels share.
 *
 * A product computes y[c][o] = sum_k x[c][k] w[o][k] by mma.m16n8k16, with the weights on the side of 16 rows
 * and the tokens on the side of 8, so that a decode of one token wastes nothing of the weights' bandwidth. A
 * matrix is cut into tiles of 16 outputs and units of 64 inputs. Lane 4g + t of a warp takes from a unit rows
 * g and g + 8, inputs 32i + 8t + 4m + 2h + e      i, m, h, e in {0, 1} and step 2i + m of the unit's four mma
 * steps reads h, e as the instruction's fragment (h: registers 0, 1 or 2, 3). Any order of k does as long as
 * both operands use it; this one makes eight consecutive inputs of a row, 16 bytes of BF16, one load of a
 * lane, for x as for plain weights, without ldmatrix. Quantised units are stored by lane: 16-byte loads bring
 * codes in the order in which fragments take them.
 *
 * Sums have one order for every kernel and number of rows, so that the result of a row never depends on its
 * company. The units are cut into `split` parts of 8 segments of `seg` units, which depend on the shape of
 * the matrix alone. A segment is summed by consecutive mma; a part is the sum of its segments, in order, and
 * the result that of the parts. */
#pragma once
#include "device.cuh"
#include "ptx.cuh"

enum weight_kind {
    KIND_BF16, /* [n_out][n_in], as in files; the others [tile][unit][unit_bytes] and a float for each output
                */
    KIND_E4M3, /* [2 i][lane][16] e4m3 */
    KIND_Q8,   /* [2 i][lane][16] code + 128, then [8 g][2 i][2 rows] half: scale */
    KIND_Q4,   /* [lane][4 steps] words of 8 codes, then [8 g][2 i][2 rows] half2: scale, min */
};
enum { TILE = 16, UNIT = 64, SEGMENTS = 8 };

struct weight {
    struct weight_info info;
    enum weight_kind kind;
    int n_unit, split, seg;
    uint8_t *data;
    float
        *row_scale; /* [n_out] what the dequantised values of a row are to be multiplied by; NULL for BF16 */
};

__host__ __device__ constexpr int unit_bytes(int kind)
{
    return kind == KIND_BF16 ? 2048 : kind == KIND_E4M3 ? 1024 : kind == KIND_Q8 ? 1088 : 640;
}
static inline int tiles_of(int n_out) { return (n_out + TILE - 1) / TILE; }

/* One product of a launch. In a pair, the gate and up matrices of a gated unit, outputs are computed of both.
 */
struct gemm_out {
    const uint8_t *w;
    const float *row_scale, *bias; /* [n_out] or NULL */
    void *y;                       /* [n][y_stride] float; of a pair [n][y_stride] BF16, in the first's */
    int y_stride, n_out, split, seg;
    int first; /* block of the launch where this out begins */
    int sum0;  /* gemm_rows.cu: its place among the partial sums, if split > 1 */
};
enum { MAX_OUTS = 4 };
struct gemm_job {
    const uint16_t *x; /* [n][n_in] BF16 */
    int n, n_in, n_unit, n_outs;
    bool pair;
    enum act act;
    int parts; /* blocks that share an output's sum (gemm_tile.cu) */
    struct gemm_out out[MAX_OUTS];
    float4 *part;    /* partial sums, SCRATCH_BYTES */
    unsigned *count; /* [MAX_COUNTS] zero between launches: blocks that have written theirs */
};
#define SCRATCH_BYTES ((size_t)32 << 20)
#define MAX_COUNTS    4096

/* gemm_rows.cu: up to ROWS_MAX rows; each warp of a block sums one segment. gemm_tile.cu: any number. All
 * outs are of one kind and share n_in. */
enum { ROWS_MAX = 32 };
void gemm_rows(struct cuda *c, enum weight_kind kind, struct gemm_job *j);
void gemm_tile(struct cuda *c, enum weight_kind kind, struct gemm_job *j);
void gemm_tile_open(struct cuda *c); /* once for each device */

/* lt.cu: y = x w^T by cublasLt, w [n_out][n_in] BF16, addresses aligned. False if the library refused. */
enum { LT_ALIGNMENT = 16 };
struct lt_out {
    void *y; /* [n][stride] */
    int stride;
    enum dtype type; /* DT_F32 or DT_BF16 */
};
struct cu_lt;
struct cu_lt *lt_open(void); /* NULL without the library */
void lt_close(struct cu_lt *lt);
bool lt_linear(struct cuda *c, struct cu_lt *lt, const void *w, int n_out, int n_in, const uint16_t *x, int n,
               struct lt_out to, void *scratch);

/* pack.cu, on the host: n_row <= TILE rows of w's type into a tile of its kind, and their scales,
 * but for BF16. */
void pack_tile(const struct weight *w, const uint8_t *src, int n_row, uint8_t *to, float *scale);
/* weight.cu: outputs [o0, o0 + n_o) of a quantised kind as BF16 [n_o][n_in]; o0 is a multiple of 16. */
void weight_unpack(struct cuda *c, const struct weight *w, int o0, int n_o, void *to);

/* ---- what a lane holds of a unit, and its conversion to mma operands ---- */

static __device__ __forceinline__ float bits_float(unsigned u) { return __uint_as_float(u); }
static __device__ __forceinline__ float half_bits(unsigned u)
{
    __half_raw r;
    r.x = (unsigned short)u;
    return __half2float(__half(r));
}
static __device__ __forceinline__ unsigned word(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* row[0], row[1]: of rows g and g + 8, inputs 32i + 8t onwards */
struct raw_bf16 {
    uint4 v[2][2]; /* [i][row] */
};
struct raw_e4m3 {
    uint4 v[2]; /* [i]: word 2m + h has the codes of rows g, g + 8 interleaved: g e0, g + 8 e0, g e1, g + 8 e1
                 */
};
struct raw_q8 {
    uint4 v[2]; /* [i]: word 2m + h, bytes g e0, g e1, g + 8 e0, g + 8 e1 */
    uint2 s;    /* halves [i][row] */
};
struct raw_q4 {
    uint4 v; /* word 2i + m: byte h + 2e, nibble row */
    uint4 s; /* [i][row] */
};
template <int KIND> struct raw_of;
template <> struct raw_of<KIND_BF16> {
    typedef struct raw_bf16 type;
};
template <> struct raw_of<KIND_E4M3> {
    typedef struct raw_e4m3 type;
};
template <> struct raw_of<KIND_Q8> {
    typedef struct raw_q8 type;
};
template <> struct raw_of<KIND_Q4> {
    typedef struct raw_q4 type;
};

/* Reading a stored unit; LOAD is a plain or a streaming load. */
template <class L>
static __device__ __forceinline__ void unit_load(struct raw_e4m3 *r, const uint8_t *u, int lane, L load)
{
    for (int i = 0; i < 2; i++) r->v[i] = load((const uint4 *)(u + 512 * i + 16 * lane));
}
template <class L>
static __device__ __forceinline__ void unit_load(struct raw_q8 *r, const uint8_t *u, int lane, L load)
{
    for (int i = 0; i < 2; i++) r->v[i] = load((const uint4 *)(u + 512 * i + 16 * lane));
    r->s = load((const uint2 *)(u + 1024 + 8 * (lane / 4)));
}
template <class L>
static __device__ __forceinline__ void unit_load(struct raw_q4 *r, const uint8_t *u, int lane, L load)
{
    r->v = load((const uint4 *)(u + 16 * lane));
    r->s = load((const uint4 *)(u + 512 + 16 * (lane / 4)));
}

/* Operand a of mma step 2i + m. */
static __device__ __forceinline__ void dequant(const struct raw_bf16 &r, int i, int m, unsigned a[4])
{
#pragma unroll
    for (int h = 0; h < 2; h++)
        for (int row = 0; row < 2; row++) a[2 * h + row] = word(r.v[i][row], 2 * m + h);
}

/* Sign, exponent and mantissa in BF16's places are 2^120 too small, subnormals too: the product is exact. */
static __device__ __forceinline__ unsigned e4m3_pair(unsigned w) /* bytes 1 and 3 */
{
    unsigned u = (w >> 4 & 0x07f007f0u) | (w & 0x80008000u), scale = 0x7b807b80u;
    __nv_bfloat162 v = __hmul2(*(__nv_bfloat162 *)&u, *(__nv_bfloat162 *)&scale);
    return *(unsigned *)&v;
}
static __device__ __forceinline__ void dequant(const struct raw_e4m3 &r, int i, int m, unsigned a[4])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        unsigned w = word(r.v[i], 2 * m + h);
        a[2 * h] = e4m3_pair(w << 8);
        a[2 * h + 1] = e4m3_pair(w);
    }
}

/* A byte in the last bits of 2^23 is 2^23 + byte; one permutation puts it there. */
static __device__ __forceinline__ float q8_value(unsigned w, int byte)
{
    return bits_float(__byte_perm(w, 0x4b000000u, 0x7550 + byte)) - (0x1p23f + 128);
}
static __device__ __forceinline__ void dequant(const struct raw_q8 &r, int i, int m, unsigned a[4])
{
    unsigned s = i ? r.s.y : r.s.x;
    float s0 = half_bits(s), s1 = half_bits(s >> 16);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        unsigned w = word(r.v[i], 2 * m + h);
        a[2 * h] = bf16x2_pack(q8_value(w, 0) * s0, q8_value(w, 1) * s0);
        a[2 * h + 1] = bf16x2_pack(q8_value(w, 2) * s1, q8_value(w, 3) * s1);
    }
}

/* A code in bits 16..19 of 128 is 128 + code; the 128 goes into the min. */
static __device__ __forceinline__ float q4_value(unsigned codes, int byte)
{
    return bits_float(__byte_perm(codes, 0x43u, 0x4055 + 0x100 * byte));
}
static __device__ __forceinline__ void dequant(const struct raw_q4 &r, int i, int m, unsigned a[4])
{
    unsigned w = word(r.v, 2 * i + m);
#pragma unroll
    for (int row = 0; row < 2; row++) {
        unsigned sm = word(r.s, 2 * i + row), codes = w >> 4 * row & 0x0f0f0f0fu;
        float s = half_bits(sm), min = fmaf(-128, s, half_bits(sm >> 16));
#pragma unroll
        for (int h = 0; h < 2; h++)
            a[2 * h + row] =
                bf16x2_pack(fmaf(q4_value(codes, h), s, min), fmaf(q4_value(codes, h + 2), s, min));
    }
}

/* Operand b of mma step 2i + m, of what a lane holds of x: inputs 32i + 8t onwards of row g. */
static __device__ __forceinline__ void x_operand(const uint4 &v, int m, unsigned b[2])
{
    b[0] = word(v, 2 * m);
    b[1] = word(v, 2 * m + 1);
}

/* ---- epilogue ---- */

/* v / (1 + exp(-s)), with s of tanh's identity (1 + tanh u) / 2 = 1 / (1 + exp(-2u)) for GELU. Written so
 * that no product meets a sum but in fmaf: the compiler must not contract it differently in different
 * kernels. */
static __device__ __forceinline__ float activate(enum act act, float v)
{
    if (act == ACT_RELU) return fmaxf(v, 0);
    if (act == ACT_GELU) return 0.5f * v * erfcf(v * -0.70710678f);
    float s = act == ACT_SILU ? v : 1.5957691f * v * fmaf(0.044715f * v, v, 1);
    return v / (1 + expf(-s));
}

static __device__ __forceinline__ float finish(const struct gemm_out &out, int o, float sum)
{
    return fmaf(sum, out.row_scale ? out.row_scale[o] : 1, out.bias ? out.bias[o] : 0);
}
/* b: the sum of the second matrix of a pair */
static __device__ __forceinline__ void store(const struct gemm_job &j, const struct gemm_out &out, int row,
                                             int o, float a, float b)
{
    if (row >= j.n || o >= out.n_out) return;
    size_t at = (size_t)row * out.y_stride + o;
    if (j.pair)
        ((__nv_bfloat16 *)out.y)[at] =
            __float2bfloat16(activate(j.act, finish(out, o, a)) * finish(j.out[1], o, b));
    else
        ((float *)out.y)[at] = finish(out, o, a);
}

/* True in the last block that has written its share of sum `id`, which then may read all. */
static __device__ __forceinline__ bool last_to_arrive(unsigned *count, int id, int blocks)
{
    SHARED(bool, last);
    __syncthreads();
    if (threadIdx.x == 0) {
        last = add_acq_rel(&count[id], 1) == (unsigned)blocks - 1;
        if (last) count[id] = 0;
    }
    __syncthreads();
    return last;
}
