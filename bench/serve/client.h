/* Many HTTP exchanges at once over non-blocking sockets and one epoll set. One thread owns the client and
 * everything it calls back. Connections are kept and used again where the server allows it. Every exchange
 * that was started ends with exactly one on_end, from within client_poll: when its response is complete, or
 * on failure, refused connections and time-outs (connecting, silence) included. */
#pragma once
#include "buf.h"
#include "err.h"

struct client;

struct client_config {
    const char *host; /* name or address */
    int port;
    const char *headers;    /* lines for every request, each ended by CR LF; or "" */
    double connect_timeout; /* seconds */
    double silence_timeout; /* seconds without a byte from the server */
};

struct exchange {       /* one request and its response; the caller's, until on_end */
    struct buf request; /* the bytes to send: client_request() fills it */
    /* Part of the body arrived at time now (monotonic seconds). An error fails the exchange. */
    int (*on_body)(struct exchange *x, int http_status, const char *p, size_t n, double now, struct err *e);
    /* failure is NULL if the response is complete. */
    void (*on_end)(struct exchange *x, int http_status, const struct err *failure);
};

int client_open(struct client **out, const struct client_config *config, struct err *e); /* resolves host */
void client_close(struct client *c); /* exchanges still running get no on_end */
/* Writes method, path, headers (extra as in client_config) and body (NULL: none) to x->request. */
int client_request(const struct client *c, struct exchange *x, const char *method, const char *path,
                   const char *extra, const struct buf *body, struct err *e);
int client_start(struct client *c, struct exchange *x, struct err *e);
int client_poll(struct client *c, int timeout_ms, struct err *e);
/* One exchange from start to end: its status and its body, appended to *out. */
int client_call(struct client *c, const char *method, const char *path, const struct buf *body,
                int *http_status, struct buf *out, struct err *e);
