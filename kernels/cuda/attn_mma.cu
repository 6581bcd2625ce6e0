/* Attention on tensor cores: each block takes tiles of prefills, then each of its warps tiles of decodes,
 * until the plan is done; a second kernel folds what was cut and zeroes padding. The grid does not depend on
 * the step. */
#include "attn_mma.cuh"

/* A tile of one item and KV head, over keys [k0, k1). */
struct unit {
    int item, row, kv_head;
    int chunk, n_chunk, k0, k1;
};

/* The last item whose first unit is at most u. */
static __device__ int find_item(const struct attn_plan *p, int u, bool large)
{
    int at = 0, n = p->n_item, lane = threadIdx.x % 32;
    while (n > 1) {
        int step = (n + 31) / 32, i = at + lane * step;
        bool below = lane * step < n && (large ? p->item[i].large : p->item[i].small) <= u;
        int last = __popc(__ballot_sync(0xffffffffu, below)) - 1;
        at += last * step;
        n = min(step, n - last * step);
    }
    return at;
}

static __device__ struct unit find_unit(const struct attn_view &a, int u, int kv_head, bool large)
{
    struct unit r;
    r.item = find_item(a.plan, u, large);
    struct attn_plan_item p = a.plan->item[r.item];
    struct cu_item it = a.item[r.item];
    int tile_rows = large ? ATTN_LARGE_TILE : ATTN_SMALL_TILE;
    int tiles = (it.len * a.group + tile_rows - 1) / tile_rows, at = u - (large ? p.large : p.small);
    r.kv_head = kv_head;
    r.n_chunk = attn_chunks(it.pos, it.len, a.window, p.chunk);
    r.chunk = at / tiles;
    r.row = (tiles - 1 - at % tiles) * tile_rows; /* the last tiles see most keys */
    r.k0 = (attn_first(it.pos, a.window) & ~(ATTN_SPAN - 1)) + (r.chunk ? r.chunk * p.chunk : 0);
    r.k1 = r.k0 + p.chunk;
    return r;
}

/* A lane has two of its warp's 16 rows, lane / 4 and that + 8. Their positions say everything; -1: beyond the
 * item. */
static __device__ __forceinline__ int pos_of(const struct attn_view &a, const struct cu_item &it, int r)
{
    return r / a.group < it.len ? it.pos + r / a.group : -1;
}
static __device__ __forceinline__ int head_of(const struct attn_view &a, const struct unit &u, int r,
                                              int token)
{
    return u.kv_head * a.group + r - token * a.group;
}

/* For E4M3 the dimensions are in the order that e4m3_bf16 gives the keys'. */
template <class S>
static __device__ __forceinline__ void load_q(attn_query<S> &q, const struct attn_view &a,
                                              const struct cu_item &it, const struct unit &u, int r,
                                              const int pos[2])
{
    int c = threadIdx.x % 4;
    const float *p[2];
    for (int h = 0; h < 2; h++) {
        int token = pos[h] - it.pos, head = head_of(a, u, r + 8 * h, token);
        p[h] = a.q + (size_t)(it.row + token) * a.q_stride + (size_t)head * a.dim;
    }
#pragma unroll
    for (int i = 0; i < S::DIM / 16; i++) {
        unsigned x[4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            bool in0 = pos[h] >= 0 && i * 16 < a.dim, in8 = pos[h] >= 0 && i * 16 + 8 < a.dim;
            float4 y = {};
            if (S::fp8) {
                if (in0) y = *(const float4 *)(p[h] + i * 16 + c * 4);
                x[h] = bf16x2_pack(y.x, y.z);
                x[h + 2] = bf16x2_pack(y.y, y.w);
            } else {
                if (in0) *(float2 *)&y.x = *(const float2 *)(p[h] + i * 16 + c * 2);
                if (in8) *(float2 *)&y.z = *(const float2 *)(p[h] + i * 16 + 8 + c * 2);
                x[h] = bf16x2_pack(y.x, y.y);
                x[h + 2] = bf16x2_pack(y.z, y.w);
            }
        }
        query_put<S>(q, i, x);
    }
}

/* The state of a lane's two rows; l is the lane's share of four. */
template <class S> struct state {
    float m[2], l[2], o[S::DIM / 8][4];
};

template <class S> static __device__ __forceinline__ void state_clear(struct state<S> &s)
{
#pragma unroll
    for (int h = 0; h < 2; h++) s.m[h] = ATTN_EMPTY, s.l[h] = 0;
#pragma unroll
    for (int i = 0; i < S::DIM / 8; i++)
        for (int e = 0; e < 4; e++) s.o[i][e] = 0;
}

template <class S> static __device__ __forceinline__ void state_sum(struct state<S> &s)
{
    for (int h = 0; h < 2; h++)
        for (int d = 1; d < 4; d *= 2) s.l[h] += __shfl_xor_sync(0xffffffffu, s.l[h], d);
}

/* What came before the current span, if anything: o, then m and l of both rows. */
template <class S> struct before {
    bool any;
    float o[S::ASIDE_SHARED ? 1 : S::DIM / 8 + 1][4];
    float *shared; /* [DIM/8 + 1][4][THREADS], at the thread's */
};
template <class S> static __device__ __forceinline__ float &before_at(struct before<S> &b, int i, int e)
{
    return S::ASIDE_SHARED ? b.shared[(i * 4 + e) * S::THREADS] : b.o[S::ASIDE_SHARED ? 0 : i][e];
}

/* s = fold(b, s) */
template <class S> static __device__ __forceinline__ void fold(struct before<S> &b, struct state<S> &s)
{
    state_sum<S>(s);
    if (!b.any) return;
    float keep[2], add[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float was = before_at<S>(b, S::DIM / 8, h), m = fmaxf(was, s.m[h]);
        keep[h] = exp2f(was - m);
        add[h] = exp2f(s.m[h] - m);
        s.m[h] = m;
        s.l[h] = attn_fold(before_at<S>(b, S::DIM / 8, 2 + h), keep[h], s.l[h], add[h]);
    }
#pragma unroll
    for (int i = 0; i < S::DIM / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s.o[i][e] = attn_fold(before_at<S>(b, i, e), keep[e / 2], s.o[i][e], add[e / 2]);
}

/* The next span begins. */
template <class S> static __device__ __forceinline__ void set_aside(struct before<S> &b, struct state<S> &s)
{
    fold<S>(b, s);
    b.any = true;
#pragma unroll
    for (int h = 0; h < 2; h++)
        before_at<S>(b, S::DIM / 8, h) = s.m[h], before_at<S>(b, S::DIM / 8, 2 + h) = s.l[h];
#pragma unroll
    for (int i = 0; i < S::DIM / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) before_at<S>(b, i, e) = s.o[i][e];
    state_clear<S>(s);
}

/* Online softmax (Milakov & Gimelshein 2018): p becomes the weights of keys t.., and the state is scaled to
 * the new maxima. For rows that see none of the keys nothing changes, to the bit. */
template <class S>
static __device__ __forceinline__ void soften(const struct attn_view &a, float p[][4], struct state<S> &s,
                                              int t, bool masked, const int pos[2])
{
    t += threadIdx.x % 4 * 2;
    if (a.cap_in > 0)
#pragma unroll
        for (int j = 0; j < S::KEYS / 8; j++)
            for (int e = 0; e < 4; e++) p[j][e] = attn_cap(p[j][e] * a.cap_in);
    if (masked)
#pragma unroll
        for (int j = 0; j < S::KEYS / 8; j++)
            for (int e = 0; e < 4; e++) {
                int key = t + j * 8 + e % 2;
                if (key > pos[e / 2] || key < attn_first(pos[e / 2], a.window)) p[j][e] = -INFINITY;
            }
    float keep[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = -INFINITY, sum = 0;
#pragma unroll
        for (int j = 0; j < S::KEYS / 8; j++) most = fmaxf(most, fmaxf(p[j][2 * h], p[j][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        float m = fmaxf(s.m[h], most * a.to_log2);
        keep[h] = exp2f(s.m[h] - m);
        s.m[h] = m;
#pragma unroll
        for (int j = 0; j < S::KEYS / 8; j++)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; e++) {
                p[j][e] = exp2f(fmaf(p[j][e], a.to_log2, -m));
                sum += p[j][e];
            }
        s.l[h] = fmaf(s.l[h], keep[h], sum);
    }
    if (__any_sync(0xffffffffu, keep[0] != 1 || keep[1] != 1))
#pragma unroll
        for (int i = 0; i < S::DIM / 8; i++)
            for (int e = 0; e < 4; e++) s.o[i][e] *= keep[e / 2];
}

/* A row's state to scratch, or its result. */
template <class S>
static __device__ __forceinline__ void put_row(const struct attn_view &a, const struct cu_item &it,
                                               const struct unit &u, int r, int pos, const struct state<S> &s,
                                               int h)
{
    bool cut = u.n_chunk > 1;
    int c = threadIdx.x % 4, token = pos - it.pos, head = head_of(a, u, r, token);
    float inv = attn_inverse(s.l[h]);
    bf16 *out = a.out + (size_t)(it.row + token) * a.out_stride + (size_t)head * a.dim;
    size_t at = (size_t)a.plan->item[u.item].part * a.n_head + ((size_t)token * a.n_head + head) * u.n_chunk +
                u.chunk;
    if (cut && c == 0) *(float2 *)(a.part_ml + at * 2) = make_float2(s.m[h], s.l[h]);
#pragma unroll
    for (int i = 0; i < S::DIM / 16; i++)
#pragma unroll
        for (int k = 0; k < 2; k++) {
            int d = S::fp8 ? i * 16 + c * 4 + k * 2 : i * 16 + k * 8 + c * 2;
            float x = S::fp8 ? s.o[2 * i][2 * h + k] : s.o[2 * i + k][2 * h];
            float y = S::fp8 ? s.o[2 * i + 1][2 * h + k] : s.o[2 * i + k][2 * h + 1];
            if (d >= a.dim) continue;
            if (cut)
                *(float2 *)(a.part_o + at * a.dim + d) = make_float2(x, y);
            else
                *(unsigned *)(out + d) = bf16x2_pack(x * inv, y * inv);
        }
}

/* A team computes a unit; span by span, if that is asked for. */
template <class S, int TEAM>
static __device__ __forceinline__ void walk(const struct attn_view &a, const struct unit &u,
                                            unsigned char *ring, unsigned char *shared)
{
    struct cu_item it = a.item[u.item];
    int rows = it.len * a.group, row = u.row + threadIdx.x / 32 % TEAM * 16, lane = threadIdx.x % 32;
    int team_last = it.pos + (min(u.row + TEAM * 16, rows) - 1) / a.group;
    struct attn_stream st;
    st.kv = &a.kv;
    st.mem = a.kv.mem + (size_t)u.kv_head * a.kv.unit;
    st.table = a.table + it.table;
    st.lo = max(attn_first(it.pos + u.row / a.group, a.window), u.k0);
    st.hi = min(team_last + 1, u.k1);
    st.start = st.lo & ~(S::KEYS - 1);
    st.chunks = a.kv.row / 16;
    st.ring = ring;
    int halves = st.hi > st.lo ? (st.hi - st.start + S::KEYS - 1) / S::KEYS * 2 : 0;
    for (int h = 0; h < S::RING - 1; h++) {
        if (h < halves) load_half<S, TEAM>(st, h);
        cp_commit();
    }
    int r = row + lane / 4, pos[2] = {pos_of(a, it, r), pos_of(a, it, r + 8)};
    attn_query<S> q;
    q.shared = (uint4 *)(shared + S::ASIDE) + threadIdx.x;
    load_q<S>(q, a, it, u, r, pos);
    /* The warp's rows see keys in [seen, last]; all of them see those in [all, last_all]. */
    int first_pos = it.pos + row / a.group,
        last = row < rows ? it.pos + (min(row + 16, rows) - 1) / a.group : -1;
    int seen = attn_first(first_pos, a.window), all = attn_first(last, a.window);
    struct state<S> s;
    struct before<S> b = {
    }; /* what is not set would be kept in registers from unit to unit */
    state_clear<S>(s);
    b.shared = (float *)shared + threadIdx.x;
#pragma unroll 1
    for (int h = 0; h < halves;) {
        int t = st.start + h / 2 * S::KEYS,
            end = S::fold ? min(halves, h + (ATTN_SPAN - t % ATTN_SPAN) / S::KEYS * 2) : halves;
        if (S::fold && h) set_aside<S>(b, s);
#pragma unroll 1
        for (; h < end; h += 2, t += S::KEYS) {
            bool work = t <= last && t + S::KEYS > seen;
            float p[S::KEYS / 8][4] = {};
            const unsigned char *k = next_half<S, TEAM>(st, h, halves);
            if (work) {
                scores<S>(p, q, k);
                soften<S>(a, p, s, t, t < max(all, st.lo) || t + S::KEYS > min(first_pos + 1, st.hi), pos);
            }
            const unsigned char *v = next_half<S, TEAM>(st, h + 1, halves);
            if (work) weigh<S>(s.o, p, v);
        }
    }
    cp_wait<0>();
    team_sync<TEAM>(); /* nobody reads the ring any more */
    if (S::fold)
        fold<S>(b, s);
    else
        state_sum<S>(s);
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (pos[h] >= 0) put_row<S>(a, it, u, r + 8 * h, pos[h], s, h);
}

template <int D, bool FP8, bool FOLD>
static __global__ void __launch_bounds__(attn_shape<D, FP8, FOLD>::THREADS, 2)
    mma_kernel(const __grid_constant__ struct attn_view a)
{
    typedef attn_shape<D, FP8, FOLD> S;
    DYNAMIC_SHARED(uint4, shared); /* a ring for each warp, then what threads keep there */
    unsigned char *ring = (unsigned char *)shared, *own = ring + S::RINGS;
    const int parts = ATTN_LARGE_TILE / 16 / S::WARPS; /* blocks' tiles in one of the plan's */
    int warp = threadIdx.x / 32, place = blockIdx.x;
    pdl_launch();
    pdl_wait();
    /* The last tiles of a prefill see the most keys. Dealt from the last on, in rounds of alternating
     * direction, they add up to nearly the same for every block. */
    int n_large = a.plan->item[a.plan->n_item].large * a.n_kv_head * parts;
    for (int left = n_large; left > 0; left -= gridDim.x, place = gridDim.x - 1 - place) {
        int i = left - 1 - place;
        if (i < 0) continue;
        struct unit u = find_unit(a, i / parts / a.n_kv_head, i / parts % a.n_kv_head, true);
        u.row += i % parts * S::WARPS * 16;
        if (u.row < a.item[u.item].len * a.group) walk<S, S::WARPS>(a, u, ring, own);
    }
    int n_small = a.plan->item[a.plan->n_item].small * a.n_kv_head;
    /* One after another to different blocks, first to those that the last round left out. */
    for (int i = warp * gridDim.x + place; i < n_small; i += gridDim.x * S::WARPS) {
        struct unit u = find_unit(a, i / a.n_kv_head, i % a.n_kv_head, false);
        walk<S, 1>(a, u, ring + warp * S::RING * S::HALF, own);
    }
}

enum { FOLD_WARPS = 4 };

/* Folds the chunks of a row and head in order, a warp for each; lanes hold dimensions 4 lane + 128 i. */
static __device__ void fold_chunks(const struct attn_view &a, size_t at, int n, bf16 *out)
{
    int lane = threadIdx.x % 32;
    float m = ATTN_EMPTY, l = 0;
    float4 o[2] = {};
    for (int k0 = 0; k0 < n; k0 += 32) {
        float mk = k0 + lane < n ? a.part_ml[(at + k0 + lane) * 2] : ATTN_EMPTY;
        float lk = k0 + lane < n ? a.part_ml[(at + k0 + lane) * 2 + 1] : 0;
        float upto = mk; /* greatest score up to this chunk, and before it */
        for (int d = 1; d < 32; d *= 2) {
            float left = __shfl_up_sync(0xffffffffu, upto, d);
            if (lane >= d) upto = fmaxf(upto, left);
        }
        upto = fmaxf(upto, m);
        float left = __shfl_up_sync(0xffffffffu, upto, 1), keep = exp2f((lane ? left : m) - upto),
              add = exp2f(mk - upto);
        m = __shfl_sync(0xffffffffu, upto, 31);
#pragma unroll 8
        for (int k = 0; k < min(32, n - k0); k++) {
            float wk = __shfl_sync(0xffffffffu, keep, k), wa = __shfl_sync(0xffffffffu, add, k);
            float ll = __shfl_sync(0xffffffffu, lk, k);
            bool copy = k0 + k == 0;
            l = copy ? ll : attn_fold(l, wk, ll, wa);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int d = lane * 4 + i * 128;
                if (d >= a.dim) break;
                float4 x = *(const float4 *)(a.part_o + (at + k0 + k) * a.dim + d);
                o[i].x = copy ? x.x : attn_fold(o[i].x, wk, x.x, wa);
                o[i].y = copy ? x.y : attn_fold(o[i].y, wk, x.y, wa);
                o[i].z = copy ? x.z : attn_fold(o[i].z, wk, x.z, wa);
                o[i].w = copy ? x.w : attn_fold(o[i].w, wk, x.w, wa);
            }
        }
    }
    float inv = attn_inverse(l);
    for (int i = 0; i < 2 && lane * 4 + i * 128 < a.dim; i++) {
        unsigned *dst = (unsigned *)(out + lane * 4 + i * 128);
        dst[0] = bf16x2_pack(o[i].x * inv, o[i].y * inv);
        dst[1] = bf16x2_pack(o[i].z * inv, o[i].w * inv);
    }
}

static __global__ void __launch_bounds__(FOLD_WARPS * 32)
    fold_kernel(const __grid_constant__ struct attn_view a)
{
    int job = blockIdx.x * FOLD_WARPS + threadIdx.x / 32, row = job / a.n_head, head = job % a.n_head;
    pdl_launch();
    pdl_wait();
    if (row >= a.n) return;
    bf16 *out = a.out + (size_t)row * a.out_stride + (size_t)head * a.dim;
    int at = a.row_item[row];
    if (at < 0) { /* padding */
        for (int d = threadIdx.x % 32 * 2; d < a.dim; d += 64) *(unsigned *)(out + d) = 0;
        return;
    }
    struct cu_item it = a.item[at];
    struct attn_plan_item p = a.plan->item[at];
    int n = attn_chunks(it.pos, it.len, a.window, p.chunk);
    if (n > 1)
        fold_chunks(a, (size_t)p.part * a.n_head + ((size_t)(row - it.row) * a.n_head + head) * n, n, out);
}

typedef void (*kernel_fn)(struct attn_view);
struct kernel {
    kernel_fn fn;
    int threads;
    size_t smem;
};
template <int D, bool FP8, bool FOLD> static struct kernel kernel_of(void)
{
    typedef attn_shape<D, FP8, FOLD> S;
    struct kernel k;
    k.fn = mma_kernel<D, FP8, FOLD>;
    k.threads = S::THREADS;
    k.smem = S::SHARED;
    return k;
}
template <int D> static struct kernel kernel_for(bool fp8, bool fold)
{
    return fp8    ? fold ? kernel_of<D, true, true>() : kernel_of<D, true, false>()
              : fold ? kernel_of<D, false, true>()
                  : kernel_of<D, false, false>();
}
static struct kernel kernel_at(int width, bool fp8, bool fold)
{
    return width == 0   ? kernel_for<64>(fp8, fold)
           : width == 1 ? kernel_for<128>(fp8, fold)
                        : kernel_for<256>(fp8, fold);
}
static int width_of(int dim) { return dim <= 64 ? 0 : dim <= 128 ? 1 : 2; }

void cu_attn_mma_open(struct cuda *c, struct cu_attn *s)
{
    for (int w = 0; w < 3; w++) {
        s->mma[w] = c->cc >= 80;
        for (int fp8 = 0; fp8 < 2 && s->mma[w]; fp8++) {
            struct kernel k = kernel_at(w, fp8, c->o.deterministic);
            s->mma[w] = k.smem <= (size_t)c->smem_max &&
                        cudaFuncSetAttribute((const void *)k.fn, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)k.smem) == cudaSuccess;
            cudaGetLastError(); /* where it may not have so much, the plain kernel runs */
        }
    }
}

bool cu_attn_mma_fits(const struct cuda *c, const struct attn_view *v)
{
    return v->dim <= 256 && v->dim % (v->kv.fp8 ? 16 : 8) == 0 && v->q_stride % 4 == 0 &&
           v->out_stride % 2 == 0 && c->attn->mma[width_of(v->dim)];
}

void cu_attn_mma(struct cuda *c, const struct attn_view *v, bool fold)
{
    struct kernel k = kernel_at(width_of(v->dim), v->kv.fp8, c->o.deterministic);
    LAUNCH_PDL(k.fn, dim3(c->n_sm * 2), dim3(k.threads), k.smem, c->stream, *v);
    CU_LAUNCHED(c);
    if (!fold) return;
    int jobs = v->n * v->n_head;
    LAUNCH_PDL(fold_kernel, dim3((jobs + FOLD_WARPS - 1) / FOLD_WARPS), dim3(FOLD_WARPS * 32), 0, c->stream,
               *v);
    CU_LAUNCHED(c);
}
