/* Streams and launches. A stream is a queue of closures that some host thread drains: the one that adds to
 * it, or under CUEMU_LAZY the one that waits. To ThreadSanitizer a stream is a thread of its own, so host
 * code that touches a pinned buffer before its event is a race. */
#include "stream.h"
#include <map>
#include <unistd.h>

struct streams {
    std::vector<stream_ref> all;
    std::map<int, stream_ref> null_of;
    std::map<const void *, size_t> dynamic_limit;
    unsigned ids = 0;
};
spin_lock stream_lock;
__thread int stream_captures;
static streams *all; /* never freed, as with device memory */

bool cuemu_capturing(void) { return stream_captures > 0; }
std::vector<stream_ref> *stream_all(void) { return &all->all; }
static bool lazy(void) { return cuemu_env("CUEMU_LAZY", 0) != 0; }

static stream_ref stream_new(int device, bool blocking) /* lock held */
{
    stream_ref s = std::make_shared<stream>();
    s->id = ++all->ids;
    s->device = device;
    s->blocking = blocking;
    if (__tsan_create_fiber) s->tsan = __tsan_create_fiber(0);
    all->all.push_back(s);
    return s;
}

stream_ref stream_of(cudaStream_t h)
{
    if (h == cudaStreamPerThread) cuemu_fail("the per-thread default stream has no twin");
    if (h && h != cudaStreamLegacy) return h->s;
    locked l(stream_lock);
    if (!all) all = new streams();
    stream_ref &s = all->null_of[cuemu_device()];
    if (!s) s = stream_new(cuemu_device(), true);
    return s;
}

/* ---- running ---- */

static void run_one(stream *s) /* lock held, and held again at the end */
{
    std::unique_ptr<work_item> w = std::move(s->q.front());
    s->q.pop_front();
    s->busy = true;
    stream_lock.unlock();
    identities *outer = fiber_identities;
    fiber_identities = &s->ids;
    void *here = __tsan_get_current_fiber ? __tsan_get_current_fiber() : 0;
    if (here) __tsan_switch_to_fiber(s->tsan, 1);
    hb_acquire(&w->hb);
    cuemu_memory_open();
    w->run();
    cuemu_memory_close();
    hb_release(&s->hb);
    w.reset();
    if (here) __tsan_switch_to_fiber(here, 1);
    fiber_identities = outer;
    stream_lock.lock();
    s->busy = false;
    s->ran++;
}

void stream_drain(stream *s, uint64_t pos)
{
    stream_lock.lock();
    while (s->ran < pos) {
        if (!s->busy) {
            run_one(s);
            continue;
        }
        stream_lock.unlock();
        usleep(50);
        stream_lock.lock();
    }
    bool join = s->helped && s->help_ended;
    if (join) s->helped = false;
    pthread_t helper = s->helper;
    stream_lock.unlock();
    if (join) pthread_join(helper, 0);
}

static void *help_main(void *arg)
{
    stream *s = (stream *)arg;
    stream_lock.lock();
    if (!s->busy && !s->q.empty()) run_one(s);
    s->help_ended = true;
    stream_lock.unlock();
    return 0;
}

/* A kernel waits for another device whose stream nobody drains at the moment: on a GPU that stream would run.
 */
bool cuemu_help(void)
{
    locked l(stream_lock);
    for (stream_ref &s : all->all) {
        if (s->busy || s->q.empty() || (s->helped && !s->help_ended)) continue;
        if (s->helped) pthread_join(s->helper, 0);
        s->help_ended = false;
        s->helped = !pthread_create(&s->helper, 0, help_main, s.get());
        return s->helped;
    }
    return false;
}

/* Work of the null stream follows all blocking streams of its device, and the other way round. */
static cuemu_work ordered(const stream_ref &s, cuemu_work w) /* lock held */
{
    std::vector<std::pair<stream_ref, uint64_t>> first;
    stream *null_stream = all->null_of[s->device].get();
    if (!s->blocking) return w;
    for (stream_ref &o : all->all)
        if (o != s && o->blocking && o->device == s->device && o->ran < o->pushed &&
            (s.get() == null_stream || o.get() == null_stream))
            first.push_back({o, o->pushed});
    if (first.empty()) return w;
    return [first, w] {
        for (auto &f : first) {
            stream_drain(f.first.get(), f.second);
            hb_acquire(&f.first->hb);
        }
        w();
    };
}

uint64_t stream_submit(const stream_ref &s, cuemu_work w)
{
    stream_lock.lock();
    if (s->capture) {
        s->capture->work.push_back(w);
        s->unjoined = s->id != s->capture->origin;
        stream_lock.unlock();
        return s->pushed;
    }
    std::unique_ptr<work_item> item(new work_item());
    item->run = ordered(s, std::move(w));
    hb_release(&item->hb);
    s->q.push_back(std::move(item));
    uint64_t pos = ++s->pushed;
    stream_lock.unlock();
    if (!lazy()) stream_drain(s.get(), pos);
    return pos;
}

void cuemu_submit(cudaStream_t h, cuemu_work w)
{
    quiet q;
    stream_submit(stream_of(h), std::move(w));
}

void stream_wait(const stream_ref &s, uint64_t pos)
{
    stream_drain(s.get(), pos);
    hb_acquire(&s->hb);
}

/* Polling makes progress, one piece of work a call. */
cudaError_t stream_query(const stream_ref &s, uint64_t pos)
{
    quiet q;
    stream_lock.lock();
    bool done = s->ran >= pos;
    if (!done && !s->busy) run_one(s.get());
    stream_lock.unlock();
    return done ? cudaSuccess : cudaErrorNotReady;
}

void cuemu_drain_device(int device)
{
    stream_lock.lock();
    std::vector<stream_ref> mine;
    if (all)
        for (stream_ref &s : all->all)
            if (s->device == device) mine.push_back(s);
    stream_lock.unlock();
    for (stream_ref &s : mine) stream_wait(s, s->pushed);
}

/* ---- launches ---- */

size_t cuemu_dynamic_limit(const void *kernel)
{
    locked l(stream_lock);
    if (!all) all = new streams();
    auto i = all->dynamic_limit.find(kernel);
    return i == all->dynamic_limit.end() ? 48 << 10 : i->second;
}

void cuemu_enqueue(cuemu_launch l, cudaStream_t h)
{
    quiet q;
    stream_ref s = stream_of(h);
    size_t threads = (size_t)l.block.x * l.block.y * l.block.z;
    if (s->device != cuemu_device())
        cuemu_fail("launch of %s: the stream belongs to device %d, the thread's device is %d", l.name,
                   s->device, cuemu_device());
    if (!threads || threads > 1024 || l.block.z > 64 || !l.grid.x || !l.grid.y || !l.grid.z ||
        l.grid.y > 65535 || l.grid.z > 65535 || l.grid.x > INT32_MAX)
        cuemu_fail("launch of %s: grid (%u,%u,%u), block (%u,%u,%u)", l.name, l.grid.x, l.grid.y, l.grid.z,
                   l.block.x, l.block.y, l.block.z);
    if (l.smem > cuemu_dynamic_limit(l.kernel))
        cuemu_fail("launch of %s: %zu bytes of dynamic shared memory, allowed are %zu (cudaFuncSetAttribute)",
                   l.name, l.smem, cuemu_dynamic_limit(l.kernel));
    auto kept = std::make_shared<cuemu_launch>(std::move(l));
    stream_submit(s, [kept] { cuemu_run(*kept); });
}

extern "C" {
cudaError_t CUDARTAPI cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute a, int v)
{
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (v < 0 || v > SMEM_MAX) return cuemu_error(cudaErrorInvalidValue);
    cuemu_dynamic_limit(kernel);
    locked l(stream_lock);
    all->dynamic_limit[kernel] = (size_t)v;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaFuncGetAttributes(cudaFuncAttributes *a, const void *kernel)
{
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024;
    a->maxDynamicSharedSizeBytes = (int)cuemu_dynamic_limit(kernel);
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *, int threads,
                                                                    size_t smem)
{
    int by_threads = 2048 / (threads < 1 ? 1 : threads), by_smem = (int)((228 << 10) / (smem + 1024));
    *n = by_threads < by_smem ? by_threads : by_smem;
    if (*n > 32) *n = 32;
    return cudaSuccess;
}

/* ---- streams ---- */

cudaError_t CUDARTAPI cudaStreamCreateWithFlags(cudaStream_t *h, unsigned flags)
{
    quiet q;
    stream_of(0);
    locked l(stream_lock);
    *h = new CUstream_st{stream_new(cuemu_device(), !(flags & cudaStreamNonBlocking))};
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaStreamCreate(cudaStream_t *h)
{
    return cudaStreamCreateWithFlags(h, cudaStreamDefault);
}
cudaError_t CUDARTAPI cudaStreamCreateWithPriority(cudaStream_t *h, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(h, flags);
}
cudaError_t CUDARTAPI cudaStreamDestroy(cudaStream_t h)
{
    quiet q;
    stream_ref s = stream_of(h);
    stream_wait(s, s->pushed);
    stream_lock.lock();
    for (size_t i = 0; i < all->all.size(); i++)
        if (all->all[i] == s) all->all.erase(all->all.begin() + (ptrdiff_t)i--);
    bool join = s->helped;
    stream_lock.unlock();
    if (join) pthread_join(s->helper, 0);
    for (void *id : s->ids) __tsan_destroy_fiber(id);
    if (__tsan_destroy_fiber) __tsan_destroy_fiber(s->tsan);
    delete h;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t h)
{
    quiet q;
    stream_ref s = stream_of(h);
    if (s->capture) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    stream_wait(s, s->pushed);
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaStreamQuery(cudaStream_t h)
{
    stream_ref s = stream_of(h);
    if (s->capture) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    cudaError_t e = stream_query(s, s->pushed);
    if (e == cudaSuccess) hb_acquire(&s->hb);
    return e;
}
cudaError_t CUDARTAPI cudaDeviceSynchronize(void)
{
    quiet q;
    if (stream_captures) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    cuemu_drain_device(cuemu_device());
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaLaunchHostFunc(cudaStream_t h, cudaHostFn_t fn, void *arg)
{
    cuemu_submit(h, [=] { fn(arg); });
    return cudaSuccess;
}
}
