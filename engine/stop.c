#include "stop.h"
#include <string.h>
#include "utf8.h"

/* A piece's text is at most its stored form, of which each byte can become U+FFFD (3 bytes), plus a space.
 * Pieces beyond PIECE_MAX are not believed; a text that really overflows ends its request with an error. */
#define PIECE_MAX 1024

void stop_text_init(struct stop_text *t, char *mem, size_t cap)
{
    *t = (struct stop_text){.text = mem, .cap = cap, .match = -1};
    t->stream.continuing = 1;
}

size_t stop_text_bound(const struct tokenizer *tok)
{
    size_t longest = 1, n = 0;
    for (int id = 0; tok && id < tok_vocab(tok); id++)
        if (tok_token(tok, id, &n) && n > longest) longest = n;
    return 3 * (longest < PIECE_MAX ? longest : PIECE_MAX) + 4;
}

int stop_scratch_init(struct stop_scratch *s, size_t bound, struct err *e)
{
    *s = (struct stop_scratch){0};
    if (buf_reserve(&s->raw, bound + 16) || buf_reserve(&s->clean, 3 * bound + 16)) {
        stop_scratch_free(s);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    return 0;
}

void stop_scratch_free(struct stop_scratch *s)
{
    buf_free(&s->raw);
    buf_free(&s->clean);
}

static void clear(struct stop_scratch *s)
{
    buf_clear(&s->raw);
    buf_clear(&s->clean);
    s->raw.failed = s->clean.failed = false; /* one request's bad luck is not the next one's */
}

static void append(struct stop_text *t, const struct buf *b)
{
    if (b->failed || b->len > t->cap - t->n) {
        t->overflow = true;
        return;
    }
    if (b->len) memcpy(t->text + t->n, b->data, b->len);
    t->n += b->len;
}

/* The longest end of the invisible text with which a stop string could begin. */
static size_t held(const struct stop_text *t, const struct gen_params *p)
{
    size_t best = 0, room = t->n - t->visible;
    for (int i = 0; i < p->n_stop; i++) {
        size_t k = (size_t)p->stop_len[i] - 1;
        if (k > room) k = room;
        while (k > best && memcmp(t->text + t->n - k, p->stop[i], k)) k--;
        if (k > best) best = k;
    }
    return best;
}

/* The match that ends first beyond `searched`, the longest of those; sets *begin. */
static int find_stop(const struct stop_text *t, const struct gen_params *p, size_t *begin)
{
    int found = -1;
    size_t end = 0;
    for (int i = 0; i < p->n_stop; i++) {
        size_t len = (size_t)p->stop_len[i], from = t->searched + 1 > len ? t->searched + 1 - len : 0;
        if (from < t->visible) from = t->visible;
        if (from > t->n) continue;
        const char *at = memmem(t->text + from, t->n - from, p->stop[i], len);
        if (!at) continue;
        size_t b = (size_t)(at - t->text);
        if (found >= 0 && (b + len > end || (b + len == end && b >= *begin))) continue;
        found = i;
        *begin = b;
        end = b + len;
    }
    return found;
}

bool stop_text_push(struct stop_text *t, const struct gen_params *p, const struct tokenizer *tok,
                    int32_t token, bool search, struct stop_scratch *s)
{
    if (!tok) return false;
    clear(s);
    buf_add(&s->raw, t->tail, (size_t)t->n_tail);
    tok_stream_push(tok, &t->stream, token, !p->keep_special, &s->raw);
    if (s->raw.failed) {
        t->overflow = true;
        return false;
    }
    size_t whole = utf8_whole(s->raw.data, s->raw.len);
    utf8_clean(&s->clean, s->raw.data, whole);
    t->n_tail = (int)(s->raw.len - whole);
    memcpy(t->tail, s->raw.data + whole, (size_t)t->n_tail);
    append(t, &s->clean);

    size_t begin = 0;
    if (search && (t->match = find_stop(t, p, &begin)) >= 0) {
        t->n = t->visible = begin + (p->include_stop ? (size_t)p->stop_len[t->match] : 0);
        t->n_tail = 0;
        return true;
    }
    t->searched = t->n;
    t->visible = t->n - held(t, p);
    return false;
}

void stop_text_finish(struct stop_text *t, struct stop_scratch *s)
{
    clear(s);
    if (t->n_tail) utf8_clean(&s->clean, t->tail, (size_t)t->n_tail);
    t->n_tail = 0;
    append(t, &s->clean);
    t->visible = t->n;
}
