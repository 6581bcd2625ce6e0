/* Private to store_open.c (where tensors come from), store.c (how they are handed out) and the quantised
 * copies. */
#pragma once
#include <string.h>
#include "store.h"

struct store {
    int n, n_shard;
    struct tensor *t;
    struct tensor **by_name; /* sorted */
    char **owned;            /* [n] names of GGUF tensors, which have no NUL of their own */
    struct safetensors **shard;
    bool dummy;
    uint64_t seed;
    enum dtype dummy_type;
    size_t total, used;
    size_t type_bytes[DT_COUNT]; /* of the matrices used */
    uint64_t identity;           /* of the source files: device, inode, size, time; 0 = not known */
    struct pool *pool;           /* converts rows in parallel, or NULL */
    struct gguf *copy;           /* the quantised copy that some tensors were replaced from */
};

/* Row `row` of a matrix as type `as`; f: [dim[1]] scratch. False if a value cannot be stored so. */
bool store_convert_row(const struct tensor *t, int64_t row, enum dtype as, float *f, void *dst);
int store_bad_weight(const struct tensor *t, struct err *e); /* says what store_convert_row refused */
/* Copied or converted already: the source pages need not stay resident. */
void store_drop_pages(const void *data, size_t bytes);
void store_replace(struct store *s, struct tensor *t,
                   const struct gguf_tensor *by); /* same shape, other type */

static inline int store_by_name(const void *a, const void *b)
{
    return strcmp((*(struct tensor *const *)a)->name, (*(struct tensor *const *)b)->name);
}
static inline int store_no_memory(struct err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }
