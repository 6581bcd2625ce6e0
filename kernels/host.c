#include "host.h"
#include <stdlib.h>
#include <string.h>
#include "kv_store.h"
#include "memory.h"

enum { LINE = 64 }; /* of a cache */

int host_mem_alloc(struct backend *be, size_t bytes, void **out, struct err *e)
{
    (void)be;
    *out = bytes > SIZE_MAX - LINE ? NULL : aligned_alloc(LINE, (bytes + LINE) / LINE * LINE);
    return *out ? 0 : err_set(e, ERR_NOMEM, "out of memory (%zu MiB)", bytes >> 20);
}

void host_mem_free(struct backend *be, void *p)
{
    (void)be;
    free(p);
}

void host_mem_write(struct backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    memcpy(dst, src, bytes);
}

void host_mem_read(struct backend *be, void *dst, const void *src, size_t bytes)
{
    (void)be;
    memcpy(dst, src, bytes);
}

size_t host_mem_available(struct backend *be)
{
    (void)be;
    return memory_available();
}

int host_kv_alloc(struct backend *be, const struct kv_geom *g, struct kv_store **out, struct err *e)
{
    (void)be;
    return kv_store_alloc(g, out, e);
}

void host_kv_free(struct backend *be, struct kv_store *kv)
{
    (void)be;
    kv_store_free(kv);
}

/* The other ops read the batch where it is. */
void host_begin(struct backend *be, const struct batch *b) { (void)be, (void)b; }

void host_gather(struct backend *be, const struct batch *b, const void *x, size_t row_bytes, void *y)
{
    (void)be;
    for (int i = 0; i < b->n_out; i++)
        memcpy((char *)y + (size_t)i * row_bytes, (const char *)x + (size_t)b->out_row[i] * row_bytes,
               row_bytes);
}
