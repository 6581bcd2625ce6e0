#include "kv_store.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "half.h"
#include "hugemem.h"

enum { SLACK = 64 }; /* SLACK: a vector load may start in the last row's last 8 values */

static size_t scale_bytes(enum dtype t) { return t == DT_I8 || t == DT_E4M3 ? sizeof(float) : 0; }

static size_t row_bytes(const struct kv_geom *g)
{
    return dtype_row_bytes(g->type, g->head_dim) + scale_bytes(g->type);
}

size_t kv_block_bytes(const struct kv_geom *g)
{
    size_t n;
    if (__builtin_mul_overflow(2 * row_bytes(g), (size_t)g->n_slot, &n) ||
        __builtin_mul_overflow(n, (size_t)g->block_size, &n) ||
        __builtin_mul_overflow(n, (size_t)g->n_kv_head, &n))
        return 0;
    return n;
}

static int check_geom(const struct kv_geom *g, struct err *e)
{
    if (g->type != DT_F32 && g->type != DT_F16 && g->type != DT_BF16 && g->type != DT_I8)
        return err_param(e, ERR_UNSUPPORTED, "kv-cache-dtype",
                         "KV cache type %s is not implemented on this device", dtype_info(g->type)->name);
    if (g->n_block < 1 || g->n_slot < 1 || g->n_kv_head < 1 || g->head_dim < 1)
        return err_set(e, ERR_INVALID, "KV cache without blocks, layers or heads");
    if (g->head_dim > KV_MAX_HEAD)
        return err_set(e, ERR_UNSUPPORTED, "head size %d is above %d", g->head_dim, KV_MAX_HEAD);
    if (g->block_size < 1 || (g->block_size & (g->block_size - 1)))
        return err_param(e, ERR_INVALID, "block-size", "block size %d is not a power of two", g->block_size);
    if (g->type == DT_I8 && (g->block_size < KV_TILE || g->head_dim % 8))
        return err_param(e, ERR_UNSUPPORTED, "kv-cache-dtype",
                         "an int8 KV cache needs a block size of at least 8 and a head size divisible by 8");
    return 0;
}

int kv_store_alloc(const struct kv_geom *g, struct kv_store **out, struct err *e)
{
    int rc = check_geom(g, e);
    if (rc) return rc;
    struct kv_store *kv = malloc(sizeof *kv);
    if (!kv) return err_set(e, ERR_NOMEM, "out of memory");
    *kv = (struct kv_store){
        .g = *g, .kt = g->block_size < KV_TILE ? g->block_size : KV_TILE, .row = row_bytes(g)};
    kv->head = (size_t)kv->kt * scale_bytes(g->type);
    kv->paired = g->type == DT_I8 || (g->type == DT_BF16 && kv->kt == KV_TILE && g->head_dim % 8 == 0);
    kv->half = (size_t)g->block_size * kv->row;
    kv->unit = 2 * kv->half;
    size_t block = kv_block_bytes(g), n;
    if (!block || __builtin_mul_overflow(block, (size_t)g->n_block, &n) ||
        n > PTRDIFF_MAX - HUGE_BYTES - SLACK)
        goto fail;
    kv->bytes = (n + SLACK + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    /* Pages come zeroed, and only when first touched. */
    if (!(kv->mem = hugemem_map(kv->bytes))) goto fail;
    *out = kv;
    return 0;
fail:
    free(kv);
    return err_set(e, ERR_NOMEM, "no memory for %d KV blocks", g->n_block);
}

void kv_store_free(struct kv_store *kv)
{
    if (!kv) return;
    hugemem_unmap(kv->mem, kv->bytes);
    free(kv);
}

static inline float saturate(float f, float max) { return f > max ? max : f < -max ? -max : f; }

/* The i-th value of p in a type that has no scales. */
static void put(enum dtype t, unsigned char *p, size_t i, float x)
{
    if (t == DT_F32)
        ((float *)(void *)p)[i] = saturate(x, 0x1.fffffep127f);
    else
        ((uint16_t *)(void *)p)[i] =
            t == DT_F16 ? half_from_f32(saturate(x, 65504)) : bf16_from_f32(saturate(x, 0x1.fep127f));
}

/* Codes of x; returns their scale. The SIMD kernels' quantise() computes the same bits: the maximum is exact
 * in any order, the rest is one rounding each. */
static float quantise(const float *x, int n, int8_t *code)
{
    const float top = KV_CODE_MAX;
    uint32_t bits = 0; /* of max|x|: a NaN is above all */
    for (int i = 0; i < n; i++) {
        uint32_t u = f32_bits(x[i]) & 0x7fffffff;
        if (u > bits) bits = u;
    }
    float max = bits == 0x7f800000 ? FLT_MAX : f32_from_bits(bits);
    float inv = max >= 0x1p-100f ? top / max : 0;
    for (int i = 0; i < n; i++) {
        float v = x[i] * inv;
        v = v > -top ? v : -top;
        code[i] = (int8_t)lrintf(v < top ? v : top);
    }
    return max / top;
}

/* The SIMD kernels' rotate() computes the same bits: each value comes of the same additions. */
void kv_rotate(const float *x, int n, float *out)
{
    memcpy(out, x, (size_t)n * sizeof *x);
    for (int h = 1; h < kv_rotation(n); h *= 2)
        for (int i = 0; i < n; i += 2 * h)
            for (int j = i; j < i + h; j++) {
                float a = out[j], b = out[j + h];
                out[j] = a + b;
                out[j + h] = a - b;
            }
}

void kv_store_k(struct kv_store *kv, int block, int slot, int head, int token, const float *x)
{
    unsigned char *tile = kv_tile(kv, block, slot, head, token);
    int t = token % kv->kt, dim = kv->g.head_dim;
    if (kv->g.type == DT_I8) {
        int8_t code[KV_MAX_HEAD];
        float turned[KV_MAX_HEAD];
        kv_rotate(x, dim, turned);
        ((float *)(void *)tile)[t] = quantise(turned, dim, code);
        for (int d = 0; d < dim; d++) tile[kv->head + kv_key_at(kv, d, t)] = (unsigned char)code[d];
    } else {
        for (int d = 0; d < dim; d++) put(kv->g.type, tile, kv_key_at(kv, d, t), x[d]);
    }
}

void kv_store_v(struct kv_store *kv, int block, int slot, int head, int token, const float *x)
{
    unsigned char *tile = kv_tile(kv, block, slot, head, token) + kv->half;
    int t = token % kv->kt, dim = kv->g.head_dim;
    if (kv->g.type == DT_I8) {
        int8_t code[KV_MAX_HEAD];
        ((float *)(void *)tile)[t] = quantise(x, dim, code);
        for (int d = 0; d < dim; d++) tile[kv->head + kv_value_at(kv, d, t)] = (unsigned char)code[d];
    } else {
        for (int d = 0; d < dim; d++) put(kv->g.type, tile, kv_value_at(kv, d, t), x[d]);
    }
}
