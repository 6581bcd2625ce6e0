/* Floats to quantised blocks, with scales found by search: slower and closer than dtype_from_f32. Pure
 * functions, for any thread; the bytes depend on the values alone. Block layouts: kernels/dtype.c reads them.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "dtype.h"

#define QUANTIZE_VERSION 2     /* to be raised when the bytes change: caches are keyed by it */
#define QUANTIZE_MAX     65504 /* magnitude of the largest weight that is taken */

/* n values, whole blocks, to Q8_0, Q5_0, Q5_1, Q4_K or Q6_K. False if a value is NaN, infinite or beyond
 * QUANTIZE_MAX. */
bool quantize_row(enum dtype t, const float *x, void *dst, int64_t n);
