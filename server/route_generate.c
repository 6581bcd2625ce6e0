/* POST /v1/completions and /v1/chat/completions. */
#include "answer.h"
#include "server_impl.h"

static void generate(struct server *s, struct http_x *x, enum api_kind kind)
{
    struct err e = {0};
    struct api_request r = {0};
    cJSON *body = routes_json(x);
    if (!body) return;
    int status = api_parse(kind, body, &s->env, &r, &e);
    cJSON_Delete(body);
    if (r.ignored.len) http_header(x, "X-Inferd-Ignored", "%s", r.ignored.data);
    if (!status)
        status = answer_start(x, s->engine, &s->env, &r, &e);
    else
        api_request_free(&r);
    if (status) routes_fail_err(x, &e);
    if (!status && x->stream) {
        http_header(x, "Cache-Control", "no-cache");
        http_header(x, "X-Accel-Buffering", "no"); /* nginx would collect the stream otherwise */
    }
}

void route_completions(struct server *s, struct http_x *x) { generate(s, x, API_COMPLETION); }
void route_chat(struct server *s, struct http_x *x) { generate(s, x, API_CHAT); }
