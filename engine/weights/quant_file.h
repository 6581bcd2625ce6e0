/* A model's plain matrices as a file of quantised ones: which they are, in which pieces threads work on them,
 * and the file's layout (a GGUF file with the tensors' names). Used by the loading thread, which owns the
 * plan. Private to quant_file.c and quant_cache.c. */
#pragma once
#include "buf.h"
#include "pool.h"
#include "store_impl.h"

/* The file's metadata: 16 hexadecimal digits each. */
#define QUANT_KEY_PLAN     "inferd.quantized.plan"     /* what quantises into what, and how */
#define QUANT_KEY_SOURCE   "inferd.quantized.source"   /* the bytes it was made from */
#define QUANT_KEY_CHECKSUM "inferd.quantized.checksum" /* its own bytes */

struct quant_plan {
    int n;
    struct tensor **t;    /* [n] plain matrices whose `as` is a quantised type */
    int64_t *first_piece; /* [n + 1] a piece is a run of rows of one tensor */
    uint64_t *offset;     /* [n] of the quantised tensor in the data section */
    uint64_t data_bytes;
    uint64_t key; /* hash of names, shapes, types and QUANTIZE_VERSION */
};
int quant_plan_make(struct store *s, struct quant_plan *p, struct err *e); /* n == 0: nothing to quantise */
void quant_plan_free(struct quant_plan *p);

struct quant_work {
    const struct quant_plan *plan;
    struct pool *pool; /* NULL = this thread alone */
    const volatile int *cancel;
};
/* Hash of the matrices' present bytes. ERR_CLOSED when cancelled. */
int quant_hash_source(const struct quant_work *w, uint64_t *hash, struct err *e);
/* Hash of their quantised bytes at data, a file's data section laid out as planned; NULL pointers allowed
 * nowhere. */
int quant_hash_made(const struct quant_work *w, const void *const *data, uint64_t *hash, struct err *e);
/* Quantises into the open file fd, which gets the magic bytes last. ERR_INVALID: a weight that cannot be
 * quantised. */
int quant_write(const struct quant_work *w, int fd, uint64_t *source, struct err *e);
