/* Memory of a compiled template or of one rendering: handed out in sequence, freed all at once. Not thread
 * safe; the struct's holder owns everything in it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct arena_chunk;
struct arena {
    struct arena_chunk *last;
    char *tail, *end;   /* exact end of the last allocation; end of its chunk */
    size_t used, limit; /* bytes of all chunks; allocation fails beyond limit (0 = no limit) */
};
/* 16-byte aligned, not cleared. NULL when memory or the limit is used up. */
void *arena_alloc(struct arena *a, size_t n);
/* A copy of p[0..old) with room for n >= old bytes. In place when p was the last allocation, so that strings
 * which grow at their end cost linear time. */
void *arena_grow(struct arena *a, void *p, size_t old, size_t n);
bool arena_holds(const struct arena *a, const void *p); /* p lies in one of its chunks */
void arena_free(struct arena *a);
