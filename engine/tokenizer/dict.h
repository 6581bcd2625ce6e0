/* Hash tables of the tokenizer: id <-> string, and pair of integers -> (rank, id). Written while loading,
 * read-only (and so free to share between threads) afterwards. Hashes are keyed by a random seed, so that a
 * hostile vocabulary cannot make look-ups slow. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "buf.h"

struct dict {
    struct buf bytes; /* all strings, back to back */
    struct dict_str {
        uint32_t off, len; /* len = UINT32_MAX: a hole */
    } * str;               /* [n_id] */
    uint64_t *slot;        /* [mask + 1] upper half of the hash, id + 1; 0 = empty */
    uint32_t mask;
    uint64_t seed;
    int n_id;
};

uint64_t hash_bytes(uint64_t seed, const char *s, size_t n);
uint64_t hash_seed(void);

int dict_init(struct dict *d, int n_id); /* ids 0..n_id-1, all holes; 0 or ERR_NOMEM */
void dict_free(struct dict *d);
/* 0; ERR_INVALID if the id is taken or out of range; ERR_FULL if the string is taken (then the id keeps the
 * string, but dict_find gives the older id); ERR_NOMEM. */
int dict_put(struct dict *d, int32_t id, const char *s, size_t n);
/* Gives an id its string without making the string findable. */
int dict_name(struct dict *d, int32_t id, const char *s, size_t n);
int32_t dict_find(const struct dict *d, const char *s, size_t n);  /* -1 = none */
const char *dict_get(const struct dict *d, int32_t id, size_t *n); /* NULL = hole */

struct pair {
    uint32_t a, b; /* key; a = UINT32_MAX: empty */
    uint32_t rank;
    int32_t id;
};
struct pairs {
    struct pair *slot; /* [mask + 1], at most half full */
    uint32_t mask;
    uint32_t n;
    uint64_t seed;
};

int pairs_init(struct pairs *p);
void pairs_free(struct pairs *p);
int pairs_put(struct pairs *p, uint32_t a, uint32_t b, uint32_t rank, int32_t id); /* overwrites; ERR_NOMEM */
static inline uint32_t pairs_hash(const struct pairs *p, uint32_t a, uint32_t b)
{
    uint64_t h = (((uint64_t)a << 32 | b) ^ p->seed) * 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    return (uint32_t)(h >> 32);
}
static inline const struct pair *pairs_find(const struct pairs *p, uint32_t a, uint32_t b)
{
    for (uint32_t i = pairs_hash(p, a, b);; i++) {
        const struct pair *e = &p->slot[i & p->mask];
        if (e->a == a && e->b == b) return e;
        if (e->a == UINT32_MAX) return NULL;
    }
}
