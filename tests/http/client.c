#include "client.h"
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"

double now_s(void) { return clock_s(); }
void sleep_s(double s)
{
    nanosleep(&(struct timespec){(time_t)s, (long)((s - (double)(time_t)s) * 1e9)}, NULL);
}

int client_connect(int port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    ck_assert_int_ge(fd, 0);
    ck_assert_msg(!connect(fd, (struct sockaddr *)&a, sizeof a), "connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

void client_send(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t k = send(fd, bytes, n, MSG_NOSIGNAL);
        if (k <= 0) return;
        bytes += k;
        n -= (size_t)k;
    }
}

void client_puts(int fd, const char *text) { client_send(fd, text, strlen(text)); }

/* Appends what there is. 1 more came, 0 closed, -1 time is up. */
static int read_some(int fd, double until, struct buf *b)
{
    char chunk[16384];
    double left = until - now_s();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (left < 0 || poll(&p, 1, (int)(left * 1000) + 1) <= 0) return -1;
    ssize_t n = recv(fd, chunk, sizeof chunk, 0);
    if (n <= 0) return 0;
    buf_add(b, chunk, (size_t)n);
    return 1;
}

bool client_is_closed(int fd, double within_s)
{
    struct buf b = {0};
    double until = now_s() + within_s;
    int r;
    while ((r = read_some(fd, until, &b)) > 0) buf_clear(&b);
    buf_free(&b);
    return r == 0;
}

bool client_recv_until(int fd, const char *text, double timeout_s, struct buf *all)
{
    double until = now_s() + timeout_s;
    while (!all->data || !memmem(all->data, all->len, text, strlen(text)))
        if (read_some(fd, until, all) <= 0) return false;
    return true;
}

const char *answer_header(const struct answer *a, const char *name, char *out, size_t n)
{
    size_t k = strlen(name);
    for (const char *line = a->head.data; line; line = strstr(line, "\r\n"), line = line ? line + 2 : NULL) {
        if (strncasecmp(line, name, k) || line[k] != ':') continue;
        line += k + 1 + strspn(line + k + 1, " ");
        snprintf(out, n, "%.*s", (int)strcspn(line, "\r\n"), line);
        return out;
    }
    return NULL;
}

/* Moves one whole chunk from raw to body: 1 done, 0 more bytes needed, 2 the last one. */
static int dechunk(const struct buf *raw, size_t *at, struct buf *body)
{
    const char *line = raw->data + *at, *end = memmem(line, raw->len - *at, "\r\n", 2);
    if (!end) return 0;
    size_t size = strtoul(line, NULL, 16), from = (size_t)(end + 2 - raw->data);
    if (raw->len < from + size + 2) return 0;
    buf_add(body, raw->data + from, size);
    *at = from + size + 2;
    return size ? 1 : 2;
}

void client_recv(int fd, double timeout_s, struct answer *a)
{
    *a = (struct answer){.status = -1};
    struct buf raw = {0};
    double until = now_s() + timeout_s;
    char *end = NULL;
    int r = 1;
    while (r > 0 && !(raw.len && (end = memmem(raw.data, raw.len, "\r\n\r\n", 4)))) {
        r = read_some(fd, until, &raw);
        if (end && raw.len && !strncmp(raw.data, "HTTP/1.1 100", 12)) end = NULL;
    }
    if (!end) {
        if (r == 0) a->status = 0;
        buf_free(&raw);
        return;
    }
    size_t n_head = (size_t)(end + 2 - raw.data), at = n_head + 2;
    buf_add(&a->head, raw.data, n_head);
    a->status = atoi(raw.data + 9);
    char text[64];
    bool chunked = answer_header(a, "Transfer-Encoding", text, sizeof text);
    bool sized = answer_header(a, "Content-Length", text, sizeof text) || a->status == 204;
    size_t size = sized && a->status != 204 ? strtoul(text, NULL, 10) : 0;
    bool done = false;
    while (!done) {
        if (chunked) {
            int k;
            while ((k = dechunk(&raw, &at, &a->body)) == 1) {}
            done = k == 2;
        } else if (sized) {
            done = raw.len - at >= size;
        }
        if (done) break;
        r = read_some(fd, until, &raw);
        if (r > 0) continue;
        a->cut = chunked || sized || r < 0;
        a->closed = r == 0;
        done = true;
    }
    if (!chunked) buf_add(&a->body, raw.data + at, sized && raw.len - at > size ? size : raw.len - at);
    if (answer_header(a, "Connection", text, sizeof text) && !strcasecmp(text, "close")) a->closed = true;
    buf_free(&raw);
}

void answer_free(struct answer *a)
{
    buf_free(&a->head);
    buf_free(&a->body);
}

void client_raw(int port, const char *bytes, size_t n, double timeout_s, struct answer *a)
{
    int fd = client_connect(port);
    client_send(fd, bytes, n);
    client_recv(fd, timeout_s, a);
    close(fd);
}

void client_get(int port, const char *path, const char *headers, struct answer *a)
{
    struct buf b = {0};
    buf_fmt(&b, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, headers);
    client_raw(port, b.data, b.len, 5, a);
    buf_free(&b);
}

void client_post(int port, const char *path, const char *headers, const char *body, struct answer *a)
{
    struct buf b = {0};
    buf_fmt(&b,
            "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n%s\r\n",
            path, strlen(body), headers);
    buf_str(&b, body);
    client_raw(port, b.data, b.len, 10, a);
    buf_free(&b);
}

cJSON *client_json(int port, const char *path, const char *body, int status)
{
    struct answer a;
    struct err e = {0};
    cJSON *j = NULL;
    client_post(port, path, "", body, &a);
    ck_assert_msg(a.status == status, "%s %s: %d instead of %d: %s", path, body, a.status, status,
                  a.body.data ? a.body.data : "");
    ck_assert_msg(!json_parse(a.body.data, a.body.len, JSON_LIMITS_REQUEST, &j, &e), "%s: %s in %s", body,
                  e.msg, a.body.data);
    answer_free(&a);
    return j;
}
