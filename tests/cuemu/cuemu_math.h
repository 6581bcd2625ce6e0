/* Device functions without a host version: loads, atomics, conversions, bit tricks, fast mathematics.
 * Included by cuemu.h. Fast functions are the exact ones of the host, so a GPU may differ in the last bits.
 * No state. */
#pragma once

/* ---- loads and stores with a cache hint ---- */
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline T __ldca(const T *p) { return *p; }
template <class T> static inline T __ldcv(const T *p) { return *p; }
template <class T> static inline void __stcs(T *p, T v) { *p = v; }
template <class T> static inline void __stcg(T *p, T v) { *p = v; }
template <class T> static inline void __stwt(T *p, T v) { *p = v; }

/* ---- atomics: relaxed, as on the device, unless a fence stands before them ---- */
bool cuemu_fenced(const void *atomic);
template <class T> static inline bool cuemu_swap(T *p, T *expect, T v)
{
    return cuemu_fenced(p)
               ? __atomic_compare_exchange(p, expect, &v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
               : __atomic_compare_exchange(p, expect, &v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}
template <class T, class F> static inline T cuemu_atomic(T *p, F f)
{
    T old;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    while (!cuemu_swap<T>(p, &old, f(old))) {}
    return old;
}
#define CUEMU_ATOMIC(name, e)                                                                                \
    template <class T> static inline T name(T *p, std::common_type_t<T> v)                                   \
    {                                                                                                        \
        return cuemu_atomic(p, [=](T o) -> T { return e; });                                                 \
    }
CUEMU_ATOMIC(atomicAdd, o + v)
CUEMU_ATOMIC(atomicSub, o - v)
CUEMU_ATOMIC(atomicMin, o < v ? o : v)
CUEMU_ATOMIC(atomicMax, o > v ? o : v)
CUEMU_ATOMIC(atomicAnd, o &v)
CUEMU_ATOMIC(atomicOr, o | v)
CUEMU_ATOMIC(atomicXor, o ^ v)
CUEMU_ATOMIC(atomicExch, ((void)o, v))
static inline unsigned atomicInc(unsigned *p, unsigned top)
{
    return cuemu_atomic(p, [=](unsigned o) { return o >= top ? 0 : o + 1; });
}
template <class T> static inline T atomicCAS(T *p, std::common_type_t<T> expect, std::common_type_t<T> v)
{
    T old = expect;
    cuemu_swap<T>(p, &old, v);
    return old;
}

/* ---- bits ---- */
template <class To, class From> static inline To cuemu_bits(From v)
{
    static_assert(sizeof(To) == sizeof(From));
    To r;
    memcpy(&r, &v, sizeof r);
    return r;
}
static inline int __float_as_int(float f) { return cuemu_bits<int>(f); }
static inline unsigned __float_as_uint(float f) { return cuemu_bits<unsigned>(f); }
static inline float __int_as_float(int i) { return cuemu_bits<float>(i); }
static inline float __uint_as_float(unsigned i) { return cuemu_bits<float>(i); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline unsigned __brev(unsigned x)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
    return r;
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned sel)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = sel >> 4 * i & 15, b = (unsigned)(both >> 8 * (s & 7)) & 0xff;
        r |= (s & 8 ? (b & 0x80 ? 0xffu : 0u) : b) << 8 * i;
    }
    return r;
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) >> (n & 31));
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n)
{
    return (unsigned)(((uint64_t)hi << 32 | lo) << (n & 31) >> 32);
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++) c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
    return c;
}

/* ---- arithmetic ---- */
template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b)
{
    std::common_type_t<A, B> x = a, y = b;
    return y < x ? y : x;
}
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b)
{
    std::common_type_t<A, B> x = a, y = b;
    return x < y ? y : x;
}
#define __expf      expf /* glibc owns the names __expf, __logf, ... */
#define __logf      logf
#define __log2f     log2f
#define __log10f    log10f
#define __powf      powf
#define __sinf      sinf
#define __cosf      cosf
#define __tanf      tanf
#define __sincosf   sincosf
#define __exp10f(x) powf(10.f, x)
static inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.f / sqrtf(x); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.f / x; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline int __float2int_ru(float x) { return (int)ceilf(x); }
static inline unsigned __float2uint_rn(float x) { return (unsigned)rintf(x); }
static inline unsigned __float2uint_rz(float x) { return (unsigned)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
