/* What the sampler's files share. The logits of a row are handled in chunks, one to a block of threads, so
 * that few rows fill the device too. The kernels, in order:
 *
 *   edit    bias, bans and penalties, in place; a block for each row
 *   max     the largest logit of each chunk, and its id
 *   weigh   weights q = floor(exp((x - max) / T) * 2^30): the sum for each SPAN of ids, lists of likely ones
 *   pick    the draw; a block for each row
 *   unedit  where logprobs of an edited row are wanted: the raw logits, and max again
 *   score   the sum of exp for each SPAN, the rank of the token, the chunk's largest logits
 *   finish  logprobs; a block for each row
 *
 * Weights are integers and their sums exact in any order, so neither the grid nor the order of a list shows
 * in the result. struct sample_view is device memory of the one struct cu_sample, used by its stream alone.
 */
#pragma once
#include "device.cuh"
#include "ptx.cuh"

#define SAMPLE_ROWS    256 /* rows in one round of the kernels */
#define SAMPLE_THREADS 256 /* of a chunk */
#define SPAN           256 /* ids of one sum; the unit of engine/sampler_vec.h, whose order of additions is kept */
#define CHUNK          4096 /* 16 logits to a thread */
#define CHUNK_SPANS    (CHUNK / SPAN)
#define QUADS          (CHUNK / SAMPLE_THREADS / 4) /* float4 of a thread */
#define PICK_THREADS   512
#define ONE            (1 << 30) /* weight of the likeliest token */

/* The likely tokens of a row, in no order: list 0 from NEAR up, list 1 from FAR up. A list that overflows is
 * not used. */
#define NEAR     (1 << 24)
#define FAR      (1 << 14)
#define LIST_MAX 4096

enum sample_how { HOW_SCORE, HOW_GREEDY, HOW_ANY, HOW_FILTERED };
struct sample_edit {
    int32_t token;
    union {
        float bias;
        int32_t n_out;
    };
};
/* sample_row as the kernels want it. */
struct sample_task {
    uint64_t random;
    enum sample_how how;
    float inv_t, top_p, repetition, frequency, presence;
    int32_t least; /* smallest weight that min_p leaves, >= 1 */
    int top_k;     /* 0 = off */
    int n_top;     /* -1: no logprobs */
    int32_t score;
    int edit, n_bias, n_ban, n_seen; /* edits [edit, edit + all three) in this order */
};
struct sample_view {
    const struct sample_task *task; /* [n] */
    const struct sample_edit *edit;
    float *old; /* the logits that the edits changed, in their order */
    float *x;   /* [n][vocab] */
    int vocab, n_chunk, n_span;
    uint64_t *best;               /* [n][n_chunk] key of the largest logit */
    int64_t *mass;                /* [n][n_span] weights */
    int *n_list;                  /* [n][2] */
    uint2 *list;                  /* [n][2][LIST_MAX] id and weight */
    float *sum;                   /* [n][n_span] of exp(x - max) */
    int *above;                   /* [n] tokens that rank above the one wanted */
    uint64_t *top;                /* [n][n_chunk][SAMPLE_TOP_MAX] keys, descending, 0 = none */
    struct sample_result *result; /* [n] */
};
void sample_draw(struct cuda *c, const struct sample_view *v, int n, bool edits, bool draws);
void sample_raw(struct cuda *c, const struct sample_view *v, int n);
void sample_score(struct cuda *c, const struct sample_view *v, int n);

/* A logit and its id as one number that orders by (value descending, id ascending) when the largest comes
 * first. NaN counts as -inf, and -0 as 0; no key is 0. */
static __device__ __forceinline__ uint64_t logit_key(float x, int id)
{
    unsigned u = __float_as_uint(x == x ? __fadd_rn(x, 0.f) : -INFINITY);
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)u << 32 | (unsigned)~id;
}
static __device__ __forceinline__ int key_id(uint64_t key) { return (int)~(unsigned)key; }
static __device__ __forceinline__ float key_logit(uint64_t key)
{
    unsigned u = (unsigned)(key >> 32);
    return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}
static __device__ __forceinline__ uint64_t warp_max_key(uint64_t k)
{
    for (int step = 16; step; step /= 2) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, k, step);
        k = other > k ? other : k;
    }
    return k;
}
/* The same over a block, in every thread. */
typedef uint64_t key_parts[32];
static __device__ __forceinline__ uint64_t block_max_key(uint64_t k, uint64_t part[32])
{
    int lane = threadIdx.x % 32;
    k = warp_max_key(k);
    __syncthreads(); /* part may still be read from the call before */
    if (!lane) part[threadIdx.x / 32] = k;
    __syncthreads();
    return warp_max_key(lane < (int)blockDim.x / 32 ? part[lane] : 0);
}
/* The row's largest logit, from its chunks'. By a whole warp. */
static __device__ __forceinline__ uint64_t row_best(const struct sample_view &v, int row)
{
    uint64_t k = 0;
    for (int i = threadIdx.x % 32; i < v.n_chunk; i += 32) {
        uint64_t other = v.best[(size_t)row * v.n_chunk + i];
        k = other > k ? other : k;
    }
    return warp_max_key(k);
}

/* Logits at .. at + 3 of a row; -inf beyond its end. Rows are aligned where the vocabulary is a multiple
 * of 4. */
static __device__ __forceinline__ float4 load_quad(const float *x, int at, int vocab)
{
    if (vocab % 4 == 0)
        return at < vocab ? *(const float4 *)(x + at)
                          : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    return make_float4(at < vocab ? x[at] : -INFINITY, at + 1 < vocab ? x[at + 1] : -INFINITY,
                       at + 2 < vocab ? x[at + 2] : -INFINITY, at + 3 < vocab ? x[at + 3] : -INFINITY);
}

/* engine/sampler_vec.h's exp_neg, operation for operation: the compiler must not contract any of it. */
static __device__ __forceinline__ float exp_neg(float v)
{
    v = v > -80.f ? v : -80.f;
    float n = __fsub_rn(__fadd_rn(__fmul_rn(v, 1.44269504f), 12582912.f), 12582912.f);
    float r = __fadd_rn(__fsub_rn(v, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, 2.12194440e-4f));
    float p = __fadd_rn(__fmul_rn(r, 1.f / 720), 1.f / 120);
    p = __fadd_rn(__fmul_rn(p, r), 1.f / 24);
    p = __fadd_rn(__fmul_rn(p, r), 1.f / 6);
    p = __fadd_rn(__fmul_rn(p, r), 0.5f);
    p = __fadd_rn(__fmul_rn(p, r), 1.f);
    p = __fadd_rn(__fmul_rn(p, r), 1.f);
    return __fmul_rn(p, __int_as_float((__float2int_rz(n) + 127) << 23));
}
/* Below this exp(v) * 2^30 is less than 1. */
#define WEIGHT_FLOOR (-21.f)
static __device__ __forceinline__ int weight(float x, float max, float inv_t)
{
    return __float2int_rz(__fmul_rn(exp_neg(__fmul_rn(__fsub_rn(x, max), inv_t)), 1073741824.f));
}
