/* Server-sent events (WHATWG HTML, 9.2), read in pieces of any size: lines end with LF, CR or CR LF, an empty
 * line ends an event, lines starting with ':' are comments. Only `data` matters here. */
#pragma once
#include <stdbool.h>
#include "buf.h"
#include "err.h"

struct sse {
    struct buf line, data;
    bool has_data, after_cr;
};

/* Called with an event's data (NUL terminated); an error stops the reading and is passed on. */
typedef int (*sse_event)(void *ctx, const char *data, size_t n, struct err *e);

void sse_free(struct sse *s);
int sse_feed(struct sse *s, const char *p, size_t n, sse_event event, void *ctx, struct err *e);
/* The stream ended: an event without its empty line is delivered all the same, as clients in use do. */
int sse_end(struct sse *s, sse_event event, void *ctx, struct err *e);
