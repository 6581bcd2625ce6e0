/* POST /tokenize and /detokenize, with vLLM's fields or llama-server's. */
#include <math.h>
#include <string.h>
#include "chat.h"
#include "server_impl.h"
#include "tokenizer.h"
#include "utf8.h"

static void get_flag(const cJSON *body, const char *key, bool *out, struct err *e)
{
    if (!e->code) json_get_bool(body, key, out, e);
}

/* The token's own text; bytes that are not UTF-8 become U+FFFD. */
static void put_piece(struct buf *out, const struct tokenizer *tok, int32_t id)
{
    struct tok_stream st = {.continuing = 1};
    struct buf raw = {0}, clean = {0};
    tok_stream_push(tok, &st, id, false, &raw);
    utf8_clean(&clean, raw.data ? raw.data : "", raw.len);
    buf_json(out, clean.data ? clean.data : "", clean.len);
    buf_free(&raw);
    buf_free(&clean);
}

static void put_tokens(struct buf *out, const struct vec_i32 *ids, const struct tokenizer *tok,
                       bool with_pieces)
{
    buf_str(out, "\"tokens\":[");
    for (int i = 0; i < ids->n; i++) {
        if (i) buf_chr(out, ',');
        if (!with_pieces) {
            buf_fmt(out, "%d", ids->v[i]);
            continue;
        }
        buf_fmt(out, "{\"id\":%d,\"piece\":", ids->v[i]);
        put_piece(out, tok, ids->v[i]);
        buf_chr(out, '}');
    }
    buf_chr(out, ']');
}

/* `prompt` (vLLM), `content` (llama-server) or `messages` to ids. */
static int encode(const struct server *s, const cJSON *body, struct vec_i32 *ids, struct err *e)
{
    const cJSON *prompt = json_get(body, "prompt"), *content = json_get(body, "content");
    if (json_get(body, "messages")) return chat_tokens(body, &s->env, ids, e);
    const cJSON *text = prompt ? prompt : content;
    const char *name = prompt || !content ? "prompt" : "content";
    if (!cJSON_IsString(text)) return err_param(e, ERR_INVALID, name, "%s: must be a string", name);
    bool add = prompt != NULL, parse = true;
    get_flag(body, "add_special", &add, e);
    get_flag(body, "add_special_tokens", &add, e);
    get_flag(body, "parse_special", &parse, e);
    if (e->code) return e->code;
    struct buf b = {0};
    json_str(text, &b);
    int status = b.failed ? err_set(e, ERR_NOMEM, "out of memory")
                          : tok_encode(s->env.tok, b.data ? b.data : "", b.len,
                                       (add ? TOK_ADD_SPECIAL : 0) | (parse ? TOK_PARSE_SPECIAL : 0), ids, e);
    buf_free(&b);
    return status;
}

static void answer_json(struct http_x *x, int status, const struct err *e)
{
    if (status) {
        routes_fail_err(x, e);
    } else {
        x->status = 200;
        x->type = "application/json";
    }
}

void route_tokenize(struct server *s, struct http_x *x)
{
    struct err e = {0};
    struct vec_i32 ids = {0};
    bool strings = false, pieces = false;
    cJSON *body = routes_json(x);
    if (!body) return;
    get_flag(body, "return_token_strs", &strings, &e);
    get_flag(body, "with_pieces", &pieces, &e);
    int status = e.code;
    if (!status) status = api_check_model(body, &s->env, &e);
    if (!status) status = encode(s, body, &ids, &e);
    cJSON_Delete(body);
    if (!status) {
        buf_fmt(&x->out, "{\"count\":%d,\"max_model_len\":%d,", ids.n, s->env.max_model_len);
        put_tokens(&x->out, &ids, s->env.tok, pieces);
        buf_str(&x->out, ",\"token_strs\":");
        if (strings) buf_chr(&x->out, '[');
        for (int i = 0; strings && i < ids.n; i++) {
            if (i) buf_chr(&x->out, ',');
            put_piece(&x->out, s->env.tok, ids.v[i]);
        }
        buf_str(&x->out, strings ? "]}" : "null}");
    }
    vec_i32_free(&ids);
    answer_json(x, status, &e);
}

static int get_tokens(const struct server *s, const cJSON *body, struct vec_i32 *ids, struct err *e)
{
    const cJSON *list = json_get(body, "tokens");
    if (!cJSON_IsArray(list))
        return err_param(e, ERR_INVALID, "tokens", "tokens: must be a list of token ids");
    for (const cJSON *v = list->child; v; v = v->next) {
        double d = cJSON_IsNumber(v) ? v->valuedouble : NAN;
        if (!(d >= 0 && d < s->env.vocab) || d != floor(d))
            return err_param(e, ERR_INVALID, "tokens", "tokens: an id must be an integer from 0 to %d",
                             s->env.vocab - 1);
        if (vec_i32_push(ids, (int32_t)d)) return err_set(e, ERR_NOMEM, "out of memory");
    }
    return 0;
}

void route_detokenize(struct server *s, struct http_x *x)
{
    struct err e = {0};
    struct vec_i32 ids = {0};
    struct buf text = {0};
    cJSON *body = routes_json(x);
    if (!body) return;
    int status = api_check_model(body, &s->env, &e);
    if (!status) status = get_tokens(s, body, &ids, &e);
    cJSON_Delete(body);
    if (!status) status = tok_decode(s->env.tok, ids.v, ids.n, false, &text);
    if (status && !e.code) err_set(&e, status, "the tokens cannot be decoded");
    if (!status) {
        static const char *const keys[] = {"{\"prompt\":", ",\"content\":"}; /* vLLM's name, llama-server's */
        for (int i = 0; i < 2; i++) {
            buf_str(&x->out, keys[i]);
            buf_json(&x->out, text.data ? text.data : "", text.len);
        }
        buf_chr(&x->out, '}');
    }
    vec_i32_free(&ids);
    buf_free(&text);
    answer_json(x, status, &e);
}
