/* A fork-join worker pool. pool_run calls fn(arg, i, n) once on each of the n threads, the caller being
 * thread 0, and returns when all are done. Workers spin briefly for the next job, then sleep, so an idle
 * server uses no CPU. One caller at a time (the engine thread). */
#pragma once
#include "err.h"

struct pool;
typedef void pool_fn(void *arg, int i, int n);

int pool_open(int n_threads, struct pool **out, struct err *e); /* n_threads >= 1; 0 = pool_cpus() */
void pool_close(struct pool *p);
int pool_size(const struct pool *p);
void pool_run(struct pool *p, pool_fn *fn, void *arg);
/* Usable CPUs: the smallest of the affinity mask, the cgroup quota (v1, v2) and the physical cores. */
int pool_cpus(void);
