/* Device and pinned memory. An allocation lies between two guard pages, its end against the second; fresh
 * memory is NaN; under CUEMU_STRICT it is unreadable while no device work runs. All state is behind one lock.
 */
#include "runtime.h"
#include <map>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 256, POISON_CHUNK = 4 << 20 };
struct region {
    size_t mapped; /* bytes between the guard pages */
    char *at;      /* what cudaMalloc gave */
    size_t bytes;
    int device;
};
struct memory {
    std::map<char *, region> dev; /* by first mapped byte */
    std::map<char *, size_t> pinned;
    size_t used[DEVICES_MAX] = {};
    int open = 0; /* device work under way */
};
static spin_lock mem_lock;
static memory *mem; /* never freed: other threads may outlive this module's exit */

static memory *state(void)
{
    if (!mem) mem = new memory();
    return mem;
}

static bool strict(void) { return cuemu_env("CUEMU_STRICT", 0) != 0; }

/* ---- CUEMU_STRICT ---- */

static void protect_all(int prot)
{
    for (auto &r : state()->dev) mprotect(r.first, r.second.mapped, prot);
}
void cuemu_memory_open(void)
{
    if (!strict()) return;
    locked l(mem_lock);
    if (!state()->open++) protect_all(PROT_READ | PROT_WRITE);
}
void cuemu_memory_close(void)
{
    if (!strict()) return;
    locked l(mem_lock);
    if (!--state()->open) protect_all(PROT_NONE);
}

/* Says what a fault was before the handler that was there before has it. Only under CUEMU_STRICT. */
static struct sigaction before;
static void explain(int sig, siginfo_t *info, void *)
{
    char *a = (char *)info->si_addr;
    auto r = mem->dev.upper_bound(a + PAGE); /* the last region that begins, with its guard page, before a */
    sigaction(sig, &before, 0);              /* the access faults again, now for good */
    if (r == mem->dev.begin()) return;
    --r;
    if (a >= r->first + r->second.mapped + PAGE) return;
    if (!cuemu_self)
        fprintf(stderr, "cuemu: the host touched device memory at %p\n", (void *)a);
    else
        fprintf(stderr,
                "cuemu: kernel %s, block (%u,%u,%u) thread (%u,%u,%u): %p is out of bounds of the %zu bytes "
                "at %p\n",
                cuemu_machine->now->name, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y,
                threadIdx.z, (void *)a, r->second.bytes, (void *)r->second.at);
}
static void explain_faults(void)
{
    static bool installed;
    if (installed || !strict()) return;
    struct sigaction sa = {};
    sa.sa_sigaction = explain;
    sa.sa_flags = SA_SIGINFO;
    installed = !sigaction(SIGSEGV, &sa, &before);
}

/* ---- allocation ---- */

/* Maps 0xFF bytes over a region: copy-on-write pages of one file, so that a large pool costs nothing until
 * used. */
static bool poison(char *at, size_t bytes)
{
    static int file = -1;
    if (file < 0) {
        file = memfd_create("cuemu", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, POISON_CHUNK)) return false;
        void *m = mmap(0, POISON_CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (m == MAP_FAILED) return false;
        memset(m, 0xff, POISON_CHUNK);
        munmap(m, POISON_CHUNK);
    }
    for (size_t o = 0; o < bytes; o += POISON_CHUNK) {
        size_t n = bytes - o < POISON_CHUNK ? bytes - o : (size_t)POISON_CHUNK;
        if (mmap(at + o, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0) == MAP_FAILED)
            return false;
    }
    return true;
}

static bool all_poison(const char *from, const char *to)
{
    for (; from < to; from++)
        if (*from != (char)0xff) return false;
    return true;
}

extern "C" cudaError_t CUDARTAPI cudaMalloc(void **p, size_t n)
{
    quiet q;
    if (cuemu_capturing()) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    *p = 0;
    if (!n) return cudaSuccess;
    if (n > cuemu_memory_size()) return cuemu_error(cudaErrorMemoryAllocation);
    explain_faults();
    locked l(mem_lock);
    memory *m = state();
    size_t rounded = (n + ALIGN - 1) / ALIGN * ALIGN, mapped = (rounded + PAGE - 1) / PAGE * PAGE;
    if (m->used[cuemu_device()] + rounded > cuemu_memory_size())
        return cuemu_error(cudaErrorMemoryAllocation);
    char *a =
        (char *)mmap(0, mapped + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a == MAP_FAILED || !poison(a + PAGE, mapped)) return cuemu_error(cudaErrorMemoryAllocation);
    a += PAGE;
    char *at = a + mapped - rounded;
    if (__asan_poison_memory_region) {
        __asan_poison_memory_region(a, mapped);
        __asan_unpoison_memory_region(at, n);
    }
    m->dev[a] = {mapped, at, n, cuemu_device()};
    m->used[cuemu_device()] += rounded;
    if (strict() && !m->open) mprotect(a, mapped, PROT_NONE);
    *p = at;
    return cudaSuccess;
}

static void release_region(memory *m, std::map<char *, region>::iterator i)
{
    region r = i->second;
    char *a = i->first;
    mprotect(a, r.mapped, PROT_READ | PROT_WRITE);
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(a, r.mapped);
    if (!all_poison(a, r.at)) cuemu_fail("something wrote before the %zu bytes at %p", r.bytes, (void *)r.at);
    if (!all_poison(r.at + r.bytes, a + r.mapped))
        cuemu_fail("something wrote behind the %zu bytes at %p", r.bytes, (void *)r.at);
    munmap(a - PAGE, r.mapped + 2 * PAGE);
    m->used[r.device] -= (r.bytes + ALIGN - 1) / ALIGN * ALIGN;
    m->dev.erase(i);
}

extern "C" cudaError_t CUDARTAPI cudaFree(void *p)
{
    quiet q;
    if (!p) return cudaSuccess;
    if (cuemu_capturing()) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    for (int d = 0; d < DEVICES_MAX; d++) cuemu_drain_device(d);
    locked l(mem_lock);
    memory *m = state();
    auto i = m->dev.upper_bound((char *)p);
    if (i == m->dev.begin() || (--i)->second.at != p) return cuemu_error(cudaErrorInvalidValue);
    release_region(m, i);
    return cudaSuccess;
}

extern "C" cudaError_t CUDARTAPI cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    locked l(mem_lock);
    *total = cuemu_memory_size();
    *free_bytes = *total - state()->used[cuemu_device()];
    return cudaSuccess;
}

/* ---- pinned host memory ---- */

extern "C" cudaError_t CUDARTAPI cudaHostAlloc(void **p, size_t n, unsigned)
{
    quiet q;
    if (cuemu_capturing()) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    size_t rounded = (n + ALIGN - 1) / ALIGN * ALIGN;
    *p = aligned_alloc(ALIGN, rounded + ALIGN);
    if (!*p) return cuemu_error(cudaErrorMemoryAllocation);
    memset(*p, 0xff, rounded);
    locked l(mem_lock);
    state()->pinned[(char *)*p] = n;
    return cudaSuccess;
}
extern "C" cudaError_t CUDARTAPI cudaMallocHost(void **p, size_t n) { return cudaHostAlloc(p, n, 0); }
extern "C" cudaError_t CUDARTAPI cudaHostRegister(void *p, size_t n, unsigned)
{
    locked l(mem_lock);
    state()->pinned[(char *)p] = n;
    return cudaSuccess;
}
extern "C" cudaError_t CUDARTAPI cudaHostUnregister(void *p)
{
    locked l(mem_lock);
    return state()->pinned.erase((char *)p) ? cudaSuccess : cuemu_error(cudaErrorHostMemoryNotRegistered);
}
extern "C" cudaError_t CUDARTAPI cudaHostGetDevicePointer(void **d, void *h, unsigned)
{
    *d = h;
    return cudaSuccess;
}
extern "C" cudaError_t CUDARTAPI cudaFreeHost(void *p)
{
    if (!p) return cudaSuccess;
    for (int d = 0; d < DEVICES_MAX; d++) cuemu_drain_device(d);
    if (cudaHostUnregister(p) != cudaSuccess) return cuemu_error(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}

place cuemu_place(const void *p, size_t bytes, bool *fits)
{
    locked l(mem_lock);
    memory *m = state();
    char *a = (char *)p;
    *fits = true;
    auto d = m->dev.upper_bound(a);
    if (d != m->dev.begin() && a < std::prev(d)->first + std::prev(d)->second.mapped) {
        region &r = std::prev(d)->second;
        *fits = a >= r.at && bytes <= (size_t)(r.at + r.bytes - a);
        return DEVICE;
    }
    auto h = m->pinned.upper_bound(a);
    if (h != m->pinned.begin() && a < std::prev(h)->first + std::prev(h)->second) {
        *fits = bytes <= (size_t)(std::prev(h)->first + std::prev(h)->second - a);
        return PINNED;
    }
    return PAGEABLE;
}

extern "C" cudaError_t CUDARTAPI cudaPointerGetAttributes(cudaPointerAttributes *out, const void *p)
{
    bool fits;
    place at = cuemu_place(p, 1, &fits);
    memset(out, 0, sizeof *out);
    static const cudaMemoryType type_of[] = {cudaMemoryTypeUnregistered, cudaMemoryTypeHost,
                                             cudaMemoryTypeDevice};
    out->type = type_of[at];
    out->devicePointer = at == PAGEABLE ? 0 : (void *)p;
    out->hostPointer = at == PINNED ? (void *)p : 0;
    if (at == DEVICE) {
        locked l(mem_lock);
        out->device = std::prev(state()->dev.upper_bound((char *)p))->second.device;
    }
    return cudaSuccess;
}
