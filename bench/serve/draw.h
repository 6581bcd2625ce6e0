/* Random numbers for prompts and arrivals, drawn from an rng state. */
#pragma once
#include <math.h>
#include "rng.h"

/* 0 <= result < n, n > 0; the bias of the product method is below 2^-32 for the small n used here. */
static inline int draw_below(uint64_t *state, int n)
{
    return (int)((rng_next(state) >> 32) * (uint64_t)n >> 32);
}

static inline double draw_uniform(uint64_t *state) /* in (0, 1) */
{
    return ((double)(rng_next(state) >> 11) + 0.5) * 0x1p-53;
}

static inline double draw_normal(uint64_t *state) /* Box and Muller, one of the pair */
{
    double radius = sqrt(-2 * log(draw_uniform(state)));
    return radius * cos(2 * M_PI * draw_uniform(state));
}
