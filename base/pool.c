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
    pool_fn *fn;
    void *arg;
    bool stop;
    _Alignas(64) _Atomic uint32_t job;      /* counts jobs; workers wait for it to change */
    _Alignas(64) _Atomic uint32_t sleepers; /* workers in futex_wait on job */
    _Alignas(64) _Atomic uint32_t pending;  /* workers that have not finished the current job */
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

static uint32_t wait_job(struct pool *p, uint32_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        uint32_t job = atomic_load_explicit(&p->job, memory_order_acquire);
        if (job != seen) return job;
        cpu_relax();
    }
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->job) == seen) futex(&p->job, FUTEX_WAIT, seen);
    atomic_fetch_sub(&p->sleepers, 1);
    return atomic_load_explicit(&p->job, memory_order_acquire);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    uint32_t seen = 0;
    for (;;) {
        seen = wait_job(p, seen);
        if (p->stop) return NULL;
        p->fn(p->arg, w->i, p->n);
        atomic_fetch_sub_explicit(&p->pending, 1, memory_order_release);
    }
}

static void start_job(struct pool *p)
{
    atomic_fetch_add(&p->job, 1);
    if (atomic_load(&p->sleepers)) futex(&p->job, FUTEX_WAKE, INT32_MAX);
}

void pool_run(struct pool *p, pool_fn *fn, void *arg)
{
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->pending, (uint32_t)p->n - 1, memory_order_relaxed);
    start_job(p);
    fn(arg, 0, p->n);
    /* The others are about to finish; a machine with more runnable threads than cores gets the core back by
     * yielding. */
    for (int i = 0; atomic_load_explicit(&p->pending, memory_order_acquire); i++) {
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
    start_job(p);
    for (int i = 1; i < p->n; i++) pthread_join(p->thread[i], NULL);
    free(p);
}

int pool_size(const struct pool *p) { return p->n; }
