/* Quantised copies of a model's plain matrices, kept in a folder between starts. A copy is found by the bytes
 * that it was made from; a link from the source files' identity (device, inode, size, time) spares a second
 * start the reading of them. Files appear by rename, so processes may share the folder; what they hold is
 * checked before it is used. Called by the loading thread. */
#pragma once
#include "pool.h"
#include "store.h"

struct quant_cache {
    const char *dir;   /* made if absent; NULL or "" = no cache */
    struct pool *pool; /* NULL = one thread */
    const volatile int *cancel;
};
/* For a store whose matrices were asked for once without a back end, so that their types are known: replaces
 * those to be quantised by the cache's copies, which are made first where they are missing or damaged.
 * Without a usable folder the store stays as it is (a warning says so), and store_matrix quantises.
 * ERR_INVALID: a weight that cannot be quantised; ERR_CLOSED: cancelled. */
int quant_cache_apply(struct store *s, const struct quant_cache *c, struct err *e);
