/* The numbering of a template's names. */
#include <string.h>
#include "ast.h"

static uint32_t name_hash(struct val v)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (uint32_t i = 0; i < v.n; i++) h = (h ^ (unsigned char)v.s[i]) * 16777619u;
    return h;
}

/* The slot that holds the name, or the free one where it belongs. */
static int *slot_of(const struct names *t, struct val name)
{
    uint32_t h = name_hash(name), mask = (uint32_t)t->n_slot - 1;
    while (t->slot[h & mask] && !val_same_str(t->name[t->slot[h & mask] - 1], name)) h++;
    return &t->slot[h & mask];
}

static int grow(struct arena *a, struct names *t)
{
    int cap = t->cap ? t->cap * 2 : 32, n_slot = cap * 2;
    struct val *name = arena_grow(a, t->name, (size_t)t->n * sizeof *name, (size_t)cap * sizeof *name);
    int *slot = name ? arena_alloc(a, (size_t)n_slot * sizeof *slot) : NULL;
    if (!slot) return ERR_NOMEM;
    memset(slot, 0, (size_t)n_slot * sizeof *slot);
    *t = (struct names){name, t->n, cap, slot, n_slot};
    for (int i = 0; i < t->n; i++) *slot_of(t, t->name[i]) = i + 1;
    return 0;
}

int names_find(const struct names *t, struct val name) { return t->n ? *slot_of(t, name) - 1 : -1; }

int names_add(struct arena *a, struct names *t, struct val name)
{
    int id = names_find(t, name);
    if (id >= 0) return id;
    if (t->n == NAMES_MAX) return ERR_BUDGET;
    if (t->n == t->cap && grow(a, t)) return ERR_NOMEM;
    *slot_of(t, name) = t->n + 1;
    t->name[t->n] = name;
    return t->n++;
}
