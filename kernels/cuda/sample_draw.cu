/* The draw: edits, weights, cuts. See sample.cuh for the passes and engine/sampler.c for what they must
 * equal. */
#include "sample_find.cuh"

/* ---- edits: bias, then bans, then penalties; and back ---- */

/* engine/sampler.c's penalised(). Divides positive and multiplies negative logits (Keskar et al. 2019). */
static __device__ float penalised(float v, const struct sample_task &t, int n_out)
{
    if (t.repetition != 1) v = v > 0 ? __fdiv_rn(v, t.repetition) : __fmul_rn(v, t.repetition);
    if (n_out) v = __fsub_rn(v, __fadd_rn(__fmul_rn(t.frequency, (float)n_out), t.presence));
    return v;
}

/* A token may be in all three lists, and among the bans twice. */
static __global__ void edit_rows(struct sample_view v)
{
    pdl_wait();
    const struct sample_task &t = v.task[blockIdx.x];
    const struct sample_edit *e = v.edit + t.edit;
    float *x = v.x + (size_t)blockIdx.x * v.vocab, *old = v.old + t.edit;
    int ban = t.n_bias, seen = ban + t.n_ban, end = seen + t.n_seen;
    for (int i = threadIdx.x; i < ban; i += blockDim.x) {
        old[i] = x[e[i].token];
        x[e[i].token] = __fadd_rn(old[i], e[i].bias);
    }
    __syncthreads();
    for (int i = ban + threadIdx.x; i < seen; i += blockDim.x) old[i] = x[e[i].token];
    __syncthreads();
    for (int i = ban + threadIdx.x; i < seen; i += blockDim.x) x[e[i].token] = -INFINITY;
    __syncthreads();
    for (int i = seen + threadIdx.x; i < end; i += blockDim.x) {
        old[i] = x[e[i].token];
        x[e[i].token] = penalised(old[i], t, e[i].n_out);
    }
}

static __global__ void unedit_rows(struct sample_view v)
{
    pdl_wait();
    const struct sample_task &t = v.task[blockIdx.x];
    if (t.n_top < 0) return;
    const struct sample_edit *e = v.edit + t.edit;
    float *x = v.x + (size_t)blockIdx.x * v.vocab;
    const float *old = v.old + t.edit;
    int ban = t.n_bias, seen = ban + t.n_ban, end = seen + t.n_seen;
    for (int i = seen + threadIdx.x; i < end; i += blockDim.x) x[e[i].token] = old[i];
    __syncthreads();
    for (int i = ban + threadIdx.x; i < seen; i += blockDim.x) x[e[i].token] = old[i];
    __syncthreads();
    for (int i = threadIdx.x; i < ban; i += blockDim.x) x[e[i].token] = old[i];
}

/* ---- the largest logit of each chunk ---- */

/* `again`: after unedit_rows, only the rows that it changed. */
static __global__ void __launch_bounds__(SAMPLE_THREADS) max_of_chunks(struct sample_view v, bool again)
{
    SHARED(key_parts, part);
    pdl_launch();
    pdl_wait();
    const struct sample_task &t = v.task[blockIdx.y];
    if (again && (t.n_top < 0 || !(t.n_bias + t.n_ban + t.n_seen))) return;
    const float *x = v.x + (size_t)blockIdx.y * v.vocab;
    int first = blockIdx.x * CHUNK + threadIdx.x * 4, at = first;
    float4 q[QUADS];
#pragma unroll
    for (int i = 0; i < QUADS; i++) q[i] = load_quad(x, first + i * SAMPLE_THREADS * 4, v.vocab);
    float max = -INFINITY;
#pragma unroll
    for (int i = 0; i < QUADS; i++) { /* ids ascend, so the first of equals stays; no NaN is greater */
        int id = first + i * SAMPLE_THREADS * 4;
        if (q[i].x > max) max = q[i].x, at = id;
        if (q[i].y > max) max = q[i].y, at = id + 1;
        if (q[i].z > max) max = q[i].z, at = id + 2;
        if (q[i].w > max) max = q[i].w, at = id + 3;
    }
    uint64_t key = block_max_key(logit_key(max, at), part);
    if (threadIdx.x) return;
    v.best[(size_t)blockIdx.y * v.n_chunk + blockIdx.x] = key;
    if (blockIdx.x) return;
    v.n_list[2 * blockIdx.y] = v.n_list[2 * blockIdx.y + 1] = 0;
    v.above[blockIdx.y] = 0;
}

/* ---- weights ---- */

/* Appends the warp's tokens with least <= q < most to a list; whatever does not fit only counts. */
static __device__ void list_tokens(int *n_list, uint2 *list, const int q[8], int at, int least, int most)
{
    int lane = threadIdx.x % 32, n = 0, to = 0;
    unsigned in[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
        in[k] = __ballot_sync(0xffffffffu, q[k] >= least && q[k] < most);
        n += __popc(in[k]);
    }
    if (!n) return;
    if (!lane) to = atomicAdd(n_list, n);
    to = __shfl_sync(0xffffffffu, to, 0);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        int mine = to + __popc(in[k] & ((1u << lane) - 1));
        if (in[k] >> lane & 1 && mine < LIST_MAX)
            list[mine] = make_uint2(at + k % 4 + k / 4 * SPAN / 2, q[k]);
        to += __popc(in[k]);
    }
}

/* A warp takes EACH spans, a lane two float4 of each, half a span apart. */
#define EACH (CHUNK_SPANS / (SAMPLE_THREADS / 32))
static __global__ void __launch_bounds__(SAMPLE_THREADS, 4) weigh_chunks(struct sample_view v)
{
    pdl_launch();
    pdl_wait();
    int row = blockIdx.y, lane = threadIdx.x % 32, first = blockIdx.x * CHUNK_SPANS + threadIdx.x / 32 * EACH;
    const struct sample_task &t = v.task[row];
    if (t.how < HOW_ANY) return;
    const float *x = v.x + (size_t)row * v.vocab;
    float4 a[EACH], b[EACH]; /* on their way while the row's maximum is found */
#pragma unroll
    for (int s = 0; s < EACH; s++) {
        a[s] = load_quad(x, (first + s) * SPAN + lane * 4, v.vocab);
        b[s] = load_quad(x, (first + s) * SPAN + SPAN / 2 + lane * 4, v.vocab);
    }
    float max = key_logit(row_best(v, row));
    if (!isfinite(max)) return;
#pragma unroll
    for (int s = 0; s < EACH; s++) {
        int span = first + s, at = span * SPAN + lane * 4, most = 0;
        if (span >= v.n_span) return;
        float f[8] = {a[s].x, a[s].y, a[s].z, a[s].w, b[s].x, b[s].y, b[s].z, b[s].w};
        bool any = false;
#pragma unroll
        for (int k = 0; k < 8; k++) any |= __fmul_rn(__fsub_rn(f[k], max), t.inv_t) >= WEIGHT_FLOOR;
        unsigned high = 0, low = 0; /* the sum in halves of 15 bits, so that 32 bits hold it */
        if (__any_sync(0xffffffffu, any)) {
            int q[8];
#pragma unroll
            for (int k = 0; k < 8; k++) {
                q[k] = weight(f[k], max, t.inv_t);
                high += q[k] >> 15;
                low += q[k] & 0x7fff;
                most = q[k] > most ? q[k] : most;
            }
            if (t.how == HOW_FILTERED && __any_sync(0xffffffffu, most >= FAR)) {
                uint2 *list = v.list + (size_t)row * 2 * LIST_MAX;
                int *n = v.n_list + 2 * row;
                list_tokens(n, list, q, at, t.least > NEAR ? t.least : NEAR, ONE + 1);
                list_tokens(n + 1, list + LIST_MAX, q, at, t.least > FAR ? t.least : FAR, NEAR);
            }
            high = __reduce_add_sync(0xffffffffu, high);
            low = __reduce_add_sync(0xffffffffu, low);
        }
        if (!lane) v.mass[(size_t)row * v.n_span + span] = ((int64_t)high << 15) + low;
    }
}

/* ---- the draw, one block for each row ---- */

/* The source that holds every token that the filters may leave: the lists if they reach far enough down, like
 * the gathering in engine/sampler.c; else the row. */
static __device__ struct source choose_source(struct pick_shared &sh, const struct sample_view &v, int row,
                                              float max, int64_t total)
{
    const struct sample_task &t = v.task[row];
    const uint2 *list = v.list + (size_t)row * 2 * LIST_MAX;
    struct source s = {{list, list + LIST_MAX}, {0, 0}, NULL, false, max, t.inv_t};
    for (int level = 0; level < 2; level++) {
        s.n[level] = v.n_list[2 * row + level];
        if (s.n[level] > LIST_MAX) break;
        int n = s.n[0] + s.n[1];
        struct amount mine = {0, 0}, all;
        for (int i = threadIdx.x; i < n; i += PICK_THREADS) mine.mass += token_at(s, i).y;
        sum_before(sh, mine, &all);
        if (t.least >= (level ? FAR : NEAR) ||
            (t.top_k ? n >= t.top_k : t.least == 1 && all.mass >= share(t.top_p, total)))
            return s;
    }
    s.n[0] = v.vocab, s.n[1] = 0;
    float *x = v.x + (size_t)row * v.vocab;
    s.x = x;
    if (t.n_top >= 0) return s; /* the logits are still wanted */
    for (int i = threadIdx.x; i < v.vocab; i += PICK_THREADS)
        x[i] = __int_as_float(weight(x[i], max, t.inv_t));
    __syncthreads();
    s.weighed = true;
    return s;
}

/* draw_filtered for so few tokens that each thread has one. */
static __device__ int32_t draw_few(struct pick_shared &sh, const struct sample_task &t,
                                   const struct source &s, int64_t total)
{
    int n = s.n[0] + s.n[1], i = threadIdx.x, size = 32;
    while (size < n) size *= 2;
    uint2 token = i < n ? token_at(s, i) : make_uint2(0, 0);
    sh.key[i] = i < n ? (uint64_t)token.y << 32 | ~token.x : 0;
    sort_keys(sh.key, size);
    struct amount mine = {0, 0}, kept;
    unsigned id = ~(unsigned)sh.key[i];
    mine.mass = (int64_t)(sh.key[i] >> 32); /* 0 for the threads without a token */
    if (t.top_k && i >= t.top_k) mine.mass = 0;
    int64_t before = sum_before(sh, mine, &kept).mass;
    if (t.top_k || t.least > 1) total = kept.mass;
    if (t.top_p < 1 && before >= share(t.top_p, total)) mine.mass = 0;
    sum_before(sh, mine, &kept); /* and all have read sh.key */
    sh.key[i] = mine.mass ? (uint64_t)~id << 32 | (uint64_t)mine.mass : 0;
    sort_keys(sh.key, size); /* by id now */
    mine.mass = (int64_t)(sh.key[i] & UINT32_MAX);
    id = ~(unsigned)(sh.key[i] >> 32);
    int64_t target = scale_random(t.random, kept.mass);
    before = sum_before(sh, mine, &kept).mass;
    if (target >= before && target < before + mine.mass) sh.token = (int32_t)id;
    __syncthreads();
    return sh.token;
}

/* min_p, then top_k, then top_p */
static __device__ int32_t draw_filtered(struct pick_shared &sh, const struct sample_view &v, int row,
                                        float max, int64_t total)
{
    const struct sample_task &t = v.task[row];
    struct source s = choose_source(sh, v, row, max, total);
    if (!s.x && s.n[0] + s.n[1] <= PICK_THREADS) return draw_few(sh, t, s, total);
    struct cut cut = {t.least, INT32_MAX, ONE, total};
    if (t.top_k || t.least > 1) {
        cut = find_cut(sh, s, t.least, v.vocab, t.top_k ? t.top_k : NO_LIMIT, NO_LIMIT);
        total = cut.mass;
    }
    if (t.top_p < 1) cut = find_cut(sh, s, t.least, v.vocab, NO_LIMIT, share(t.top_p, total));
    return find(sh, s, cut, false, id_bits(v.vocab), NO_LIMIT, scale_random(t.random, cut.mass) + 1).key;
}

/* The token at which the running weight, by id, first exceeds the target: the span, then the id in it. */
static __device__ int32_t draw_any(struct pick_shared &sh, const struct sample_view &v, int row, float max,
                                   int64_t target)
{
    const int64_t *mass = v.mass + (size_t)row * v.n_span;
    int each = (v.n_span + PICK_THREADS - 1) / PICK_THREADS, from = threadIdx.x * each;
    struct amount mine = {0, 0}, total;
    for (int i = from; i < from + each && i < v.n_span; i++) mine.mass += mass[i];
    int64_t at = sum_before(sh, mine, &total).mass;
    if (target >= at && target < at + mine.mass) {
        int i = from;
        while (target >= at + mass[i]) at += mass[i++];
        sh.bin = i;
        sh.before.mass = at;
    }
    __syncthreads();
    int id = sh.bin * SPAN + threadIdx.x;
    target -= sh.before.mass;
    bool in = threadIdx.x < SPAN && id < v.vocab;
    mine.mass = in ? weight(v.x[(size_t)row * v.vocab + id], max, v.task[row].inv_t) : 0;
    at = sum_before(sh, mine, &total).mass;
    if (target >= at && target < at + mine.mass) sh.token = id;
    __syncthreads();
    return sh.token;
}

static __global__ void __launch_bounds__(PICK_THREADS, 1) pick(struct sample_view v)
{
    SHARED(struct pick_shared, sh);
    pdl_launch();
    pdl_wait();
    int row = blockIdx.x;
    const struct sample_task &t = v.task[row];
    uint64_t best = row_best(v, row);
    float max = key_logit(best);
    int32_t token = t.how == HOW_SCORE ? t.score : key_id(best);
    bool ok = t.how == HOW_SCORE || isfinite(max);
    if (ok && t.how >= HOW_ANY) {
        struct amount mine = {0, 0}, total;
        for (int i = threadIdx.x; i < v.n_span; i += PICK_THREADS)
            mine.mass += v.mass[(size_t)row * v.n_span + i];
        sum_before(sh, mine, &total);
        token = t.how == HOW_FILTERED ? draw_filtered(sh, v, row, max, total.mass)
                                      : draw_any(sh, v, row, max, scale_random(t.random, total.mass));
    }
    if (threadIdx.x) return;
    struct sample_result *r = &v.result[row];
    r->token = ok ? token : 0;
    r->status = ok ? 0 : ERR_INVALID;
    r->logprob = 0;
    r->rank = r->n_top = 0;
}

void sample_draw(struct cuda *c, const struct sample_view *v, int n, bool edits, bool draws)
{
    dim3 chunks((unsigned)v->n_chunk, (unsigned)n), rows((unsigned)n), threads(SAMPLE_THREADS);
    if (edits) LAUNCH(edit_rows, rows, threads, 0, c->stream, *v);
    LAUNCH_PDL(max_of_chunks, chunks, threads, 0, c->stream, *v, false);
    if (draws) LAUNCH_PDL(weigh_chunks, chunks, threads, 0, c->stream, *v);
    LAUNCH_PDL(pick, rows, dim3(PICK_THREADS), 0, c->stream, *v);
    CU_LAUNCHED(c);
}

void sample_raw(struct cuda *c, const struct sample_view *v, int n)
{
    LAUNCH_PDL(unedit_rows, dim3((unsigned)n), dim3(SAMPLE_THREADS), 0, c->stream, *v);
    LAUNCH_PDL(max_of_chunks, dim3((unsigned)v->n_chunk, (unsigned)n), dim3(SAMPLE_THREADS), 0, c->stream, *v,
               true);
    CU_LAUNCHED(c);
}
