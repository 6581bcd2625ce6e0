#include "machine_limits.h"
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "hugemem.h"

enum { TRIES = 5, TASKS = 8 /* for each thread, so that all end together */ };
static const size_t buffer_bytes = (size_t)256 << 20;

struct part {
    const struct limit_kernels *k;
    char *buffer;
    double (*rounds)(long);
    long n;
    int tasks;
    volatile double sink, done; /* of task 0 */
};

static const struct limit_kernels *kernels_of(enum cpu_isa isa)
{
#if defined(__x86_64__)
    static const struct limit_kernels *const k[ISA_COUNT] = {NULL, &limits_avx2, &limits_avx512, &limits_vnni,
                                                             &limits_bf16};
    return k[isa];
#else
    (void)isa;
    return NULL;
#endif
}

static void touch_part(void *arg, int i, int worker)
{
    struct part *p = arg;
    size_t each = buffer_bytes / (size_t)p->tasks / 4096 * 4096;
    (void)worker;
    memset(p->buffer + each * (size_t)i, i + 1, each);
}

static void read_part(void *arg, int i, int worker)
{
    struct part *p = arg;
    size_t each = buffer_bytes / (size_t)p->tasks / 4096 * 4096;
    (void)worker;
    double sum = p->k->read(p->buffer + each * (size_t)i, each);
    if (i == 0) p->sink = sum;
}

static void compute_part(void *arg, int i, int worker)
{
    struct part *p = arg;
    (void)worker;
    double done = p->rounds(p->n);
    if (i == 0) p->done = done;
}

static double best_of(struct pool *pool, pool_fn *fn, struct part *p)
{
    double best = 1e9;
    for (int i = 0; i < TRIES; i++) {
        double t = clock_s();
        pool_run(pool, p->tasks, fn, p);
        t = clock_s() - t;
        best = t < best ? t : best;
    }
    return best;
}

static double compute_rate(struct pool *pool, double (*rounds)(long), struct part *p)
{
    p->rounds = rounds;
    p->n = 4000000 / TASKS;
    double t = best_of(pool, compute_part, p);
    return p->done * p->tasks / t;
}

struct limits limits_measure(struct pool *pool, enum cpu_isa isa)
{
    struct part p = {.k = kernels_of(isa), .tasks = TASKS * pool_size(pool)};
    struct limits l = {0};
    if (!p.k) return l;
    for (int i = 0; i < PEAK_COUNT; i++) l.peak[i] = compute_rate(pool, p.k->rounds[i], &p);
    if (!(p.buffer = hugemem_map(buffer_bytes))) return l;
    pool_run(pool, p.tasks, touch_part, &p);
    l.read = (double)buffer_bytes / best_of(pool, read_part, &p);
    hugemem_unmap(p.buffer, buffer_bytes);
    return l;
}
