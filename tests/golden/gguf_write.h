/* Writes GGUF v3 files, and converts the golden models to that format the way llama.cpp's converter does:
 * names, permuted q and k for the families with neighbouring rotary pairs, Gemma's norms plus one. For tests.
 */
#pragma once
#include <stdint.h>
#include "buf.h"
#include "dtype.h"
#include "err.h"

struct gguf_writer {
    struct buf kv, info, data;
    uint64_t n_kv, n_tensor;
};
void gw_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gw_f32(struct gguf_writer *w, const char *key, double v);
void gw_str(struct gguf_writer *w, const char *key, const char *v);
/* values as floats, stored as `type`; dim outermost first, dim[1] = 0 for a vector */
void gw_tensor(struct gguf_writer *w, const char *name, enum dtype type, const int64_t dim[2],
               const float *values);
void gw_bytes(struct gguf_writer *w, struct buf *out); /* the whole file; also frees */

/* The Hugging Face model in dir as a GGUF file; matrices become `type`. */
int gguf_convert(const char *dir, const char *path, enum dtype type, struct err *e);
