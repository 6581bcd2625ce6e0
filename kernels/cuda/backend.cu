/* Opening a device, its memory, the table of ops, and the module's one exported function. */
#include "device.cuh"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void cu_note(struct cuda *c, cudaError_t e, const char *where)
{
    if (e == cudaSuccess || c->bad) return;
    c->bad = e;
    c->bad_at = where;
}

int cu_alloc(struct cuda *c, size_t bytes, const char *what, void **out, struct err *e)
{
    cudaSetDevice(c->device); /* of this thread */
    cudaError_t s = cudaMalloc(out, bytes ? bytes : 1);
    if (!s) return 0;
    *out = NULL;
    cudaGetLastError(); /* an allocation that failed does no harm to what follows */
    return err_set(e, ERR_NOMEM, "cuda: no device memory for %s (%zu MiB): %s", what, bytes >> 20,
                   cudaGetErrorString(s));
}

int cu_verdict(const struct cuda *c, struct err *e)
{
    return c->bad ? err_set(e, ERR_IO, "cuda: %s (%s)", cudaGetErrorString(c->bad), c->bad_at) : 0;
}

static int mem_alloc(struct backend *be, size_t bytes, void **out, struct err *e)
{
    return cu_alloc(cuda_of(be), bytes, "activations and vectors", out, e);
}

static void mem_free(struct backend *be, void *p)
{
    (void)be;
    cudaFree(p);
}

static void mem_write(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct cuda *c = cuda_of(be);
    CU(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, c->stream));
    CU(c, cudaStreamSynchronize(c->stream)); /* src is the caller's again */
}

static void mem_read(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct cuda *c = cuda_of(be);
    cu_comm_wait(c); /* the copy itself would wait without an end for a rank that is gone */
    CU(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, c->stream));
    CU(c, cudaStreamSynchronize(c->stream));
}

static size_t mem_available(struct backend *be)
{
    size_t left = 0, total = 0;
    cudaSetDevice(cuda_of(be)->device);
    return cudaMemGetInfo(&left, &total) ? SIZE_MAX : left;
}

static int reserve(struct backend *be, const struct step_limits *l, struct err *e)
{
    struct cuda *c = cuda_of(be);
    c->lim = *l;
    cu_record_close(c); /* it knows the old addresses */
    cu_pack_close(c);
    int rc = cu_linear_reserve(c, e);
    if (!rc) rc = cu_attn_reserve(c, e);
    if (!rc) rc = cu_sample_reserve(c, e);
    if (!rc) rc = cu_stage_reserve(c, e);
    return rc;
}

static int sync_stream(struct backend *be, struct err *e)
{
    cu_comm_wait(cuda_of(be));
    return cu_verdict(cuda_of(be), e);
}

/* Devices that this build has code for. */
static int count(struct err *e)
{
    int n = 0;
    cudaError_t s = cudaGetDeviceCount(&n);
    if (s || !n)
        err_set(e, ERR_UNSUPPORTED, "no CUDA device: %s", s ? cudaGetErrorString(s) : "none is there");
    return s ? 0 : n;
}

static void close_device(struct backend *be)
{
    if (!be) return;
    struct cuda *c = cuda_of(be);
    cudaSetDevice(c->device);
    if (c->stream) cu_comm_wait(c);
    cu_record_close(c);
    cu_comm_close(c);
    cu_stage_close(c);
    cu_sample_close(c);
    cu_attn_close(c);
    cu_linear_close(c);
    cu_pack_close(c);
    if (c->stream) cudaStreamDestroy(c->stream);
    free(c);
}

static const struct ops table = {
    /* in the order of ops.h: C++17 has no names here */
    mem_alloc,      mem_free,       mem_write,   mem_read,      mem_available, cu_weight_pack,
    cu_weight_free, cu_weight_info, cu_kv_alloc, cu_kv_free,    reserve,       cu_begin,
    cu_embed,       cu_gather,      cu_linear,   cu_linear_glu, cu_add_norm,   cu_row_norm,
    cu_rope_angles, cu_qkv_prep,    cu_attn,     cu_scale_cap,  cu_join,       cu_all_reduce,
    cu_all_gather,  cu_sample,      cu_wait,     cu_record,     cu_record_end, cu_replay,
    sync_stream,    close_device,
};

static int open_device(const struct cuda_options *o, struct backend **out, struct err *e)
{
    cudaDeviceProp p;
    int n = count(e);
    *out = NULL;
    if (!n) return ERR_UNSUPPORTED;
    if (o->device < 0 || o->device >= n)
        return err_set(e, ERR_INVALID, "cuda: there is no device %d, only %d", o->device, n);
    if (cudaSetDevice(o->device) || cudaGetDeviceProperties(&p, o->device))
        return err_set(e, ERR_UNSUPPORTED, "cuda: device %d: %s", o->device,
                       cudaGetErrorString(cudaGetLastError()));
    if (p.major < 8)
        return err_set(e, ERR_UNSUPPORTED, "cuda: %s has compute capability %d.%d; 8.0 is needed", p.name,
                       p.major, p.minor);
    struct cuda *c = (struct cuda *)calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NOMEM, "out of memory");
    c->o = *o;
    c->device = o->device;
    c->n_sm = p.multiProcessorCount;
    c->smem_max = (int)p.sharedMemPerBlockOptin;
    c->cc = p.major * 10 + p.minor;
    __atomic_store_n(&dev_overlaps, c->cc >= 90, __ATOMIC_RELAXED);
    snprintf(c->isa, sizeof c->isa, "sm_%d", c->cc);
    c->base.name = "cuda";
    c->base.isa = c->isa;
    c->base.ops = &table;
    c->base.mat = c->base.kv_type = DT_BF16;
    c->base.size = 1;
    int rc = 0;
    if (cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking))
        rc = err_set(e, ERR_UNSUPPORTED, "cuda: device %d: %s", o->device,
                     cudaGetErrorString(cudaGetLastError()));
    if (!rc) rc = cu_linear_open(c, e);
    if (!rc) rc = cu_attn_open(c, e);
    if (!rc) rc = cu_sample_open(c, e);
    if (rc)
        close_device(&c->base);
    else
        *out = &c->base;
    return rc;
}

extern "C" __attribute__((visibility("default"))) const void *inferd_cuda_module(void);
extern "C" const void *inferd_cuda_module(void)
{
    static const struct cuda_module module = {CUDA_MODULE_ABI, count, open_device};
    return &module;
}
