/* The inside of a server, for server.c and the routes. Everything is fixed after server_open but `attached`
 * and `draining`; env and engine are fixed once `attached` is set. Handlers run on the HTTP thread and the
 * parse threads. */
#pragma once
#include <stdatomic.h>
#include "auth.h"
#include "engine.h"
#include "http.h"
#include "openai_in.h"
#include "server.h"

#define RESPONSE_CODES_MAX 24

struct server {
    struct server_config c; /* its strings are owned */
    struct auth *auth;      /* NULL = no key needed */
    struct http *http;
    int64_t created; /* Unix seconds */
    struct {
        int status;
        struct metric *count;
    } responses[RESPONSE_CODES_MAX]; /* the last one counts all others */
    int n_responses;

    atomic_bool attached, draining;
    struct engine *engine;
    struct api_env env;
    char name[128]; /* of the model in the API */
};

/* routes.c: the handlers that http.c calls; ctx is the server. */
bool routes_head(void *ctx, struct http_x *x);
void routes_body(void *ctx, struct http_x *x);
/* An error answer. e->param may be empty. */
void routes_fail(struct http_x *x, int status, const struct err *e);
void routes_fail_err(struct http_x *x, const struct err *e); /* status and type from e->code */
/* The request's JSON object; NULL after answering with an error. The caller deletes it. The body's bytes are
 * freed. */
cJSON *routes_json(struct http_x *x);
bool server_is_ready(struct server *s, const char **why);

/* One function a route; each makes the answer of x or gives it a source. */
void route_completions(struct server *s, struct http_x *x);
void route_chat(struct server *s, struct http_x *x);
void route_tokenize(struct server *s, struct http_x *x);
void route_detokenize(struct server *s, struct http_x *x);
void route_models(struct server *s, struct http_x *x);
void route_model(struct server *s, struct http_x *x); /* /v1/models/ID */
void route_live(struct server *s, struct http_x *x);
void route_ready(struct server *s, struct http_x *x);
void route_metrics(struct server *s, struct http_x *x);
void route_version(struct server *s, struct http_x *x);
void route_page(struct server *s, struct http_x *x);
