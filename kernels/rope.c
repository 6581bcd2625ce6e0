/* Compiled for the baseline machine, which has no fused multiply-add: where there is one, GCC 12 turns the
 * pairs' form into fused instructions although contraction is off, and results would differ between levels
 * and from the reference. */
#include "rope.h"

static inline void turn(float *restrict a, float *restrict b, int n, int step, const float *restrict cs)
{
    for (int j = 0; j < n; j++) {
        float c = cs[2 * j], s = cs[2 * j + 1], u = a[j * step], v = b[j * step];
        a[j * step] = u * c - v * s;
        b[j * step] = u * s + v * c;
    }
}

void rope_rotate(float *x, int rot, enum rope_style style, const float *cs)
{
    if (style == ROPE_NEOX)
        turn(x, x + rot / 2, rot / 2, 1, cs);
    else
        turn(x, x + 1, rot / 2, 2, cs);
}
