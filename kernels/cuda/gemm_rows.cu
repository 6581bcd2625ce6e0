/* Products of few rows: a stream of weights. A block sums one part of a tile's sum (gemm.cuh), each of its
 * eight warps one segment, straight from global memory into mma fragments: every weight is read once, by
 * 16-byte loads of which each lane keeps several under way. x is small and comes through the first-level
 * cache. */
#include "gemm.cuh"

enum { THREADS = 32 * SEGMENTS };

struct stream {
    __device__ __forceinline__ uint4 operator()(const uint4 *p) const { return __ldcs(p); }
    __device__ __forceinline__ uint2 operator()(const uint2 *p) const { return __ldcs(p); }
};

/* Where a lane reads its share of a tile: d units after where it stands. Pointers move with the loop, so that
 * addresses are constant offsets from them. */
template <int KIND> struct lane_source {
    const uint8_t *at;
    __device__ __forceinline__ lane_source(const struct gemm_job &j, const struct gemm_out &out, int t, int u,
                                           int)
        : at(out.w + ((size_t)t * j.n_unit + u) * unit_bytes(KIND))
    {
    }
    __device__ __forceinline__ void read(int d, int, int lane, typename raw_of<KIND>::type *r) const
    {
        unit_load(r, at + d * unit_bytes(KIND), lane, stream());
    }
    __device__ __forceinline__ void move(int units) { at += units * unit_bytes(KIND); }
};
template <> struct lane_source<KIND_BF16> { /* rows past the last repeat it: nobody reads their sums */
    const uint4 *row[2];
    __device__ __forceinline__ lane_source(const struct gemm_job &j, const struct gemm_out &out, int t, int u,
                                           int lane)
    {
        for (int h = 0; h < 2; h++) {
            int o = min(t * TILE + 8 * h + lane / 4, out.n_out - 1);
            row[h] = (const uint4 *)(out.w + ((size_t)o * j.n_in + u * UNIT) * 2) + lane % 4;
        }
    }
    /* left: inputs from here to the end of the row */
    __device__ __forceinline__ void read(int d, int left, int, struct raw_bf16 *r) const
    {
        for (int i = 0; i < 2; i++)
            for (int h = 0; h < 2; h++)
                r->v[i][h] =
                    d * UNIT + 32 * i < left ? __ldcs(row[h] + 8 * d + 4 * i) : make_uint4(0, 0, 0, 0);
    }
    __device__ __forceinline__ void move(int units) { row[0] += 8 * units, row[1] += 8 * units; }
};

/* Units that a lane keeps under way, of each tile: what registers have room for. */
template <int KIND, int ROWS, int TILES> __host__ __device__ constexpr int depth()
{
    return (KIND == KIND_BF16 || ROWS > (KIND == KIND_E4M3 ? 16 : 8) ? 2 : 4) / TILES;
}

/* The sum of one segment: units [u0, u1) of TILES tiles with ROWS rows of x. */
template <int KIND, int ROWS, int TILES>
static __device__ __forceinline__ void sum_segment(const struct gemm_job &j,
                                                   const struct gemm_out *const *out, int tile, int u0,
                                                   int u1, float acc[TILES][ROWS / 8][4])
{
    constexpr int D = depth<KIND, ROWS, TILES>();
    int lane = threadIdx.x % 32, k = u0 * UNIT + lane % 4 * 8, left = j.n_in - k;
    typename raw_of<KIND>::type ring[D][TILES];
    lane_source<KIND> src[2] = {lane_source<KIND>(j, *out[0], tile, u0, lane),
                                lane_source<KIND>(j, *out[TILES - 1], tile, u0, lane)};
#pragma unroll
    for (int d = 0; d < D; d++)
        if (u0 + d < u1)
            for (int z = 0; z < TILES; z++) src[z].read(d, left, lane, &ring[d][z]);
    pdl_wait(); /* weights are nobody's results; x is */
    const uint4 *x[ROWS / 8];
    for (int c = 0; c < ROWS / 8; c++)
        x[c] = (const uint4 *)(j.x + (size_t)min(8 * c + lane / 4, j.n - 1) * j.n_in + k);
    for (int base = u0; base < u1; base += D) {
#pragma unroll
        for (int d = 0; d < D; d++) {
            int u = base + d;
            if (u >= u1) break;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint4 xv[ROWS / 8];
                for (int c = 0; c < ROWS / 8; c++)
                    xv[c] = d * UNIT + 32 * i < left ? x[c][8 * d + 4 * i] : make_uint4(0, 0, 0, 0);
#pragma unroll
                for (int m = 0; m < 2; m++)
#pragma unroll
                    for (int z = 0; z < TILES; z++) {
                        unsigned a[4], b[2];
                        dequant(ring[d][z], i, m, a);
#pragma unroll
                        for (int c = 0; c < ROWS / 8; c++) {
                            x_operand(xv[c], m, b);
                            mma16816(acc[z][c], a, b);
                        }
                    }
            }
            if (u + D < u1)
                for (int z = 0; z < TILES; z++) src[z].read(d + D, left, lane, &ring[d][z]);
        }
        for (int c = 0; c < ROWS / 8; c++) x[c] += 8 * D;
        for (int z = 0; z < TILES; z++) src[z].move(D);
        left -= D * UNIT;
    }
}

enum { PITCH = 20 }; /* floats for the 16 outputs of a row: no two lanes of a store in one bank */

template <int KIND, int ROWS, int TILES>
static __global__ void __launch_bounds__(THREADS, 2) rows_kernel(const __grid_constant__ struct gemm_job j)
{
    typedef float sums_t[SEGMENTS][TILES][ROWS][PITCH];
    SHARED(sums_t, sums);
    constexpr int SIZE = TILES * ROWS * TILE; /* of the block's results, [TILES][ROWS][TILE] */
    int which = 0, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (!j.pair)
        while (which + 1 < j.n_outs && (int)blockIdx.x >= j.out[which + 1].first) which++;
    const struct gemm_out &out = j.out[which];
    const struct gemm_out *const both[2] = {&out, &j.out[TILES == 2 ? 1 : which]};
    int local = (int)blockIdx.x - out.first, tile = local / out.split, part = local % out.split;
    int u0 = (part * SEGMENTS + warp) * out.seg;

    pdl_launch();
    float acc[TILES][ROWS / 8][4] = {};
    sum_segment<KIND, ROWS, TILES>(j, both, tile, u0, min(u0 + out.seg, j.n_unit), acc);
    for (int z = 0; z < TILES; z++)
        for (int c = 0; c < ROWS / 8; c++)
            for (int e = 0; e < 4; e++)
                sums[warp][z][8 * c + lane % 4 * 2 + e % 2][lane / 4 + 8 * (e / 2)] = acc[z][c][e];
    __syncthreads();

    constexpr int EACH = (SIZE / TILES + THREADS - 1) / THREADS;
    float sum[EACH][TILES];
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int i = e * THREADS + (int)threadIdx.x, row = i / TILE % ROWS, o = i % TILE;
        for (int z = 0; z < TILES; z++) {
            sum[e][z] = 0;
            for (int w = 0; w < SEGMENTS; w++) sum[e][z] += sums[w][z][row][o];
        }
    }
    if (out.split > 1) {
        float *all = (float *)j.part + (size_t)(out.sum0 + tile * out.split) * SIZE;
        for (int e = 0; e < EACH; e++)
            for (int z = 0, i = e * THREADS + (int)threadIdx.x; z < TILES; z++)
                if (i < ROWS * TILE) all[(size_t)part * SIZE + z * ROWS * TILE + i] = sum[e][z];
        if (!last_to_arrive(j.count, out.sum0 + tile, out.split)) return;
        for (int e = 0; e < EACH; e++)
            for (int z = 0, i = e * THREADS + (int)threadIdx.x; z < TILES; z++) {
                sum[e][z] = 0;
                for (int p = 0; p < out.split && i < ROWS * TILE; p++)
                    sum[e][z] += __ldcg(&all[(size_t)p * SIZE + z * ROWS * TILE + i]);
            }
    }
    for (int e = 0; e < EACH; e++) {
        int i = e * THREADS + (int)threadIdx.x;
        if (i < ROWS * TILE) store(j, out, i / TILE, tile * TILE + i % TILE, sum[e][0], sum[e][TILES - 1]);
    }
}

template <int KIND, int ROWS> static void launch(struct cuda *c, const struct gemm_job &j, int blocks)
{
    if (j.pair)
        LAUNCH_PDL((rows_kernel<KIND, ROWS, 2>), dim3(blocks), dim3(THREADS), 0, c->stream, j);
    else
        LAUNCH_PDL((rows_kernel<KIND, ROWS, 1>), dim3(blocks), dim3(THREADS), 0, c->stream, j);
}
template <int KIND> static void launch_kind(struct cuda *c, const struct gemm_job &j, int blocks)
{
    if (j.n <= 8)
        launch<KIND, 8>(c, j, blocks);
    else if (j.n <= 16)
        launch<KIND, 16>(c, j, blocks);
    else
        launch<KIND, ROWS_MAX>(c, j, blocks);
}

void gemm_rows(struct cuda *c, enum weight_kind kind, struct gemm_job *j)
{
    int blocks = 0, sums = 0;
    for (int i = 0; i < (j->pair ? 1 : j->n_outs); i++) {
        int own = tiles_of(j->out[i].n_out) * j->out[i].split;
        j->out[i].first = blocks;
        j->out[i].sum0 = sums;
        blocks += own;
        if (j->out[i].split > 1) sums += own;
    }
    switch (kind) {
    case KIND_BF16: launch_kind<KIND_BF16>(c, *j, blocks); break;
    case KIND_E4M3: launch_kind<KIND_E4M3>(c, *j, blocks); break;
    case KIND_Q8: launch_kind<KIND_Q8>(c, *j, blocks); break;
    case KIND_Q4: launch_kind<KIND_Q4>(c, *j, blocks); break;
    }
    CU_LAUNCHED(c);
}
