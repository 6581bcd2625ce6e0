/* A growable int32 vector: token ids. The holder owns the memory. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include "err.h"

struct vec_i32 {
    int32_t *v;
    int n, cap;
};

static inline void vec_i32_free(struct vec_i32 *a)
{
    free(a->v);
    *a = (struct vec_i32){0};
}

static inline int vec_i32_reserve(struct vec_i32 *a, int extra)
{
    if (extra < 0 || a->n > INT32_MAX - extra) return ERR_NOMEM;
    if (a->n + extra <= a->cap) return 0;
    int64_t cap = a->cap ? (int64_t)a->cap * 2 : 16;
    if (cap < a->n + extra) cap = a->n + extra;
    if (cap > INT32_MAX / 4) return ERR_NOMEM;
    int32_t *v = realloc(a->v, (size_t)cap * sizeof *v);
    if (!v) return ERR_NOMEM;
    a->v = v;
    a->cap = (int)cap;
    return 0;
}

static inline int vec_i32_push(struct vec_i32 *a, int32_t x)
{
    if (a->n == a->cap && vec_i32_reserve(a, 1)) return ERR_NOMEM;
    a->v[a->n++] = x;
    return 0;
}
