#include "server.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "clock.h"
#include "log.h"
#include "server_impl.h"

#define CLOSE_GRACE_S 2.0 /* for last bytes to reach their readers */

void server_config_init(struct server_config *c)
{
    *c = (struct server_config){
        .host = "127.0.0.1",
        .port = 8000,
        .max_connections = 1024,
        .max_header_lines = 100,
        .max_header_bytes = 32 << 10,
        .max_body_bytes = 32 << 20,
        .header_timeout_s = 10,
        .body_timeout_s = 30,
        .write_timeout_s = 60,
        .idle_timeout_s = 60,
        .ping_s = 15,
        .n_parse_thread = 2,
    };
}

static void on_count(void *ctx, int status)
{
    struct server *s = ctx;
    int i = 0;
    while (i < s->n_responses - 1 && s->responses[i].status != status) i++;
    metric_add(s->responses[i].count, 1);
}

static void on_done(void *ctx, const struct http_x *x)
{
    struct server *s = ctx;
    if (!s->c.log_requests || !x->method[0]) return;
    /* The path only of known routes: anything else is the client's own text. */
    log_info("%s %.100s %d %.1f ms id=%s", x->route ? x->method : "-", x->route ? x->path : "-", x->status,
             (double)(clock_ns() - x->t_begin) * 1e-6, x->id[0] ? x->id : "-");
}

static void register_metrics(struct server *s)
{
    static const struct {
        int status;
        const char *label;
    } codes[] = {{200, "200"}, {204, "204"}, {400, "400"}, {401, "401"}, {404, "404"}, {405, "405"},
                 {408, "408"}, {413, "413"}, {414, "414"}, {415, "415"}, {417, "417"}, {429, "429"},
                 {431, "431"}, {500, "500"}, {503, "503"}, {505, "505"}, {0, "other"}};
    s->n_responses = (int)(sizeof codes / sizeof codes[0]);
    for (int i = 0; i < s->n_responses; i++) {
        s->responses[i].status = codes[i].status;
        s->responses[i].count = metrics_counter(s->c.metrics, "inferd:http_responses_total",
                                                "HTTP answers by status.", "code", codes[i].label);
    }
}

static const char *copy(const char *s, bool *failed)
{
    char *c = strdup(s ? s : "");
    if (!c) *failed = true;
    return c;
}

static void server_free(struct server *s)
{
    auth_free(s->auth);
    free((char *)s->c.host);
    free((char *)s->c.served_name);
    free((char *)s->c.allowed_origins);
    free(s);
}

int server_open(const struct server_config *c, struct server **out, struct err *e)
{
    *out = NULL;
    struct server *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NOMEM, "out of memory");
    bool failed = false;
    s->c = *c;
    s->c.host = copy(c->host, &failed);
    s->c.served_name = copy(c->served_name, &failed);
    s->c.allowed_origins = copy(c->allowed_origins, &failed);
    s->c.api_key = s->c.api_key_file = NULL; /* only hashes are kept */
    s->created = time(NULL);
    int status =
        failed ? err_set(e, ERR_NOMEM, "out of memory") : auth_open(c->api_key, c->api_key_file, &s->auth, e);
    if (!status) {
        register_metrics(s);
        struct http_config hc = {
            .gate = {.host = s->c.host,
                     .port = c->port,
                     .max_connections = c->max_connections,
                     .limits = {c->max_header_lines, c->max_header_bytes, c->max_body_bytes},
                     .header_timeout_s = c->header_timeout_s,
                     .body_timeout_s = c->body_timeout_s,
                     .idle_timeout_s = c->idle_timeout_s},
            .write_timeout_s = c->write_timeout_s,
            .ping_s = c->ping_s,
            .n_parse_thread = c->n_parse_thread,
        };
        struct http_handler handler = {s, routes_head, routes_body, on_done, on_count};
        status = http_open(&hc, &handler, &s->http, e);
    }
    if (status) {
        server_free(s);
        return status;
    }
    *out = s;
    return 0;
}

int server_port(const struct server *s) { return http_port(s->http); }

int server_attach(struct server *s, struct engine *en, const struct model *m, const struct template *tmpl,
                  struct err *e)
{
    const char *name = *s->c.served_name ? s->c.served_name : m->name;
    if (strlen(name) >= sizeof s->name)
        return err_param(e, ERR_INVALID, "served-model-name", "--served-model-name: longer than %zu bytes",
                         sizeof s->name - 1);
    memcpy(s->name, name, strlen(name) + 1);
    s->engine = en;
    s->env = (struct api_env){.tok = m->tok,
                              .tmpl = tmpl,
                              .name = s->name,
                              .vocab = m->arch.vocab,
                              .max_model_len = engine_info(en)->max_model_len,
                              .gen = m->gen,
                              .seed = s->c.seed};
    if (s->c.vllm_defaults)
        s->env.gen = (struct gen_defaults){.temperature = NAN,
                                           .top_p = NAN,
                                           .min_p = NAN,
                                           .repetition_penalty = NAN,
                                           .top_k = -1,
                                           .max_new_tokens = -1};
    atomic_store(&s->attached, true);
    return 0;
}

bool server_is_ready(struct server *s, const char **why)
{
    *why = NULL;
    if (atomic_load(&s->draining)) {
        *why = "the server is shutting down";
        return false;
    }
    if (!atomic_load(&s->attached)) {
        *why = "the model is loading";
        return false;
    }
    switch (engine_state(s->engine)) {
    case ENGINE_READY: break;
    case ENGINE_WARMING: *why = "the model is loading"; break;
    case ENGINE_DRAINING: *why = "the server is shutting down"; break;
    case ENGINE_STALLED: *why = "the engine makes no progress"; break;
    default: *why = "the engine has stopped";
    }
    return !*why;
}

void server_drain(struct server *s) { atomic_store(&s->draining, true); }

void server_close(struct server *s)
{
    if (!s) return;
    server_drain(s);
    if (!http_wait_idle(s->http, CLOSE_GRACE_S)) log_warn("closing connections that are still in use");
    http_close(s->http);
    server_free(s);
}
