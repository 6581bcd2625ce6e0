#include "http_reader.h"
#include <string.h>
#include <strings.h>

#define LINE_MAX_BYTES (16u << 10)
#define HEAD_MAX_BYTES (64u << 10)

void http_reader_reset(struct http_reader *r)
{
    struct buf line = r->line;
    buf_clear(&line);
    *r = (struct http_reader){.keep_alive = true, .line = line};
}

void http_reader_free(struct http_reader *r) { buf_free(&r->line); }

static int malformed(struct err *e, const char *what)
{
    return err_set(e, ERR_FORMAT, "malformed HTTP response: %s", what);
}

/* "HTTP/1.1 200 OK"; a 1.0 server closes unless it says otherwise. */
static int read_status(struct http_reader *r, const char *s, struct err *e)
{
    if (strncmp(s, "HTTP/1.", 7) || (s[7] != '0' && s[7] != '1') || s[8] != ' ')
        return malformed(e, "no status line");
    int status = 0;
    for (int i = 9; i < 12; i++) {
        if (s[i] < '0' || s[i] > '9') return malformed(e, "the status code");
        status = status * 10 + (s[i] - '0');
    }
    if (status < 100 || (s[12] && s[12] != ' ')) return malformed(e, "the status code");
    r->status = status;
    if (s[7] == '0') r->keep_alive = false;
    r->state = HTTP_HEADER;
    return 0;
}

static int read_length(struct http_reader *r, const char *s, struct err *e)
{
    uint64_t n = 0;
    size_t digits = strspn(s, "0123456789");
    if (!digits || digits > 18 || s[digits]) return malformed(e, "Content-Length");
    for (size_t i = 0; i < digits; i++) n = n * 10 + (uint64_t)(s[i] - '0');
    if (r->counted && r->left != n) return malformed(e, "two values of Content-Length");
    r->counted = true;
    r->left = n;
    return 0;
}

static int read_header(struct http_reader *r, char *s, struct err *e)
{
    char *colon = strchr(s, ':');
    if (!colon || colon == s || *s == ' ' || *s == '\t') return malformed(e, "a header line");
    *colon = 0;
    char *value = colon + 1 + strspn(colon + 1, " \t");
    for (size_t n = strlen(value); n && (value[n - 1] == ' ' || value[n - 1] == '\t'); n--) value[n - 1] = 0;
    if (!strcasecmp(s, "content-length")) return read_length(r, value, e);
    if (!strcasecmp(s, "transfer-encoding")) {
        if (strcasecmp(value, "chunked")) return malformed(e, "an unknown Transfer-Encoding");
        r->chunked = true;
    } else if (!strcasecmp(s, "connection")) {
        if (!strcasecmp(value, "close")) r->keep_alive = false;
        if (!strcasecmp(value, "keep-alive")) r->keep_alive = true;
    }
    return 0;
}

static void end_head(struct http_reader *r)
{
    if (r->status < 200) { /* 100 Continue, 103 Early Hints: the answer is still to come */
        http_reader_reset(r);
    } else if (r->status == 204 || r->status == 304) {
        r->state = HTTP_DONE;
    } else if (r->chunked) { /* counts more than a length (RFC 9112 6.3), but two framings mean trouble */
        if (r->counted) r->keep_alive = false;
        r->state = HTTP_CHUNK_SIZE;
    } else if (r->counted) {
        r->state = r->left ? HTTP_LENGTH : HTTP_DONE;
    } else {
        r->keep_alive = false;
        r->state = HTTP_CLOSE;
    }
}

static int read_chunk_size(struct http_reader *r, const char *s, struct err *e)
{
    uint64_t n = 0;
    size_t digits = strspn(s, "0123456789abcdefABCDEF"), after = digits + strspn(s + digits, " \t");
    if (!digits || digits > 8 || (s[after] && s[after] != ';')) return malformed(e, "a chunk size");
    for (size_t i = 0; i < digits; i++)
        n = n * 16 + (uint64_t)(s[i] <= '9' ? s[i] - '0' : (s[i] | 32) - 'a' + 10);
    r->left = n;
    r->state = n ? HTTP_CHUNK : HTTP_TRAILER;
    return 0;
}

static int read_line(struct http_reader *r, struct err *e)
{
    char *s = r->line.data;
    if (memchr(s, 0, r->line.len)) return malformed(e, "a NUL byte");
    switch (r->state) {
    case HTTP_STATUS: return read_status(r, s, e);
    case HTTP_HEADER:
        if (*s) return read_header(r, s, e);
        end_head(r);
        return 0;
    case HTTP_CHUNK_SIZE: return read_chunk_size(r, s, e);
    case HTTP_CHUNK_END:
        r->state = HTTP_CHUNK_SIZE;
        return *s ? malformed(e, "a chunk is longer than its size") : 0;
    default: /* HTTP_TRAILER */
        if (!*s) r->state = HTTP_DONE;
        return 0;
    }
}

/* Collects a line, ended by LF or CR LF, and acts on it once it is whole. Returns the bytes used. */
static size_t feed_line(struct http_reader *r, const char *p, size_t n, struct err *e)
{
    const char *end = memchr(p, '\n', n);
    size_t used = end ? (size_t)(end - p) + 1 : n;
    bool head = r->state == HTTP_STATUS || r->state == HTTP_HEADER || r->state == HTTP_TRAILER;
    if (head) r->head_bytes += used;
    if (r->line.len + used > LINE_MAX_BYTES || r->head_bytes > HEAD_MAX_BYTES) {
        malformed(e, "a header is too long");
        return 0;
    }
    buf_add(&r->line, p, end ? used - 1 : used);
    if (r->line.failed) {
        err_set(e, ERR_NOMEM, "out of memory");
        return 0;
    }
    if (!end) return used;
    if (r->line.len && r->line.data[r->line.len - 1] == '\r') r->line.data[--r->line.len] = 0;
    if (read_line(r, e)) return 0;
    buf_clear(&r->line);
    return used;
}

int http_reader_feed(struct http_reader *r, const char *p, size_t n, struct buf *body, struct err *e)
{
    struct err local = {0};
    while (n && r->state != HTTP_DONE) {
        size_t used;
        if (r->state == HTTP_LENGTH || r->state == HTTP_CHUNK || r->state == HTTP_CLOSE) {
            used = r->state == HTTP_CLOSE || r->left > n ? n : (size_t)r->left;
            buf_add(body, p, used);
            if (body->failed) return err_set(e, ERR_NOMEM, "out of memory");
            if (r->state != HTTP_CLOSE && !(r->left -= used))
                r->state = r->state == HTTP_CHUNK ? HTTP_CHUNK_END : HTTP_DONE;
        } else if (!(used = feed_line(r, p, n, &local))) {
            if (e) *e = local;
            return local.code;
        }
        p += used;
        n -= used;
    }
    if (n) r->keep_alive = false; /* bytes nobody asked for: do not trust what follows */
    return 0;
}

int http_reader_eof(struct http_reader *r, struct err *e)
{
    if (r->state == HTTP_DONE || r->state == HTTP_CLOSE) {
        r->state = HTTP_DONE;
        return 0;
    }
    return err_set(e, ERR_IO,
                   r->status ? "the server closed the connection within its answer"
                             : "the server closed the connection without an answer");
}
