/* Read-only file mappings and small files. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "buf.h"
#include "err.h"

struct file_map {
    const unsigned char *data;
    size_t size;
};
int file_map_open(const char *path, struct file_map *m,
                  struct err *e); /* regular files only; empty is an error */
void file_map_close(struct file_map *m);
int file_read(const char *path, size_t max, struct buf *out, struct err *e);
/* Replaces the file, or appends a line to it. ERR_NOMEM for a text that failed. */
int file_write(const char *path, const struct buf *text, bool append, struct err *e);
