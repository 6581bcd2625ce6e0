#include "pool.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define POOL_MAX 256
/* How long a worker looks for the next job before it sleeps. Waking a sleeper costs about 50 us, a job found
 * while spinning well below 1 us; the ops of a step follow each other within some 10 us, so a few 100 us
 * cover a step's gaps. */
#define SPINS 20000

struct pool {
    int n;
    pthread_t thread[POOL_MAX];
    struct worker {
        struct pool *pool;
        int i;
    } worker[POOL_MAX];
    /* The job. Written before `open` says that there are tasks; whoever took a task may read it, since the
     * job lasts until that task is done. */
    pool_fn *fn;
    void *arg;
    int n_task;
    _Atomic bool stop;
    _Alignas(64) _Atomic uint32_t open;     /* tasks that nobody has taken yet */
    _Alignas(64) _Atomic uint32_t done;     /* tasks that are finished */
    _Alignas(64) _Atomic uint32_t job;      /* counts jobs; sleepers wait for it to change */
    _Alignas(64) _Atomic uint32_t sleepers; /* workers in futex_wait on job */
};

static void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Takes a task, if there is one; returns it, or -1. */
static int take(struct pool *p)
{
    uint32_t left = atomic_load_explicit(&p->open, memory_order_relaxed);
    while (left)
        if (atomic_compare_exchange_weak_explicit(&p->open, &left, left - 1, memory_order_acquire,
                                                  memory_order_relaxed))
            return p->n_task - (int)left;
    return -1;
}

/* Runs tasks until none is left. */
static bool work(struct pool *p, int worker)
{
    uint32_t n = 0;
    for (int task; (task = take(p)) >= 0; n++) p->fn(p->arg, task, worker);
    if (n) atomic_fetch_add_explicit(&p->done, n, memory_order_release);
    return n;
}

static void sleep_until_job(struct pool *p, uint32_t seen)
{
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->job) == seen) futex(&p->job, FUTEX_WAIT, seen);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    for (int idle = 0;;) {
        uint32_t seen = atomic_load(&p->job);
        if (p->stop) return NULL;
        if (work(p, w->i)) {
            idle = 0;
        } else if (++idle < SPINS) {
            cpu_relax();
        } else {
            sleep_until_job(p, seen);
            idle = 0;
        }
    }
}

static void start_job(struct pool *p, uint32_t n_task)
{
    atomic_store(&p->open, n_task);
    atomic_fetch_add(&p->job, 1);
    if (atomic_load(&p->sleepers)) futex(&p->job, FUTEX_WAKE, INT32_MAX);
}

void pool_run(struct pool *p, int n_task, pool_fn *fn, void *arg)
{
    if (pool_size(p) == 1 || n_task == 1) {
        for (int i = 0; i < n_task; i++) fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_task = n_task;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    start_job(p, (uint32_t)n_task);
    work(p, 0);
    /* The others are about to finish; on a machine with more runnable threads than cores one that has a task
     * may be waiting for this core. */
    for (int i = 0; atomic_load_explicit(&p->done, memory_order_acquire) < (uint32_t)n_task; i++) {
        if (i > SPINS) {
            sched_yield();
        } else {
            cpu_relax();
        }
    }
}

int pool_open(int n, struct pool **out, struct err *e)
{
    *out = NULL;
    if (n == 0) n = pool_cpus();
    if (n < 1 || n > POOL_MAX)
        return err_param(e, ERR_INVALID, "threads", "threads: must be between 1 and %d", POOL_MAX);
    struct pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p) return err_set(e, ERR_NOMEM, "out of memory");
    memset(p, 0, sizeof *p);
    for (p->n = 1; p->n < n; p->n++) {
        p->worker[p->n] = (struct worker){p, p->n};
        int status = pthread_create(&p->thread[p->n], NULL, worker_main, &p->worker[p->n]);
        if (status) {
            pool_close(p);
            return err_set(e, ERR_IO, "cannot start a worker thread: %s", strerror(status));
        }
    }
    *out = p;
    return 0;
}

void pool_close(struct pool *p)
{
    if (!p) return;
    p->stop = true;
    start_job(p, 0);
    for (int i = 1; i < p->n; i++) pthread_join(p->thread[i], NULL);
    free(p);
}

int pool_size(const struct pool *p) { return p ? p->n : 1; }
