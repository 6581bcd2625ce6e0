/* SplitMix64 (Steele, Lea, Flood 2014): random numbers whose state is one word, and whose n-th number can be
 * had without the others. Pure functions, for any thread. */
#pragma once
#include <stdint.h>

#define RNG_STEP UINT64_C(0x9e3779b97f4a7c15)

/* The finaliser: a bijection in which every bit depends on every other. */
static inline uint64_t rng_mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline uint64_t rng_next(uint64_t *state) { return rng_mix(*state += RNG_STEP); }
