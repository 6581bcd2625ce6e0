/* A naive model of the KV memory. Every cell (block, offset) holds one number that stands for the keys and
 * values computed there: a hash of (group, salt, all tokens up to that position). `compute` writes them the
 * way a runner would, and then looks at every position that each query sees; any wrong, stale or missing
 * block shows as another number. Knows nothing of the index, of reference counts or of the hash table under
 * test. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "kv.h"

struct mem {
    struct kv_config c;
    uint64_t *cell; /* [n_block][block_size] */
    uint64_t *
        stamp; /* [n_block] step and writer of the last write: no two sequences write one block in one step */
};

static inline uint64_t mem_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline void mem_open(struct mem *m, const struct kv_config *c)
{
    m->c = *c;
    m->cell = calloc((size_t)c->n_block * c->block_size, sizeof *m->cell);
    m->stamp = calloc(c->n_block, sizeof *m->stamp);
}

static inline void mem_close(struct mem *m)
{
    free(m->cell);
    free(m->stamp);
}

static inline uint64_t *mem_cell(const struct mem *m, const struct kv_ref *r, int g, int p)
{
    int32_t b = r->table[g][p / m->c.block_size];
    if (b < 0 || b >= m->c.n_block) return NULL;
    return m->cell + (size_t)b * m->c.block_size + p % m->c.block_size;
}

/* Stores positions [from, to) of the sequence. writer: not 0, one number per sequence and step. 0 if fine. */
static inline int mem_store(struct mem *m, const struct kv_ref *r, const int32_t *tok, uint64_t salt,
                            int from, int to, uint64_t writer)
{
    uint64_t h = mem_mix(salt + 1);
    for (int p = 0; p < to; p++) {
        h = mem_mix(h ^ ((uint64_t)(uint32_t)tok[p] + 0x9e3779b97f4a7c15u));
        for (int g = 0; p >= from && g < m->c.n_group; g++) {
            uint64_t *cell = mem_cell(m, r, g, p), *stamp;
            if (!cell) return fprintf(stderr, "no block for the write of %d in group %d\n", p, g), 1;
            stamp = &m->stamp[r->table[g][p / m->c.block_size]];
            if (*stamp >> 32 == writer >> 32 && *stamp != writer)
                return fprintf(stderr, "two sequences write one block in one step\n"), 1;
            *stamp = writer;
            *cell = mem_mix(h + g);
        }
    }
    return 0;
}

/* Checks all that queries at positions [from, to) see. 0 if fine. */
static inline int mem_verify(const struct mem *m, const struct kv_ref *r, const int32_t *tok, uint64_t salt,
                             int from, int to)
{
    uint64_t h = mem_mix(salt + 1);
    for (int p = 0; p < to; p++) {
        h = mem_mix(h ^ ((uint64_t)(uint32_t)tok[p] + 0x9e3779b97f4a7c15u));
        for (int g = 0; g < m->c.n_group; g++) {
            int w = m->c.group[g].window;
            if (w && p <= from - w) continue; /* no query sees it */
            const uint64_t *cell = mem_cell(m, r, g, p);
            if (!cell || *cell != mem_mix(h + g))
                return fprintf(stderr, "position %d in group %d: %s\n", p, g, cell ? "wrong KV" : "no block"),
                       1;
        }
    }
    return 0;
}
