/* Runs one launch: makes the fibers of a block, decides who goes next, reports deadlocks. A machine is
 * borrowed by a host thread for the length of a launch, so several launches run at once on several host
 * threads. */
#include "runtime.h"
#include <algorithm>
#include <memory>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

__thread cuemu_thread *cuemu_self;
__thread machine *cuemu_machine;
static spin_lock free_lock;
static machine *free_machines;

void spin_lock::lock()
{
    while (__atomic_exchange_n(&held, 1, __ATOMIC_ACQUIRE)) sched_yield();
}

double cuemu_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_thread(FILE *to, const fiber *f)
{
    fprintf(to, "block (%u,%u,%u) thread (%u,%u,%u)", f->t.bid.x, f->t.bid.y, f->t.bid.z, f->t.tid.x,
            f->t.tid.y, f->t.tid.z);
}

void cuemu_fail(const char *fmt, ...)
{
    machine *m = cuemu_machine;
    va_list ap;
    fflush(stdout);
    fprintf(stderr, "cuemu: ");
    if (m && m->now) fprintf(stderr, "kernel %s, ", m->now->name);
    if (m && m->cur) print_thread(stderr, m->cur), fprintf(stderr, ": ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    abort();
}

/* ---- who runs next ---- */

uint32_t sched_random(machine *m)
{
    m->rng ^= m->rng << 13;
    m->rng ^= m->rng >> 7;
    m->rng ^= m->rng << 17;
    return (uint32_t)(m->rng >> 32);
}

static void reverse_from(std::vector<fiber *> &v, size_t at)
{
    for (size_t i = at, j = v.size(); i + 1 < j; i++) std::swap(v[i], v[--j]);
}

void sched_moved(void) { cuemu_machine->idle = 0; }

void sched_wake(wait_list *q)
{
    machine *m = cuemu_machine;
    size_t at = m->ready.size();
    for (fiber *f = q->head; f; f = f->next) m->ready.push_back(f);
    if (m->ord == REVERSE) reverse_from(m->ready, at);
    q->head = q->tail = 0;
    m->idle = 0;
}

static void deadlock(machine *m, const char *how)
{
    int shown = 0, waiting = 0;
    fprintf(stderr, "cuemu: kernel %s is deadlocked, %s:\n", m->now->name, how);
    for (fiber *f : m->pool) {
        if (!f->blk || f->done || !f->at.file) continue;
        if (++waiting > 8) continue;
        fprintf(stderr, "  "), print_thread(stderr, f);
        fprintf(stderr, " %s %s:%d\n", f->spinning ? "spins at" : "waits at", f->at.file, f->at.line);
        shown++;
    }
    if (waiting > shown) fprintf(stderr, "  and %d more\n", waiting - shown);
    abort();
}

static void arrived(machine *m, bool from_host)
{
    if (!__sanitizer_finish_switch_fiber) return;
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(m->cur ? m->cur->fake : m->host_fake, &stack, &bytes);
    if (from_host) m->host_stack = stack, m->host_stack_bytes = bytes;
}

static void go(machine *m, fiber *to, bool dying) /* to == 0: back to the host */
{
    fiber *from = m->cur;
    void **save = from ? &from->sp : &m->host_sp;
    m->switches++;
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(dying  ? 0
                                       : from ? &from->fake
                                              : &m->host_fake,
                                       to ? to->stack : m->host_stack,
                                       to ? (size_t)STACK_BYTES : m->host_stack_bytes);
    m->cur = to;
    cuemu_self = to ? &to->t : 0;
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to ? to->tsan : m->host_tsan, 1);
    cuemu_switch(save, to ? to->sp : m->host_sp);
    arrived(m, false);
}

static void run_engine(machine *m)
{
    cuemu_work w = std::move(m->engine.front());
    m->engine.erase(m->engine.begin());
    w();
}

static fiber *pick(machine *m)
{
    for (;;) {
        bool any = m->ready_head < m->ready.size();
        if (!m->engine.empty() && (!any || (m->ord == RANDOM && sched_random(m) % 8 == 0))) {
            run_engine(m);
            continue;
        }
        if (any) break;
        if (m->live) deadlock(m, "every thread waits");
        return 0;
    }
    fiber **first = &m->ready[m->ready_head];
    if (m->ord == RANDOM) std::swap(*first, first[sched_random(m) % (m->ready.size() - m->ready_head)]);
    fiber *f = *first;
    if (++m->ready_head == m->ready.size())
        m->ready.clear(), m->ready_head = 0;
    else if (m->ready_head > 4096) {
        quiet q; /* erase calls memmove, which ThreadSanitizer watches */
        m->ready.erase(m->ready.begin(), m->ready.begin() + (ptrdiff_t)m->ready_head);
        m->ready_head = 0;
    }
    return f;
}

static void next(machine *m, bool dying)
{
    fiber *f = pick(m);
    if (f != m->cur) go(m, f, dying);
}

void sched_wait(wait_list *q, cuemu_site at)
{
    machine *m = cuemu_machine;
    m->cur->at = at;
    q->add(m->cur);
    next(m, false);
}

bool cuemu_idle(double *since)
{
    double t = cuemu_clock();
    if (!*since) *since = t;
    if (t - *since > .005) {
        if (!cuemu_help()) usleep(200);
        return t - *since < (double)cuemu_env("CUEMU_SPIN", 20);
    }
    sched_yield();
    return true;
}

/* Threads of this launch may spin for each other, or for a launch that another host thread runs. */
void cuemu_yield(cuemu_site at)
{
    quiet q;
    machine *m = cuemu_machine;
    m->cur->at = at;
    m->cur->spinning = true;
    if (!m->idle++) m->idle_since = 0;
    if (m->idle > (unsigned)m->live + 16 && m->engine.empty() && !cuemu_idle(&m->idle_since))
        deadlock(m, "nothing but spinning (blocks that wait for each other need LAUNCH_COOP)");
    m->ready.push_back(m->cur);
    next(m, false);
    m->cur->spinning = false;
}

/* ---- the life of a CUDA thread ---- */

static void end_of_thread(machine *m)
{
    quiet q;
    fiber *f = m->cur;
    block *b = f->blk;
    b->warps[f->t.warp].exited |= 1u << f->t.lane;
    if (!f->copies.empty()) cuemu_fail("exits with cp_async copies that nobody waited for");
    if (!f->mma.empty()) cuemu_fail("exits with wgmma that nobody waited for");
    if (b->bar[0].arrived && b->bar[0].whole)
        cuemu_fail("exits while others wait at the barrier %s:%d", b->bar[0].at.file, b->bar[0].at.line);
    f->done = true;
    b->live--;
    m->live--;
    m->idle = 0;
    hb_release(&m->hb->end);
}

static void thread_main(void)
{
    machine *m = cuemu_machine;
    arrived(m, !m->host_stack);
    hb_acquire(&m->hb->begin);
    m->now->body();
    end_of_thread(m);
    next(m, true);
    abort();
}

/* ---- blocks ---- */

static void prepare_smem(block *b, size_t dynamic)
{
    if (!b->smem || __tsan_create_fiber) { /* ThreadSanitizer forgets all about what is unmapped */
        if (b->smem) munmap(b->smem, SMEM_MAX + PAGE);
        void *p = mmap(0, SMEM_MAX + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) cuemu_fail("no memory for shared memory");
        b->smem = (char *)p;
    }
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(b->smem, SMEM_MAX);
    size_t reach = dynamic + SMEM_STATIC_MAX + PAGE;
    memset(b->smem, 0xff, reach < SMEM_MAX ? reach : (size_t)SMEM_MAX);
    if (__asan_poison_memory_region) {
        __asan_poison_memory_region(b->smem, SMEM_MAX);
        __asan_unpoison_memory_region(b->smem, dynamic);
    }
    b->statics.clear();
    b->statics_bytes = 0;
    b->used = dynamic + (__asan_poison_memory_region ? 32 : 0); /* a red zone between variables */
}

static void prepare_collectives(block *b)
{
    char *tags = b->smem + SMEM_MAX;
    for (warp &w : b->warps) {
        w.exist = w.exited = 0;
        for (collective &c : w.c) {
            c.mask = c.arrived = 0;
            c.hb = tags, tags += 2;
        }
    }
    for (barrier &x : b->bar) {
        x.arrived = 0;
        x.hb = tags, tags += 2;
    }
}

/* The launch's k-th block, in the order in which they run. */
static void prepare_block(machine *m, block *b, size_t k, uint3 id)
{
    const cuemu_launch *l = m->now;
    unsigned n = l->block.x * l->block.y * l->block.z;
    size_t first = l->coop ? k * n : 0, ids = l->coop ? SIZE_MAX : std::max<size_t>(IDENTITIES, 2 * n);
    b->live = b->threads = (int)n;
    b->warps.resize((n + 31) / 32);
    prepare_smem(b, l->smem);
    prepare_collectives(b);
    for (unsigned i = 0; i < n; i++) {
        while (first + i >= m->pool.size()) m->pool.push_back(fiber_new());
        fiber *f = m->pool[first + i];
        fiber_prepare(f, thread_main);
        f->tsan = fiber_identity((k * n + i) % ids);
        f->blk = b;
        f->done = f->spinning = f->fenced = false;
        f->atomic = 0;
        f->at = {0, 0};
        f->t.bid = id;
        f->t.tid = {i % l->block.x, i / l->block.x % l->block.y, i / (l->block.x * l->block.y)};
        f->t.grid = l->grid;
        f->t.block = l->block;
        f->t.lane = (int)i % 32;
        f->t.warp = (int)i / 32;
        b->warps[i / 32].exist |= 1u << i % 32;
        m->ready.push_back(f);
    }
    m->live += (int)n;
}

static void run_ready(machine *m, size_t used)
{
    if (m->ord == REVERSE) reverse_from(m->ready, 0);
    next(m, false);
    while (!m->engine.empty()) run_engine(m);
    for (size_t i = 0; i < used; i++) m->pool[i]->blk = 0;
}

static void read_order(machine *m)
{
    const char *o = getenv("CUEMU_ORDER");
    m->ord = !o || *o == 'f' || !*o ? FORWARD : !strcmp(o, "reverse") ? REVERSE : RANDOM;
    const char *seed = o ? strchr(o, ':') : 0;
    m->rng = (seed ? strtoull(seed + 1, 0, 0) : 0) * 0x9e3779b97f4a7c15u + 1;
}

static machine *borrow(void)
{
    locked l(free_lock);
    machine *m = free_machines;
    if (m) free_machines = m->next_free;
    return m ? m : new machine();
}

static void give_back(machine *m)
{
    locked l(free_lock);
    m->next_free = free_machines;
    free_machines = m;
}

void cuemu_run(const cuemu_launch &l)
{
    quiet q;
    machine *m = borrow(), *outer = cuemu_machine;
    std::unique_ptr<launch_tags> hb(new launch_tags());
    uint3 g = {l.grid.x, l.grid.y, l.grid.z};
    size_t blocks = (size_t)g.x * g.y * g.z, threads = (size_t)l.block.x * l.block.y * l.block.z;
    cuemu_machine = m;
    m->now = &l;
    m->host_stack = 0;
    m->switches = m->idle = 0;
    m->grid.arrived = 0;
    m->hb = hb.get();
    m->grid.hb = hb->grid;
    read_order(m);
    if (m->blocks.size() < (l.coop ? blocks : 1)) m->blocks.resize(l.coop ? blocks : 1);
    if (__tsan_get_current_fiber) m->host_tsan = __tsan_get_current_fiber();
    hb_release(&hb->begin);
    for (size_t k = 0; k < blocks; k++) {
        size_t i = m->ord == REVERSE && !l.coop ? blocks - 1 - k : k;
        uint3 id = {(unsigned)(i % g.x), (unsigned)(i / g.x % g.y), (unsigned)(i / ((size_t)g.x * g.y))};
        prepare_block(m, &m->blocks[l.coop ? k : 0], k, id);
        if (l.coop && k + 1 < blocks) continue;
        run_ready(m, l.coop ? blocks * threads : threads);
    }
    hb_acquire(&hb->end);
    if (getenv("CUEMU_STATS"))
        fprintf(stderr, "cuemu: %s: %zu blocks of %zu, %zu bytes shared, %llu switches\n", l.name, blocks,
                threads, m->blocks[0].used, (unsigned long long)m->switches);
    m->now = 0;
    cuemu_self = 0;
    cuemu_machine = outer;
    give_back(m);
}
