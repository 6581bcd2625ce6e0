/* What the emulator's own files share: hooks into the sanitizers, fibers, the machine that runs one launch,
 * devices and streams. The runtime is compiled without instrumentation and tells ThreadSanitizer by hand
 * which events order memory; it therefore locks with a lock of its own, which ThreadSanitizer does not see
 * and takes for no order. */
#pragma once
#include "cuemu.h"
#include <vector>

extern "C" {
#define WEAK __attribute__((weak))
void *__tsan_get_current_fiber(void) WEAK;
void *__tsan_create_fiber(unsigned) WEAK;
void __tsan_destroy_fiber(void *) WEAK;
void __tsan_switch_to_fiber(void *, unsigned) WEAK;
void __tsan_acquire(void *) WEAK;
void __tsan_release(void *) WEAK;
void __tsan_read_range(void *, unsigned long) WEAK;
void __tsan_write_range(void *, unsigned long) WEAK;
void __tsan_ignore_thread_begin(void) WEAK;
void __tsan_ignore_thread_end(void) WEAK;
void __sanitizer_start_switch_fiber(void **, const void *, size_t) WEAK;
void __sanitizer_finish_switch_fiber(void *, const void **, size_t *) WEAK;
void __asan_poison_memory_region(void const volatile *, size_t) WEAK;
void __asan_unpoison_memory_region(void const volatile *, size_t) WEAK;
void *__asan_region_is_poisoned(void *, size_t) WEAK;
void cuemu_switch(void **save, void *load);
}

static inline void hb_release(void *p)
{
    if (__tsan_release) __tsan_release(p);
}
static inline void hb_acquire(void *p)
{
    if (__tsan_acquire) __tsan_acquire(p);
}
/* While one lives ThreadSanitizer ignores this thread's accesses (it would see those of memcpy and free). */
struct quiet {
    quiet()
    {
        if (__tsan_ignore_thread_begin) __tsan_ignore_thread_begin();
    }
    ~quiet()
    {
        if (__tsan_ignore_thread_end) __tsan_ignore_thread_end();
    }
};
/* Inside a quiet scope: what follows is seen. */
struct loud {
    loud()
    {
        if (__tsan_ignore_thread_end) __tsan_ignore_thread_end();
    }
    ~loud()
    {
        if (__tsan_ignore_thread_begin) __tsan_ignore_thread_begin();
    }
};
/* A copy no interceptor notices. */
static inline void copy_bytes(void *dst, const void *src, size_t n)
{
    char *d = (char *)dst;
    const char *s = (const char *)src;
    for (; n >= 8; n -= 8, d += 8, s += 8) __builtin_memcpy(d, s, 8);
    for (; n; n--) *d++ = *s++;
}
struct spin_lock {
    int held = 0;
    void lock();
    void unlock() { __atomic_store_n(&held, 0, __ATOMIC_RELEASE); }
};
struct locked {
    spin_lock &l;
    explicit locked(spin_lock &x) : l(x) { l.lock(); }
    ~locked() { l.unlock(); }
};

/* ---- fibers (fiber.cpp) ---- */

struct fiber;
struct block;
struct wait_list {
    fiber *head = 0, *tail = 0;
    void add(fiber *f);
};
struct copy16 { /* a cp.async not yet waited for */
    char *dst;
    const char *src;
    int n, valid;
};
template <class T> struct groups { /* committed groups end at end[0], end[1], ...; what follows is open */
    std::vector<T> op;
    std::vector<size_t> end;
    bool empty() const { return op.empty(); }
    void commit() { end.push_back(op.size()); }
    template <class F> void wait(size_t keep, F run)
    {
        if (end.size() <= keep) return;
        size_t done = end.size() - keep, n = end[done - 1];
        for (size_t i = 0; i < n; i++) run(op[i]);
        quiet q;
        op.erase(op.begin(), op.begin() + n);
        end.erase(end.begin(), end.begin() + done);
        for (size_t &e : end) e -= n;
    }
};
struct fiber {
    cuemu_thread t; /* first: cuemu_self points here */
    void *sp = 0;
    char *stack = 0;
    void *tsan = 0, *fake = 0;
    block *blk = 0;
    fiber *next = 0;
    cuemu_site at = {0, 0};
    bool done = false, spinning = false, fenced = false;
    const void *atomic = 0; /* its last atomic, which the next fence makes an acquire */
    groups<copy16> copies;
    groups<cuemu_work> mma;
};
enum { STACK_BYTES = 128 << 10, PAGE = 4096 };
fiber *fiber_new(void);
void fiber_prepare(fiber *f, void (*entry)(void));
/* What ThreadSanitizer takes the CUDA threads of a stream for, or NULL without it. Two accesses of one
 * identity count as ordered, and who hears of one hears of all: so no two threads of a launch share one, up
 * to IDENTITIES (each costs nearly 1 MB); blocks further apart do. The stream's next launch has them again,
 * as it is ordered after this one. */
typedef std::vector<void *> identities;
static const size_t IDENTITIES = 1024;
extern __thread identities *fiber_identities __attribute__((tls_model("initial-exec"))); /* the stream's */
void *fiber_identity(size_t i);

/* ---- one launch (schedule.cpp) ----
 *
 * A tag (hb) remembers for ever what was released to it, so nobody has a tag that served others: a launch and
 * a block get new ones, or else blocks would seem ordered. */

struct barrier {
    int arrived = 0, count = 0;
    unsigned gen = 0;
    bool whole = false; /* all threads of the block must come, to the same line */
    cuemu_site at = {0, 0};
    wait_list q;
    char *hb; /* two */
};
struct collective {
    unsigned mask = 0, arrived = 0, gen = 0;
    cuemu_site at = {0, 0};
    wait_list q;
    char *hb; /* two */
    unsigned char table[2][32 * CUEMU_SLOT];
};
struct warp {
    unsigned exist = 0, exited = 0;
    collective c[12]; /* one per mask in use */
};
struct block {
    int live = 0, threads = 0;
    barrier bar[16];
    std::vector<warp> warps;
    wait_list mbar_q;
    char *smem = 0; /* [SMEM_MAX], then the tags */
    size_t used = 0, statics_bytes = 0;
    std::vector<std::pair<const void *, size_t>> statics;
};
enum { SMEM_MAX = 227 << 10, SMEM_STATIC_MAX = 48 << 10 };
struct launch_tags {
    char begin, end, grid[2];
};
enum order { FORWARD, REVERSE, RANDOM };

struct machine { /* runs one launch at a time; a host thread borrows one */
    std::vector<fiber *> pool, ready;
    size_t ready_head = 0;
    std::vector<block> blocks;
    std::vector<cuemu_work> engine; /* the copy engine's pending work */
    fiber *cur = 0;
    void *host_sp = 0, *host_tsan = 0, *host_fake = 0;
    const void *host_stack = 0;
    size_t host_stack_bytes = 0;
    const cuemu_launch *now = 0;
    order ord = FORWARD;
    uint64_t rng = 1, switches = 0;
    int live = 0;
    barrier grid;
    unsigned idle = 0; /* spins since something moved, and since when */
    double idle_since = 0;
    launch_tags *hb = 0;
    machine *next_free = 0;
};
extern __thread machine *cuemu_machine __attribute__((tls_model("initial-exec")));

void cuemu_run(const cuemu_launch &l);
void sched_wait(wait_list *q, cuemu_site at); /* the current fiber sleeps */
void sched_wake(wait_list *q);
void sched_moved(void); /* something happened, so a spinning kernel is not stuck */
uint32_t sched_random(machine *m);
/* For any wait on other host threads: gives way, lets waiting streams run, aborts after CUEMU_SPIN seconds.
 */
bool cuemu_idle(double *since);
double cuemu_clock(void);

/* ---- devices, memory and streams (device.cpp, memory.cpp, stream.cpp) ---- */

enum { DEVICES_MAX = 16 };
int cuemu_device(void);                 /* the host thread's */
cudaError_t cuemu_error(cudaError_t e); /* remembers it for cudaGetLastError */
size_t cuemu_env(const char *name, size_t otherwise);
size_t cuemu_memory_size(void);
void cuemu_memory_open(void), cuemu_memory_close(void); /* around device work, for CUEMU_STRICT */
enum place { PAGEABLE, PINNED, DEVICE };
place cuemu_place(const void *p, size_t bytes, bool *fits);
void cuemu_submit(cudaStream_t s, cuemu_work w);
bool cuemu_capturing(void); /* does this thread capture, so that allocations and waits are forbidden? */
bool cuemu_help(void);      /* starts one piece of work that waits on an idle stream, elsewhere */
void cuemu_drain_device(int device);
