/* Large zeroed memory in huge pages, its pages spread over the machine's NUMA nodes so that threads of every
 * node share all memory controllers. Both are hints: refusal costs speed only. Pages are taken when first
 * touched. */
#pragma once
#include <stddef.h>

#define HUGE_BYTES ((size_t)2 << 20)

/* size: a multiple of HUGE_BYTES; so is the address. NULL if there is no room. */
void *hugemem_map(size_t size);
void hugemem_unmap(void *p, size_t size);
