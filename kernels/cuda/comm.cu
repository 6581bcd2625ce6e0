/* The ranks of one model on CUDA devices: joining, who carries which message, waiting, leaving.
 *
 * Ranks that are threads of one process and whose devices see each other's memory send small messages by
 * their own kernels (comm.cuh), and large ones too where NCCL is not there or sums must be in a fixed order.
 * Everything else is NCCL's. The ranks' struct comm, of main memory, is used to join and to leave only.
 *
 * A rank that dies: own kernels wait some seconds, then fail, and tell all ranks. A rank that leaves while
 * others work says so at once. Kernels of NCCL wait for ever, so cu_comm_wait watches over them. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "comm.cuh"
#include "nccl.cuh"
#include "norm.cuh"
extern "C" {
#include "comm.h"
}

#define KERNEL_PATIENCE 4.  /* seconds that a kernel waits for another rank */
#define NCCL_PATIENCE   30. /* that a stream with NCCL's kernels may take: a step is never so long */
/* Bytes up to which one message of the own kernels beats a ring, for that many ranks. */
#define SMALL_4 (512 << 10)
#define SMALL_8 (256 << 10)

struct cu_comm {
    struct comm *comm;
    bool joined;
    struct peers p;
    struct nccl *nccl; /* NULL: not there */
    unsigned *lost;    /* pinned: another rank is missing. Set by kernels, and by ranks that leave */
    unsigned *lost_of[COMM_MAX_RANKS]; /* of all ranks of this process, if they are */
    float *all;                        /* [size][p.floats] for sums in order over NCCL, or NULL */
};

/* ---- joining ---- */

struct hello { /* what a rank tells of itself */
    uint64_t process[2];
    int device, n_sm;
};
struct offer { /* and then, of what it has */
    bool peers, nccl;
    struct nccl_id id; /* rank 0's */
    float *buf;
    struct peer_board *board;
    unsigned *lost;
};

/* Equal in all ranks of one process, and in no others. */
static int process_mark(uint64_t mark[2], struct err *e)
{
    static uint64_t mine[2];
    static bool drawn;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (!drawn) drawn = getentropy(mine, sizeof mine) == 0;
    mark[0] = mine[0];
    mark[1] = mine[1];
    pthread_mutex_unlock(&lock);
    return drawn ? 0 : err_set(e, ERR_IO, "no random numbers");
}

/* Either all ranks go on or all fail, with the first one's reason. */
static int agree(struct cu_comm *k, int rc, struct err *e)
{
    struct err all[COMM_MAX_RANKS], mine = {}, out_of = {};
    if (rc) mine = *e;
    rc = comm_all_gather(k->comm, &mine, sizeof mine, all, &out_of);
    if (rc) *e = out_of;
    for (int r = 0; r < comm_size(k->comm) && !rc; r++)
        if (all[r].code) rc = err_set(e, all[r].code, "rank %d: %s", r, all[r].msg);
    return rc;
}

static double patience(void)
{
#ifdef CUEMU /* emulated ranks are slow; half of what the emulator takes for a deadlock */
    const char *s = getenv("CUEMU_SPIN");
    return s ? atof(s) / 2 : 10;
#else
    return KERNEL_PATIENCE;
#endif
}

/* Whether this device sees the memory of all others, which makes it so. */
static bool enable_peers(struct cuda *c, const struct hello *all, int size)
{
    for (int r = 0; r < size; r++) {
        int can = all[r].device == c->device;
        if (!can && cudaDeviceCanAccessPeer(&can, c->device, all[r].device)) can = 0;
        if (!can) return false;
    }
    for (int r = 0; r < size; r++) {
        if (all[r].device == c->device) continue;
        cudaError_t s = cudaDeviceEnablePeerAccess(all[r].device, 0);
        if (s) cudaGetLastError();
        if (s && s != cudaErrorPeerAccessAlreadyEnabled) return false;
    }
    return true;
}

/* This rank's own buffer and board, if its process has all ranks and their number is small. */
static int open_peers(struct cuda *c, const struct hello *all, int rank, int size, struct offer *o,
                      struct err *e)
{
    struct cu_comm *k = c->comm;
    int khz = 0, blocks = PEER_BLOCKS;
    bool here = true;
    for (int r = 0; r < size; r++) {
        here = here && all[r].process[0] == all[0].process[0] && all[r].process[1] == all[0].process[1];
        if (all[r].n_sm < blocks) blocks = all[r].n_sm;
    }
    for (int r = 0; here && r < size; r++)
        if (r != rank && all[r].device == c->device)
            return err_set(e, ERR_INVALID, "cuda: ranks %d and %d have the same device %d", rank, r,
                           c->device);
    if (cudaHostAlloc((void **)&k->lost, sizeof *k->lost, cudaHostAllocMapped | cudaHostAllocPortable))
        return err_set(e, ERR_NOMEM, "cuda: no pinned memory");
    *k->lost = 0;
    if (here) o->lost = k->lost;
    if (!here || size > PEERS_MAX || !enable_peers(c, all, size)) return 0;
    k->p.blocks = blocks;
    k->p.floats = (size <= 4 ? SMALL_4 : SMALL_8) / (int)sizeof(float);
    if (cu_alloc(c, 2 * (size_t)k->p.floats * sizeof(float), "messages", (void **)&o->buf, e) ||
        cu_alloc(c, sizeof *o->board, "messages", (void **)&o->board, e))
        return e->code;
    k->p.buf[rank] = o->buf; /* cu_comm_close frees them */
    k->p.board[rank] = o->board;
    o->peers = true;
    if (cudaHostGetDevicePointer((void **)&k->p.told, k->lost, 0) ||
        cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, c->device) ||
        cudaMemsetAsync(o->board, 0, sizeof *o->board, c->stream) || cudaStreamSynchronize(c->stream))
        return err_set(e, ERR_IO, "cuda: %s", cudaGetErrorString(cudaGetLastError()));
    k->p.patience = (long long)(patience() * 1000 * khz);
    return 0;
}

/* What all ranks have is used. */
static int use_offers(struct cuda *c, const struct offer *all, int rank, int size, const struct err *no_nccl,
                      struct err *e)
{
    struct cu_comm *k = c->comm;
    bool peers = true, nccl = true;
    int without = 0;
    for (int r = 0; r < size; r++) {
        peers = peers && all[r].peers;
        if (nccl && !all[r].nccl) nccl = false, without = r;
        k->lost_of[r] = all[r].lost;
        if (r >= PEERS_MAX) continue; /* too many for own kernels */
        k->p.buf[r] = all[r].buf;
        k->p.board[r] = all[r].board;
    }
    if (peers) k->p.size = size;
    if (!nccl && k->nccl) {
        nccl_close(k->nccl, false);
        k->nccl = NULL;
    }
    if (!nccl && !peers)
        return err_set(e, ERR_UNSUPPORTED,
                       "cuda: the ranks' devices do not see each other's memory, so NCCL is needed, which "
                       "rank %d does not have (%.200s)",
                       without, no_nccl->msg);
    if (!nccl) return 0;
    if (!peers && c->o.deterministic && size > 2) {
        k->p.floats = SMALL_4 / (int)sizeof(float);
        if (cu_alloc(c, (size_t)size * k->p.floats * sizeof(float), "sums", (void **)&k->all, e))
            return e->code;
    }
    return nccl_join(k->nccl, size, &all[0].id, rank, e);
}

static int join(struct cuda *c, int rank, int size, struct err *e)
{
    struct cu_comm *k = c->comm;
    struct hello mine = {{0, 0}, c->device, c->n_sm}, all[COMM_MAX_RANKS];
    struct offer offer = {}, offers[COMM_MAX_RANKS];
    struct err no_nccl = {};
    int rc = agree(k, process_mark(mine.process, e), e);
    if (!rc) rc = comm_all_gather(k->comm, &mine, sizeof mine, all, e);
    if (rc) return rc;
    cudaSetDevice(c->device);
    k->p.rank = rank;
    rc = open_peers(c, all, rank, size, &offer, e);
    k->nccl = nccl_open(&no_nccl);
    offer.nccl = k->nccl != NULL;
    if (!rc && k->nccl && !rank) rc = nccl_make_id(k->nccl, &offer.id, e);
    rc = agree(k, rc, e);
    if (!rc) rc = comm_all_gather(k->comm, &offer, sizeof offer, offers, e);
    if (rc) return rc;
    return agree(k, use_offers(c, offers, rank, size, &no_nccl, e), e);
}

int cu_join(struct backend *be, struct comm *comm, struct err *e)
{
    struct cuda *c = cuda_of(be);
    int rank = comm_rank(comm), size = comm_size(comm);
    struct err own;
    if (!e) e = &own;
    if (size > 1) {
        c->comm = (struct cu_comm *)calloc(1, sizeof *c->comm);
        if (!c->comm) { /* the others wait for this rank */
            err_set(e, ERR_NOMEM, "out of memory");
            comm_abort(comm, e);
            return e->code;
        }
        c->comm->comm = comm;
        int rc = join(c, rank, size, e);
        if (rc) {
            cu_comm_close(c);
            return rc;
        }
        c->comm->joined = true;
    }
    be->rank = rank;
    be->size = size;
    return 0;
}

/* Everything was there when the ranks joined: a message's buffers are of one size whatever the step. */

/* ---- the ops ---- */

static void note_nccl(struct cuda *c, const char *bad)
{
    if (bad) cu_note(c, cudaErrorUnknown, bad);
}

/* Sums in the order of the ranks, without peers: in pieces, each rank adding up what all have gathered. */
static void sum_in_order(struct cuda *c, float *x, size_t n)
{
    struct cu_comm *k = c->comm;
    for (size_t at = 0, m; at < n; at += m) {
        m = n - at < (size_t)k->p.floats ? n - at : (size_t)k->p.floats;
        note_nccl(c, nccl_gather(k->nccl, x + at, m, k->all, c->stream));
        sum_parts(c, k->all, c->base.size, x + at, m);
    }
}

void cu_all_reduce(struct backend *be, float *x, size_t n)
{
    struct cuda *c = cuda_of(be);
    struct cu_comm *k = c->comm;
    bool small = n <= (size_t)k->p.floats, any_order = !c->o.deterministic || c->base.size == 2;
    if (k->p.size && (small || !k->nccl || !any_order)) {
        for (size_t at = 0, m; at < n; at += m) {
            m = n - at < (size_t)k->p.floats ? n - at : (size_t)k->p.floats;
            peers_sum(c, &k->p, x + at, m);
        }
    } else if (!k->nccl || !n)
        return; /* the group is over, which sync says */
    else if (any_order)
        note_nccl(c, nccl_sum(k->nccl, x, n, c->stream));
    else
        sum_in_order(c, x, n);
}

void cu_all_gather(struct backend *be, const float *part, int n, int len, float *all)
{
    struct cuda *c = cuda_of(be);
    struct cu_comm *k = c->comm;
    size_t count = (size_t)n * len;
    if (k->p.size && (count <= (size_t)k->p.floats || !k->nccl)) {
        for (size_t at = 0, m; at < count; at += m) {
            m = count - at < (size_t)k->p.floats ? count - at : (size_t)k->p.floats;
            peers_gather(c, &k->p, part, at, m, len, all);
        }
    } else if (k->nccl && count)
        note_nccl(c, nccl_gather_rows(k->nccl, part, n, len, all, c->stream));
}

bool cu_reduce_norm(struct cuda *c, const struct norm_args *a)
{
    struct cu_comm *k = c->comm;
    size_t count = (size_t)a->n * a->dim;
    if (k->p.size && count <= (size_t)k->p.floats && norm_fits(c, a)) {
        peers_norm(c, &k->p, a);
        return true;
    }
    cu_all_reduce(&c->base, a->delta, count);
    return false;
}

/* ---- waiting and leaving ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static bool is_lost(const struct cu_comm *k) { return __atomic_load_n(k->lost, __ATOMIC_ACQUIRE) != 0; }

/* Own kernels end by themselves; NCCL's when it is aborted. */
void cu_comm_wait(struct cuda *c)
{
    struct cu_comm *k = c->comm;
    double since = now();
    cudaError_t s = cudaErrorNotReady;
    while (k && k->nccl && (s = cudaStreamQuery(c->stream)) == cudaErrorNotReady) {
        if (is_lost(k) || nccl_is_broken(k->nccl) || now() - since > NCCL_PATIENCE) {
            __atomic_store_n(k->lost, 1, __ATOMIC_RELEASE);
            nccl_close(k->nccl, true);
            k->nccl = NULL;
        }
        sched_yield();
    }
    if (s == cudaErrorNotReady) s = cudaStreamSynchronize(c->stream);
    CU(c, s);
    if (k && k->lost && is_lost(k)) cu_note(c, cudaErrorLaunchTimeout, "another rank of the model is gone");
}

/* Whether every rank is leaving, all well, and no kernel of any uses another's memory any more. */
static bool all_leave(struct cuda *c)
{
    struct cu_comm *k = c->comm;
    unsigned char bad = c->bad || is_lost(k), all[COMM_MAX_RANKS];
    bool well = !comm_all_gather(k->comm, &bad, sizeof bad, all, NULL);
    for (int r = 0; r < c->base.size && well; r++) well = !all[r];
    return well;
}

/* Where the group is over, other ranks may still use this one's memory: it is left to the process's end,
 * which is near. The word `lost` is left in any case, since a rank may learn late that all is over. */
void cu_comm_close(struct cuda *c)
{
    struct cu_comm *k = c->comm;
    if (!k) return;
    if (k->joined) cu_comm_wait(c);
    bool well = !k->joined || all_leave(c);
    for (int r = 0; r < c->base.size && !well; r++)
        if (k->lost_of[r]) __atomic_store_n(k->lost_of[r], 1, __ATOMIC_RELEASE);
    if (!well && k->p.size) {
        peers_leave(c, &k->p);
        CU(c, cudaStreamSynchronize(c->stream));
    }
    nccl_close(k->nccl, !well || !k->joined);
    if (well && k->p.rank < PEERS_MAX) {
        cudaFree(k->p.buf[k->p.rank]);
        cudaFree(k->p.board[k->p.rank]);
    }
    cudaFree(k->all);
    free(k);
    c->comm = NULL;
}
