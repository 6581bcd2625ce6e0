/* An HTTP/1.1 response, read in pieces of any size: status line, headers, then a body that is counted,
 * chunked or ends with the connection. The owner of the connection holds the reader; no I/O happens here. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"

enum http_state {
    HTTP_STATUS,
    HTTP_HEADER,
    HTTP_LENGTH,     /* body: `left` bytes to come */
    HTTP_CLOSE,      /* body: all until the peer closes */
    HTTP_CHUNK_SIZE, /* chunked body: the line with the size */
    HTTP_CHUNK,      /* chunked body: `left` bytes to come */
    HTTP_CHUNK_END,
    HTTP_TRAILER,
    HTTP_DONE
};

struct http_reader {
    enum http_state state;
    int status;      /* 0 until the status line was read */
    bool keep_alive; /* the connection may carry another request */
    bool chunked, counted;
    uint64_t left;
    size_t head_bytes;
    struct buf line; /* an unfinished line */
};

void http_reader_reset(struct http_reader *r); /* for the next response; keeps memory */
void http_reader_free(struct http_reader *r);
/* Takes n bytes and appends what belongs to the body to *body. ERR_FORMAT if this is no HTTP response. */
int http_reader_feed(struct http_reader *r, const char *p, size_t n, struct buf *body, struct err *e);
/* The peer closed: 0 if that ends the response (state becomes HTTP_DONE), else ERR_IO. */
int http_reader_eof(struct http_reader *r, struct err *e);
