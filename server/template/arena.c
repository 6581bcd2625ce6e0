#include "arena.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct arena_chunk {
    struct arena_chunk *prev;
    size_t size; /* with this header */
};
#define HEADER ((sizeof(struct arena_chunk) + 15) & ~(size_t)15)

static int chunk_new(struct arena *a, size_t n)
{
    size_t size = a->used / 4; /* growing chunks: few of them, and at most a quarter too much */
    if (size < 4096) size = 4096;
    if (size > 4u << 20) size = 4u << 20;
    if (n > SIZE_MAX / 4) return -1;
    if (size < n + HEADER) size = n + HEADER;
    if (a->limit && (a->used > a->limit || size > a->limit - a->used)) {
        size = n + HEADER;
        if (a->used > a->limit || size > a->limit - a->used) return -1;
    }
    struct arena_chunk *c = malloc(size);
    if (!c) return -1;
    *c = (struct arena_chunk){a->last, size};
    a->last = c;
    a->used += size;
    a->tail = (char *)c + HEADER;
    a->end = (char *)c + size;
    return 0;
}

void *arena_alloc(struct arena *a, size_t n)
{
    size_t pad = -(uintptr_t)a->tail & 15;
    if (!a->last || (size_t)(a->end - a->tail) < pad || (size_t)(a->end - a->tail) - pad < n) {
        if (chunk_new(a, n)) return NULL;
        pad = 0;
    }
    char *p = a->tail + pad;
    a->tail = p + n;
    return p;
}

void *arena_grow(struct arena *a, void *p, size_t old, size_t n)
{
    if (p && (char *)p + old == a->tail && n - old <= (size_t)(a->end - a->tail)) {
        a->tail += n - old;
        return p;
    }
    void *q = arena_alloc(a, n);
    if (q && old) memcpy(q, p, old);
    return q;
}

bool arena_holds(const struct arena *a, const void *p)
{
    uintptr_t at = (uintptr_t)p;
    for (const struct arena_chunk *c = a->last; c; c = c->prev)
        if (at >= (uintptr_t)c && at < (uintptr_t)c + c->size) return true;
    return false;
}

void arena_free(struct arena *a)
{
    for (struct arena_chunk *c = a->last, *prev; c; c = prev) {
        prev = c->prev;
        free(c);
    }
    *a = (struct arena){0};
}
