/* Rotary embedding of one head's vector (Su et al. 2021), the same code and the same bits in every back end of this
 * folder: products are rounded one by one, and compilers vectorise the loops. */
#pragma once
#include "ops.h"

/* x[0, rot) in place by the angles cs [rot/2][2] */
static inline void rope_rotate(float *restrict x, int rot, enum rope_style style, const float *restrict cs)
{
    int half = rot / 2, apart = style == ROPE_NEOX ? half : 1, step = style == ROPE_NEOX ? 1 : 2;
    for (int j = 0; j < half; j++) {
        float c = cs[2 * j], s = cs[2 * j + 1], u = x[j * step], v = x[j * step + apart];
        x[j * step] = u * c - v * s;
        x[j * step + apart] = u * s + v * c;
    }
}
