/* A growable byte buffer. Not thread safe; whoever holds the struct owns the bytes. A failed allocation sets
 * `failed` and later appends do nothing, so a writer checks once at the end. data is always NUL terminated
 * (the NUL is not counted in len) once anything was appended. */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t len, cap;
    bool failed;
};

void buf_free(struct buf *b);
static inline void buf_clear(struct buf *b)
{
    b->len = 0;
    if (b->data) b->data[0] = 0;
}
int buf_reserve(struct buf *b, size_t extra); /* room for `extra` more bytes; 0 or ERR_NOMEM */
void buf_add(struct buf *b, const void *p, size_t n);
void buf_str(struct buf *b, const char *s); /* appends a C string */
void buf_chr(struct buf *b, char c);
void buf_fmt(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vfmt(struct buf *b, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
void buf_json(struct buf *b, const char *s, size_t n); /* a quoted, escaped JSON string of n UTF-8 bytes */
void buf_json_f(struct buf *b, double v);              /* a JSON number; inf and nan are clamped to +-9999 */
