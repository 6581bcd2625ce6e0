/* Transpose: y[c][r] = x[r][c], float32. Nothing is computed, so all that counts is how memory is touched.
 * Floor: every value is read once and written once, 8 bytes each. */
#include "lab.cuh"

static struct lab_size size[] = {{"rows", 8192, 68, 4}, {"cols", 8192, 132, 4}, {}};
static struct {
    int rows, cols;
    const float *host, *x;
    float *y;
} p;

enum { TILE = 32 };
typedef float tile_t[TILE][TILE];
typedef float padded_t[TILE][TILE + 1];

static dim3 tiles(int edge) { return dim3((p.cols + edge - 1) / edge, (p.rows + edge - 1) / edge); }

/* 0. A thread for each value. The 32 lanes of a warp read 32 neighbours, one line of 128 bytes, but write to
 * 32 rows of y: 32 lines, of each of which the memory must move a sector of 32 bytes for 4 bytes of use. */
static __global__ void naive(float *y, const float *x, int rows, int cols)
{
    int c = blockIdx.x * TILE + threadIdx.x, r = blockIdx.y * TILE + threadIdx.y;
    if (r < rows && c < cols) y[(size_t)c * rows + r] = x[(size_t)r * cols + c];
}
static void run_naive(void) { LAUNCH(naive, tiles(TILE), dim3(TILE, TILE), 0, 0, p.y, p.x, p.rows, p.cols); }

/* 1. A tile of 32 x 32 goes through shared memory: rows come in, columns go out, and both global sides are
 * whole lines. The price is inside the block: a column of the tile lies in one bank, so 32 lanes read it one
 * after another. */
static __global__ void tiled(float *y, const float *x, int rows, int cols)
{
    SHARED(tile_t, t);
    int c = blockIdx.x * TILE + threadIdx.x, r = blockIdx.y * TILE + threadIdx.y;
    if (r < rows && c < cols) t[threadIdx.y][threadIdx.x] = x[(size_t)r * cols + c];
    __syncthreads();
    c = blockIdx.x * TILE + threadIdx.y, r = blockIdx.y * TILE + threadIdx.x;
    if (r < rows && c < cols) y[(size_t)c * rows + r] = t[threadIdx.x][threadIdx.y];
}
static void run_tiled(void) { LAUNCH(tiled, tiles(TILE), dim3(TILE, TILE), 0, 0, p.y, p.x, p.rows, p.cols); }

/* 2. One unused float at the end of each row moves row r by r banks: the values of a column lie in 32
 * different banks. */
static __global__ void padded(float *y, const float *x, int rows, int cols)
{
    SHARED(padded_t, t);
    int c = blockIdx.x * TILE + threadIdx.x, r = blockIdx.y * TILE + threadIdx.y;
    if (r < rows && c < cols) t[threadIdx.y][threadIdx.x] = x[(size_t)r * cols + c];
    __syncthreads();
    c = blockIdx.x * TILE + threadIdx.y, r = blockIdx.y * TILE + threadIdx.x;
    if (r < rows && c < cols) y[(size_t)c * rows + r] = t[threadIdx.x][threadIdx.y];
}
static void run_padded(void)
{
    LAUNCH(padded, tiles(TILE), dim3(TILE, TILE), 0, 0, p.y, p.x, p.rows, p.cols);
}

/* 3. 256 threads with four values each. A thread has four loads under way before it waits, and a barrier
 * holds up eight warps instead of 32, so more blocks overlap on a multiprocessor. */
enum { STEP = 8 };
static __global__ void four_each(float *y, const float *x, int rows, int cols)
{
    SHARED(padded_t, t);
    int c = blockIdx.x * TILE + threadIdx.x, r = blockIdx.y * TILE + threadIdx.y;
#pragma unroll
    for (int i = 0; i < TILE; i += STEP)
        if (r + i < rows && c < cols) t[threadIdx.y + i][threadIdx.x] = x[(size_t)(r + i) * cols + c];
    __syncthreads();
    c = blockIdx.x * TILE + threadIdx.y, r = blockIdx.y * TILE + threadIdx.x;
#pragma unroll
    for (int i = 0; i < TILE; i += STEP)
        if (r < rows && c + i < cols) y[(size_t)(c + i) * rows + r] = t[threadIdx.x][threadIdx.y + i];
}
static void run_four_each(void)
{
    LAUNCH(four_each, tiles(TILE), dim3(TILE, STEP), 0, 0, p.y, p.x, p.rows, p.cols);
}

/* 4. 16 bytes an access, on all four ways: a thread reads a square of 4 x 4, turns it in registers and stores
 * it as four float4. That is a quarter of the instructions for the same bytes. Padding would break the
 * alignment; instead chunk c of row r lies at chunk c ^ (r / 4), so that eight lanes meet eight different
 * groups of four banks, both ways. */
enum { WIDE = 64, CHUNKS = WIDE / 4 };
typedef float4 wide_t[WIDE][CHUNKS];
static __global__ void wide(float *y, const float *x, int rows, int cols)
{
    SHARED(wide_t, t);
    int tx = threadIdx.x, ty = threadIdx.y, r = blockIdx.y * WIDE + 4 * ty, c = blockIdx.x * WIDE + 4 * tx;
    const float4 none = make_float4(0, 0, 0, 0);
    float4 q[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        q[i] = r + i < rows && c < cols ? *(const float4 *)&x[(size_t)(r + i) * cols + c] : none;
    t[4 * tx + 0][ty ^ tx] = make_float4(q[0].x, q[1].x, q[2].x, q[3].x);
    t[4 * tx + 1][ty ^ tx] = make_float4(q[0].y, q[1].y, q[2].y, q[3].y);
    t[4 * tx + 2][ty ^ tx] = make_float4(q[0].z, q[1].z, q[2].z, q[3].z);
    t[4 * tx + 3][ty ^ tx] = make_float4(q[0].w, q[1].w, q[2].w, q[3].w);
    __syncthreads();
    r = blockIdx.y * WIDE + 4 * tx, c = blockIdx.x * WIDE + ty;
#pragma unroll
    for (int i = 0; i < WIDE; i += CHUNKS)
        if (r < rows && c + i < cols)
            *(float4 *)&y[(size_t)(c + i) * rows + r] = t[ty + i][tx ^ ((ty + i) / 4)];
}
static void run_wide(void)
{
    LAUNCH(wide, tiles(WIDE), dim3(CHUNKS, CHUNKS), 0, 0, p.y, p.x, p.rows, p.cols);
}

static double want(size_t i) { return p.host[i % p.rows * p.cols + i / p.rows]; }

static const struct lab_version versions[] = {{"a thread for each value", run_naive},
                                              {"tile in shared memory", run_tiled},
                                              {"padded against bank conflicts", run_padded},
                                              {"four values a thread", run_four_each},
                                              {"16-byte accesses, swizzled", run_wide}};

int main(int argc, char **argv)
{
    unsigned chosen;
    int rc = lab_args(argc, argv, size, &chosen);
    if (rc) return rc;
    p.rows = size[0].value, p.cols = size[1].value;
    size_t n = (size_t)p.rows * p.cols;
    p.host = lab_floats(n);
    p.x = lab_up(p.host, n);
    p.y = (float *)lab_alloc(n * sizeof(float));
    struct lab_job j = {};
    j.what = "transpose", j.bytes = 8.0 * n;
    j.want = want, j.out = p.y, j.n_out = n, j.tolerance = 0;
    j.version = versions, j.n_version = 5;
    return lab_main(&j, size, chosen);
}
