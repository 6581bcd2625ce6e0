#include "ranks.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "memory.h"

struct ranks {
    struct comm *comm;
    int n_group, block_size, n_part;
    size_t n, at, cap; /* words: written or received, read so far, room */
    int32_t word[];
};

static size_t blocks(const struct ranks *r, int n_tok)
{
    return ((size_t)n_tok + r->block_size - 1) / r->block_size;
}

enum { PART_WORDS = 3 };

int ranks_open(struct comm *comm, const struct runner_config *c, int n_group, struct ranks **out,
               struct err *e)
{
    struct ranks sizes = {.comm = comm, .n_group = n_group, .block_size = c->block_size};
    sizes.cap = (size_t)c->max_batch_tokens +
                (size_t)c->max_seqs * (PART_WORDS + (size_t)n_group * blocks(&sizes, c->max_ctx));
    if (!(*out = malloc(sizeof **out + sizes.cap * sizeof(int32_t))))
        return err_set(e, ERR_NOMEM, "no memory for the messages between ranks");
    **out = sizes;
    return 0;
}

void ranks_close(struct ranks *r) { free(r); }

void ranks_begin(struct ranks *r) { r->n = r->n_part = 0; }

static void put(struct ranks *r, const int32_t *word, size_t n)
{
    memcpy(r->word + r->n, word, n * sizeof *word);
    r->n += n;
}

int ranks_add(struct ranks *r, const struct rank_part *p, struct err *e)
{
    size_t n_block = blocks(r, p->start + p->len);
    if (r->cap - r->n < PART_WORDS + (size_t)p->len + n_block * (size_t)r->n_group)
        return err_set(e, ERR_INVALID, "a step of more than the ranks have room for");
    put(r, (const int32_t[PART_WORDS]){p->start, p->len, p->n_logits}, PART_WORDS);
    put(r, p->tok, (size_t)p->len);
    for (int g = 0; g < r->n_group; g++) put(r, p->table[g], n_block);
    r->n_part++;
    return 0;
}

static int tell(struct ranks *r, struct rank_head h, struct err *e)
{
    int status = comm_broadcast(r->comm, &h, sizeof h, 0, e);
    if (!status && h.words)
        status = comm_broadcast(r->comm, r->word, (size_t)h.words * sizeof *r->word, 0, e);
    return status;
}

int ranks_tell_step(struct ranks *r, struct err *e)
{
    return tell(r, (struct rank_head){.kind = RANK_STEP, .n_part = r->n_part, .words = (int64_t)r->n}, e);
}

int ranks_tell(struct ranks *r, enum rank_message kind, int row, int n, struct err *e)
{
    return tell(r, (struct rank_head){.kind = kind, .row = row, .n = n}, e);
}

int ranks_hear(struct ranks *r, struct rank_head *h, struct err *e)
{
    int status = comm_broadcast(r->comm, h, sizeof *h, 0, e);
    if (status) return status;
    if (h->words < 0 || (uint64_t)h->words > r->cap)
        return err_set(e, ERR_INVALID, "a message of %lld words: the ranks run different programs",
                       (long long)h->words);
    r->at = 0;
    r->n = (size_t)h->words;
    return r->n ? comm_broadcast(r->comm, r->word, r->n * sizeof *r->word, 0, e) : 0;
}

int ranks_next(struct ranks *r, struct rank_part *p, struct err *e)
{
    const int32_t *word = r->word + r->at;
    size_t left = r->n - r->at;
    bool whole = left >= PART_WORDS && word[0] >= 0 && word[1] >= 0 && word[0] <= INT32_MAX - word[1];
    if (whole) {
        *p = (struct rank_part){
            .start = word[0], .len = word[1], .n_logits = word[2], .tok = word + PART_WORDS};
        size_t n_block = blocks(r, p->start + p->len), words = PART_WORDS + (size_t)p->len;
        for (int g = 0; g < r->n_group; g++, words += n_block) p->table[g] = word + words;
        r->at += words;
        whole = words <= left;
    }
    return whole ? 0 : err_set(e, ERR_INVALID, "a message that ends early: the ranks run different programs");
}

int ranks_follow(struct model *m, struct err *e)
{
    struct runner_config c;
    struct runner *r = NULL;
    bool stop = false;
    int status = comm_broadcast(m->comm, &c, sizeof c, 0, e);
    if (!status) status = runner_open(m, &c, &r, e);
    while (!status && !stop) status = runner_follow(r, &stop, e);
    runner_close(r);
    if (status) comm_abort(m->comm, e);
    return status;
}

/* What a rank says of the place where it runs. */
struct place {
    char host[64];
    cpu_set_t cpus;
    uint64_t available;
};

static int exchange(struct comm *comm, const struct place *own, struct place all[COMM_MAX_RANKS],
                    struct err *e)
{
    struct place named = *own;
    gethostname(named.host, sizeof named.host - 1);
    return comm_all_gather(comm, &named, sizeof named, all, e);
}

int ranks_place(struct comm *comm, int *sharers, int *local, struct err *e)
{
    struct place own = {0}, all[COMM_MAX_RANKS];
    sched_getaffinity(0, sizeof own.cpus, &own.cpus);
    int status = exchange(comm, &own, all, e);
    *sharers = *local = 0;
    for (int i = 0, me = comm_rank(comm); i < comm_size(comm) && !status; i++) {
        *sharers += !memcmp(&all[i], &all[me], sizeof own);
        *local += i < me && !strcmp(all[i].host, all[me].host);
    }
    return status;
}

int ranks_memory(struct comm *comm, struct backend *be, size_t *bytes, struct err *e)
{
    struct place own = {0}, all[COMM_MAX_RANKS];
    int size = comm_size(comm), status = comm_barrier(comm, e); /* when everybody's weights are there */
    if (status) return status;
    own.available = be->ops->mem_available(be);
    if ((status = exchange(comm, &own, all, e))) return status;
    *bytes = SIZE_MAX;
    for (int i = 0; i < size; i++) {
        uint64_t sharers = 1;
        for (int k = 0; k < size && be->host; k++) sharers += k != i && !strcmp(all[i].host, all[k].host);
        size_t share = (size_t)(all[i].available / sharers);
        if (share < *bytes) *bytes = share;
    }
    return 0;
}
