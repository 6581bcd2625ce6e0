#include "listen.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG 1024

/* -1 with errno on failure. */
static int try_address(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1, sndbuf = 128 << 10;
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    /* What a slow reader can make the kernel hold. Inherited by the accepted sockets. */
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf);
    if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, BACKLOG)) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

int listen_open(const char *host, int port, int *fd, int *bound, struct err *e)
{
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    int rc = getaddrinfo(host, service, &hint, &list);
    if (rc) return err_param(e, ERR_IO, "host", "--host: %.100s: %s", host, gai_strerror(rc));
    *fd = -1;
    for (const struct addrinfo *a = list; a && *fd < 0; a = a->ai_next) *fd = try_address(a);
    int error = errno;
    freeaddrinfo(list);
    if (*fd < 0)
        return err_param(e, ERR_IO, "port", "--port: cannot listen on %.100s:%d: %s", host, port,
                         strerror(error));
    struct sockaddr_storage addr;
    socklen_t n = sizeof addr;
    getsockname(*fd, (struct sockaddr *)&addr, &n);
    *bound = ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
                                              : ((struct sockaddr_in *)&addr)->sin_port);
    return 0;
}
