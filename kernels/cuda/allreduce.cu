/* Small messages between ranks, each in one kernel: the sum, the sum with residual and norm, the gathering of
 * logits. How ranks meet: comm.cuh.
 *
 * A float4 of a message is written by a block and read by the same block of every rank, so grids follow from
 * the sizes of the message alone, which are equal on all ranks. */
#include "comm.cuh"
#include "norm.cuh"
#include "ptx.cuh"
#ifdef CUEMU
#include <time.h>
#endif

enum { THREADS = 256, POLLS = 64 };

static __device__ __forceinline__ long long clocks(void)
{
#ifdef CUEMU
    struct timespec t; /* at the emulated device's 1.7 GHz */
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1700000000ll + t.tv_nsec * 17 / 10;
#else
    return clock64();
#endif
}

/* ---- a message ---- */

struct message {
    unsigned epoch;
    size_t at;   /* float4 of its place in the buffers */
    bool silent; /* a rank is lost: others may still read what is there, so nothing is written */
};

static __device__ __forceinline__ struct message message_begin(const struct peers &p)
{
    struct peer_board *own = p.board[p.rank];
    unsigned epoch = own->epoch + 1;
    return {epoch, (size_t)(epoch % 2) * (p.floats / 4), ld_acquire(&own->lost) != 0};
}

static __device__ __forceinline__ void message_write(const struct peers &p, const struct message &m, size_t i,
                                                     float4 v)
{
    if (!m.silent) ((float4 *)p.buf[p.rank])[m.at + i] = v;
}

static __device__ __forceinline__ float4 message_read(const struct peers &p, const struct message &m,
                                                      int from, size_t i)
{
    return ((const float4 *)p.buf[from])[m.at + i];
}

static __device__ __forceinline__ float4 message_sum(const struct peers &p, const struct message &m, size_t i)
{
    float4 v[PEERS_MAX];
#pragma unroll
    for (int k = 0; k < PEERS_MAX; k++) /* all loads are under way before the first sum */
        if (k < p.size) v[k] = message_read(p, m, k, i);
    float4 s = v[0];
#pragma unroll
    for (int k = 1; k < PEERS_MAX; k++)
        if (k < p.size) s = make_float4(s.x + v[k].x, s.y + v[k].y, s.z + v[k].z, s.w + v[k].w);
    return s;
}

static __device__ __forceinline__ bool is_there(const unsigned *flag, unsigned epoch)
{
    return (int)(ld_acquire(flag) - epoch) >= 0; /* a fast rank may be one further */
}

static __device__ __forceinline__ bool is_hopeless(const struct peers &p, long long since)
{
    return ld_acquire(&p.board[p.rank]->lost) || clocks() - since > p.patience;
}

/* The block has written its part; true when all ranks' parts of it can be read. Else a rank is missing, and
 * every rank learns that. Thread t speaks to rank t; the last block counts the message. */
static __device__ bool message_meet(const struct peers &p, const struct message &m)
{
    struct peer_board *own = p.board[p.rank];
    bool there = true;
    int t = threadIdx.x;
    __syncthreads();
    if (t < p.size) {
        const unsigned *flag = &own->flag[blockIdx.x][t];
        unsigned polls = 0;
        long long since = clocks();
        if (!ld_acquire(&own->lost)) st_release(&p.board[t]->flag[blockIdx.x][p.rank], m.epoch);
        spin_until(is_there(flag, m.epoch) || (++polls % POLLS == 0 && is_hopeless(p, since)));
        there = is_there(flag, m.epoch);
        if (!there) {
            for (int k = 0; k < p.size; k++) st_release(&p.board[k]->lost, 1);
            st_release(p.told, 1);
        }
        if (!t && add_acq_rel(&own->through, 1) == gridDim.x - 1) {
            own->through = 0;
            own->epoch = m.epoch;
        }
    }
    return __syncthreads_and(there);
}

/* ---- kernels ---- */

/* Four floats of x from 4 * i on, of which n - 4 * i are there. whole: all are, and are aligned. */
static __device__ __forceinline__ float4 load4(const float *x, size_t i, size_t n, bool whole)
{
    if (whole) return ((const float4 *)x)[i];
    float v[4];
    for (int j = 0; j < 4; j++) v[j] = 4 * i + j < n ? x[4 * i + j] : 0.f;
    return make_float4(v[0], v[1], v[2], v[3]);
}

static __device__ __forceinline__ void store4(float *x, size_t i, size_t n, bool whole, float4 v)
{
    const float f[4] = {v.x, v.y, v.z, v.w};
    if (whole)
        ((float4 *)x)[i] = v;
    else
        for (int j = 0; j < 4; j++)
            if (4 * i + j < n) x[4 * i + j] = f[j];
}

static __global__ void __launch_bounds__(THREADS)
    sum_kernel(const __grid_constant__ struct peers p, float *x, size_t n, bool whole)
{
    size_t first = (size_t)blockIdx.x * blockDim.x + threadIdx.x, step = (size_t)gridDim.x * blockDim.x;
    pdl_wait();
    pdl_launch();
    struct message m = message_begin(p);
    for (size_t i = first; 4 * i < n; i += step) message_write(p, m, i, load4(x, i, n, whole));
    if (!message_meet(p, m)) return;
    for (size_t i = first; 4 * i < n; i += step) store4(x, i, n, whole, message_sum(p, m, i));
}

/* Where element e of rank k's part [..][len] stands among all. */
static __device__ __forceinline__ size_t place(size_t e, int len, int k, int size)
{
    return (e / len * size + k) * len + e % len;
}

/* whole: also a row is a multiple of four. */
static __global__ void __launch_bounds__(THREADS)
    gather_kernel(const __grid_constant__ struct peers p, const float *part, size_t at, size_t n, int len,
                  float *all, bool whole)
{
    size_t first = (size_t)blockIdx.x * blockDim.x + threadIdx.x, step = (size_t)gridDim.x * blockDim.x;
    pdl_wait();
    pdl_launch();
    struct message m = message_begin(p);
    for (size_t i = first; 4 * i < n; i += step) message_write(p, m, i, load4(part + at, i, n, whole));
    if (!message_meet(p, m)) return;
    for (int k = 0; k < p.size; k++)
        for (size_t i = first; 4 * i < n; i += step) {
            float4 v = message_read(p, m, k, i);
            const float f[4] = {v.x, v.y, v.z, v.w};
            size_t e = at + 4 * i;
            if (whole)
                *(float4 *)(all + place(e, len, k, p.size)) = v;
            else
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (4 * i + j < n) all[place(e + j, len, k, p.size)] = f[j];
        }
}

/* Block b has the rows b, b + gridDim and so on. */
template <int SLOTS>
static __global__ void __launch_bounds__(NORM_THREADS)
    norm_kernel(const __grid_constant__ struct peers p, const __grid_constant__ struct norm_args a)
{
    SHARED(norm_parts, part);
    const float4 zero = make_float4(0, 0, 0, 0);
    int n4 = a.dim / 4;
    pdl_wait();
    pdl_launch();
    struct message m = message_begin(p);
    for (int r = blockIdx.x; r < a.n; r += gridDim.x)
        for (int i = threadIdx.x; i < n4; i += blockDim.x) {
            size_t at = (size_t)r * n4 + i;
            message_write(p, m, at, ((const float4 *)a.delta)[at]);
        }
    if (!message_meet(p, m)) return;
    for (int r = blockIdx.x; r < a.n; r += gridDim.x) {
        float4 x[SLOTS], d[SLOTS];
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            int i = threadIdx.x + s * blockDim.x;
            size_t at = (size_t)r * n4 + i;
            x[s] = i < n4 ? ((const float4 *)a.x)[at] : zero;
            d[s] = i < n4 ? message_sum(p, m, at) : zero;
        }
        norm_row<SLOTS>(a, (size_t)r, x, d, part);
        __syncthreads(); /* part is used again */
    }
}

static __global__ void leave_kernel(const __grid_constant__ struct peers p)
{
    if ((int)threadIdx.x < p.size) st_release(&p.board[threadIdx.x]->lost, 1);
}

static __global__ void __launch_bounds__(THREADS) parts_kernel(const float *all, int size, float *x, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float s = all[i];
    for (int k = 1; k < size; k++) s += all[k * n + i];
    x[i] = s;
}

/* ---- launches ---- */

static dim3 flat_grid(size_t units, int most)
{
    size_t blocks = (units + THREADS - 1) / THREADS;
    return dim3((unsigned)(blocks < (size_t)most ? blocks : (size_t)most));
}

void peers_sum(struct cuda *c, const struct peers *p, float *x, size_t n)
{
    bool whole = n % 4 == 0 && is_aligned(x, 16);
    LAUNCH_PDL(sum_kernel, flat_grid((n + 3) / 4, p->blocks), dim3(THREADS), 0, c->stream, *p, x, n, whole);
    CU_LAUNCHED(c);
}

void peers_gather(struct cuda *c, const struct peers *p, const float *part, size_t at, size_t n, int len,
                  float *all)
{
    bool whole = n % 4 == 0 && at % 4 == 0 && len % 4 == 0 && is_aligned(part, 16) && is_aligned(all, 16);
    LAUNCH_PDL(gather_kernel, flat_grid((n + 3) / 4, p->blocks), dim3(THREADS), 0, c->stream, *p, part, at, n,
               len, all, whole);
    CU_LAUNCHED(c);
}

void peers_norm(struct cuda *c, const struct peers *p, const struct norm_args *a)
{
    int n4 = a->dim / 4, threads = norm_threads(a->dim);
    dim3 grid((unsigned)(a->n < p->blocks ? a->n : p->blocks));
    if (n4 <= threads)
        LAUNCH_PDL((norm_kernel<1>), grid, dim3(threads), 0, c->stream, *p, *a);
    else if (n4 <= 2 * threads)
        LAUNCH_PDL((norm_kernel<2>), grid, dim3(threads), 0, c->stream, *p, *a);
    else if (n4 <= 4 * threads)
        LAUNCH_PDL((norm_kernel<4>), grid, dim3(threads), 0, c->stream, *p, *a);
    else
        LAUNCH_PDL((norm_kernel<NORM_SLOTS>), grid, dim3(threads), 0, c->stream, *p, *a);
    CU_LAUNCHED(c);
}

void peers_leave(struct cuda *c, const struct peers *p)
{
    LAUNCH(leave_kernel, dim3(1), dim3(32), 0, c->stream, *p);
    CU_LAUNCHED(c);
}

void sum_parts(struct cuda *c, const float *all, int size, float *x, size_t n)
{
    LAUNCH(parts_kernel, dim3((unsigned)((n + THREADS - 1) / THREADS)), dim3(THREADS), 0, c->stream, all,
           size, x, n);
    CU_LAUNCHED(c);
}
