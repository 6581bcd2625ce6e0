/* Attention of one new token for each of several sequences (decode), over a paged cache: for each head
 *   out = sum_t softmax_t(q . k[t] / sqrt(DIM)) v[t]
 * with GROUP query heads for each KV head. BF16 in, float32 out. The cache is a pool of blocks of 16 tokens;
 * a table says which blocks a sequence has; a block holds, for each KV head, K [16][DIM] and V [16][DIM].
 * Floor: keys and values are read once, 4 DIM bytes a token and KV head. 4 DIM GROUP operations for them are
 * GROUP a byte: a stream again. Sequences have different lengths, from ctx down to 5/8 of it. Try seqs=1. */
#include "lab.cuh"

static struct lab_size size[] = {{"seqs", 32, 3, 1}, {"ctx", 4096, 530, 8}, {"kv", 8, 2, 1}, {}};

enum { DIM = 128, GROUP = 4, BLOCK = 16, CHUNKS = DIM / 8, THREADS = 128 };
#define LOG2E 1.4426950408889634f

struct view {
    const bf16 *q, *pool;    /* [seq][kv][GROUP][DIM]; [block][kv][K, V][BLOCK][DIM] */
    const int *table, *len;  /* [seq][blocks]; [seq] */
    float *out;              /* [seq][kv][GROUP][DIM] */
    float *part_o, *part_ml; /* of splits: [seq][kv][split][GROUP][DIM], [..][2] */
    int seqs, kv, blocks, splits;
    float scale; /* scores in powers of two: exp(x) = 2^(x log2 e) */
};
static struct {
    struct view v;
    int ctx;
    const bf16 *q, *pool;
    const int *table, *len;
} p;

/* Token t's key, in chunks of 8 values; its value lies V_AT chunks on. */
enum { V_AT = BLOCK * CHUNKS };
static __host__ __device__ size_t key_at(const int *table, int kv, int kv_head, int t)
{
    return (((size_t)table[t / BLOCK] * kv + kv_head) * 2 * BLOCK + t % BLOCK) * CHUNKS;
}

/* ---- 0 and 1: scores in shared memory ---- */

typedef float parts_t[2][THREADS / 32];

static __device__ float join(float v, float *part, bool max)
{
    v = max ? warp_max(v) : warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    return max ? fmaxf(fmaxf(part[0], part[1]), fmaxf(part[2], part[3]))
               : part[0] + part[1] + (part[2] + part[3]);
}
/* Softmax over the block's scores, then a thread for each dimension adds up the values. */
static __device__ void weigh(const struct view &a, float *score, parts_t part, int seq, int head)
{
    int len = a.len[seq];
    const int *table = a.table + (size_t)seq * a.blocks;
    float m = -INFINITY, sum = 0, o = 0;
    for (int t = threadIdx.x; t < len; t += THREADS) m = fmaxf(m, score[t]);
    m = join(m, part[0], true);
    for (int t = threadIdx.x; t < len; t += THREADS) sum += score[t] = exp2f(score[t] - m);
    sum = join(sum, part[1], false);
    for (int t = 0; t < len; t++) {
        const bf16 *v = a.pool + (key_at(table, a.kv, head / GROUP, t) + V_AT) * 8;
        o = fmaf(score[t], __bfloat162float(v[threadIdx.x]), o);
    }
    a.out[((size_t)seq * a.kv * GROUP + head) * DIM + threadIdx.x] = o / sum;
}

/* 0. The formula: a block for each sequence and query head, a thread for each key's score. Lanes read 32 keys
 * side by side: 32 lines for 2 bytes of each. */
static __global__ void naive(struct view a)
{
    DYNAMIC_SHARED(float, score); /* [len] */
    SHARED(parts_t, part);
    int head = blockIdx.x, seq = blockIdx.y;
    const int *table = a.table + (size_t)seq * a.blocks;
    const bf16 *q = a.q + ((size_t)seq * a.kv * GROUP + head) * DIM;
    for (int t = threadIdx.x; t < a.len[seq]; t += THREADS) {
        const bf16 *k = a.pool + key_at(table, a.kv, head / GROUP, t) * 8;
        float s = 0;
        for (int i = 0; i < DIM; i++) s = fmaf(__bfloat162float(q[i]), __bfloat162float(k[i]), s);
        score[t] = s * a.scale;
    }
    __syncthreads();
    weigh(a, score, part, seq, head);
}
typedef void (*kernel_fn)(struct view);
static void run_scores(kernel_fn kernel)
{
    int bytes = p.ctx * (int)sizeof(float);
    lab_cuda(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "shared memory");
    LAUNCH(kernel, dim3(p.v.kv * GROUP, p.v.seqs), dim3(THREADS), bytes, 0, p.v);
}
static void run_naive(void) { run_scores(naive); }

/* 1. Half a warp for each key: 16 lanes load 16 bytes each, the whole key in one access; four shuffles join
 * them. */
static __device__ float dot8(uint4 k, const float q[8])
{
    float v[8], sum = 0;
    bf16x8_unpack(k, v);
    for (int i = 0; i < 8; i++) sum = fmaf(v[i], q[i], sum);
    for (int step = 8; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}
static __device__ void load_q(float q[8], const struct view &a, size_t head)
{
    bf16x8_unpack(((const uint4 *)a.q)[head * CHUNKS + threadIdx.x % CHUNKS], q);
    for (int i = 0; i < 8; i++) q[i] *= a.scale;
}
enum { HALVES = THREADS / 16 };
static __global__ void half_warp(struct view a)
{
    DYNAMIC_SHARED(float, score);
    SHARED(parts_t, part);
    int head = blockIdx.x, seq = blockIdx.y, len = a.len[seq], half = threadIdx.x / 16;
    const int *table = a.table + (size_t)seq * a.blocks;
    float q[8];
    load_q(q, a, (size_t)seq * a.kv * GROUP + head);
    for (int t0 = 0; t0 < len; t0 += HALVES) {
        int t = min(t0 + half, len - 1);
        const uint4 *k = (const uint4 *)a.pool + key_at(table, a.kv, head / GROUP, t);
        float s = dot8(k[threadIdx.x % CHUNKS], q);
        if (threadIdx.x % 16 == 0 && t0 + half < len) score[t] = s;
    }
    __syncthreads();
    weigh(a, score, part, seq, head);
}
static void run_half_warp(void) { run_scores(half_warp); }

/* ---- 2 to 4: online softmax ---- */

/* What half a warp knows of the keys it has seen, for G heads: a lane has 8 dimensions. */
template <int G> struct state {
    float m[G], l[G], o[G][8]; /* greatest score, sum of the weights 2^(score - m), weighted values */
};
struct joined {
    float m[HALVES], l[HALVES], o[HALVES][DIM];
};

/* Keys [begin, end) of a KV head, dealt to the halves in turn. */
template <int G>
static __device__ void walk(struct state<G> *s, const struct view &a, int seq, int head, int begin, int end)
{
    const int *table = a.table + (size_t)seq * a.blocks;
    float q[G][8];
#pragma unroll
    for (int g = 0; g < G; g++) {
        load_q(q[g], a, (size_t)seq * a.kv * GROUP + head + g);
        s->m[g] = -1e30f, s->l[g] = 0; /* finite, so that m - m is no NaN */
        for (int i = 0; i < 8; i++) s->o[g][i] = 0;
    }
#pragma unroll 2
    for (int t0 = begin; t0 < end; t0 += HALVES) {
        int t = t0 + (int)threadIdx.x / 16;
        const uint4 *at = (const uint4 *)a.pool + key_at(table, a.kv, head / GROUP, min(t, end - 1));
        uint4 key = at[threadIdx.x % CHUNKS];
        float v[8];
        bf16x8_unpack(at[V_AT + threadIdx.x % CHUNKS], v);
#pragma unroll
        for (int g = 0; g < G; g++) {
            float x = dot8(key, q[g]), m, keep, w;
            if (t >= end) x = -INFINITY;
            m = fmaxf(s->m[g], x), keep = exp2f(s->m[g] - m), w = exp2f(x - m);
            s->m[g] = m;
            s->l[g] = fmaf(s->l[g], keep, w);
            for (int i = 0; i < 8; i++) s->o[g][i] = fmaf(s->o[g][i], keep, w * v[i]);
        }
    }
}
/* Head g of all halves: a thread for each dimension; m and l in every one. */
template <int G>
static __device__ float join_halves(const struct state<G> &s, int g, struct joined *j, float *m, float *l)
{
    int half = threadIdx.x / 16, c = threadIdx.x % 16;
    __syncthreads(); /* the last head has been read */
    if (c == 0) j->m[half] = s.m[g], j->l[half] = s.l[g];
    for (int i = 0; i < 8; i++) j->o[half][8 * c + i] = s.o[g][i];
    __syncthreads();
    float o = 0;
    *m = j->m[0], *l = 0;
    for (int i = 1; i < HALVES; i++) *m = fmaxf(*m, j->m[i]);
    for (int i = 0; i < HALVES; i++) {
        float w = exp2f(j->m[i] - *m);
        *l = fmaf(j->l[i], w, *l);
        o = fmaf(j->o[i][threadIdx.x], w, o);
    }
    return o;
}
template <int G> static __device__ void attend(const struct view &a, int seq, int head)
{
    SHARED(struct joined, j);
    struct state<G> s;
    walk<G>(&s, a, seq, head, 0, a.len[seq]);
#pragma unroll
    for (int g = 0; g < G; g++) {
        float m, l, o = join_halves<G>(s, g, &j, &m, &l);
        a.out[((size_t)seq * a.kv * GROUP + head + g) * DIM + threadIdx.x] = o / l;
    }
}

/* 2. Online softmax: maximum, sum and weighted values move along together, so that keys and values are read
 * in one walk, no score is stored and the context has no limit. */
static __global__ void online(struct view a) { attend<1>(a, blockIdx.y, blockIdx.x); }
static void run_online(void) { LAUNCH(online, dim3(p.v.kv * GROUP, p.v.seqs), dim3(THREADS), 0, 0, p.v); }

/* 3. The GROUP query heads of a KV head share its keys and values: one block reads them once for all, a
 * quarter of the bytes. */
static __global__ void grouped(struct view a) { attend<GROUP>(a, blockIdx.y, blockIdx.x * GROUP); }
static void run_grouped(void) { LAUNCH(grouped, dim3(p.v.kv, p.v.seqs), dim3(THREADS), 0, 0, p.v); }

/* 4. Split: that left seqs x kv blocks, fewer than the device runs at once, and the longest sequence decides
 * when the last one ends. Now every SPAN keys are a block's; the states of the spans go to scratch and a
 * second kernel folds them in order. Spans are counted from key 0, so a sequence has the same ones in any
 * company: the same bits. */
enum { SPAN = 256 };
static __device__ size_t part_at(const struct view &a, int seq, int kv_head, int split)
{
    return (((size_t)seq * a.kv + kv_head) * a.splits + split) * GROUP;
}
static __global__ void split(struct view a)
{
    SHARED(struct joined, j);
    int seq = blockIdx.z, kv_head = blockIdx.y;
    int begin = blockIdx.x * SPAN, end = min(begin + SPAN, a.len[seq]);
    if (begin >= end) return;
    struct state<GROUP> s;
    walk<GROUP>(&s, a, seq, kv_head * GROUP, begin, end);
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        float m, l, o = join_halves<GROUP>(s, g, &j, &m, &l);
        size_t at = part_at(a, seq, kv_head, blockIdx.x) + g;
        a.part_o[at * DIM + threadIdx.x] = o;
        if (threadIdx.x == 0) a.part_ml[2 * at] = m, a.part_ml[2 * at + 1] = l;
    }
}
static __global__ void fold(struct view a)
{
    int seq = blockIdx.y, kv_head = blockIdx.x / GROUP, g = blockIdx.x % GROUP;
    float m = -1e30f, l = 0, o = 0;
    for (int i = 0; i * SPAN < a.len[seq]; i++) {
        size_t at = part_at(a, seq, kv_head, i) + g;
        float mi = a.part_ml[2 * at], most = fmaxf(m, mi), keep = exp2f(m - most), w = exp2f(mi - most);
        m = most;
        l = fmaf(l, keep, a.part_ml[2 * at + 1] * w);
        o = fmaf(o, keep, a.part_o[at * DIM + threadIdx.x] * w);
    }
    a.out[((size_t)seq * a.kv * GROUP + blockIdx.x) * DIM + threadIdx.x] = o / l;
}
static void run_fold(void) { LAUNCH(fold, dim3(p.v.kv * GROUP, p.v.seqs), dim3(DIM), 0, 0, p.v); }
static void run_split(void)
{
    LAUNCH(split, dim3(p.v.splits, p.v.kv, p.v.seqs), dim3(THREADS), 0, 0, p.v);
    run_fold();
}

/* ---- 5: tensor cores ---- */

/* 5. What is left is instructions: version 4 spends them on unpacking, on four shuffles a key and head, on
 * the same exponential in 16 lanes. Now a warp takes a span: 16 keys are a tile, the query heads are rows of
 * a 16-row mma (12 rows idle, which costs nothing that was needed), and both products, scores and weighted
 * values, are tensor-core instructions. Each warp has a ring of its own that asynchronous copies fill two
 * tiles ahead; nothing waits for another warp. Scores come out of one mma just as the next one takes its left
 * operand. */
enum { RING = 3, WARPS = 4, TILE = BLOCK * DIM * 2, ROW = DIM * 2 };
struct tile {
    unsigned char k[TILE], v[TILE]; /* 16-byte chunk c of row r at chunk c ^ (r % 8) */
};
static __device__ int chunk_at(int row, int chunk) { return row * ROW + (chunk ^ row % 8) * 16; }

/* A tile is one block of the cache. Keys from end on are zero. */
static __device__ void copy_tile(struct tile *to, const struct view &a, const int *table, int kv_head, int t0,
                                 int end)
{
    const uint4 *from = (const uint4 *)a.pool + key_at(table, a.kv, kv_head, t0);
#pragma unroll
    for (int i = threadIdx.x % 32; i < BLOCK * CHUNKS; i += 32) {
        int row = i / CHUNKS, at = chunk_at(row, i % CHUNKS), valid = t0 + row < end ? 16 : 0;
        cp_async16(to->k + at, from + i, valid);
        cp_async16(to->v + at, from + V_AT + i, valid);
    }
}
/* A lane's part of the 16 rows of queries, of which it has row lane / 4 (and that + 8: none). */
static __device__ void query_fragments(unsigned q[DIM / 16][4], const struct view &a, int seq, int kv_head)
{
    int row = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    const unsigned *from =
        (const unsigned *)(a.q + (((size_t)seq * a.kv + kv_head) * GROUP + row % GROUP) * DIM);
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        q[i][0] = row < GROUP ? from[8 * i + c] : 0;
        q[i][2] = row < GROUP ? from[8 * i + 4 + c] : 0;
        q[i][1] = q[i][3] = 0;
    }
}
struct warp_state {
    float m, l, o[DIM / 8][4]; /* of row lane / 4; l is the lane's share of four */
};
/* One tile: 16 keys from t0 on. */
static __device__ void add_tile(struct warp_state *s, const struct tile *t, const unsigned q[DIM / 16][4],
                                float scale, int t0, int end)
{
    int lane = threadIdx.x % 32, key = t0 + lane % 4 * 2;
    float x[2][4] = {};
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        unsigned k[4]; /* of keys 0 to 7 both halves of 16 dimensions, then of keys 8 to 15 */
        ldmatrix4(k, t->k + chunk_at(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
        mma16816(x[0], q[i], k);
        mma16816(x[1], q[i], k + 2);
    }
    float most = -INFINITY, sum = 0;
    for (int j = 0; j < 2; j++)
        for (int e = 0; e < 2; e++) {
            x[j][e] = key + 8 * j + e < end ? x[j][e] * scale : -INFINITY;
            most = fmaxf(most, x[j][e]);
        }
    for (int step = 1; step < 4; step *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    float m = fmaxf(s->m, most), keep = exp2f(s->m - m);
    for (int j = 0; j < 2; j++)
        for (int e = 0; e < 2; e++) sum += x[j][e] = exp2f(x[j][e] - m);
    s->m = m;
    s->l = fmaf(s->l, keep, sum);
    unsigned w[4] = {bf16x2_pack(x[0][0], x[0][1]), 0, bf16x2_pack(x[1][0], x[1][1]), 0};
#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        unsigned v[4]; /* transposed: keys are what is summed over now */
        ldmatrix4t(v, t->v + chunk_at(lane % 16, 2 * i + lane / 16));
        for (int j = 0; j < 2; j++) {
            float *o = s->o[2 * i + j];
            o[0] *= keep, o[1] *= keep;
            mma16816(o, w, v + 2 * j);
        }
    }
}
static __global__ void __launch_bounds__(32 * WARPS) tensor(struct view a)
{
    DYNAMIC_SHARED(struct tile, ring); /* [WARPS][RING] */
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, seq = blockIdx.z, kv_head = blockIdx.y;
    int part = blockIdx.x * WARPS + warp, begin = part * SPAN, end = min(begin + SPAN, a.len[seq]);
    if (begin >= end) return;
    const int *table = a.table + (size_t)seq * a.blocks;
    struct tile *own = ring + warp * RING;
    struct warp_state s = {-1e30f, 0, {}};
    unsigned q[DIM / 16][4];
    query_fragments(q, a, seq, kv_head);
    for (int i = 0; i < RING - 1; i++) {
        if (begin + i * BLOCK < end) copy_tile(&own[i], a, table, kv_head, begin + i * BLOCK, end);
        cp_commit();
    }
    for (int i = 0; begin + i * BLOCK < end; i++) {
        int next = i + RING - 1;
        cp_wait<RING - 2>();
        __syncwarp(); /* everyone's copies are there, and everyone has left the tile before */
        if (begin + next * BLOCK < end)
            copy_tile(&own[next % RING], a, table, kv_head, begin + next * BLOCK, end);
        cp_commit();
        add_tile(&s, &own[i % RING], q, a.scale, begin + i * BLOCK, end);
    }
    cp_wait<0>();
    for (int step = 1; step < 4; step *= 2) s.l += __shfl_xor_sync(0xffffffffu, s.l, step);
    if (lane / 4 >= GROUP) return;
    size_t at = part_at(a, seq, kv_head, part) + lane / 4;
    for (int i = 0; i < DIM / 8; i++)
        *(float2 *)&a.part_o[at * DIM + 8 * i + lane % 4 * 2] = make_float2(s.o[i][0], s.o[i][1]);
    if (lane % 4 == 0) a.part_ml[2 * at] = s.m, a.part_ml[2 * at + 1] = s.l;
}
static void run_tensor(void)
{
    int bytes = WARPS * RING * (int)sizeof(struct tile);
    lab_cuda(cudaFuncSetAttribute((const void *)tensor, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "shared memory");
    LAUNCH(tensor, dim3((p.v.splits + WARPS - 1) / WARPS, p.v.kv, p.v.seqs), dim3(32 * WARPS), bytes, 0, p.v);
    run_fold();
}

static double want(size_t at)
{
    int d = at % DIM, head = at / DIM % (p.v.kv * GROUP), seq = at / DIM / (p.v.kv * GROUP);
    const bf16 *q = p.q + at / DIM * DIM;
    double sum = 0, o = 0; /* scores are small: no maximum needed */
    for (int t = 0; t < p.len[seq]; t++) {
        const bf16 *k = p.pool + key_at(p.table + (size_t)seq * p.v.blocks, p.v.kv, head / GROUP, t) * 8;
        double x = 0;
        for (int i = 0; i < DIM; i++) x += (double)__bfloat162float(q[i]) * __bfloat162float(k[i]);
        x = exp2(x * p.v.scale);
        sum += x;
        o += x * __bfloat162float(k[V_AT * 8 + d]);
    }
    return o / sum;
}

/* Lengths, and tables that hand out the pool's blocks in no order. Returns the tokens of all sequences. */
static size_t make_tables(int *len, int *table, int seqs, int blocks, int ctx)
{
    size_t tokens = 0;
    for (int i = 0; i < seqs; i++) tokens += len[i] = ctx - i % 4 * (ctx / 8);
    for (int i = 0; i < seqs * blocks; i++) table[i] = i;
    for (int i = seqs * blocks - 1; i > 0; i--) {
        int j = (int)((lab_random() + 1) * 0.5f * (float)i), x = table[i];
        table[i] = table[j], table[j] = x;
    }
    return tokens;
}

/* Places of the last blocks that no token has: whoever takes them into a sum gets a NaN. */
static void poison(bf16 *pool)
{
    for (int s = 0; s < p.v.seqs; s++)
        for (int t = p.len[s]; t < p.v.blocks * BLOCK; t++)
            for (int h = 0; h < p.v.kv; h++) {
                bf16 *k = pool + key_at(p.table + (size_t)s * p.v.blocks, p.v.kv, h, t) * 8;
                memset((void *)k, 0xff, DIM * sizeof *k);
                memset((void *)(k + V_AT * 8), 0xff, DIM * sizeof *k);
            }
}

static const struct lab_version versions[] = {
    {"a thread for each key", run_naive}, {"half a warp for each key", run_half_warp},
    {"online softmax", run_online},       {"heads of a group together", run_grouped},
    {"split over blocks", run_split},     {"tensor cores", run_tensor}};

int main(int argc, char **argv)
{
    unsigned chosen;
    int rc = lab_args(argc, argv, size, &chosen);
    if (rc) return rc;
    struct view *v = &p.v;
    v->seqs = size[0].value, p.ctx = size[1].value, v->kv = size[2].value;
    v->blocks = (p.ctx + BLOCK - 1) / BLOCK, v->splits = (p.ctx + SPAN - 1) / SPAN;
    v->scale = LOG2E / sqrtf(DIM);
    size_t n_q = (size_t)v->seqs * v->kv * GROUP * DIM, n_block = (size_t)v->seqs * v->blocks;
    size_t n_pool = n_block * v->kv * 2 * BLOCK * DIM, n_part = n_q * v->splits;
    int *len = (int *)lab_host(v->seqs * sizeof(int)), *table = (int *)lab_host(n_block * sizeof(int));
    size_t tokens = make_tables(len, table, v->seqs, v->blocks, p.ctx);
    bf16 *pool = lab_bf16s(n_pool);
    p.len = len, p.table = table, p.q = lab_bf16s(n_q), p.pool = pool;
    poison(pool);
    v->q = lab_up(p.q, n_q), v->pool = lab_up(p.pool, n_pool);
    v->len = lab_up(p.len, v->seqs), v->table = lab_up(p.table, n_block);
    v->out = (float *)lab_alloc(n_q * sizeof(float));
    size_t part_bytes = (n_part + n_part / DIM * 2) * sizeof(float);
    v->part_o = (float *)lab_alloc(part_bytes), v->part_ml = v->part_o + n_part;
    double keys = (double)v->kv * tokens;
    struct lab_job j = {};
    j.what = "attention", j.bytes = 4.0 * DIM * keys, j.flops = 4.0 * DIM * GROUP * keys;
    j.want = want, j.out = v->out, j.n_out = n_q, j.tolerance = 1e-5;
    j.scratch = v->part_o, j.scratch_bytes = part_bytes;
    j.version = versions, j.n_version = 6;
    return lab_main(&j, size, chosen);
}
