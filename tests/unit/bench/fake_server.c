#include "fake_server.h"
#include <arpa/inet.h>
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNS 64

struct peer {
    int fd;
    size_t n;
    char in[65536];
};

static void put(int fd, const char *s, size_t n)
{
    while (n) {
        ssize_t k = send(fd, s, n, MSG_NOSIGNAL);
        if (k <= 0) return;
        s += k;
        n -= (size_t)k;
    }
}

static void put_text(int fd, const char *status, const char *json)
{
    char text[4096];
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status,
                     strlen(json), json);
    put(fd, text, (size_t)n);
}

/* One chunk of the transfer encoding, sent in two parts. */
static void put_chunk(int fd, const char *event)
{
    char text[1024];
    int n = snprintf(text, sizeof text, "%zx\r\n%s\r\n", strlen(event), event);
    put(fd, text, 3);
    put(fd, text + 3, (size_t)n - 3);
}

static bool put_stream(struct fake_server *f, int fd, const char *mode, bool chat)
{
    char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    char usage[128];
    put(fd, head, sizeof head - 1);
    put_chunk(fd, ": keep-alive\n\n");
    for (int i = 0; i < f->tokens; i++) {
        if (i == 2 && !strcmp(mode, "cut")) return false;
        if (i == 2 && !strcmp(mode, "error")) put_chunk(fd, "data: {\"error\":{\"message\":\"broke\"}}\n\n");
        put_chunk(fd, chat ? "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n"
                           : "data: {\"choices\":[{\"text\":\"x\"}]}\r\n\r\n");
    }
    snprintf(usage, sizeof usage,
             "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":6,\"completion_tokens\":%d}}\n\n",
             f->tokens);
    put_chunk(fd, usage);
    put_chunk(fd, "data: [DONE]\n\n");
    put(fd, "0\r\n\r\n", 5);
    return true;
}

/* Returns whether the connection stays open. */
static bool answer(struct fake_server *f, int fd, const char *head, const char *body)
{
    const char *mode = f->mode ? f->mode : "";
    if (!strncmp(head, "GET /v1/models ", 15)) {
        put_text(fd, "200 OK", "{\"data\":[{\"id\":\"fake\",\"root\":\"org/fake\"}]}");
        return true;
    }
    if (!strncmp(head, "POST /tokenize ", 15)) {
        put_text(fd, "200 OK", "{\"count\":5,\"tokens\":[5,9000,17,3,8]}");
        return true;
    }
    snprintf(f->last_head, sizeof f->last_head, "%s", head);
    snprintf(f->last_body, sizeof f->last_body, "%s", body);
    f->completions++;
    if (f->fail_every && f->completions % f->fail_every) mode = "";
    if (!strcmp(mode, "503")) put_text(fd, "503 Service Unavailable", "{\"error\":{\"message\":\"full\"}}");
    if (!strcmp(mode, "garbage")) put(fd, "not http\r\n\r\n", 12);
    if (!strcmp(mode, "503") || !strcmp(mode, "silent") || !strcmp(mode, "garbage")) return true;
    bool open = put_stream(f, fd, mode, strstr(head, "/chat/") != NULL);
    return open && strcmp(mode, "close") != 0;
}

static bool serve(struct fake_server *f, struct peer *p)
{
    ssize_t n = recv(p->fd, p->in + p->n, sizeof p->in - 1 - p->n, 0);
    if (n <= 0) return false;
    p->n += (size_t)n;
    p->in[p->n] = 0;
    char *end = strstr(p->in, "\r\n\r\n");
    if (!end) return true;
    const char *length = strstr(p->in, "Content-Length: ");
    size_t body = length && length < end ? strtoul(length + 16, NULL, 10) : 0;
    if (p->n < (size_t)(end + 4 - p->in) + body) return true;
    end[2] = 0;
    p->n = 0;
    return answer(f, p->fd, p->in, end + 4);
}

static void *serve_all(void *arg)
{
    struct fake_server *f = arg;
    static struct peer peer[CONNS];
    struct pollfd set[CONNS + 1];
    int n = 0;
    while (!f->stop) {
        set[0] = (struct pollfd){.fd = f->listener, .events = POLLIN};
        for (int i = 0; i < n; i++) set[i + 1] = (struct pollfd){.fd = peer[i].fd, .events = POLLIN};
        if (poll(set, (nfds_t)n + 1, 10) <= 0) continue;
        for (int i = n - 1; i >= 0; i--) {
            if (!set[i + 1].revents || serve(f, &peer[i])) continue;
            close(peer[i].fd);
            peer[i] = peer[--n];
        }
        if (set[0].revents && n < CONNS) {
            peer[n].fd = accept(f->listener, NULL, NULL);
            peer[n].n = 0;
            n += peer[n].fd >= 0;
            f->accepted++;
        }
    }
    while (n) close(peer[--n].fd);
    return NULL;
}

void fake_start(struct fake_server *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    f->listener = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(!bind(f->listener, (struct sockaddr *)&a, sizeof a) && !listen(f->listener, 128));
    ck_assert(!getsockname(f->listener, (struct sockaddr *)&a, &len));
    f->port = ntohs(a.sin_port);
    ck_assert(!pthread_create(&f->thread, NULL, serve_all, f));
}

void fake_stop(struct fake_server *f)
{
    f->stop = true;
    pthread_join(f->thread, NULL);
    close(f->listener);
}
