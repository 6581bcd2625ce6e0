#include "dict.h"
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "clock.h"
#include "err.h"

uint64_t hash_seed(void)
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed) seed = (uint64_t)clock_ns();
    return seed;
}

static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

uint64_t hash_bytes(uint64_t seed, const char *s, size_t n)
{
    uint64_t h = seed ^ n * 0x9e3779b97f4a7c15u, w;
    for (; n >= 8; n -= 8, s += 8) {
        memcpy(&w, s, 8);
        h = fold(h ^ w, seed | 0x8000000000000001u) + 0xd6e8feb86659fd93u;
    }
    w = 0;
    memcpy(&w, s, n);
    h = fold(h ^ w, seed | 0x8000000000000001u);
    return fold(h ^ 0x2545f4914f6cdd1du, 0x9e3779b97f4a7c15u);
}

int dict_init(struct dict *d, int n_id)
{
    *d = (struct dict){.n_id = n_id, .seed = hash_seed()};
    uint32_t cap = 16;
    while (cap < (uint32_t)n_id * 2) cap *= 2;
    d->mask = cap - 1;
    d->slot = calloc(cap, sizeof *d->slot);
    d->str = malloc((size_t)(n_id ? n_id : 1) * sizeof *d->str);
    if (!d->slot || !d->str) {
        dict_free(d);
        return ERR_NOMEM;
    }
    for (int i = 0; i < n_id; i++) d->str[i] = (struct dict_str){0, UINT32_MAX};
    return 0;
}

void dict_free(struct dict *d)
{
    buf_free(&d->bytes);
    free(d->str);
    free(d->slot);
    *d = (struct dict){0};
}

/* The string's slot, or the empty one where it belongs. *tag is what a slot of it has in its upper half. */
static uint64_t *dict_slot(const struct dict *d, const char *s, size_t n, uint64_t *tag)
{
    uint64_t h = hash_bytes(d->seed, s, n);
    *tag = h >> 32 << 32;
    for (;; h++) {
        uint64_t *slot = &d->slot[h & d->mask];
        if (!*slot) return slot;
        if (*slot >> 32 != *tag >> 32) continue;
        const struct dict_str *str = &d->str[(uint32_t)*slot - 1];
        if (str->len == n && !memcmp(d->bytes.data + str->off, s, n)) return slot;
    }
}

int dict_name(struct dict *d, int32_t id, const char *s, size_t n)
{
    if (id < 0 || id >= d->n_id || d->str[id].len != UINT32_MAX) return ERR_INVALID;
    size_t off = d->bytes.len;
    if (off + n + 1 >= UINT32_MAX) return ERR_NOMEM;
    buf_add(&d->bytes, s, n);
    buf_chr(&d->bytes, 0);
    if (d->bytes.failed) return ERR_NOMEM;
    d->str[id] = (struct dict_str){(uint32_t)off, (uint32_t)n};
    return 0;
}

int dict_put(struct dict *d, int32_t id, const char *s, size_t n)
{
    int status = dict_name(d, id, s, n);
    if (status) return status;
    uint64_t tag, *slot = dict_slot(d, s, n, &tag);
    if (*slot) return ERR_FULL;
    *slot = tag | ((uint32_t)id + 1);
    return 0;
}

int32_t dict_find(const struct dict *d, const char *s, size_t n)
{
    uint64_t tag;
    return n && d->slot ? (int32_t)(uint32_t)*dict_slot(d, s, n, &tag) - 1 : -1;
}

const char *dict_get(const struct dict *d, int32_t id, size_t *n)
{
    if (id < 0 || id >= d->n_id || d->str[id].len == UINT32_MAX) return NULL;
    *n = d->str[id].len;
    return d->bytes.data + d->str[id].off;
}

static int pairs_alloc(struct pairs *p, uint32_t cap)
{
    p->slot = malloc(cap * sizeof *p->slot);
    if (!p->slot) return ERR_NOMEM;
    memset(p->slot, 0xff, cap * sizeof *p->slot);
    p->mask = cap - 1;
    p->n = 0;
    return 0;
}

int pairs_init(struct pairs *p)
{
    *p = (struct pairs){.seed = hash_seed()};
    return pairs_alloc(p, 64);
}

void pairs_free(struct pairs *p)
{
    free(p->slot);
    *p = (struct pairs){0};
}

static int pairs_grow(struct pairs *p)
{
    struct pairs old = *p;
    if (old.mask >= UINT32_MAX / 4) return ERR_NOMEM;
    if (pairs_alloc(p, (old.mask + 1) * 2)) {
        *p = old;
        return ERR_NOMEM;
    }
    for (uint32_t i = 0; i <= old.mask; i++) {
        const struct pair *e = &old.slot[i];
        if (e->a != UINT32_MAX) pairs_put(p, e->a, e->b, e->rank, e->id); /* cannot fail: there is room */
    }
    free(old.slot);
    return 0;
}

int pairs_put(struct pairs *p, uint32_t a, uint32_t b, uint32_t rank, int32_t id)
{
    if (p->n >= (p->mask + 1) / 2 && pairs_grow(p)) return ERR_NOMEM;
    uint32_t i = pairs_hash(p, a, b);
    struct pair *e = &p->slot[i & p->mask];
    while (e->a != UINT32_MAX && !(e->a == a && e->b == b)) e = &p->slot[++i & p->mask];
    if (e->a == UINT32_MAX) p->n++;
    *e = (struct pair){a, b, rank, id};
    return 0;
}
