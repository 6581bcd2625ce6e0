/* The ranks of a model: this process's threads, or the processes that mpirun or srun started. Which is
 * decided here; nothing after it knows. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "launch.h"
#include "ranks.h"

struct worker {
    struct launch l; /* shares the options and the path of rank 0's */
    pthread_t thread;
    bool started;
};
struct workers { /* ranks 1 and up that are threads of this process */
    volatile int cancel;
    int n;
    struct worker worker[];
};

static int mismatch(const char *what, struct err *e)
{
    return err_param(e, ERR_INVALID, "tensor-parallel-size", "--tensor-parallel-size: %s", what);
}

static int open_threads(struct launch *l, int size, struct err *e)
{
    struct comm *rank[COMM_MAX_RANKS];
    struct workers *w = l->workers = calloc(1, sizeof *w + (size_t)(size - 1) * sizeof *w->worker);
    int status = w ? comm_local_open(size, rank, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (status) return status;
    l->comm = rank[0];
    l->sharers = size;
    for (w->n = 0; w->n < size - 1; w->n++)
        w->worker[w->n].l = (struct launch){
            .opt = l->opt, .path = l->path, .comm = rank[w->n + 1], .sharers = size, .local = w->n + 1};
    return 0;
}

static int join_processes(struct launch *l, int wanted, struct err *e)
{
    int status = comm_mpi_open(&l->comm, e);
    if (status) return status;
    int size = comm_size(l->comm);
    if (wanted && wanted != size) {
        char what[96];
        snprintf(what, sizeof what, "it is %d, but mpirun or srun started %d processes", wanted, size);
        return mismatch(what, e);
    }
    return ranks_place(l->comm, &l->sharers, &l->local, e);
}

int launch_ranks(struct launch *l, bool processes, struct err *e)
{
    int wanted = l->opt.tensor_parallel_size;
    l->sharers = 1;
    if (wanted < 0 || wanted > COMM_MAX_RANKS) return mismatch("must be between 1 and 64", e);
    if (comm_mpi_started()) {
        if (processes) return join_processes(l, wanted, e);
        return mismatch("only serve runs in several processes; start this command without mpirun or srun", e);
    }
    return wanted > 1 ? open_threads(l, wanted, e) : 0;
}

int launch_work(struct launch *l, const volatile int *cancel, struct err *e)
{
    size_t memory;
    int status = launch_backend(l, e);
    if (!status) status = launch_model(l, false, cancel, e);
    if (!status) status = ranks_memory(l->comm, l->backend, &memory, e);
    if (!status) status = ranks_follow(l->model, e);
    if (status) comm_abort(l->comm, e);
    return status;
}

/* Says nothing of its failure: rank 0 hears of it, and says so. */
static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct err e = {0};
    launch_work(&w->l, w->l.cancel, &e);
    launch_close_rank(&w->l);
    return NULL;
}

int launch_workers(struct launch *l, struct err *e)
{
    struct workers *w = l->workers;
    for (int i = 0; w && i < w->n; i++) {
        struct worker *k = &w->worker[i];
        k->l.cancel = &w->cancel;
        int status = pthread_create(&k->thread, NULL, worker_main, k);
        if (status) return err_set(e, ERR_IO, "cannot start a rank's thread: %s", strerror(status));
        k->started = true;
    }
    return 0;
}

void launch_close_workers(struct launch *l)
{
    struct workers *w = l->workers;
    if (!w) return;
    w->cancel = 1;
    for (int i = 0; i < w->n; i++) {
        if (w->worker[i].started) {
            pthread_join(w->worker[i].thread, NULL);
        } else {
            comm_close(w->worker[i].l.comm);
        }
    }
    free(w);
}
