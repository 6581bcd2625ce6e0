/* Ops of the back ends whose memory is main memory. For the tables of kernels/ref and kernels/cpu. */
#pragma once
#include "ops.h"

int host_mem_alloc(struct backend *, size_t bytes, void **out, struct err *e);
void host_mem_free(struct backend *, void *p);
void host_mem_write(struct backend *, void *dst, const void *src, size_t bytes);
void host_mem_read(struct backend *, void *dst, const void *src, size_t bytes);
size_t host_mem_available(struct backend *);
int host_kv_alloc(struct backend *, const struct kv_geom *g, struct kv_store **out, struct err *e);
void host_kv_free(struct backend *, struct kv_store *kv);
void host_begin(struct backend *, const struct batch *b);
void host_gather(struct backend *, const struct batch *b, const void *x, size_t row_bytes, void *y);
