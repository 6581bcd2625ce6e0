#include "logprobs.h"
#include <string.h>
#include "utf8.h"

static double clamp_logprob(float logprob)
{
    return logprob > -9999 ? (double)logprob : -9999;
} /* NAN, too */

static void comma(struct buf *b)
{
    if (b->len) buf_chr(b, ',');
}

/* The bytes that a token adds; the state moves on. */
static void token_bytes(struct buf *out, const struct logprob_style *s, struct tok_stream *st, int32_t id)
{
    struct buf raw = {0};
    tok_stream_push(s->tok, st, id, false, &raw);
    if (s->as_ids)
        buf_fmt(out, "token_id:%d", id);
    else
        buf_add(out, raw.data ? raw.data : "", raw.len);
    buf_free(&raw);
}

/* A JSON string of bytes that need not be UTF-8. Returns the number of code points. */
static int put_text(struct buf *out, const struct buf *raw)
{
    struct buf clean = {0};
    int points = 0;
    utf8_clean(&clean, raw->data ? raw->data : "", raw->len);
    for (size_t i = 0; i < clean.len; i++) points += ((unsigned char)clean.data[i] & 0xc0) != 0x80;
    buf_json(out, clean.data ? clean.data : "", clean.len);
    buf_free(&clean);
    return points;
}

/* {"token","logprob","bytes" of one token, left open */
static void put_chat_token(struct buf *out, const struct logprob_style *s, struct tok_stream *st, int32_t id,
                           float lp)
{
    struct buf raw = {0};
    token_bytes(&raw, s, st, id);
    buf_str(out, "{\"token\":");
    put_text(out, &raw);
    buf_str(out, ",\"logprob\":");
    buf_json_f(out, clamp_logprob(lp));
    buf_str(out, ",\"bytes\":[");
    for (size_t i = 0; i < raw.len; i++) buf_fmt(out, i ? ",%u" : "%u", (unsigned char)raw.data[i]);
    buf_chr(out, ']');
    buf_free(&raw);
}

static void add_chat(struct buf *out, const struct logprob_style *s, struct tok_stream *st,
                     const struct out_token *t, const struct token_logprob *top)
{
    struct tok_stream before = *st;
    comma(out);
    put_chat_token(out, s, st, t->token, t->logprob);
    buf_str(out, ",\"top_logprobs\":[");
    for (int i = 0; i < t->n_top; i++) {
        struct tok_stream alt = before;
        if (i) buf_chr(out, ',');
        put_chat_token(out, s, &alt, top[t->top + i].token, top[t->top + i].logprob);
        buf_chr(out, '}');
    }
    buf_str(out, "]}");
}

/* One member of {"text": logprob, ...}. Two tokens can have the same text, but a JSON object not the same key
 * twice: the likelier one, which comes first, stays. */
static void put_top(struct buf *out, size_t from, const struct logprob_style *s, struct tok_stream st,
                    int32_t id, float lp)
{
    struct buf raw = {0}, key = {0};
    token_bytes(&raw, s, &st, id);
    put_text(&key, &raw);
    buf_chr(&key, ':');
    if (!key.failed && !out->failed && !memmem(out->data + from, out->len - from, key.data, key.len)) {
        if (out->len > from) buf_chr(out, ',');
        buf_add(out, key.data, key.len);
        buf_json_f(out, clamp_logprob(lp));
    }
    buf_free(&raw);
    buf_free(&key);
}

static void add_completion(struct logprob_arrays *a, const struct logprob_style *s, struct tok_stream *st,
                           const struct out_token *t, const struct token_logprob *top, bool has_logprob)
{
    struct tok_stream before = *st;
    struct buf raw = {0};
    comma(&a->tokens), comma(&a->logprobs), comma(&a->top), comma(&a->offset);
    token_bytes(&raw, s, st, t->token);
    buf_fmt(&a->offset, "%d", a->next_offset);
    a->next_offset += put_text(&a->tokens, &raw);
    buf_free(&raw);
    if (!has_logprob) {
        buf_str(&a->logprobs, "null");
        buf_str(&a->top, "null");
        return;
    }
    buf_json_f(&a->logprobs, clamp_logprob(t->logprob));
    buf_chr(&a->top, '{');
    size_t from = a->top.len;
    for (int i = 0; i < t->n_top; i++)
        put_top(&a->top, from, s, before, top[t->top + i].token, top[t->top + i].logprob);
    put_top(&a->top, from, s, before, t->token, t->logprob);
    buf_chr(&a->top, '}');
}

void logprobs_add(struct logprob_arrays *a, const struct logprob_style *s, struct tok_stream *st,
                  const struct out_token *t, const struct token_logprob *top, bool has_logprob)
{
    if (s->chat)
        add_chat(&a->content, s, st, t, top);
    else
        add_completion(a, s, st, t, top, has_logprob);
}

static void put_array(struct buf *out, const char *name, const struct buf *entries)
{
    buf_fmt(out, "\"%s\":[", name);
    buf_add(out, entries->data ? entries->data : "", entries->len);
    buf_chr(out, ']');
    out->failed |= entries->failed;
}

void logprobs_write(const struct logprob_arrays *a, bool chat, struct buf *out)
{
    buf_chr(out, '{');
    if (chat) {
        put_array(out, "content", &a->content);
    } else {
        put_array(out, "text_offset", &a->offset);
        buf_chr(out, ',');
        put_array(out, "token_logprobs", &a->logprobs);
        buf_chr(out, ',');
        put_array(out, "tokens", &a->tokens);
        buf_chr(out, ',');
        put_array(out, "top_logprobs", &a->top);
    }
    buf_chr(out, '}');
}

void logprobs_clear(struct logprob_arrays *a)
{
    buf_clear(&a->tokens);
    buf_clear(&a->logprobs);
    buf_clear(&a->top);
    buf_clear(&a->offset);
    buf_clear(&a->content);
}

void logprobs_free(struct logprob_arrays *a)
{
    buf_free(&a->tokens);
    buf_free(&a->logprobs);
    buf_free(&a->top);
    buf_free(&a->offset);
    buf_free(&a->content);
}

static void put_ranked(struct buf *out, const struct logprob_style *s, struct tok_stream st, int32_t id,
                       float lp, int rank)
{
    struct buf raw = {0};
    token_bytes(&raw, s, &st, id);
    buf_fmt(out, "\"%d\":{\"logprob\":", id);
    buf_json_f(out, clamp_logprob(lp));
    buf_fmt(out, ",\"rank\":%d,\"decoded_token\":", rank);
    put_text(out, &raw);
    buf_chr(out, '}');
    buf_free(&raw);
}

void logprobs_prompt(struct buf *out, const struct tokenizer *tok, const struct out_token *t, int n,
                     const struct token_logprob *top)
{
    struct logprob_style s = {.tok = tok};
    struct tok_stream st = {0};
    struct buf skip = {0};
    buf_chr(out, '[');
    for (int i = 0; i < n; i++) {
        if (i == 0) {
            buf_str(out, "null");
        } else {
            buf_str(out, ",{");
            put_ranked(out, &s, st, t[i].token, t[i].logprob, t[i].rank);
            for (int k = 0; k < t[i].n_top; k++) {
                const struct token_logprob *alt = &top[t[i].top + k];
                if (alt->token == t[i].token) continue;
                buf_chr(out, ',');
                put_ranked(out, &s, st, alt->token, alt->logprob, k + 1);
            }
            buf_chr(out, '}');
        }
        buf_clear(&skip);
        tok_stream_push(tok, &st, t[i].token, false, &skip);
    }
    buf_chr(out, ']');
    buf_free(&skip);
}
