/* The head of an HTTP/1 request: a strict parser for raw bytes (RFC 9112) and the verdict on a list of
 * headers. Both are pure functions. The parser sees the first head of every connection before libmicrohttpd
 * does, whose own parser is lenient; head_check judges every request, also later ones of a kept-alive
 * connection. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAD_LINES_MAX 128 /* room; the configured limit is lower */

struct head_field {
    const char *name, *value; /* not NUL terminated */
    size_t n_name, n_value;
};
struct head {
    const char *method, *target; /* not NUL terminated */
    size_t n_method, n_target;
    int minor; /* HTTP/1.minor, or -1: another version */
    int n;
    struct head_field field[HEAD_LINES_MAX];
};
struct head_limits {
    int lines;
    size_t bytes, body;
};
struct head_verdict {
    int status; /* 0 = fine, else the HTTP status to answer with */
    const char *why;
    bool chunked;      /* the body is chunked */
    int64_t length;    /* Content-Length, 0 if there is none */
    bool ask_continue; /* Expect: 100-continue */
};

/* Looks for the end of the head. 0: unfinished and still within the limits. 200: complete, *n_head bytes
 * long, and *out points into s. Else the status to refuse with. */
int head_parse(const char *s, size_t n, const struct head_limits *lim, struct head *out, size_t *n_head);
/* Characters, count, size, Host, Content-Length, Transfer-Encoding, Expect. 413 comes last, so that it never
 * hides a 400.
 */
void head_check(const struct head *h, const struct head_limits *lim, struct head_verdict *out);
/* The value of a header; *count (may be NULL) says how many there are. NULL if none. */
const struct head_field *head_find(const struct head *h, const char *name, int *count);
bool head_value_is(const struct head_field *f, const char *value); /* ignoring case */
