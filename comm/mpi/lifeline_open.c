#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "clock.h"
#include "lifeline_own.h"

/* A rank says HELLO: its half of the secret and its number. Rank 0 answers with the other half, so that a
 * rank which reached somebody else (addresses repeat from network to network) tries the next address, and
 * with GO once all have come. */
struct hello {
    unsigned char secret[HOME_HALF], rank;
};
#define GO     'g'
#define TRY_MS 2000 /* for a connection and its answer */

void lifeline_host(char id[64])
{
    memset(id, 0, 64);
    struct stat net = {0};
    stat("/proc/self/ns/net", &net);
    int n = snprintf(id, 64, "%llx ", (unsigned long long)net.st_ino);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!read(fd, id + n, 36);
    close(fd);
}

/* Transfers exactly n bytes before the deadline; false if that fails. */
static bool transfer(int fd, void *data, size_t n, bool out, int64_t deadline)
{
    for (size_t done = 0; done < n;) {
        int64_t left = (deadline - clock_ns()) / 1000000;
        struct pollfd p = {.fd = fd, .events = out ? POLLOUT : POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) == 0) return false;
        ssize_t k = out ? send(fd, (char *)data + done, n - done, MSG_DONTWAIT | MSG_NOSIGNAL)
                        : recv(fd, (char *)data + done, n - done, MSG_DONTWAIT);
        if (k > 0) {
            done += (size_t)k;
        } else if (k == 0 || (errno != EAGAIN && errno != EINTR)) {
            return false;
        }
    }
    return true;
}

static bool equal(const unsigned char *a, const unsigned char *b, size_t n)
{
    unsigned char diff = 0; /* no early end that a stranger could measure */
    for (size_t i = 0; i < n; i++) diff |= a[i] ^ b[i];
    return !diff;
}

static struct sockaddr_in6 mapped(in_addr_t v4)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6};
    a.sin6_addr.s6_addr[10] = a.sin6_addr.s6_addr[11] = 0xff;
    memcpy(a.sin6_addr.s6_addr + 12, &v4, 4);
    return a;
}

/* The same address for a plain IPv4 socket, since a host may have no IPv6 at all. */
static struct sockaddr_in unmapped(const struct sockaddr_in6 *a)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = a->sin6_port};
    memcpy(&v4.sin_addr, a->sin6_addr.s6_addr + 12, 4);
    return v4;
}

/* This host's addresses that another host may reach. */
static void list_addresses(struct lifeline_home *home, in_port_t port)
{
    struct ifaddrs *all, *i;
    if (getifaddrs(&all)) return;
    for (i = all; i && home->n < HOME_ADDRESSES; i = i->ifa_next) {
        if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
        struct sockaddr_in6 a;
        if (i->ifa_addr->sa_family == AF_INET) {
            a = mapped(((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr.s_addr);
        } else if (i->ifa_addr->sa_family == AF_INET6) {
            a = *(struct sockaddr_in6 *)(void *)i->ifa_addr;
            if (IN6_IS_ADDR_LINKLOCAL(&a.sin6_addr)) continue; /* means another interface elsewhere */
        } else {
            continue;
        }
        a.sin6_port = port;
        home->address[home->n++] = a;
    }
    freeifaddrs(all);
}

static int listen_on(const struct sockaddr *a, socklen_t len, in_port_t *port)
{
    int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), off = 0;
    if (fd < 0) return -1;
    if (a->sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    struct sockaddr_in6 own;
    socklen_t n = sizeof own;
    if (bind(fd, a, len) || listen(fd, COMM_MAX_RANKS) || getsockname(fd, (struct sockaddr *)&own, &n)) {
        close(fd);
        return -1;
    }
    *port = own.sin6_port; /* at the same place in both families */
    return fd;
}

int lifeline_listen(int size, bool one_host, struct lifeline_home *home, struct lifeline **out, struct err *e)
{
    struct lifeline *l;
    int status = lifeline_new(0, size, &l, e);
    if (status) return status;
    struct sockaddr_in v4 = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(one_host ? INADDR_LOOPBACK : INADDR_ANY)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    in_port_t port = 0;
    memset(home, 0, sizeof *home);
    if (!one_host) l->listener = listen_on((struct sockaddr *)&v6, sizeof v6, &port);
    if (l->listener < 0) l->listener = listen_on((struct sockaddr *)&v4, sizeof v4, &port);
    if (l->listener < 0) {
        status = err_set(e, ERR_IO, "cannot listen for the other ranks: %m");
    } else if (getrandom(home->secret, sizeof home->secret, 0) != sizeof home->secret) {
        status = err_set(e, ERR_IO, "cannot get random bytes: %m");
    } else if (one_host) {
        home->address[0] = mapped(htonl(INADDR_LOOPBACK));
        home->address[0].sin6_port = port;
        home->n = 1;
    } else {
        list_addresses(home, port);
        if (!home->n) status = err_set(e, ERR_IO, "this host has no network address for the other ranks");
    }
    if (status) {
        lifeline_close(l);
        return status;
    }
    memcpy(l->secret, home->secret, sizeof l->secret);
    *out = l;
    return 0;
}

/* Lets one caller in if it is a rank; strangers get no answer. A rank that calls again has given up its
 * earlier call. */
static void let_in(struct lifeline *l, int fd)
{
    int64_t deadline = clock_ns() + TRY_MS * (int64_t)1000000 / 4;
    struct hello h;
    if (!transfer(fd, &h, sizeof h, false, deadline) || !equal(h.secret, l->secret, HOME_HALF) ||
        h.rank < 1 || h.rank > l->n_peer || !transfer(fd, l->secret + HOME_HALF, HOME_HALF, true, deadline)) {
        close(fd);
        return;
    }
    struct peer *p = &l->peer[h.rank - 1];
    if (p->fd >= 0) close(p->fd);
    p->fd = fd;
}

/* The first rank that has not come, or 0. */
static int missing(const struct lifeline *l)
{
    for (int i = 0; i < l->n_peer; i++)
        if (l->peer[i].fd < 0) return i + 1;
    return 0;
}

int lifeline_accept(struct lifeline *l, int timeout_ms, struct err *e)
{
    int64_t deadline = clock_ns() + timeout_ms * (int64_t)1000000;
    while (missing(l)) {
        struct pollfd p = {.fd = l->listener, .events = POLLIN};
        int64_t left = (deadline - clock_ns()) / 1000000;
        if (left <= 0) return err_set(e, ERR_IO, "rank %d could not reach rank 0 over TCP", missing(l));
        int fd = poll(&p, 1, (int)left) > 0 ? accept4(l->listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (fd >= 0) let_in(l, fd);
    }
    close(l->listener);
    l->listener = -1;
    for (int i = 0; i < l->n_peer; i++)
        if (!transfer(l->peer[i].fd, &(char){GO}, 1, true, deadline))
            return err_set(e, ERR_IO, "rank %d has died: its connection closed", i + 1);
    return lifeline_start(l, e);
}

/* A connection that has proved to lead to rank 0, or -1. */
static int call_home(const struct sockaddr_in6 *a, const struct lifeline_home *home, int rank)
{
    int64_t deadline = clock_ns() + TRY_MS * (int64_t)1000000;
    struct sockaddr_in v4 = unmapped(a);
    bool is_v4 = IN6_IS_ADDR_V4MAPPED(&a->sin6_addr);
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    struct hello h = {.rank = (unsigned char)rank};
    memcpy(h.secret, home->secret, HOME_HALF);
    unsigned char answer[HOME_HALF];
    int status = is_v4 ? connect(fd, (struct sockaddr *)&v4, sizeof v4)
                       : connect(fd, (const struct sockaddr *)a, sizeof *a);
    if ((status && errno != EINPROGRESS) || !transfer(fd, &h, sizeof h, true, deadline) ||
        !transfer(fd, answer, sizeof answer, false, deadline) ||
        !equal(answer, home->secret + HOME_HALF, HOME_HALF)) {
        close(fd);
        return -1;
    }
    return fd;
}

int lifeline_join(int rank, int size, const struct lifeline_home *home, int timeout_ms, struct lifeline **out,
                  struct err *e)
{
    int64_t deadline = clock_ns() + timeout_ms * (int64_t)1000000;
    struct lifeline *l;
    int status = lifeline_new(rank, size, &l, e);
    if (status) return status;
    for (uint32_t i = 0; home->n && l->peer[0].fd < 0 && clock_ns() < deadline; i++) {
        if (i && i % home->n == 0) usleep(20000);
        l->peer[0].fd = call_home(&home->address[i % home->n], home, rank);
    }
    char go = 0;
    if (l->peer[0].fd < 0) {
        status = err_set(e, ERR_IO, "rank %d could not reach rank 0 over TCP", rank);
    } else if (!transfer(l->peer[0].fd, &go, 1, false, deadline) || go != GO) {
        status = err_set(e, ERR_IO, "rank 0 did not start: other ranks could not reach it");
    } else {
        status = lifeline_start(l, e);
    }
    if (status) {
        lifeline_close(l);
        return status;
    }
    *out = l;
    return 0;
}
