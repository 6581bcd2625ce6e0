/* Barriers, warp collectives, mbarriers: who waits for whom, and what orders memory. All state is in the
 * machine of the calling host thread. */
#include "runtime.h"
#include "ptx_twin.h"

static bool same_place(cuemu_site a, cuemu_site b)
{
    return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}

/* The last of `need` lets all go. One flag byte per phase, so a fast thread's next arrival is not yet
 * ordered. */
static void meet(barrier *b, int need, bool whole, cuemu_site at)
{
    if (b->arrived && whole && !same_place(at, b->at))
        cuemu_fail("divergent barrier: %s:%d here, others wait at %s:%d", at.file, at.line, b->at.file,
                   b->at.line);
    if (b->arrived && need != b->count)
        cuemu_fail("barrier of %d threads at %s:%d, others expect %d", need, at.file, at.line, b->count);
    char *hb = &b->hb[b->gen & 1];
    b->at = at;
    b->whole = whole;
    b->count = need;
    hb_release(hb);
    if (++b->arrived == need) {
        b->arrived = 0;
        b->gen++;
        sched_wake(&b->q);
    } else
        sched_wait(&b->q, at);
    hb_acquire(hb);
}

void cuemu_syncthreads(cuemu_site at)
{
    quiet q;
    block *b = cuemu_machine->cur->blk;
    if (b->live != b->threads)
        cuemu_fail("barrier of the whole block after a thread has ended, %s:%d", at.file, at.line);
    meet(&b->bar[0], b->threads, true, at);
}

int cuemu_syncthreads_count(int p, cuemu_site at)
{
    static char tag;
    typedef int both[2];
    both &n = *(both *)cuemu_shared(&tag, sizeof(both), alignof(int));
    block *b = cuemu_machine->cur->blk;
    unsigned phase = b->bar[0].gen & 1;
    if (!b->bar[0].arrived) n[phase] = 0;
    n[phase] += p;
    cuemu_syncthreads(at);
    return n[phase];
}

void cuemu_named_barrier(int id, int n, cuemu_site at)
{
    quiet q;
    block *b = cuemu_machine->cur->blk;
    if (id < 1 || id > 15 || n % 32 || n < 32 || n > b->threads)
        cuemu_fail("named barrier %d of %d threads at %s:%d", id, n, at.file, at.line);
    meet(&b->bar[id], n, false, at);
}

void cuemu_grid_sync(cuemu_site at)
{
    quiet q;
    machine *m = cuemu_machine;
    const cuemu_launch *l = m->now;
    if (!l->coop) cuemu_fail("grid barrier in a launch that is not cooperative, %s:%d", at.file, at.line);
    meet(&m->grid, (int)(l->grid.x * l->grid.y * l->grid.z) * m->cur->blk->threads, true, at);
}

/* A fence orders memory where an atomic carries it from one thread to another: it makes the thread's atomics
 * from now on release and acquire, and the one before it acquire. (Hidden from ThreadSanitizer are only
 * stores between a fence and the atomic.) */
void cuemu_fence(void)
{
    fiber *f = cuemu_machine->cur;
    f->fenced = true;
    if (f->atomic) hb_acquire((void *)f->atomic);
}

bool cuemu_fenced(const void *atomic)
{
    fiber *f = cuemu_machine->cur;
    f->atomic = atomic;
    return f->fenced;
}

/* ---- warp collectives ---- */

static collective *collective_of(warp *w, unsigned mask)
{
    for (collective &c : w->c)
        if (c.mask == mask) return &c;
    for (collective &c : w->c)
        if (!c.mask) {
            c.mask = mask;
            return &c;
        }
    cuemu_fail("more than %zu different masks in one warp", sizeof w->c / sizeof w->c[0]);
}

const unsigned char *cuemu_exchange(unsigned mask, const void *v, size_t bytes, bool order, cuemu_site at)
{
    quiet q;
    fiber *f = cuemu_machine->cur;
    warp *w = &f->blk->warps[f->t.warp];
    unsigned me = 1u << f->t.lane, need = mask & w->exist;
    if (!(mask & me))
        cuemu_fail("lane %d is not in its own mask %08x, %s:%d", f->t.lane, mask, at.file, at.line);
    if (need & w->exited) cuemu_fail("mask %08x names lanes that have ended, %s:%d", mask, at.file, at.line);
    collective *c = collective_of(w, mask);
    if (c->arrived && !same_place(at, c->at))
        cuemu_fail("divergent warp: %s:%d here, others wait at %s:%d", at.file, at.line, c->at.file,
                   c->at.line);
    unsigned phase = c->gen & 1;
    c->at = at;
    copy_bytes(c->table[phase] + f->t.lane * CUEMU_SLOT, v, bytes);
    if (order) hb_release(&c->hb[phase]);
    c->arrived |= me;
    if (c->arrived == need) {
        c->arrived = 0;
        c->gen++;
        sched_wake(&c->q);
    } else
        sched_wait(&c->q, at);
    if (order) hb_acquire(&c->hb[phase]);
    return c->table[phase];
}

void cuemu_pick(void *dst, const unsigned char *table, int lane, size_t bytes)
{
    copy_bytes(dst, table + lane * CUEMU_SLOT, bytes);
}

unsigned cuemu_ballot(unsigned mask, int p, cuemu_site at)
{
    fiber *f = cuemu_machine->cur;
    const unsigned char *table = cuemu_exchange(mask, &p, sizeof p, false, at);
    unsigned votes = 0, ask = mask & f->blk->warps[f->t.warp].exist;
    for (int i = 0; i < 32; i++)
        if (ask >> i & 1 && table[i * CUEMU_SLOT]) votes |= 1u << i;
    return votes;
}

/* ---- mbarrier: the 64 bits in shared memory ---- */

struct mbar {
    uint64_t count : 16, pending : 16;
    int64_t bytes : 31; /* of the copy engine, still to come in this phase */
    uint64_t phase : 1;
};
static_assert(sizeof(mbar) == sizeof(uint64_t));

static void mbar_settle(mbar *b)
{
    if (b->pending || b->bytes) return;
    hb_release((char *)b + b->phase);
    b->phase ^= 1;
    b->pending = b->count;
    for (block &k : cuemu_machine->blocks)
        if ((char *)b >= k.smem && (char *)b < k.smem + SMEM_MAX) sched_wake(&k.mbar_q);
}

static mbar *mbar_at(uint64_t *p)
{
    if (cuemu_smem_offset(p) % 8) cuemu_fail("an mbarrier must be 8-byte aligned");
    return (mbar *)p;
}

void mbar_init(uint64_t *p, int count) { *mbar_at(p) = {(uint64_t)count, (uint64_t)count, 0, 0}; }

void mbar_expect(uint64_t *p, int bytes)
{
    quiet q;
    mbar *b = mbar_at(p);
    if (!b->pending || b->count == 0xffff)
        cuemu_fail("mbarrier: not initialised, or more arrivals than its count");
    hb_release((char *)b + b->phase);
    b->bytes += bytes;
    b->pending--;
    mbar_settle(b);
}

void cuemu_mbar_complete(uint64_t *p, int bytes)
{
    mbar *b = (mbar *)p;
    b->bytes -= bytes;
    mbar_settle(b);
}

void cuemu_mbar_wait(uint64_t *p, int parity, cuemu_site at)
{
    quiet q;
    mbar *b = mbar_at(p);
    while (b->phase == (unsigned)parity) sched_wait(&cuemu_machine->cur->blk->mbar_q, at);
    hb_acquire((char *)b + parity);
}
