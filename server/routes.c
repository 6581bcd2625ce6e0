/* The route table, and what is decided before a body is read: CORS, key, route, method, media type,
 * readiness. */
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include "log.h"
#include "reply.h"
#include "server_impl.h"

enum { OPEN = 1, /* needs no key */ ENGINE = 2, /* 503 until ready */ PREFIX = 4, PROBE = 8 };
struct route {
    const char *path;
    bool post;
    unsigned flags;
    void (*run)(struct server *s, struct http_x *x);
};
static const struct route routes[] = {
    {"/v1/completions", true, ENGINE, route_completions},
    {"/v1/chat/completions", true, ENGINE, route_chat},
    {"/tokenize", true, ENGINE, route_tokenize},
    {"/detokenize", true, ENGINE, route_detokenize},
    {"/v1/models", false, ENGINE, route_models},
    {"/v1/models/", false, ENGINE | PREFIX, route_model},
    {"/health", false, OPEN | PROBE, route_ready},
    {"/readyz", false, OPEN | PROBE, route_ready},
    {"/livez", false, OPEN | PROBE, route_live},
    {"/ping", false, PROBE, route_ready},
    {"/metrics", false, 0, route_metrics},
    {"/version", false, 0, route_version},
    {"/", false, OPEN, route_page},
};

static const struct route *find_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const struct route *r = &routes[i];
        if (r->flags & PREFIX ? !strncmp(path, r->path, strlen(r->path)) : !strcmp(path, r->path)) return r;
    }
    return NULL;
}

void routes_fail(struct http_x *x, int status, const struct err *e)
{
    const char *type = e->code == ERR_TOO_LONG ? "context_length_exceeded" : reply_error_type(status);
    x->status = status;
    x->type = "application/json";
    buf_clear(&x->out);
    reply_error_json(&x->out, status, type, e->param, e->msg);
    if (status == 429 || status == 503) http_header(x, "Retry-After", "%d", status == 429 ? 1 : 2);
    if (status == 401) http_header(x, "WWW-Authenticate", "Bearer");
}

void routes_fail_err(struct http_x *x, const struct err *e) { routes_fail(x, reply_status_of(e->code), e); }

static bool refuse(struct http_x *x, int status, const char *why)
{
    struct err e = {0};
    err_set(&e, ERR_INVALID, "%s", why);
    routes_fail(x, status, &e);
    return false;
}

cJSON *routes_json(struct http_x *x)
{
    struct err e = {0};
    cJSON *body = NULL;
    if (!x->body.len)
        err_set(&e, ERR_FORMAT, "the body is empty; a JSON object is needed");
    else if (!json_parse(x->body.data, x->body.len, JSON_LIMITS_REQUEST, &body, &e) && !cJSON_IsObject(body))
        err_set(&e, ERR_FORMAT, "the body must be a JSON object");
    buf_free(&x->body);
    if (!e.code) return body;
    cJSON_Delete(body);
    routes_fail_err(x, &e);
    return NULL;
}

/* An id of the client's is echoed if it can stand in headers and logs as it is. */
static void set_request_id(struct http_x *x)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-";
    const struct head_field *f = head_find(&x->head, "X-Request-Id", NULL);
    size_t n = f && f->n_value < sizeof x->id ? f->n_value : 0, k = 0;
    while (k < n && f->value[k] && strchr(safe, f->value[k])) k++;
    if (n && k == n) {
        memcpy(x->id, f->value, n);
    } else {
        uint64_t r[2] = {0};
        if (getrandom(r, sizeof r, 0) != (ssize_t)sizeof r) r[0] = (uint64_t)x->t_begin;
        for (int i = 0; i < 32; i++) x->id[i] = "0123456789abcdef"[r[i / 16] >> (i % 16 * 4) & 15];
    }
    http_header(x, "X-Request-Id", "%s", x->id);
}

/* The configured origin that this is, "*" if all are allowed, else NULL. */
static const char *allowed_origin(const struct server *s, const struct head_field *origin, struct buf *room)
{
    const char *list = s->c.allowed_origins;
    while (list && *list) {
        size_t n = strcspn(list, ",");
        while (n && *list == ' ') list++, n--;
        if (n == 1 && *list == '*') return "*";
        if (n == origin->n_value && !strncasecmp(list, origin->value, n)) {
            buf_add(room, list, n);
            return room->failed ? NULL : room->data;
        }
        list += n;
        if (*list) list++;
    }
    return NULL;
}

/* True if the request was a preflight that is answered now. Preflights carry no key. */
static bool handle_cors(const struct server *s, struct http_x *x)
{
    const struct head_field *origin = head_find(&x->head, "Origin", NULL);
    struct buf room = {0};
    const char *allowed = origin ? allowed_origin(s, origin, &room) : NULL;
    bool preflight = allowed && !strcmp(x->method, "OPTIONS") &&
                     head_find(&x->head, "Access-Control-Request-Method", NULL);
    if (allowed) {
        http_header(x, "Access-Control-Allow-Origin", "%s", allowed);
        http_header(x, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After, X-Inferd-Ignored");
        http_header(x, "Vary", "Origin");
    }
    if (preflight) {
        http_header(x, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        http_header(x, "Access-Control-Allow-Headers",
                    "Authorization, Content-Type, X-Api-Key, X-Request-Id");
        http_header(x, "Access-Control-Max-Age", "600");
        x->status = 204;
    }
    buf_free(&room);
    return preflight;
}

static bool has_key(const struct server *s, const struct http_x *x)
{
    int n_bearer, n_plain;
    const struct head_field *bearer = head_find(&x->head, "Authorization", &n_bearer);
    const struct head_field *plain = head_find(&x->head, "X-Api-Key", &n_plain);
    if (n_bearer > 1 || n_plain > 1) return false;
    if (bearer && bearer->n_value > 7 && !strncasecmp(bearer->value, "Bearer ", 7))
        return auth_check(s->auth, bearer->value + 7, bearer->n_value - 7);
    return !bearer && plain && auth_check(s->auth, plain->value, plain->n_value);
}

/* JSON only: a browser sends any other type across origins without asking first. */
static bool is_json(const struct http_x *x)
{
    int n;
    const struct head_field *type = head_find(&x->head, "Content-Type", &n);
    if (!type) return true;
    static const char json[] = "application/json";
    size_t k = sizeof json - 1;
    return n == 1 && type->n_value >= k && !strncasecmp(type->value, json, k) &&
           (type->n_value == k || strchr("; \t", type->value[k]));
}

bool routes_head(void *ctx, struct http_x *x)
{
    struct server *s = ctx;
    set_request_id(x);
    if (handle_cors(s, x)) return false;
    const struct route *r = find_route(x->path);
    if (s->auth && !(r && r->flags & OPEN) && !has_key(s, x))
        return refuse(x, 401, "a valid API key is needed");
    if (!r) return refuse(x, 404, "there is no such route");
    bool get = !strcmp(x->method, "GET") || !strcmp(x->method, "HEAD");
    if (r->post ? strcmp(x->method, "POST") != 0 : !get) {
        http_header(x, "Allow", r->post ? "POST" : "GET, HEAD");
        return refuse(x, 405, r->post ? "only POST is allowed here" : "only GET is allowed here");
    }
    x->route = r;
    const struct head_field *coding = head_find(&x->head, "Content-Encoding", NULL);
    if (coding && !head_value_is(coding, "identity"))
        return refuse(x, 415, "compressed bodies are not supported");
    if (r->post && !is_json(x)) return refuse(x, 415, "the Content-Type must be application/json");
    const char *why;
    if (r->flags & ENGINE && !server_is_ready(s, &why)) return refuse(x, 503, why);
    return true;
}

void routes_body(void *ctx, struct http_x *x)
{
    struct server *s = ctx;
    const struct route *r = x->route;
    r->run(s, x);
}
