/* The gate in front of libmicrohttpd: listens, accepts, judges the first head of every connection from peeked
 * bytes (so that nothing malformed reaches the library's lenient parser), and then hands the socket over.
 * Afterwards it keeps watching: absolute deadlines, and clients that leave while their connection is
 * suspended, which the library does not notice. One thread; the table of connections is guarded by one mutex,
 * which is never held while the library runs our code. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include "err.h"
#include "head.h"

enum gate_phase {
    GATE_HEAD, /* a head is arriving: ours until it is whole, later heads of a connection are the library's */
    GATE_IDLE, /* between two requests */
    GATE_BODY, /* a body is arriving */
    GATE_BUSY, /* an answer is being made or sent */
    GATE_LINGER, /* refused: the rest of what the client sends is thrown away, so that it can read the answer
                  */
};
enum gate_poke { GATE_GONE, GATE_TICK };

struct gate_config {
    const char *host;
    int port;
    int max_connections;
    struct head_limits limits;
    double header_timeout_s, body_timeout_s, idle_timeout_s;
    void *ctx;
    /* Takes over a connected socket, closing it on failure. */
    void (*hand_over)(void *ctx, int fd, const struct sockaddr *addr, socklen_t n);
    /* The client of this exchange left, or a quarter of a second has passed. Called with the gate's mutex
     * held: only signal. */
    void (*poke)(void *ctx, void *exchange, enum gate_poke what);
    void (*count)(void *ctx, int status); /* the gate answered by itself */
};
struct gate;
struct gate_conn;

int gate_open(const struct gate_config *c, struct gate **out, struct err *e);
int gate_port(const struct gate *g);
/* The library has started with a socket. */
struct gate_conn *gate_started(struct gate *g, int fd);
/* What the connection does from now on; exchange: for poke, NULL = none. False if the client has left. */
bool gate_enter(struct gate *g, struct gate_conn *c, enum gate_phase phase, void *exchange);
/* Writes a whole error answer past the library and ends the connection: for refusals amid a body. */
void gate_cut(struct gate *g, struct gate_conn *c, int status, const char *why);
/* The request was answered before all of it was read: the client may still be sending when the connection
 * closes. */
void gate_refused(struct gate *g, struct gate_conn *c);
/* The library is about to close the socket. */
void gate_closing(struct gate *g, struct gate_conn *c);
void gate_cut_all(struct gate *g); /* ends every connection that was handed over, poking its exchange */
void gate_stop(struct gate *g);    /* no new connections; joins the thread */
void gate_close(struct gate *g);   /* after gate_stop, and after the library has closed its connections */
