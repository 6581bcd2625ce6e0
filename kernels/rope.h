/* Rotary embedding of one head's vector (Su et al. 2021), one function for every back end of this folder. */
#pragma once
#include "ops.h"

/* x[0, rot) in place by the angles cs [rot/2][2] */
void rope_rotate(float *x, int rot, enum rope_style style, const float *cs);
