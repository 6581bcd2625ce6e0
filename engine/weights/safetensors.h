/* Safetensors: one untrusted file, its header validated against the file's size before anything is followed:
 * known types, sizes that agree with the shapes, data without gaps or overlaps. Read-only after open; the
 * mapping lives as long as the struct. Format: the safetensors project's README. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "dtype.h"
#include "err.h"

#define SAFETENSORS_MAX_DIM 8

struct safetensor {
    char *name;
    bool plain; /* type is F32, F16 or BF16; else only its size is known, and it cannot be used as a weight */
    enum dtype type;
    char type_name[12]; /* as in the file */
    int n_dim;
    int64_t dim[SAFETENSORS_MAX_DIM]; /* outermost first */
    const void *data;
    size_t bytes;
};
struct safetensors;

int safetensors_open(const char *path, struct safetensors **out, struct err *e);
int safetensors_parse(const void *data, size_t n, struct safetensors **out,
                      struct err *e); /* over caller's memory */
void safetensors_close(struct safetensors *s);
int safetensors_count(const struct safetensors *s);
const struct safetensor *safetensors_at(const struct safetensors *s, int i); /* in the order of their data */
