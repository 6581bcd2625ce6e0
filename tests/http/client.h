/* A raw HTTP client for tests: sends any bytes, reads answers with a deadline. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "buf.h"
#include "json.h"

struct answer {
    int status;            /* 0 = the connection ended without an answer, -1 = nothing within the time */
    struct buf head, body; /* body: de-chunked */
    bool closed;           /* the server closed the connection after it */
    bool cut;              /* the connection ended amid the answer */
};
int client_connect(int port);
void client_send(int fd, const char *bytes, size_t n); /* errors are ignored: the server may have hung up */
void client_puts(int fd, const char *text);
void client_recv(int fd, double timeout_s, struct answer *a);
bool client_is_closed(int fd, double within_s); /* drains what comes meanwhile */
/* Reads until the text has been seen in the raw bytes, or the time is up. */
bool client_recv_until(int fd, const char *text, double timeout_s, struct buf *all);
void answer_free(struct answer *a);
const char *answer_header(const struct answer *a, const char *name, char *out, size_t n);
/* One exchange over a new connection. */
void client_raw(int port, const char *bytes, size_t n, double timeout_s, struct answer *a);
void client_get(int port, const char *path, const char *headers, struct answer *a);
void client_post(int port, const char *path, const char *headers, const char *body, struct answer *a);
/* POST, which must be answered with status; the parsed body. */
cJSON *client_json(int port, const char *path, const char *body, int status);
double now_s(void);
void sleep_s(double s);
