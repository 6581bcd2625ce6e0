/* HTTP/1.1 over libmicrohttpd, which only http.c and exchange.c know. It owns connections and exchanges; a
 * handler sees one exchange (request and answer) at a time.
 *
 * An exchange is used by the HTTP thread, except while `body` runs on a parse thread. A handler that has to
 * wait gives it a source: pull is called again after each http_wake, which may come from any thread. While it
 * waits, the connection is suspended and costs no thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"
#include "gate.h"
#include "head.h"

enum http_pull {
    PULL_WAIT, /* nothing (more) now */
    PULL_MORE, /* something in x->out, and more at once */
    PULL_END,  /* the answer is complete */
};
struct http_x {
    const char *method, *path; /* valid throughout */
    struct head head;          /* valid in `head` only */
    struct buf body;
    int64_t t_begin; /* monotonic ns */

    /* The answer. With a source and `stream`, headers go out at once and pulled bytes follow, chunked; with a
     * source alone, pull makes the whole answer before PULL_END. */
    int status;
    const char *type; /* Content-Type, static */
    struct buf out;
    bool stream;
    struct buf headers; /* "Name: value\n" lines */

    /* The handler's. */
    const void *route;
    void *user;
    enum http_pull (*pull)(struct http_x *x);
    void (*drop)(struct http_x *x); /* the exchange ended, perhaps early: frees user. Once, if user is set. */
    char id[64];                    /* request id, for logs */
};
struct http_handler {
    void *ctx;
    bool (*head)(void *ctx, struct http_x *x); /* false: x has the (error) answer; the body is not read */
    void (*body)(void *ctx, struct http_x *x); /* fills in the answer or a source */
    void (*done)(void *ctx, const struct http_x *x); /* before it is freed, for logs and counts */
    void (*count)(void *ctx, int status);            /* each answer, also those made below the handler */
};
struct http_config {
    struct gate_config gate; /* its callbacks are filled in by http_open */
    double write_timeout_s, ping_s;
    int n_parse_thread;
};
struct http;

int http_open(const struct http_config *c, const struct http_handler *h, struct http **out, struct err *e);
int http_port(const struct http *h);
void http_wake(struct http_x *x); /* any thread; x must not have been dropped */
void http_header(struct http_x *x, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Waits until no exchange is left, at most so long; true if so. */
bool http_wait_idle(struct http *h, double timeout_s);
void http_close(struct http *h); /* cuts what is left, joins all threads; NULL is fine */
