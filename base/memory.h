/* How much memory this process may still take. */
#pragma once
#include <stddef.h>

/* Bytes: the smaller of MemAvailable and the room left in every enclosing memory cgroup (v1 or v2); page
 * cache that the kernel would drop counts as room. SIZE_MAX if nothing can be read. */
size_t memory_available(void);
