#include "group.h"
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "ranks.h"

struct member {
    struct group *group;
    int rank;
    struct comm *comm;
    struct pool *pool;
    struct backend *be;
    pthread_t thread;
    _Atomic uint64_t digest;
    struct err e;
};
struct group {
    const char *path;
    struct group_config c;
    struct member member[GROUP_MAX];
};

uint64_t group_hash(uint64_t h, const struct runner *r)
{
    size_t n;
    const unsigned char *p = runner_hidden(r, &n);
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

/* As ranks_follow, but looks at what was computed. */
static int follow(struct member *k, struct model *m)
{
    struct runner_config c;
    struct runner *r = NULL;
    bool stop = false;
    int status = comm_broadcast(k->comm, &c, sizeof c, 0, &k->e);
    if (!status) status = runner_open(m, &c, &r, &k->e);
    while (!status && !stop) {
        status = runner_follow(r, &stop, &k->e);
        if (!status && !stop) k->digest = group_hash(k->digest, r);
    }
    runner_close(r);
    return status;
}

static void *member_main(void *arg)
{
    struct member *k = arg;
    struct model *m = NULL;
    struct model_options o = {
        .no_tokenizer = true, .comm = k->comm, .quantization = k->group->c.quantization};
    int status = model_load(k->group->path, k->be, &o, &m, &k->e);
    if (!status && k->group->c.adjust) k->group->c.adjust(&m->arch);
    while (!status) status = follow(k, m);
    comm_abort(k->comm, &k->e);
    model_free(m);
    return NULL;
}

struct group *group_open(const char *path, const struct group_config *c)
{
    struct comm *comm[GROUP_MAX];
    struct err e = {0};
    struct group *g = calloc(1, sizeof *g);
    g->path = path;
    g->c = *c;
    ck_assert_msg(!comm_local_open(c->size, comm, &e), "%s", e.msg);
    for (int i = 0; i < c->size; i++) {
        struct member *k = &g->member[i];
        *k = (struct member){.group = g, .rank = i, .comm = comm[i]};
        ck_assert_msg(!pool_open(1 + i % 2, &k->pool, &e), "%s", e.msg);
        ck_assert_msg(!cpu_backend_open(k->pool, c->isa, &k->be, &e), "%s", e.msg);
        ck_assert_msg(!k->be->ops->join(k->be, k->comm, &e), "%s", e.msg);
        if (i) ck_assert_int_eq(pthread_create(&k->thread, NULL, member_main, k), 0);
    }
    return g;
}

struct pool *group_pool(struct group *g) { return g->member[0].pool; }
struct backend *group_backend(struct group *g) { return g->member[0].be; }
struct comm *group_comm(struct group *g) { return g->member[0].comm; }
uint64_t group_digest(struct group *g, int rank) { return g->member[rank].digest; }

void group_kill(struct group *g, int rank)
{
    comm_abort(g->member[rank].comm, &(struct err){.code = ERR_IO, .msg = "killed by the test"});
}

void group_close(struct group *g, struct err *e)
{
    comm_close(g->member[0].comm);
    for (int i = 0; i < g->c.size; i++) {
        struct member *k = &g->member[i];
        if (i) {
            pthread_join(k->thread, NULL);
            *e = k->e;
            comm_close(k->comm);
        }
        backend_close(k->be);
        pool_close(k->pool);
    }
    free(g);
}
