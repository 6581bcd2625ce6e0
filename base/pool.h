/* A worker pool for the loops inside an op. pool_run hands out tasks 0 to n_task - 1, in that order, to
 * whichever threads come for them, the caller being worker 0, and returns when all are done. A worker that
 * the system has not put on a core is not waited for: the others do its share, so that a busy neighbour costs
 * its own time only. Workers spin briefly for the next job, then sleep: an idle server uses no CPU. One
 * caller at a time (the engine thread). */
#pragma once
#include "err.h"

struct pool;
/* worker: which thread, 0 to pool_size - 1, for scratch memory. */
typedef void pool_fn(void *arg, int task, int worker);

int pool_open(int n_threads, struct pool **out, struct err *e); /* n_threads >= 1; 0 = pool_cpus() */
void pool_close(struct pool *p);
/* NULL is a pool of the caller alone. */
int pool_size(const struct pool *p);
void pool_run(struct pool *p, int n_task, pool_fn *fn, void *arg);
/* Usable CPUs: the smallest of the affinity mask, the cgroup quota (v1, v2) and the physical cores. */
int pool_cpus(void);
