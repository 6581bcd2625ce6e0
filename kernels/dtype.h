/* Number formats of weights in files, of the KV cache and of activations. Block layouts of the quantised
 * types are those of GGUF (ggml's quantised formats). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum dtype {
    DT_F32,
    DT_F16,
    DT_BF16,
    DT_Q8_0,
    DT_Q4_0,
    DT_Q4_1,
    DT_Q5_0,
    DT_Q5_1,
    DT_Q2_K,
    DT_Q3_K,
    DT_Q4_K,
    DT_Q5_K,
    DT_Q6_K,
    DT_I8,   /* KV cache only: int8 with one float scale per (token, head) */
    DT_E4M3, /* KV cache of a device: FP8 (4 bits of exponent, 3 of mantissa), with scales like DT_I8 */
    DT_COUNT
};
struct dtype_info {
    const char *name; /* "F32", "Q4_K" */
    int block;        /* values in a block (1 for plain types) */
    int bytes;        /* bytes of a block */
};
const struct dtype_info *dtype_info(enum dtype t);
static inline bool dtype_is_quant(enum dtype t) { return t >= DT_Q8_0 && t <= DT_Q6_K; }
/* Bytes of one row of n values, 0 if n is not a whole number of blocks. */
size_t dtype_row_bytes(enum dtype t, int64_t n);
/* Scalar conversion of n values (whole blocks) to float: the oracle for everything that reads weights. */
void dtype_to_f32(enum dtype t, const void *src, float *dst, int64_t n);
/* Scalar quantisation of n values to F16, BF16, Q8_0 or Q4_0 (round to nearest even); false for other types.
 */
bool dtype_from_f32(enum dtype t, const float *src, void *dst, int64_t n);
#ifdef __cplusplus
}
#endif
