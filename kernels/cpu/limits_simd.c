/* Loops that do nothing but read, or nothing but arithmetic in registers. */
#include "machine_limits.h"
#include "simd.h"

enum { CHAINS = 12 }; /* independent sums: latency x units of current cores is 8 to 10 */
#define CHAINED(i) _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++)
#if LANES == 16
#define OPAQUE(v) __asm__ volatile("" : "+v"(v))
#else
#define OPAQUE(v) __asm__ volatile("" : "+x"(v))
#endif

static double sum_up(vi v)
{
    _Alignas(64) int lane[LANES];
    double sum = 0;
    vi_store(lane, v);
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

static double read_all(const void *p, size_t n)
{
    const char *c = p;
    vi s[4] = {vi_zero(), vi_zero(), vi_zero(), vi_zero()};
    for (size_t i = 0; i < n; i += 4 * sizeof(vi))
        UNROLL for (size_t j = 0; j < 4; j++) s[j] = vi_add32(s[j], vi_load(c + i + j * sizeof(vi)));
    return sum_up(vi_add32(vi_add32(s[0], s[1]), vi_add32(s[2], s[3])));
}

static double fma_rounds(long n)
{
    vf x[CHAINS], y = vf_set(0.5f);
    CHAINED(i) x[i] = vf_set((float)i);
    for (long k = 0; k < n; k++) CHAINED(i)
        {
            x[i] = vf_fma(x[i], y, y);
            OPAQUE(x[i]);
        }
    return 2.0 * CHAINS * LANES * (double)n;
}

#ifdef vf_dot_bf16
static double bf16_rounds(long n)
{
    vf x[CHAINS];
    vi y = vi_zero();
    CHAINED(i) x[i] = vf_set((float)i);
    OPAQUE(y);
    for (long k = 0; k < n; k++) CHAINED(i)
        {
            x[i] = vf_dot_bf16(x[i], y, y);
            OPAQUE(x[i]);
        }
    return 2.0 * CHAINS * LANES * 2 * (double)n;
}
#else
#define bf16_rounds fma_rounds
#endif

static double int8_rounds(long n)
{
    vi x[CHAINS], y = vi_set8(3);
    CHAINED(i) x[i] = vi_zero();
    OPAQUE(y);
    for (long k = 0; k < n; k++) CHAINED(i)
        {
#ifdef vi_dot
            x[i] = vi_dot(x[i], y, y);
#else
            vi pairs = vi_maddubs(y, y);
            OPAQUE(pairs);
            x[i] = vi_add32(x[i], vi_madd16(pairs, y));
#endif
            OPAQUE(x[i]);
        }
    return 2.0 * CHAINS * LANES * 4 * (double)n;
}

const struct limit_kernels LEVEL(limits) = {
    read_all, {[PEAK_FLOAT] = fma_rounds, [PEAK_BF16] = bf16_rounds, [PEAK_INT8] = int8_rounds}};
