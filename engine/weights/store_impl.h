/* Private to store_open.c (where tensors come from) and store.c (how they are handed out). */
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
};

static inline int store_by_name(const void *a, const void *b)
{
    return strcmp((*(struct tensor *const *)a)->name, (*(struct tensor *const *)b)->name);
}
static inline int store_no_memory(struct err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }
