/* Tiles of keys and values in shared memory, and the two products on tensor cores: pieces of attn_mma.cu.
 *
 * A warp has 16 rows. K and V tiles of KEYS keys alternate in a ring of RING halves, which a team of threads
 * fills with asynchronous copies: one warp on its own, or all warps of a block. Rows of a half are ROW bytes;
 * the 16-byte chunk c of row r lies at chunk c ^ swizzle(r), so that the 8 rows of a matrix fragment touch
 * all banks once. Keys that nobody of the team may see, and dimensions beyond head_dim, are zero. */
#pragma once
#include "attn.cuh"

template <int D, bool FP8, bool FOLD> struct attn_shape {
    enum {
        DIM = D,
        WARPS = D > 128 ? 2 : 4,
        THREADS = WARPS * 32,
        Q_SHARED = D > 128, /* fragments of the queries: registers do not suffice */
        ASIDE_SHARED = FOLD && D > 64,
        KEYS = Q_SHARED || ASIDE_SHARED ? 16 : 32,
        ROW = FP8 ? D : 2 * D,
        CHUNKS = ROW / 16,
        HALF = KEYS * ROW + (FP8 ? KEYS * 4 : 0), /* then the scales of E4M3 */
        RING = D > 64 && D <= 128 && KEYS == 16 ? 4 : 3,
        RINGS = WARPS * RING * HALF,
        ASIDE = ASIDE_SHARED ? THREADS * (DIM / 2 + 4) * 4 : 0,
        SHARED = RINGS + ASIDE + (Q_SHARED ? THREADS * DIM / 16 * 16 : 0), /* bytes of a block */
    };
    static const bool fp8 = FP8, fold = FOLD;
};

/* What a team walks: keys [lo, hi) of one sequence and KV head, from `start` on, a multiple of KEYS. */
struct attn_stream {
    const struct kv_view *kv;
    const unsigned char *mem; /* of the KV head in block 0 */
    const int32_t *table;
    int lo, hi, start;
    int chunks;          /* 16-byte chunks of a token's values */
    unsigned char *ring; /* [RING][HALF] */
};

/* Byte offset of chunk c0 + c of row r0 + r, where r and c are constants, c0 < the lowest bit of c and r0 <
 * that of r: so the compiler needs few registers for many of them. */
template <class S> static __device__ __forceinline__ int swizzled(int r0, int r, int c0, int c)
{
    int row = S::CHUNKS >= 8 ? 1 : 2, mask = S::CHUNKS >= 8 ? 7 : 3;
    int base = (c0 ^ (r0 / row & mask)) * 16 ^ ((c & mask) ^ (r / row & mask)) * 16;
    return r0 * S::ROW + base + r * S::ROW + (c & ~mask) * 16;
}

template <int TEAM> static __device__ __forceinline__ void team_sync(void)
{
    if (TEAM == 1)
        __syncwarp();
    else
        __syncthreads();
}

/* Copies half h (even: K, odd: V, of tile h / 2). Blocks hold at least 8 keys: one look into the table for 8
 * rows. */
template <class S, int TEAM>
static __device__ __forceinline__ void load_half(const struct attn_stream &st, int h)
{
    const int threads = TEAM * 32, step = threads / S::CHUNKS;
    const struct kv_view &kv = *st.kv;
    int me = threadIdx.x % threads, t0 = st.start + h / 2 * S::KEYS, mask = (1 << kv.shift) - 1;
    int row0 = me / S::CHUNKS, c = me % S::CHUNKS;
    unsigned char *dst = st.ring + h % S::RING * S::HALF;
    const unsigned char *eight = st.mem;
#pragma unroll
    for (int r = 0; r < S::KEYS; r += step) {
        int t = t0 + row0 + r, t8 = t & ~7;
        if (r % 8 == 0 && t8 + 8 > st.lo && t8 < st.hi)
            eight =
                st.mem + st.table[t8 >> kv.shift] * kv.block_step + (t8 & mask) * kv.row + (h & 1) * kv.half;
        bool ok = t >= st.lo && t < st.hi && c < st.chunks;
        cp_async16(dst + swizzled<S>(row0, r, c, 0), ok ? eight + ((row0 + r) & 7) * kv.row + c * 16 : st.mem,
                   ok ? 16 : 0);
    }
    if (S::fp8 && me < S::KEYS / 4) { /* four scales */
        int t = t0 + me * 4, n = min(max(st.hi - t, 0), 4);
        const unsigned char *src = st.mem;
        if (n && t + 4 > st.lo)
            src += st.table[t >> kv.shift] * kv.block_step + 2 * kv.half +
                   (((h & 1) << kv.shift) + (t & mask)) * 4;
        else
            n = 0;
        cp_async16(dst + S::KEYS * S::ROW + me * 16, src, n * 4);
    }
}

/* Half h, as soon as it is there; then the half before it is nobody's, and its place is filled again. */
template <class S, int TEAM>
static __device__ __forceinline__ const unsigned char *next_half(const struct attn_stream &st, int h, int n)
{
    cp_wait<S::RING - 2>();
    team_sync<TEAM>();
    if (h + S::RING - 1 < n) load_half<S, TEAM>(st, h + S::RING - 1);
    cp_commit();
    return st.ring + h % S::RING * S::HALF;
}

/* Of four E4M3 codes, numbers 0 and 2, or 1 and 3, as bf16. Exponent and mantissa in bf16's place are too
 * small by 2^120, which a multiplication mends exactly. */
template <int ODD> static __device__ __forceinline__ unsigned e4m3_bf16(unsigned w)
{
    unsigned v =
        ODD ? (w & 0x80008000u) | (w & 0x7f007f00u) >> 4 : (w & 0x00800080u) << 8 | (w & 0x007f007fu) << 4;
    unsigned mend = 0x7b807b80u; /* 2^120, twice */
    __nv_bfloat162 r = __hmul2(*(__nv_bfloat162 *)&v, *(__nv_bfloat162 *)&mend);
    return *(unsigned *)&r;
}

/* A lane's fragments of the warp's queries, for each 16 dimensions. */
template <class S> struct attn_query {
    unsigned r[S::Q_SHARED ? 1 : S::DIM / 16][4];
    uint4 *shared; /* [DIM/16][THREADS], at the thread's */
};
template <class S>
static __device__ __forceinline__ void query_put(attn_query<S> &q, int i, const unsigned x[4])
{
    if (S::Q_SHARED) {
        q.shared[i * S::THREADS] = make_uint4(x[0], x[1], x[2], x[3]);
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++) q.r[S::Q_SHARED ? 0 : i][e] = x[e];
    }
}
template <class S>
static __device__ __forceinline__ void query_get(const attn_query<S> &q, int i, unsigned x[4])
{
    if (S::Q_SHARED) {
        uint4 u = q.shared[i * S::THREADS];
        x[0] = u.x, x[1] = u.y, x[2] = u.z, x[3] = u.w;
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] = q.r[S::Q_SHARED ? 0 : i][e];
    }
}

/* s[16][KEYS] += q k^T, before scaling. */
template <class S>
static __device__ __forceinline__ void scores(float s[][4], const attn_query<S> &q, const unsigned char *k)
{
    int lane = threadIdx.x % 32, key = lane % 8 + lane / 16 * 8, chunk = lane / 8 % 2;
#pragma unroll
    for (int i = 0; i < S::CHUNKS; i += 2) {
        unsigned x[2][4];
        query_get<S>(q, S::fp8 ? i : i / 2, x[0]);
        if (S::fp8) query_get<S>(q, i + 1, x[1]);
#pragma unroll
        for (int j = 0; j < S::KEYS / 16; j++) {
            unsigned r[4];
            ldmatrix4(r, k + swizzled<S>(key, j * 16, chunk, i));
            if (!S::fp8) {
                mma16816(s[2 * j], x[0], r);
                mma16816(s[2 * j + 1], x[0], r + 2);
            } else {
#pragma unroll
                for (int e = 0; e < 4; e++) { /* two steps of 16 dimensions, for 8 keys each */
                    unsigned b[2] = {e4m3_bf16<0>(r[e]), e4m3_bf16<1>(r[e])};
                    mma16816(s[2 * j + e / 2], x[e % 2], b);
                }
            }
        }
    }
    if (S::fp8) {
        const float *scale = (const float *)(k + S::KEYS * S::ROW) + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < S::KEYS / 8; j++)
            for (int e = 0; e < 4; e++) s[j][e] *= scale[j * 8 + e % 2];
    }
}

/* o[16][DIM] += p v. Of E4M3 o[2i] has the even dimensions of the 16 at 16 i, o[2i + 1] the odd ones. */
template <class S>
static __device__ __forceinline__ void weigh(float o[][4], const float p[][4], const unsigned char *v)
{
    int lane = threadIdx.x % 32;
    const float *scale = (const float *)(v + S::KEYS * S::ROW) + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < S::KEYS / 16; j++) {
        unsigned w[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float *x = &p[2 * j + e / 2][e % 2 * 2], *y = scale + (2 * j + e / 2) * 8;
            w[e] = S::fp8 ? bf16x2_pack(x[0] * y[0], x[1] * y[1]) : bf16x2_pack(x[0], x[1]);
        }
#pragma unroll
        for (int i = 0; i < S::CHUNKS; i += 2) {
            unsigned r[4];
            ldmatrix4t(r, v + swizzled<S>(lane % 16, j * 16, lane / 16, i));
            if (!S::fp8) {
                mma16816(o[i], w, r);
                mma16816(o[i + 1], w, r + 2);
            } else {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    unsigned even[2] = {e4m3_bf16<0>(r[2 * e]), e4m3_bf16<0>(r[2 * e + 1])};
                    unsigned odd[2] = {e4m3_bf16<1>(r[2 * e]), e4m3_bf16<1>(r[2 * e + 1])};
                    mma16816(o[2 * (i + e)], w, even);
                    mma16816(o[2 * (i + e) + 1], w, odd);
                }
            }
        }
    }
}
