/* Products of any number of rows: blocks of 128 outputs (a pair: 64 of each matrix) and 64 or 128 rows. Units
 * of the eight tiles and of the rows come into shared memory by asynchronous copies, a few stages ahead; each
 * warp owns two tiles and 64 rows. Sums are those of gemm_rows.cu, bit for bit: segments are folded into the
 * part's sum, and parts into the result, in the same order, whether one block walks all units or several
 * share them. */
#include "gemm.cuh"

enum { BLOCK_TILES = 8, WARP_TILES = 2, WARP_ROWS = 64, ROW_GROUPS = WARP_ROWS / 8 };

template <int COLS> __host__ __device__ constexpr int stages() { return COLS == 1 ? 4 : 3; }
/* COLS: warps side by side along the rows */
template <int KIND, int COLS> struct stage {
    uint8_t w[BLOCK_TILES * unit_bytes(KIND)];
    uint8_t x[COLS * WARP_ROWS][128];
};

/* Eight rows of 128 bytes are read four chunks of 16 each at a time: odd rows are turned by half, so that two
 * rows meet in different banks. */
static __device__ __forceinline__ int chunk_at(int row, int chunk)
{
    return row * 128 + (chunk ^ (row & 1) << 2) * 16;
}

struct plain {
    template <class T> __device__ __forceinline__ T operator()(const T *p) const { return *p; }
};
template <int KIND>
static __device__ __forceinline__ void read_tile(const uint8_t *tile, int lane,
                                                 typename raw_of<KIND>::type *r)
{
    unit_load(r, tile, lane, plain());
}
template <>
__device__ __forceinline__ void read_tile<KIND_BF16>(const uint8_t *tile, int lane, struct raw_bf16 *r)
{
    for (int i = 0; i < 2; i++)
        for (int h = 0; h < 2; h++)
            r->v[i][h] = *(const uint4 *)(tile + chunk_at(lane / 4 + 8 * h, 4 * i + lane % 4));
}

/* Tile `slot` of a block: of a pair, even slots are of the first matrix, odd ones of the second. */
static __device__ __forceinline__ int slot_tile(const struct gemm_job &j, int block, int slot)
{
    return j.pair ? block * (BLOCK_TILES / 2) + slot / 2 : block * BLOCK_TILES + slot;
}
static __device__ __forceinline__ const struct gemm_out &slot_out(const struct gemm_job &j, int which,
                                                                  int slot)
{
    return j.out[j.pair ? slot % 2 : which];
}

/* One unit of the block's tiles, of all threads. Tiles past the last repeat it. */
template <int KIND, int THREADS>
static __device__ __forceinline__ void copy_weights(uint8_t *to, const struct gemm_job &j, int which,
                                                    int block, int u)
{
    constexpr int CHUNKS = unit_bytes(KIND) / 16;
    for (int i = threadIdx.x; i < BLOCK_TILES * CHUNKS; i += THREADS) {
        int slot = i / CHUNKS, at = i % CHUNKS, tile = slot_tile(j, block, slot);
        const struct gemm_out &out = slot_out(j, which, slot);
        if (KIND == KIND_BF16) {
            int row = at / 8, chunk = at % 8, o = min(tile * TILE + row, out.n_out - 1),
                k = u * UNIT + chunk * 8;
            const uint8_t *from = out.w + ((size_t)o * j.n_in + min(k, j.n_in - 8)) * 2;
            cp_async16(to + slot * 2048 + chunk_at(row, chunk), from, k < j.n_in ? 16 : 0);
        } else {
            int t = min(tile, (out.n_out - 1) / TILE);
            cp_async16(to + i * 16, out.w + ((size_t)t * j.n_unit + u) * unit_bytes(KIND) + at * 16);
        }
    }
}
template <int COLS, int THREADS>
static __device__ __forceinline__ void copy_x(uint8_t *to, const struct gemm_job &j, int row0, int u)
{
    for (int i = threadIdx.x; i < COLS * WARP_ROWS * 8; i += THREADS) {
        int row = i / 8, chunk = i % 8, k = u * UNIT + chunk * 8;
        const uint16_t *from = j.x + (size_t)min(row0 + row, j.n - 1) * j.n_in + min(k, j.n_in - 8);
        cp_async16(to + chunk_at(row, chunk), from, k < j.n_in ? 16 : 0);
    }
}

typedef float warp_sums[WARP_TILES][ROW_GROUPS][4];

template <int KIND>
static __device__ __forceinline__ void multiply_unit(const uint8_t *w, const uint8_t *x, int lane,
                                                     warp_sums acc)
{
    typename raw_of<KIND>::type r[WARP_TILES];
    for (int z = 0; z < WARP_TILES; z++) read_tile<KIND>(w + z * unit_bytes(KIND), lane, &r[z]);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint4 xv[ROW_GROUPS];
        for (int c = 0; c < ROW_GROUPS; c++)
            xv[c] = *(const uint4 *)(x + chunk_at(8 * c + lane / 4, 4 * i + lane % 4));
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int z = 0; z < WARP_TILES; z++) {
                unsigned a[4], b[2];
                dequant(r[z], i, m, a);
#pragma unroll
                for (int c = 0; c < ROW_GROUPS; c++) {
                    x_operand(xv[c], m, b);
                    mma16816(acc[z][c], a, b);
                }
            }
    }
}

static __device__ __forceinline__ void fold(warp_sums sum, warp_sums acc)
{
    for (int z = 0; z < WARP_TILES; z++)
        for (int c = 0; c < ROW_GROUPS; c++)
            for (int e = 0; e < 4; e++) {
                sum[z][c][e] += acc[z][c][e];
                acc[z][c][e] = 0;
            }
}

/* Sums of a warp to y, through shared memory, [32 rows][2 tiles of outputs], so that lanes write neighbours.
 * What a block that walks several parts has so far lies in y: `first` part or not, `last` or not. */
enum { PITCH = 2 * TILE + 4, HALF_ROWS = WARP_ROWS / 2 };
struct warp_buffer {
    float v[HALF_ROWS][PITCH];
};
static __device__ __forceinline__ void store_sums(const struct gemm_job &j, int which, int block, int slot,
                                                  int row0, bool first, bool last, warp_sums sum,
                                                  struct warp_buffer *to)
{
    int lane = threadIdx.x % 32, z = j.pair ? 0 : lane / TILE,
        o = slot_tile(j, block, slot + z) * TILE + lane % TILE;
    const struct gemm_out &out = slot_out(j, which, slot + z);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < WARP_TILES; i++)
            for (int c = 0; c < ROW_GROUPS / 2; c++)
                for (int e = 0; e < 4; e++)
                    to->v[8 * c + lane % 4 * 2 + e % 2][i * TILE + lane / 4 + 8 * (e / 2)] =
                        sum[i][half * ROW_GROUPS / 2 + c][e];
        __syncwarp();
#pragma unroll 1
        for (int r = j.pair ? lane / TILE : 0; r < HALF_ROWS; r += j.pair ? 2 : 1) {
            int row = row0 + half * HALF_ROWS + r;
            if (row >= j.n || o >= out.n_out) break;
            float v = to->v[r][z * TILE + lane % TILE];
            if (first && last) {
                store(j, out, row, o, v, to->v[r][TILE + lane % TILE]);
            } else {
                float *y = (float *)out.y + (size_t)row * out.y_stride + o;
                v += first ? 0 : *y;
                *y = last ? finish(out, o, v) : v;
            }
        }
        __syncwarp();
    }
}

/* The sums of all blocks of an output, which each wrote its own, [block][fragment][thread]. */
template <int THREADS>
static __device__ __forceinline__ void gather_parts(const float4 *all, int parts, int per, warp_sums sum)
{
#pragma unroll
    for (int z = 0; z < WARP_TILES; z++)
#pragma unroll
        for (int c = 0; c < ROW_GROUPS; c++) {
            float4 total = {}, part = {};
            for (int p = 0; p < parts; p++) {
                float4 v = __ldcg(
                    &all[((size_t)p * WARP_TILES * ROW_GROUPS + z * ROW_GROUPS + c) * THREADS + threadIdx.x]);
                part.x += v.x, part.y += v.y, part.z += v.z, part.w += v.w;
                if ((p + 1) % per) continue;
                total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
                part = make_float4(0, 0, 0, 0);
            }
            sum[z][c][0] = total.x, sum[z][c][1] = total.y, sum[z][c][2] = total.z, sum[z][c][3] = total.w;
        }
}

/* The block's sums of units [u0, u1). */
template <int KIND, int COLS>
static __device__ __forceinline__ void sum_units(const struct gemm_job &j, int which, int block,
                                                 int block_row, int u0, int u1, struct stage<KIND, COLS> *st,
                                                 warp_sums sum)
{
    constexpr int THREADS = 128 * COLS, STAGES = stages<COLS>();
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, seg = j.out[which].seg;
    for (int s = 0; s < STAGES - 1; s++)
        if (u0 + s < u1) copy_weights<KIND, THREADS>(st[s].w, j, which, block, u0 + s);
    pdl_wait(); /* weights are nobody's results; x is */
    for (int s = 0; s < STAGES - 1; s++) {
        if (u0 + s < u1) copy_x<COLS, THREADS>(&st[s].x[0][0], j, block_row, u0 + s);
        cp_commit();
    }
    warp_sums acc = {};
    for (int u = u0; u < u1; u++) {
        cp_wait<STAGES - 2>();
        __syncthreads();
        int next = u + STAGES - 1;
        if (next < u1) {
            struct stage<KIND, COLS> *s = &st[(next - u0) % STAGES];
            copy_weights<KIND, THREADS>(s->w, j, which, block, next);
            copy_x<COLS, THREADS>(&s->x[0][0], j, block_row, next);
        }
        cp_commit();
        const struct stage<KIND, COLS> *s = &st[(u - u0) % STAGES];
        multiply_unit<KIND>(s->w + warp % 4 * WARP_TILES * unit_bytes(KIND), s->x[warp / 4 * WARP_ROWS], lane,
                            acc);
        if (u + 1 == u1 || (u + 1) % seg == 0) fold(sum, acc);
    }
    cp_wait<0>();
    __syncthreads();
}

template <int KIND, int COLS>
static __global__ void __launch_bounds__(128 * COLS) tile_kernel(const __grid_constant__ struct gemm_job j)
{
    constexpr int THREADS = 128 * COLS, SIZE = WARP_TILES * ROW_GROUPS * THREADS; /* float4 of a block */
    typedef struct stage<KIND, COLS> stage_t;
    static_assert(stages<COLS>() * sizeof(stage_t) >= 4 * COLS * sizeof(struct warp_buffer),
                  "one memory for both");
    DYNAMIC_SHARED(stage_t, st);
    int which = 0, warp = threadIdx.x / 32, slot = warp % 4 * WARP_TILES;
    if (!j.pair)
        while (which + 1 < j.n_outs && (int)blockIdx.x >= j.out[which + 1].first) which++;
    const struct gemm_out &out = j.out[which];
    int block = ((int)blockIdx.x - out.first) / j.parts, piece = ((int)blockIdx.x - out.first) % j.parts;
    int block_row = (int)blockIdx.y * COLS * WARP_ROWS, row0 = block_row + warp / 4 * WARP_ROWS;
    struct warp_buffer *buffer = (struct warp_buffer *)(void *)st + warp;

    pdl_launch();
    /* All parts one after the other, or one part for each block, or one segment. */
    int step = j.parts > out.split ? out.seg : out.seg * SEGMENTS, u0 = min(piece * step, j.n_unit);
    int end = j.parts == 1 ? j.n_unit : min(u0 + step, j.n_unit);
    warp_sums sum;
    for (int u = u0; u == u0 || u < end; u += step) {
        for (int z = 0; z < WARP_TILES; z++)
            for (int c = 0; c < ROW_GROUPS; c++)
                for (int e = 0; e < 4; e++) sum[z][c][e] = 0;
        sum_units<KIND, COLS>(j, which, block, block_row, u, min(u + step, end), st, sum);
        if (j.parts > 1) break;
        store_sums(j, which, block, slot, row0, u == 0, u + step >= end, sum, buffer);
        __syncthreads();
    }
    if (j.parts == 1) return;
    int id = (int)(blockIdx.x - piece) + (int)(blockIdx.y * gridDim.x);
    float4 *all = j.part + (size_t)id * SIZE, *own = all + (size_t)piece * SIZE;
    for (int z = 0; z < WARP_TILES; z++)
        for (int c = 0; c < ROW_GROUPS; c++)
            own[(z * ROW_GROUPS + c) * THREADS + threadIdx.x] =
                make_float4(sum[z][c][0], sum[z][c][1], sum[z][c][2], sum[z][c][3]);
    if (!last_to_arrive(j.count, id, j.parts)) return;
    gather_parts<THREADS>(all, j.parts, j.parts == out.split ? 1 : SEGMENTS, sum);
    store_sums(j, which, block, slot, row0, true, true, sum, buffer);
}

template <int KIND, int COLS> constexpr int shared_bytes()
{
    return stages<COLS>() * (int)sizeof(struct stage<KIND, COLS>);
}

template <int KIND> static void allow_memory(struct cuda *c)
{
    const cudaFuncAttribute most = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CU(c, cudaFuncSetAttribute((const void *)tile_kernel<KIND, 1>, most, shared_bytes<KIND, 1>()));
    CU(c, cudaFuncSetAttribute((const void *)tile_kernel<KIND, 2>, most, shared_bytes<KIND, 2>()));
}
void gemm_tile_open(struct cuda *c)
{
    allow_memory<KIND_BF16>(c);
    allow_memory<KIND_E4M3>(c);
    allow_memory<KIND_Q8>(c);
    allow_memory<KIND_Q4>(c);
}

template <int KIND, int COLS> static void launch(struct cuda *c, const struct gemm_job &j, dim3 grid)
{
    LAUNCH_PDL((tile_kernel<KIND, COLS>), grid, dim3(128 * COLS), (shared_bytes<KIND, COLS>()), c->stream, j);
}
template <int KIND> static void launch_kind(struct cuda *c, const struct gemm_job &j, int cols, dim3 grid)
{
    if (cols == 1)
        launch<KIND, 1>(c, j, grid);
    else
        launch<KIND, 2>(c, j, grid);
}

/* How many blocks share each output, all of one cut: enough to fill a device, if the partial sums fit. */
static int choose_parts(const struct gemm_job *j, int blocks, int cols)
{
    int split = j->out[0].split, fit = (int)(SCRATCH_BYTES / ((size_t)blocks * 128 * 64 * 4 * cols));
    const int choice[] = {1, split, split * SEGMENTS};
    int parts = 1;
    for (int i = 1; i < 3; i++)
        if (blocks * parts < 96 && choice[i] <= fit && blocks * choice[i] <= MAX_COUNTS) parts = choice[i];
    return parts;
}

void gemm_tile(struct cuda *c, enum weight_kind kind, struct gemm_job *j)
{
    int cols = j->n <= WARP_ROWS ? 1 : 2, blocks = 0, wide = j->pair ? BLOCK_TILES / 2 : BLOCK_TILES;
    int rows = (j->n + cols * WARP_ROWS - 1) / (cols * WARP_ROWS);
    for (int i = 0; i < (j->pair ? 1 : j->n_outs); i++)
        blocks += (tiles_of(j->out[i].n_out) + wide - 1) / wide;
    j->parts = choose_parts(j, blocks * rows, cols);
    for (int i = 0, at = 0; i < (j->pair ? 1 : j->n_outs); i++) {
        j->out[i].first = at;
        at += (tiles_of(j->out[i].n_out) + wide - 1) / wide * j->parts;
    }
    dim3 grid(blocks * j->parts, rows);
    switch (kind) {
    case KIND_BF16: launch_kind<KIND_BF16>(c, *j, cols, grid); break;
    case KIND_E4M3: launch_kind<KIND_E4M3>(c, *j, cols, grid); break;
    case KIND_Q8: launch_kind<KIND_Q8>(c, *j, cols, grid); break;
    case KIND_Q4: launch_kind<KIND_Q4>(c, *j, cols, grid); break;
    }
    CU_LAUNCHED(c);
}
