#include "openai_out.h"
#include <stdlib.h>
#include <string.h>
#include "reply.h"

void choice_free(struct choice *c)
{
    buf_free(&c->text);
    vec_i32_free(&c->ids);
    logprobs_free(&c->lp);
    buf_free(&c->prompt_lp);
    buf_free(&c->stop_reason);
}

static bool is_chat(const struct answer_view *v) { return v->req->kind == API_CHAT; }

static const struct api_prompt *prompt_of(const struct answer_view *v, const struct choice *c)
{
    return &v->req->prompt[c->index / v->req->n];
}

/* JSON null, the stop string, or the id of the stop token. */
static void put_stop_reason(const struct answer_view *v, const struct out_batch *b, struct buf *out)
{
    const struct gen_params *g = &v->req->gen;
    buf_clear(out);
    if (b->stop_string) {
        /* It is a copy of one of ours, which may hold NUL bytes: take the length from there. */
        for (int i = 0; i < g->n_stop; i++)
            if (!strcmp(g->stop[i], b->stop_string)) {
                buf_json(out, g->stop[i], (size_t)g->stop_len[i]);
                return;
            }
    }
    if (b->stop_token >= 0)
        buf_fmt(out, "%d", b->stop_token);
    else
        buf_str(out, "null");
}

static void begin_text(const struct answer_view *v, struct choice *c, const struct out_batch *b)
{
    const struct api_request *r = v->req;
    c->begun = true;
    if (!r->echo) {
        c->stream.continuing = 1;
        return;
    }
    const struct buf *text = &prompt_of(v, c)->text;
    buf_add(&c->text, text->data ? text->data : "", text->len);
    struct logprob_style s = {.tok = v->tok, .chat = is_chat(v), .as_ids = r->tokens_as_ids};
    if (r->gen.logprobs >= 0)
        for (int i = 0; i < b->n_prompt; i++)
            logprobs_add(&c->lp, &s, &c->stream, &b->prompt[i], b->top, i > 0);
}

void choice_digest(const struct answer_view *v, struct choice *c, const struct out_batch *b)
{
    const struct api_request *r = v->req;
    c->unwritten = true;
    if (b->n_prompt && r->prompt_logprobs)
        logprobs_prompt(&c->prompt_lp, v->tok, b->prompt, b->n_prompt, b->top);
    if (!c->begun) begin_text(v, c, b);
    c->usage = b->usage;
    c->done = b->done;
    if (b->done) {
        c->finish = b->finish;
        put_stop_reason(v, b, &c->stop_reason);
    }
    if (r->no_answer) {
        c->usage.completion_tokens = 0;
        if (b->done && b->finish == FINISH_STOP) c->finish = FINISH_LENGTH;
        return;
    }
    buf_add(&c->text, b->n_text ? b->text : "", b->n_text);
    struct logprob_style s = {.tok = v->tok, .chat = is_chat(v), .as_ids = r->tokens_as_ids};
    for (int i = 0; i < b->n_tok; i++) {
        if (r->return_token_ids && vec_i32_push(&c->ids, b->tok[i].token)) c->text.failed = true;
        if (r->gen.logprobs >= 0) logprobs_add(&c->lp, &s, &c->stream, &b->tok[i], b->top, true);
    }
}

static void put_head(const struct answer_view *v, const char *object, struct buf *out)
{
    buf_fmt(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", v->head.id, object,
            (long long)v->head.created);
    buf_json(out, v->head.model, strlen(v->head.model));
    buf_str(out, ",\"system_fingerprint\":\"inferd-" INFERD_VERSION "\",\"choices\":[");
}

static void put_ids(struct buf *out, const char *name, const struct vec_i32 *ids)
{
    buf_fmt(out, ",\"%s\":[", name);
    for (int i = 0; i < ids->n; i++) buf_fmt(out, i ? ",%d" : "%d", ids->v[i]);
    buf_chr(out, ']');
}

static void put_usage(const struct answer_view *v, struct buf *out)
{
    int64_t prompt = 0, answer = 0, cached = 0;
    for (int i = 0; i < v->n; i++) {
        answer += v->choice[i].usage.completion_tokens;
        if (i % v->req->n) continue; /* a prompt counts once, however many choices it has */
        prompt += v->req->prompt[i / v->req->n].ids.n;
        cached += v->choice[i].usage.cached_tokens;
    }
    buf_fmt(out,
            "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
            "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
            (long long)prompt, (long long)answer, (long long)(prompt + answer), (long long)cached);
}

/* ,"logprobs":..,"finish_reason":..,"stop_reason":..,"token_ids":.. */
static void put_rest_of_choice(const struct answer_view *v, const struct choice *c, struct buf *out)
{
    buf_str(out, ",\"logprobs\":");
    if (v->req->gen.logprobs >= 0)
        logprobs_write(&c->lp, is_chat(v), out);
    else
        buf_str(out, "null");
    const char *why = c->done ? finish_reason_name(c->finish) : NULL;
    buf_fmt(out, why ? ",\"finish_reason\":\"%s\"" : ",\"finish_reason\":null", why);
    buf_fmt(out, ",\"stop_reason\":%s", c->done && c->stop_reason.len ? c->stop_reason.data : "null");
    if (v->req->return_token_ids) put_ids(out, "token_ids", &c->ids);
}

static void put_text(struct buf *out, const char *name, const struct buf *text)
{
    buf_fmt(out, "\"%s\":", name);
    buf_json(out, text->data ? text->data : "", text->len);
    out->failed |= text->failed;
}

void out_whole(const struct answer_view *v, struct buf *out)
{
    bool chat = is_chat(v);
    put_head(v, chat ? "chat.completion" : "text_completion", out);
    for (int i = 0; i < v->n; i++) {
        const struct choice *c = &v->choice[i];
        buf_fmt(out, i ? ",{\"index\":%d," : "{\"index\":%d,", c->index);
        if (chat) {
            buf_str(out, "\"message\":{\"role\":\"assistant\",");
            put_text(out, "content", &c->text);
            buf_str(out, ",\"refusal\":null}");
        } else {
            put_text(out, "text", &c->text);
        }
        put_rest_of_choice(v, c, out);
        if (!chat && v->req->prompt_logprobs)
            buf_fmt(out, ",\"prompt_logprobs\":%s", c->prompt_lp.len ? c->prompt_lp.data : "null");
        if (!chat && v->req->return_token_ids) put_ids(out, "prompt_token_ids", &prompt_of(v, c)->ids);
        buf_chr(out, '}');
    }
    buf_str(out, "],");
    put_usage(v, out);
    if (chat && v->req->prompt_logprobs)
        buf_fmt(out, ",\"prompt_logprobs\":%s",
                v->choice->prompt_lp.len ? v->choice->prompt_lp.data : "null");
    if (chat && v->req->return_token_ids) put_ids(out, "prompt_token_ids", &v->req->prompt->ids);
    buf_chr(out, '}');
}

/* "]", perhaps usage, and the end of the event. */
static void end_chunk(const struct answer_view *v, struct buf *out)
{
    buf_chr(out, ']');
    if (v->req->continuous_usage) {
        buf_chr(out, ',');
        put_usage(v, out);
    } else if (v->req->include_usage) {
        buf_str(out, ",\"usage\":null");
    }
    buf_str(out, "}\n\n");
}

static void put_role_chunk(const struct answer_view *v, const struct choice *c, struct buf *out)
{
    buf_str(out, "data: ");
    put_head(v, "chat.completion.chunk", out);
    buf_fmt(out,
            "{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_"
            "reason\":null}",
            c->index);
    end_chunk(v, out);
}

void out_chunk(const struct answer_view *v, struct choice *c, struct buf *out)
{
    bool chat = is_chat(v), first = !c->announced;
    c->announced = true;
    if (chat && first) put_role_chunk(v, c, out);
    buf_str(out, "data: ");
    put_head(v, chat ? "chat.completion.chunk" : "text_completion", out);
    buf_fmt(out, "{\"index\":%d,", c->index);
    if (chat) buf_str(out, "\"delta\":{");
    if (!chat || c->text.len || !c->done) put_text(out, chat ? "content" : "text", &c->text);
    if (chat) buf_chr(out, '}');
    put_rest_of_choice(v, c, out);
    if (first && v->req->return_token_ids) put_ids(out, "prompt_token_ids", &prompt_of(v, c)->ids);
    buf_chr(out, '}');
    end_chunk(v, out);
    buf_clear(&c->text);
    c->ids.n = 0;
    logprobs_clear(&c->lp);
    c->unwritten = false;
}

void out_end(const struct answer_view *v, struct buf *out)
{
    if (v->req->include_usage) {
        buf_str(out, "data: ");
        put_head(v, is_chat(v) ? "chat.completion.chunk" : "text_completion", out);
        buf_str(out, "],");
        put_usage(v, out);
        buf_str(out, "}\n\n");
    }
    buf_str(out, "data: [DONE]\n\n");
}

void out_error_event(struct buf *out, const struct err *e)
{
    int status = reply_status_of(e->code);
    buf_str(out, "data: ");
    reply_error_json(out, status, reply_error_type(status), e->param, e->msg);
    buf_str(out, "\n\n");
}
