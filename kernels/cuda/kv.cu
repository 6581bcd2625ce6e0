#include "kv.cuh"
#include <stdlib.h>
#include "dtype.h"
#include "err.h"

static int check_geom(const struct kv_geom *g, struct err *e)
{
    if (g->type != DT_BF16 && g->type != DT_E4M3)
        return err_param(e, ERR_UNSUPPORTED, "kv-cache-dtype",
                         "KV cache type %s is not implemented on this device", dtype_info(g->type)->name);
    if (g->n_block < 1 || g->n_slot < 1 || g->n_kv_head < 1 || g->head_dim < 1)
        return err_set(e, ERR_INVALID, "KV cache without blocks, layers or heads");
    if (g->head_dim > KV_MAX_DIM)
        return err_set(e, ERR_UNSUPPORTED, "head size %d is above %d", g->head_dim, KV_MAX_DIM);
    if (g->block_size < KV_MIN_BLOCK || g->block_size & (g->block_size - 1))
        return err_param(e, ERR_INVALID, "block-size", "block size %d is not a power of two from %d on",
                         g->block_size, KV_MIN_BLOCK);
    return 0;
}

int cu_kv_alloc(struct backend *be, const struct kv_geom *g, struct kv_store **out, struct err *e)
{
    struct cuda *c = cuda_of(be);
    int rc = check_geom(g, e);
    if (rc) return rc;
    struct kv_store *kv = (struct kv_store *)malloc(sizeof *kv);
    if (!kv) return err_set(e, ERR_NOMEM, "out of memory");
    size_t bytes = 0, value = g->type == DT_E4M3 ? 1 : 2, scale = g->type == DT_E4M3 ? sizeof(float) : 0;
    kv->g = *g;
    if (__builtin_mul_overflow((size_t)g->block_size, g->head_dim * value, &kv->half) ||
        __builtin_mul_overflow((size_t)g->block_size, 2 * (g->head_dim * value + scale), &kv->unit) ||
        kv->unit > INT32_MAX || __builtin_mul_overflow(kv->unit, (size_t)g->n_kv_head, &bytes) ||
        __builtin_mul_overflow(bytes, (size_t)g->n_slot, &bytes) ||
        __builtin_mul_overflow(bytes, (size_t)g->n_block, &bytes))
        rc = err_set(e, ERR_NOMEM, "no memory for %d KV blocks", g->n_block);
    if (!rc) rc = cu_alloc(c, bytes, "the KV cache", (void **)&kv->mem, e);
    if (rc) {
        free(kv);
        return rc;
    }
    CU(c, cudaMemsetAsync(kv->mem, 0, bytes, c->stream));
    *out = kv;
    return 0;
}

void cu_kv_free(struct backend *be, struct kv_store *kv)
{
    if (!kv) return;
    CU(cuda_of(be), cudaFree(kv->mem));
    free(kv);
}

struct kv_view kv_view(const struct kv_store *kv, int slot)
{
    size_t layer = kv->unit * kv->g.n_kv_head;
    struct kv_view v = {};
    v.mem = kv->mem + layer * slot;
    v.block_step = layer * kv->g.n_slot;
    v.unit = (int)kv->unit;
    v.half = (int)kv->half;
    v.row = v.half / kv->g.block_size;
    v.shift = __builtin_ctz((unsigned)kv->g.block_size);
    v.fp8 = kv->g.type == DT_E4M3;
    return v;
}
