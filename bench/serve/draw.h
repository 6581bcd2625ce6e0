/* Random numbers for prompts and arrivals: splitmix64 (Steele, Lea, Flood 2014), the state is one word. */
#pragma once
#include <math.h>
#include <stdint.h>

static inline uint64_t rng_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* 0 <= result < n, n > 0; the bias of the product method is below 2^-32 for the small n used here. */
static inline int rng_below(uint64_t *state, int n)
{
    return (int)((rng_next(state) >> 32) * (uint64_t)n >> 32);
}

static inline double rng_uniform(uint64_t *state) /* in (0, 1) */
{
    return ((double)(rng_next(state) >> 11) + 0.5) * 0x1p-53;
}

static inline double rng_normal(uint64_t *state) /* Box and Muller, one of the pair */
{
    double radius = sqrt(-2 * log(rng_uniform(state)));
    return radius * cos(2 * M_PI * rng_uniform(state));
}
