/* NCCL between the threads of one process: what a rank enqueues runs in its stream's order and meets the
 * other ranks there. Sums are taken in rank order, so all ranks get the same bits. A team belongs to its
 * communicators and is guarded by its own lock; ranks that share a host thread must not block each other
 * (CUEMU_LAZY=1 lets them not). */
#include "runtime.h"
#include <map>
#include <memory>
#include <nccl.h>

struct part { /* what one rank brings to a collective */
    const void *send;
    size_t count;
    ncclDataType_t type;
    int op;
    const char *what;
};
struct parcel {
    int from, to;
    const void *data;
    size_t bytes;
    bool taken;
    char hb[2]; /* sent, taken */
};
struct team {
    spin_lock lock;
    int size;
    std::vector<part> parts;
    std::vector<bool> joined;
    int arrived = 0;
    unsigned gen = 0;
    bool aborted = false;
    char hb[2];
    std::vector<std::shared_ptr<parcel>> mail;
};
struct ncclComm {
    std::shared_ptr<team> t;
    int rank, device;
};
struct message { /* one ncclSend or ncclRecv of a group */
    ncclComm *c;
    const void *send;
    void *recv;
    size_t bytes;
    int peer;
    cudaStream_t stream;
};
static spin_lock teams_lock;
static std::map<uint64_t, std::weak_ptr<team>> *teams;
static __thread int group_depth __attribute__((tls_model("initial-exec")));
static __thread std::vector<message> *group __attribute__((tls_model("initial-exec")));

template <class F> static bool wait_until(team *t, const char *what, int rank, F ready)
{
    double since = 0;
    for (;;) {
        {
            locked l(t->lock);
            if (t->aborted) return false;
            if (ready()) return true;
        }
        if (!cuemu_idle(&since))
            cuemu_fail("nccl: rank %d waits in %s for ranks that do not come", rank, what);
    }
}

static bool meet(team *t, const char *what, int rank)
{
    t->lock.lock();
    unsigned gen = t->gen;
    hb_release(&t->hb[gen & 1]);
    bool last = ++t->arrived == t->size;
    if (last) t->arrived = 0, t->gen++;
    t->lock.unlock();
    bool ok = last || wait_until(t, what, rank, [=] { return t->gen != gen; });
    hb_acquire(&t->hb[gen & 1]);
    return ok;
}

static size_t type_size(ncclDataType_t t)
{
    switch (t) {
    case ncclInt8:
    case ncclUint8: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32: return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64: return 8;
    default: cuemu_fail("nccl: data type %d has no twin", (int)t);
    }
}
static double get(const void *p, ncclDataType_t t, size_t i)
{
    switch (t) {
    case ncclFloat32: return ((const float *)p)[i];
    case ncclBfloat16: return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    case ncclFloat16: return __half2float(((const __half *)p)[i]);
    case ncclInt32: return ((const int32_t *)p)[i];
    default: cuemu_fail("nccl: reduction of type %d has no twin", (int)t);
    }
}
static void put(void *p, ncclDataType_t t, size_t i, double v)
{
    switch (t) {
    case ncclFloat32: ((float *)p)[i] = (float)v; break;
    case ncclBfloat16: ((__nv_bfloat16 *)p)[i] = __float2bfloat16((float)v); break;
    case ncclFloat16: ((__half *)p)[i] = __float2half((float)v); break;
    default: ((int32_t *)p)[i] = (int32_t)v; break;
    }
}

/* ---- collectives: op is a reduction, or one of these ---- */

enum { GATHER = 100, BROADCAST = 200 /* + root */ };

static void collect(team *t, const part &mine, int first, size_t count, void *out) /* into private memory */
{
    size_t width = type_size(mine.type);
    if (mine.op >= BROADCAST)
        copy_bytes(out, t->parts[(size_t)(mine.op - BROADCAST)].send, count * width);
    else if (mine.op == GATHER)
        for (size_t r = 0; r < t->parts.size(); r++)
            copy_bytes((char *)out + r * mine.count * width, t->parts[r].send, mine.count * width);
    else
        for (size_t i = 0; i < count; i++) {
            double v = get(t->parts[0].send, mine.type, (size_t)first + i);
            for (size_t r = 1; r < t->parts.size(); r++) {
                double x = get(t->parts[r].send, mine.type, (size_t)first + i);
                if (mine.op == ncclSum)
                    v += x;
                else
                    v = mine.op == ncclMax ? (x > v ? x : v) : (x < v ? x : v);
            }
            put(out, mine.type, i, v);
        }
}

/* Every rank brings p.count elements and takes `take` from element `first` of the result on. */
static ncclResult_t collective_op(ncclComm *c, part p, size_t first, size_t take, void *recv, cudaStream_t s)
{
    std::shared_ptr<team> t = c->t;
    int rank = c->rank;
    if (p.op < GATHER && p.op != ncclSum && p.op != ncclMax && p.op != ncclMin) return ncclInvalidArgument;
    cuemu_submit(s, [=] {
        quiet q;
        size_t bytes = take * type_size(p.type);
        std::vector<char> out(bytes);
        t->parts[(size_t)rank] = p;
        if (!meet(t.get(), p.what, rank)) return;
        for (const part &o : t->parts)
            if (o.count != p.count || o.type != p.type || o.op != p.op)
                cuemu_fail("nccl: rank %d is in %s of %zu elements, another in %s of %zu", rank, p.what,
                           p.count, o.what, o.count);
        if (__tsan_read_range)
            for (const part &o : t->parts) {
                loud l;
                __tsan_read_range((void *)o.send, p.count * type_size(p.type));
            }
        collect(t.get(), p, (int)first, take, out.data());
        if (!meet(t.get(), p.what, rank)) return; /* nobody reads any more */
        loud l;
        memcpy(recv, out.data(), bytes);
    });
    return ncclSuccess;
}

extern "C" {
ncclResult_t ncclAllReduce(const void *send, void *recv, size_t n, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t c, cudaStream_t s)
{
    return collective_op(c, {send, n, type, (int)op, "ncclAllReduce"}, 0, n, recv, s);
}
ncclResult_t ncclReduceScatter(const void *send, void *recv, size_t n, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t c, cudaStream_t s)
{
    size_t all = n * (size_t)c->t->size;
    return collective_op(c, {send, all, type, (int)op, "ncclReduceScatter"}, n * (size_t)c->rank, n, recv, s);
}
ncclResult_t ncclAllGather(const void *send, void *recv, size_t n, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t s)
{
    return collective_op(c, {send, n, type, GATHER, "ncclAllGather"}, 0, n * (size_t)c->t->size, recv, s);
}
ncclResult_t ncclBroadcast(const void *send, void *recv, size_t n, ncclDataType_t type, int root,
                           ncclComm_t c, cudaStream_t s)
{
    return collective_op(c, {send, n, type, BROADCAST + root, "ncclBroadcast"}, 0, n, recv, s);
}

/* ---- messages: a group posts all its sends before it waits for anything ---- */

static void exchange(const std::vector<message> &all)
{
    quiet q;
    std::vector<std::pair<team *, std::shared_ptr<parcel>>> sent;
    for (const message &m : all)
        if (m.send) {
            auto p = std::make_shared<parcel>(parcel{m.c->rank, m.peer, m.send, m.bytes, false, {}});
            hb_release(&p->hb[0]);
            locked l(m.c->t->lock);
            m.c->t->mail.push_back(p);
            sent.push_back({m.c->t.get(), p});
        }
    for (const message &m : all)
        if (m.recv) {
            team *t = m.c->t.get();
            std::shared_ptr<parcel> p;
            bool ok = wait_until(t, "ncclRecv", m.c->rank, [&] {
                for (size_t i = 0; i < t->mail.size(); i++)
                    if (t->mail[i]->from == m.peer && t->mail[i]->to == m.c->rank) {
                        p = t->mail[i];
                        t->mail.erase(t->mail.begin() + (ptrdiff_t)i);
                        return true;
                    }
                return false;
            });
            if (!ok) return;
            if (p->bytes != m.bytes)
                cuemu_fail("nccl: rank %d expects %zu bytes from %d, which sends %zu", m.c->rank, m.bytes,
                           m.peer, p->bytes);
            hb_acquire(&p->hb[0]);
            {
                loud l;
                memcpy(m.recv, p->data, m.bytes);
            }
            hb_release(&p->hb[1]);
            locked l(t->lock);
            p->taken = true;
        }
    for (auto &x : sent) {
        if (!wait_until(x.first, "ncclSend", x.second->from, [&] { return x.second->taken; })) return;
        hb_acquire(&x.second->hb[1]);
    }
}
static ncclResult_t post(const message &m)
{
    if (m.peer < 0 || m.peer >= m.c->t->size) return ncclInvalidArgument;
    if (!group_depth)
        cuemu_submit(m.stream, [m] { exchange({m}); });
    else {
        if (!group) group = new std::vector<message>();
        group->push_back(m);
    }
    return ncclSuccess;
}
ncclResult_t ncclSend(const void *p, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s)
{
    return post({c, p, 0, n * type_size(type), peer, s});
}
ncclResult_t ncclRecv(void *p, size_t n, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s)
{
    return post({c, 0, p, n * type_size(type), peer, s});
}
ncclResult_t ncclGroupStart(void)
{
    group_depth++;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void)
{
    if (group_depth < 1) return ncclInvalidUsage;
    if (--group_depth || !group) return ncclSuccess;
    std::vector<message> all;
    all.swap(*group);
    delete group;
    group = 0;
    while (!all.empty()) { /* one piece of work per stream */
        std::vector<message> mine, rest;
        for (const message &m : all) (m.stream == all[0].stream ? mine : rest).push_back(m);
        cuemu_submit(mine[0].stream, [mine] { exchange(mine); });
        all = rest;
    }
    return ncclSuccess;
}

/* ---- communicators ---- */

ncclResult_t ncclGetVersion(int *v)
{
    *v = NCCL_VERSION_CODE;
    return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static uint64_t last;
    uint64_t n = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    memset(id, 0, sizeof *id);
    memcpy(id, &n, sizeof n);
    return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *c, int size, ncclUniqueId id, int rank, ncclConfig_t *)
{
    uint64_t key;
    memcpy(&key, &id, sizeof key);
    if (size < 1 || rank < 0 || rank >= size || !key) return ncclInvalidArgument;
    locked l(teams_lock);
    if (!teams) teams = new std::map<uint64_t, std::weak_ptr<team>>();
    std::shared_ptr<team> t = (*teams)[key].lock();
    if (!t) {
        t = std::make_shared<team>();
        t->size = size;
        t->parts.resize((size_t)size);
        t->joined.resize((size_t)size);
        (*teams)[key] = t;
    }
    if (t->size != size || t->joined[(size_t)rank]) return ncclInvalidArgument;
    t->joined[(size_t)rank] = true;
    *c = new ncclComm{t, rank, cuemu_device()};
    return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t *c, int size, ncclUniqueId id, int rank)
{
    return ncclCommInitRankConfig(c, size, id, rank, 0);
}
ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    delete c;
    return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
ncclResult_t ncclCommAbort(ncclComm_t c)
{
    c->t->lock.lock();
    c->t->aborted = true;
    c->t->lock.unlock();
    return ncclCommDestroy(c);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *e)
{
    locked l(c->t->lock);
    *e = c->t->aborted ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t c, int *n)
{
    *n = c->t->size;
    return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t c, int *r)
{
    *r = c->rank;
    return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t e) { return e == ncclSuccess ? "no error" : "nccl failed"; }
const char *ncclGetLastError(ncclComm_t) { return ""; }
}
