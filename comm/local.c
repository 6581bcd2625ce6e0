/* Ranks that are threads of one process: each shows the others where its buffers are, and copies or adds
 * straight from theirs. A call is two meetings: one before the work, where the calls are compared, and one
 * after it, since nobody may leave with its buffers while another works on them. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "comm_ops.h"
#include "pool.h"

/* How long a rank looks for the others before it sleeps: first on its core (about 100 us, the gaps between
 * the calls of a step) if there is one for every rank, then letting other threads have it. */
#define SPINS  4000
#define YIELDS 200

/* The meeting word: how many ranks have come, whether the group is over, and the number of the meeting. One
 * word, so that a rank that goes because the group is over and a last rank that comes cannot miss each other.
 */
#define COME    1u
#define OVER    0x100u
#define MEETING 0x200u
static uint32_t n_come(uint32_t word) { return word & (OVER - 1); }
static uint32_t meeting(uint32_t word) { return word / MEETING; }

struct local_rank {
    struct comm comm;
    struct local *group;
    /* Written before a first meeting, read by the others until the second. */
    _Alignas(64) struct comm_call call;
    const void *in;
    void *out;
};

struct local {
    _Alignas(64) _Atomic uint32_t word;
    _Alignas(64) _Atomic int n_open; /* ranks not closed; the last one frees */
    _Alignas(64) _Atomic int n_asleep;
    int spins;
    bool disagree; /* written by the last rank to come, before it lets the others go */
    pthread_mutex_t lock;
    struct err why; /* under lock; the first reason */
    struct local_rank rank[];
};

/* After a change of the word. Who is about to sleep has counted itself, or sees the change. */
static void wake(struct local *g)
{
    if (atomic_load(&g->n_asleep)) comm_wake(&g->word);
}

static void end(struct local *g, const struct err *why)
{
    pthread_mutex_lock(&g->lock);
    if (!g->why.code) g->why = *why;
    pthread_mutex_unlock(&g->lock);
    atomic_fetch_or(&g->word, OVER);
    wake(g);
}

static int is_over(struct local *g, struct err *e)
{
    pthread_mutex_lock(&g->lock);
    *e = g->why;
    pthread_mutex_unlock(&g->lock);
    return e->code;
}

static void compare_calls(struct local *g, int size)
{
    const struct comm_call *first = &g->rank[0].call;
    for (int r = 1; r < size; r++) {
        const struct comm_call *call = &g->rank[r].call;
        if (!memcmp(call, first, sizeof *call)) continue;
        struct err why;
        comm_differ(0, first, r, call, &why);
        g->disagree = true;
        end(g, &why);
        return;
    }
}

/* Comes to a meeting and waits until all have. True when they have; false when the group is over and this
 * rank has gone from the meeting. A work's second meeting is not left, group over or not: the others are on
 * their way. */
static bool meet(struct local *g, int size, bool may_leave)
{
    uint32_t word = atomic_fetch_add(&g->word, COME) + COME;
    if (n_come(word) == (uint32_t)size) {
        if (may_leave) compare_calls(g, size);
        atomic_fetch_add(&g->word, MEETING - (uint32_t)size);
        wake(g);
        return true;
    }
    uint32_t mine = meeting(word);
    for (int i = 0;; i++) {
        word = atomic_load(&g->word);
        if (meeting(word) != mine) return true;
        if (may_leave && (word & OVER) && n_come(word) < (uint32_t)size) {
            if (atomic_compare_exchange_weak(&g->word, &word, word - COME)) return false;
        } else if (i < g->spins) {
            comm_relax();
        } else if (i < g->spins + YIELDS) {
            sched_yield();
        } else {
            atomic_fetch_add(&g->n_asleep, 1);
            comm_sleep(&g->word, word, -1);
            atomic_fetch_sub(&g->n_asleep, 1);
        }
    }
}

/* Each rank adds its own share of the elements and gives the sums to all; nobody else touches that share.
 * Shares begin on cache lines. */
static void all_reduce(struct local *g, int rank, int size, size_t n)
{
    size_t share = (n + size - 1) / size;
    share = (share + 15) / 16 * 16;
    size_t begin = share * rank < n ? share * rank : n;
    size_t len = n - begin < share ? n - begin : share;
    if (!len) return;
    const float *in[COMM_MAX_RANKS] = {0};
    for (int r = 0; r < size; r++) in[r] = (const float *)g->rank[r].in + begin;
    float *sum = (float *)g->rank[rank].out + begin;
    comm_sum(in, size, len, sum);
    for (int r = 0; r < size; r++)
        if (r != rank) memcpy((float *)g->rank[r].out + begin, sum, len * sizeof *sum);
}

static void work(struct local *g, int rank, int size, const struct comm_call *call)
{
    char *out = g->rank[rank].out;
    size_t bytes = call->bytes;
    if (!bytes) return;
    switch (call->op) {
    case COMM_ALL_REDUCE: all_reduce(g, rank, size, bytes / sizeof(float)); return;
    case COMM_BROADCAST:
        if (rank != call->root) memcpy(out, g->rank[call->root].in, bytes);
        return;
    default:
        for (int r = 0; r < size; r++) {
            const char *in = g->rank[r].in;
            if (call->op == COMM_ALL_TO_ALL) in += bytes * rank;
            if (in != out + bytes * r) memcpy(out + bytes * r, in, bytes);
        }
    }
}

static int local_run(struct comm *c, const struct comm_call *call, const void *in, void *out, struct err *e)
{
    struct local_rank *own = (struct local_rank *)c;
    struct local *g = own->group;
    if (atomic_load(&g->word) & OVER) return is_over(g, e);
    own->call = *call;
    own->in = in;
    own->out = out;
    if (!meet(g, c->size, true) || g->disagree) return is_over(g, e);
    if (call->op == COMM_BARRIER) return 0;
    work(g, c->rank, c->size, call);
    meet(g, c->size, false);
    return 0;
}

static void local_abort(struct comm *c, const struct err *why) { end(((struct local_rank *)c)->group, why); }

static void local_close(struct comm *c)
{
    struct local *g = ((struct local_rank *)c)->group;
    struct err why;
    err_set(&why, ERR_CLOSED, "rank %d was closed", c->rank);
    end(g, &why);
    if (atomic_fetch_sub(&g->n_open, 1) > 1) return;
    pthread_mutex_destroy(&g->lock);
    free(g);
}

int comm_local_open(int size, struct comm **rank, struct err *e)
{
    static const struct comm_ops ops = {local_run, local_abort, local_close};
    if (size < 1 || size > COMM_MAX_RANKS)
        return err_set(e, ERR_INVALID, "the number of ranks must be between 1 and %d", COMM_MAX_RANKS);
    struct local *g = aligned_alloc(64, sizeof *g + (size_t)size * sizeof *g->rank);
    if (!g) return err_set(e, ERR_NOMEM, "out of memory");
    memset(g, 0, sizeof *g + (size_t)size * sizeof *g->rank);
    int status = pthread_mutex_init(&g->lock, NULL);
    if (status) {
        free(g);
        return err_set(e, ERR_IO, "cannot make a mutex: %s", strerror(status));
    }
    g->n_open = size;
    g->spins = size <= pool_cpus() ? SPINS : 0;
    for (int r = 0; r < size; r++) {
        g->rank[r].comm = (struct comm){&ops, r, size};
        g->rank[r].group = g;
        rank[r] = &g->rank[r].comm;
    }
    return 0;
}
