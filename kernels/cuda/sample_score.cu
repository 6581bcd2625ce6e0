/* Logprobs: log softmax of the raw logits, ranks and the likeliest tokens, as engine/sampler.c's
 * sampler_score. */
#include "sample.cuh"

#define SPAN_LANES 8          /* sums of a span, each over every eighth logit in order */
#define SPAN_PAD   (SPAN + 8) /* keeps the sums of four spans in different banks */
struct score_shared {
    alignas(16) float e[CHUNK_SPANS][SPAN_PAD]; /* exp(x - max) */
    uint64_t part[32];
};

/* The sums of the chunk's spans, from sh.e: lane by lane, then over the lanes. */
static __device__ void sum_spans(struct score_shared &sh, const struct sample_view &v, int row)
{
    if (threadIdx.x >= CHUNK_SPANS * SPAN_LANES) return;
    int s = threadIdx.x / SPAN_LANES, lane = threadIdx.x % SPAN_LANES, span = blockIdx.x * CHUNK_SPANS + s;
    int n = v.vocab - span * SPAN < SPAN ? v.vocab - span * SPAN : SPAN;
    float sum = 0, all = 0;
    for (int i = 0; i < n; i += SPAN_LANES) sum = __fadd_rn(sum, sh.e[s][i + lane]);
#pragma unroll
    for (int i = 0; i < SPAN_LANES; i++) all = __fadd_rn(all, __shfl_sync(0xffffffffu, sum, i, SPAN_LANES));
    if (!lane && span < v.n_span) v.sum[(size_t)row * v.n_span + span] = all;
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) score_chunks(struct sample_view v)
{
    SHARED(struct score_shared, sh);
    pdl_launch();
    pdl_wait();
    int row = blockIdx.y;
    const struct sample_task &t = v.task[row];
    if (t.n_top < 0 || v.result[row].status) return;
    float max = key_logit(row_best(v, row));
    if (!isfinite(max)) return;
    const float *x = v.x + (size_t)row * v.vocab;
    int token = v.result[row].token, above = 0;
    float wanted = x[token], f[QUADS * 4];
    uint64_t best = 0;
#pragma unroll
    for (int i = 0; i < QUADS; i++) {
        int in_chunk = (i * SAMPLE_THREADS + threadIdx.x) * 4, at = blockIdx.x * CHUNK + in_chunk;
        float4 q = load_quad(x, at, v.vocab);
        f[4 * i] = q.x, f[4 * i + 1] = q.y, f[4 * i + 2] = q.z, f[4 * i + 3] = q.w;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float u = f[4 * i + k];
            if (at + k < v.vocab) {
                above += u > wanted || (u == wanted && at + k < token);
                uint64_t key = logit_key(u, at + k);
                best = key > best ? key : best;
            }
        }
        *(float4 *)&sh.e[in_chunk / SPAN][in_chunk % SPAN] =
            make_float4(exp_neg(__fsub_rn(q.x, max)), exp_neg(__fsub_rn(q.y, max)),
                        exp_neg(__fsub_rn(q.z, max)), exp_neg(__fsub_rn(q.w, max)));
    }
    above = __reduce_add_sync(0xffffffffu, above);
    if (threadIdx.x % 32 == 0 && above) atomicAdd(&v.above[row], above);
    __syncthreads();
    sum_spans(sh, v, row);
    uint64_t *top = v.top + ((size_t)row * v.n_chunk + blockIdx.x) * SAMPLE_TOP_MAX;
    for (int k = 0; k < t.n_top; k++) {
        uint64_t winner = block_max_key(best, sh.part);
        if (!threadIdx.x) top[k] = winner;
        if (best != winner || !best) continue;
        best = 0; /* this thread's next one */
#pragma unroll
        for (int i = 0; i < QUADS * 4; i++) {
            int at = blockIdx.x * CHUNK + (i / 4 * SAMPLE_THREADS + threadIdx.x) * 4 + i % 4;
            uint64_t key = at < v.vocab ? logit_key(f[i], at) : 0;
            if (key < winner && key > best) best = key;
        }
    }
}

struct finish_shared {
    float sum[1024];
    uint64_t part[32];
    double lse;
};

/* log(sum(exp(x))): the spans' sums are added in their order, in double. */
static __device__ double log_sum_exp(struct finish_shared &sh, const struct sample_view &v, int row,
                                     float max)
{
    const int tile = sizeof sh.sum / sizeof *sh.sum;
    double sum = 0;
    for (int from = 0; from < v.n_span; from += tile) {
        int n = v.n_span - from < tile ? v.n_span - from : tile;
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            sh.sum[i] = v.sum[(size_t)row * v.n_span + from + i];
        __syncthreads();
        if (!threadIdx.x)
            for (int i = 0; i < n; i++) sum += (double)sh.sum[i];
        __syncthreads();
    }
    if (!threadIdx.x) sh.lse = (double)max + log(sum);
    __syncthreads();
    return sh.lse;
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) finish_rows(struct sample_view v)
{
    SHARED(struct finish_shared, sh);
    pdl_launch();
    pdl_wait();
    int row = blockIdx.x;
    const struct sample_task &t = v.task[row];
    struct sample_result *r = v.result + row;
    if (t.n_top < 0 || r->status) return;
    float max = key_logit(row_best(v, row));
    if (!isfinite(max)) {
        __syncthreads(); /* all have read the status */
        if (!threadIdx.x) r->status = ERR_INVALID;
        return;
    }
    double lse = log_sum_exp(sh, v, row, max);
    int n_top = t.n_top < v.vocab ? t.n_top : v.vocab;
    if (!threadIdx.x) {
        r->logprob = (float)((double)v.x[(size_t)row * v.vocab + r->token] - lse);
        r->rank = 1 + v.above[row];
        r->n_top = n_top;
    }
    const uint64_t *top = v.top + (size_t)row * v.n_chunk * SAMPLE_TOP_MAX;
    uint64_t last = UINT64_MAX;
    for (int k = 0; k < n_top; k++) { /* the largest below the last */
        uint64_t best = 0;
        for (int i = threadIdx.x; i < v.n_chunk * t.n_top; i += blockDim.x) {
            uint64_t key = top[i / t.n_top * SAMPLE_TOP_MAX + i % t.n_top];
            if (key < last && key > best) best = key;
        }
        last = block_max_key(best, sh.part);
        if (!threadIdx.x) r->top[k] = {key_id(last), (float)((double)key_logit(last) - lse)};
    }
}

void sample_score(struct cuda *c, const struct sample_view *v, int n)
{
    LAUNCH_PDL(score_chunks, dim3((unsigned)v->n_chunk, (unsigned)n), dim3(SAMPLE_THREADS), 0, c->stream, *v);
    LAUNCH_PDL(finish_rows, dim3((unsigned)n), dim3(SAMPLE_THREADS), 0, c->stream, *v);
    CU_LAUNCHED(c);
}
