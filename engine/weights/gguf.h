/* GGUF v2 and v3 (little endian): metadata and tensor table of an untrusted file, validated against the
 * file's size before anything is allocated or followed. Read-only after gguf_open; the mapping lives as long
 * as the struct. Format: the ggml project's docs/gguf.md. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "dtype.h"
#include "err.h"

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};
struct gguf_str {
    const char *s;
    size_t n;
}; /* into the mapping, not NUL terminated, valid UTF-8 is NOT promised */
struct gguf_kv {
    struct gguf_str key;
    enum gguf_type type; /* GGUF_ARRAY: elem and n below */
    enum gguf_type elem;
    uint64_t n;                /* 1 for a scalar */
    const unsigned char *data; /* first element; strings of an array are reached through gguf_array_str */
    const uint64_t *str_off;   /* [n] offsets of an array's strings from data, else NULL */
};
struct gguf_tensor {
    struct gguf_str name;
    enum dtype type;
    int n_dim;
    int64_t dim[4]; /* dim[0] is contiguous; unused are 1 */
    const void *data;
    size_t bytes;
};
struct gguf;

int gguf_open(const char *path, struct gguf **out, struct err *e);
int gguf_parse(const void *data, size_t n, struct gguf **out,
               struct err *e); /* over caller's memory: tests, fuzzing */
void gguf_close(struct gguf *g);

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key);
int gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, int i);
/* Scalars by value with conversion between integer widths (checked) and float widths; false if absent or of
 * another kind. */
bool gguf_int(const struct gguf *g, const char *key, int64_t *out);
bool gguf_num(const struct gguf *g, const char *key, double *out);
bool gguf_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_string(const struct gguf *g, const char *key, struct gguf_str *out);
/* Elements of an array kv; i < kv->n. */
struct gguf_str gguf_array_str(const struct gguf_kv *kv, uint64_t i);
int64_t gguf_array_int(const struct gguf_kv *kv, uint64_t i); /* integer and bool elements */
double gguf_array_num(const struct gguf_kv *kv, uint64_t i);  /* float and integer elements */

uint32_t gguf_type_code(enum dtype t); /* the format's number of a tensor type; UINT32_MAX if it has none */
int gguf_n_tensor(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);
