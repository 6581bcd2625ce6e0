/* Searching among a row's tokens, by one block of PICK_THREADS threads: which are the likeliest, and where a
 * running weight passes a mark. Sums are of integers, so the order of the tokens in memory does not matter.
 */
#pragma once
#include "sample.cuh"

struct amount { /* of tokens */
    int64_t n, mass;
};
#define NO_LIMIT (INT64_MAX / 2)
#define BINS     1024
struct pick_shared {
    unsigned n[BINS];
    unsigned long long mass[BINS];
    uint64_t key[PICK_THREADS];
    struct amount part[32];
    struct amount before; /* what find's bin comes after */
    int bin, n_bin;
    int32_t token;
};
/* Tokens to choose among: the lists, or the row itself. */
struct source {
    const uint2 *list[2];
    int n[2];
    const float *x; /* NULL: the lists */
    bool weighed;   /* x holds weights, as integers */
    float max, inv_t;
};
static __device__ __forceinline__ uint2 token_at(const struct source &s, int i)
{
    if (s.x) return make_uint2(i, s.weighed ? __float_as_int(s.x[i]) : weight(s.x[i], s.max, s.inv_t));
    return i < s.n[0] ? s.list[0][i] : s.list[1][i - s.n[0]];
}
/* Which of them: q > cut.q, or q == cut.q and id <= cut.last; and q <= most. */
struct cut {
    int32_t q, last, most;
    int64_t mass; /* of all that it leaves */
};

/* The sum of the threads before this one; all of them in *total. */
static __device__ struct amount sum_before(struct pick_shared &sh, struct amount a, struct amount *total)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    struct amount s = a;
    for (int step = 1; step < 32; step *= 2) {
        int64_t n = __shfl_up_sync(0xffffffffu, s.n, step), mass = __shfl_up_sync(0xffffffffu, s.mass, step);
        if (lane >= step) s.n += n, s.mass += mass;
    }
    __syncthreads(); /* part may still be read */
    if (lane == 31) sh.part[warp] = s;
    __syncthreads();
    *total = {0, 0};
    s = {s.n - a.n, s.mass - a.mass};
    for (int w = 0; w < PICK_THREADS / 32; w++) {
        struct amount p = sh.part[w];
        if (w < warp) s.n += p.n, s.mass += p.mass;
        total->n += p.n, total->mass += p.mass;
    }
    return s;
}

static __device__ void add_to_bin(struct pick_shared &sh, int bin, unsigned n, unsigned long long mass)
{
    if (!n) return;
    atomicAdd(&sh.n[bin], n);
    atomicAdd(&sh.mass[bin], mass);
}

struct found {
    bool yes;
    int32_t key;
    struct amount before; /* tokens with smaller keys; all of them when nothing was found */
    int n_equal;          /* tokens with this key */
};
/* Orders the tokens that the cut leaves by key, and finds the key at which there are `count` or they weigh
 * `mass`: ten bits of the key at a time. The key is the id, or by_weight ONE - q: heavy tokens first. */
static __device__ struct found find(struct pick_shared &sh, const struct source &s, struct cut cut,
                                    bool by_weight, int bits, int64_t count, int64_t mass)
{
    struct found f = {true, 0, {0, 0}, 0};
    int shift = (bits + 9) / 10 * 10, top = shift - 10, n = s.n[0] + s.n[1];
    while (f.yes && shift > 0) {
        shift -= 10;
        for (int b = threadIdx.x; b < BINS; b += PICK_THREADS) sh.n[b] = 0, sh.mass[b] = 0;
        if (!threadIdx.x) sh.bin = -1;
        __syncthreads();
        int bin = 0, run = 0; /* tokens in a row for one bin are added at once */
        unsigned long long run_mass = 0;
        bool near = s.x && !by_weight && shift < top; /* ids with the key so far stand together */
        int from = near ? f.key << (shift + 10) : 0, to = near ? min(n, (f.key + 1) << (shift + 10)) : n;
        for (int i = from + threadIdx.x; i < to; i += PICK_THREADS) {
            uint2 t = token_at(s, i);
            int id = (int)t.x, q = (int)t.y, key = by_weight ? ONE - q : id;
            if (q < cut.q || (q == cut.q && id > cut.last) || q > cut.most) continue;
            if (shift < top && key >> (shift + 10) != f.key) continue;
            int b = key >> shift & (BINS - 1);
            if (b != bin) {
                add_to_bin(sh, bin, run, run_mass);
                bin = b, run = 0, run_mass = 0;
            }
            run++, run_mass += q;
        }
        add_to_bin(sh, bin, run, run_mass);
        __syncthreads();
        enum { MINE = BINS / PICK_THREADS };
        struct amount mine = {0, 0}, total, at;
        for (int k = 0; k < MINE; k++) {
            mine.n += sh.n[threadIdx.x * MINE + k];
            mine.mass += (int64_t)sh.mass[threadIdx.x * MINE + k];
        }
        at = sum_before(sh, mine, &total);
        at.n += f.before.n, at.mass += f.before.mass;
        for (int k = 0; k < MINE && at.n < count && at.mass < mass; k++) {
            int b = threadIdx.x * MINE + k;
            struct amount next = {at.n + sh.n[b], at.mass + (int64_t)sh.mass[b]};
            if (next.n >= count || next.mass >= mass) sh.bin = b, sh.before = at, sh.n_bin = (int)sh.n[b];
            at = next;
        }
        __syncthreads();
        if (sh.bin < 0) {
            f.before.n += total.n, f.before.mass += total.mass;
            f.yes = false;
        } else {
            f.before = sh.before;
            f.key = f.key << 10 | sh.bin;
            f.n_equal = sh.n_bin;
        }
        __syncthreads(); /* all have read sh */
    }
    return f;
}

static __device__ int id_bits(int vocab) { return 32 - __clz(vocab); }

/* The shortest leading part, by (q descending, id ascending), of the tokens with q >= least that has `count`
 * tokens or weighs `mass`. */
static __device__ struct cut find_cut(struct pick_shared &sh, const struct source &s, int least, int vocab,
                                      int64_t count, int64_t mass)
{
    struct cut cut = {least, INT32_MAX, ONE, 0};
    struct found f = find(sh, s, cut, true, 30, count, mass);
    cut.mass = f.before.mass;
    if (!f.yes) return cut;
    cut.q = ONE - f.key;
    int64_t by_mass = (mass - f.before.mass + cut.q - 1) / cut.q, by_count = count - f.before.n;
    int64_t ties = by_mass < by_count ? by_mass : by_count;
    cut.mass += ties * cut.q;
    if (ties == f.n_equal) return cut;
    struct cut equal = {cut.q, INT32_MAX, cut.q, 0};
    cut.last = find(sh, s, equal, false, id_bits(vocab), ties, NO_LIMIT).key;
    return cut;
}

static __device__ int64_t share(float p, int64_t mass)
{
    int64_t m = (int64_t)ceil((double)p * (double)mass);
    return m < 1 ? 1 : m;
}

/* Uniform in [0, n) from 64 random bits (Lemire's multiplication). */
static __device__ int64_t scale_random(uint64_t r, int64_t n)
{
    return (int64_t)__umul64hi((unsigned long long)r, (unsigned long long)n);
}

/* Sorts key[0 .. n) in descending order; n is a power of 2, at most PICK_THREADS.   (Batcher 1968) */
static __device__ void sort_keys(uint64_t *key, int n)
{
    int i = threadIdx.x;
    for (int size = 2; size <= n; size *= 2)
        for (int step = size / 2; step; step /= 2) {
            __syncthreads();
            int j = i ^ step;
            if (i >= n || j < i) continue;
            uint64_t a = key[i], b = key[j];
            if ((a < b) == !(i & size)) key[i] = b, key[j] = a;
        }
    __syncthreads();
}
