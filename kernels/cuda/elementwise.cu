/* Ops that treat every element alone: rotary angles, picking rows, the final logits' scale and cap. */
#include "device.cuh"

#define ELEMENT_THREADS 256

/* One block row for each row, blocks along it for its elements. */
static dim3 row_grid(size_t elements, int n)
{
    return dim3((unsigned)n, (unsigned)((elements + ELEMENT_THREADS - 1) / ELEMENT_THREADS));
}

static __global__ void rope_angles(const int32_t *pos, const float *inv_freq, int half, float mscale,
                                   float2 *cs)
{
    int j = blockIdx.y * blockDim.x + threadIdx.x;
    if (j >= half) return;
    float s, c;
    sincosf((float)pos[blockIdx.x] * inv_freq[j], &s, &c);
    cs[(size_t)blockIdx.x * half + j] = make_float2(mscale * c, mscale * s);
}

template <class T> static __global__ void gather(const int32_t *out_row, const T *x, size_t len, T *y)
{
    size_t i = (size_t)blockIdx.y * blockDim.x + threadIdx.x;
    if (i < len) y[blockIdx.x * len + i] = x[out_row[blockIdx.x] * len + i];
}

/* Four elements to a thread, ELEMENT_THREADS apart. */
static __global__ void scale_cap(float *x, int64_t n, float scale, float cap)
{
    int64_t i = (int64_t)blockIdx.x * 4 * ELEMENT_THREADS + threadIdx.x;
#pragma unroll
    for (int k = 0; k < 4; k++, i += ELEMENT_THREADS) {
        if (i >= n) return;
        float v = x[i] * scale;
        x[i] = cap > 0 ? cap * tanhf(v / cap) : v;
    }
}

void cu_rope_angles(struct backend *be, const struct batch *b, const float *inv_freq, int half, float mscale,
                    float *cs)
{
    struct cuda *c = cuda_of(be);
    if (!b->n || !half) return;
    LAUNCH(rope_angles, row_grid((size_t)half, b->n), dim3(ELEMENT_THREADS), 0, c->stream, c->step.pos,
           inv_freq, half, mscale, (float2 *)cs);
    CU_LAUNCHED(c);
}

template <class T>
static void gather_as(struct cuda *c, const struct batch *b, const void *x, size_t row_bytes, void *y)
{
    size_t len = row_bytes / sizeof(T);
    LAUNCH((gather<T>), row_grid(len, b->n_out), dim3(ELEMENT_THREADS), 0, c->stream, c->step.out_row,
           (const T *)x, len, (T *)y);
    CU_LAUNCHED(c);
}

void cu_gather(struct backend *be, const struct batch *b, const void *x, size_t row_bytes, void *y)
{
    struct cuda *c = cuda_of(be);
    uintptr_t all = (uintptr_t)x | (uintptr_t)y | row_bytes;
    if (!b->n_out || !row_bytes) return;
    if (all % sizeof(uint4) == 0)
        gather_as<uint4>(c, b, x, row_bytes, y);
    else if (all % sizeof(uint32_t) == 0)
        gather_as<uint32_t>(c, b, x, row_bytes, y);
    else
        gather_as<uint8_t>(c, b, x, row_bytes, y);
}

void cu_scale_cap(struct backend *be, float *x, int64_t n, float scale, float cap)
{
    struct cuda *c = cuda_of(be);
    if (!n) return;
    int64_t in_block = 4 * ELEMENT_THREADS;
    LAUNCH(scale_cap, dim3((unsigned)((n + in_block - 1) / in_block)), dim3(ELEMENT_THREADS), 0, c->stream, x,
           n, scale, cap);
    CU_LAUNCHED(c);
}
