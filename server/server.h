/* The HTTP server: OpenAI's API in front of one engine. The struct owns its threads (one that accepts and
 * watches connections, one of libmicrohttpd's, a few that parse large bodies) and borrows engine, model,
 * template and metrics. server_attach may be called by another thread than the rest, such as the one that
 * loads the model.
 *
 *   server_open    the port answers at once: /livez 200, everything else 503 until
 *   server_attach  which hands over the engine; from then on /readyz follows engine_state
 *   server_drain   /readyz and new requests 503; what runs goes on
 *   server_close   ends every connection (cancelling what still runs), joins the threads, frees
 *
 * A graceful stop is: server_drain, engine_drain, engine_wait_idle(timeout) or a second signal,
 * engine_abort_all, server_close, engine_close. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "err.h"
#include "metrics.h"

struct engine;
struct model;
struct template;

struct server_config {
    const char *host;            /* address or name to listen on */
    int port;                    /* 0: any free one, see server_port */
    const char *served_name;     /* name in the API; NULL or "": the model's */
    const char *api_key;         /* comma-separated keys; NULL or "": none */
    const char *api_key_file;    /* one key a line, # comments; NULL or "": none */
    const char *allowed_origins; /* for CORS: comma-separated, "*" for all; NULL or "": CORS off */
    bool vllm_defaults;          /* ignore the model's generation_config.json */
    uint64_t seed;               /* of requests that bring none; 0: random */
    bool log_requests;
    struct metrics *metrics; /* where to register; NULL: none */

    int max_connections;
    int max_header_lines;
    size_t max_header_bytes, max_body_bytes;
    double header_timeout_s, body_timeout_s; /* absolute, from the first byte */
    double write_timeout_s;                  /* a reader that takes nothing for so long is cut off */
    double idle_timeout_s;                   /* between two requests of a connection */
    double ping_s;                           /* silence of a stream after which a comment line is sent */
    int n_parse_thread;                      /* threads for large bodies */
};
void server_config_init(struct server_config *c); /* the limits of the contract; 127.0.0.1:8000 */

struct server;
/* Binds, listens and starts the threads. Strings of c are copied. ERR_IO names address and cause (port in
 * use). */
int server_open(const struct server_config *c, struct server **out, struct err *e);
int server_port(const struct server *s);
/* Once, with the engine open. tmpl: the compiled chat template, NULL = the model has none. */
int server_attach(struct server *s, struct engine *en, const struct model *m, const struct template *tmpl,
                  struct err *e);
void server_drain(struct server *s);
void server_close(struct server *s); /* NULL is fine */
