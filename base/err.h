/* Errors as values. Every fallible function returns 0 for success or a negative enum err_code, and explains
 * itself in an optional `struct err *` owned by the caller. The library never exits and never prints. */
#pragma once
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

enum err_code {
    ERR_OK = 0,
    ERR_INVALID = -1,     /* a value that a client, option or file gave is wrong: `param` names it */
    ERR_UNSUPPORTED = -2, /* well formed, but not implemented here */
    ERR_FORMAT = -3,      /* a file or message is malformed */
    ERR_IO = -4,          /* the operating system refused: message carries strerror */
    ERR_NOMEM = -5,
    ERR_TOO_LONG = -6, /* prompt + answer exceed the context length or can never fit the KV pool */
    ERR_FULL = -7,     /* a bounded queue is full: try again later */
    ERR_CLOSED = -8,   /* draining, stopped or not loaded yet */
    ERR_BUDGET = -9,   /* a step, depth or output budget was used up */
    ERR_NOTFOUND = -10,
};

struct err {
    int code;       /* enum err_code, 0 when unset */
    char param[64]; /* the field, option, key or tensor at fault; "" if none */
    char msg[320];  /* one line of UTF-8, without a trailing newline */
};

/* Formats into *e (e may be NULL) and returns code, so that `return err_set(e, ERR_IO, ...)` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same, also naming the parameter at fault. */
int err_param(struct err *e, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Prefixes the message ("FILE: what went wrong") and returns e->code; for adding context on the way up. */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#ifdef __cplusplus
}
#endif
