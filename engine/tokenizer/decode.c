#include "decode.h"
#include <stdlib.h>
#include <string.h>
#include "tok.h"
#include "unicode.h"
#include "utf8.h"

void decoder_free(struct decoder *d)
{
    for (int i = 0; i < d->n_op; i++) {
        buf_free(&d->op[i].from);
        buf_free(&d->op[i].to);
    }
    buf_free(&d->bytes);
    free(d->off);
    *d = (struct decoder){0};
}

static void replace_all(const char *s, size_t n, const struct buf *from, const char *to, size_t n_to,
                        struct buf *out)
{
    while (n) {
        const char *at = bytes_find(s, n, from->data, from->len);
        size_t keep = at ? (size_t)(at - s) : n;
        buf_add(out, s, keep);
        if (!at) return;
        buf_add(out, to, n_to);
        s += keep + from->len;
        n -= keep + from->len;
    }
}

static void strip(const struct dec_op *op, const char *s, size_t n, struct buf *out)
{
    size_t k = op->from.len;
    for (int i = 0; i < op->left && n >= k && !memcmp(s, op->from.data, k); i++) {
        s += k;
        n -= k;
    }
    for (int i = 0; i < op->right && n >= k && !memcmp(s + n - k, op->from.data, k); i++) n -= k;
    buf_add(out, s, n);
}

static void run(const struct dec_op *op, const char *s, size_t n, bool first, struct buf *out)
{
    int b;
    switch (op->kind) {
    case DEC_REPLACE: replace_all(s, n, &op->from, op->to.data, op->to.len, out); return;
    case DEC_STRIP: strip(op, s, n, out); return;
    case DEC_METASPACE: replace_all(s, n, &op->from, " ", first && op->first ? 0 : 1, out); return;
    case DEC_BYTE_LEVEL:
        if (!uni_bytes_decode(s, n, out)) buf_add(out, s, n);
        return;
    case DEC_BYTE_FALLBACK:
        b = byte_token(s, n);
        if (b >= 0) {
            buf_chr(out, (char)b);
        } else {
            buf_add(out, s, n);
        }
        return;
    }
}

void decoder_token(const struct decoder *d, const char *s, size_t n, bool first, struct buf *out)
{
    struct buf a = {0}, b = {0};
    buf_add(&a, s, n);
    for (int i = 0; i < d->n_op; i++) {
        buf_clear(&b);
        run(&d->op[i], a.data, a.len, first, &b);
        struct buf t = a;
        a = b;
        b = t;
    }
    buf_add(out, a.data, a.len);
    if (a.failed || b.failed) out->failed = true;
    buf_free(&a);
    buf_free(&b);
}

int tok_index_decoder(struct tokenizer *t)
{
    struct decoder *d = &t->decoder;
    int n_id = t->bpe.vocab.n_id;
    d->off = calloc((size_t)n_id + 1, sizeof *d->off);
    if (!d->off) return ERR_NOMEM;
    for (int32_t id = 0; id < n_id; id++) {
        size_t n;
        const char *s = dict_get(&t->bpe.vocab, id, &n);
        struct buf normalized = {0};
        if (s && t->normalized_name && tok_normalized_name(t, id, &normalized)) {
            s = normalized.data;
            n = normalized.len;
        }
        if (s && t->literal && t->literal[id]) {
            buf_add(&d->bytes, s, n);
        } else if (s) {
            decoder_token(d, s, n, false, &d->bytes);
        }
        if (normalized.failed) d->bytes.failed = true;
        buf_free(&normalized);
        if (d->bytes.len > UINT32_MAX) return ERR_NOMEM;
        d->off[id + 1] = (uint32_t)d->bytes.len;
    }
    return d->bytes.failed ? ERR_NOMEM : 0;
}

void tok_stream_push(const struct tokenizer *t, struct tok_stream *st, int32_t id, bool skip_special,
                     struct buf *out)
{
    const struct decoder *d = &t->decoder;
    size_t n_token;
    if (!dict_get(&t->bpe.vocab, id, &n_token) || (skip_special && tok_is_special(t, id))) return;
    bool first = !st->started && !st->continuing;
    st->started = 1;
    if (d->join_spaces && !first) buf_chr(out, ' ');
    size_t from = out->len;
    if (first && d->first_differs && !(t->literal && t->literal[id])) {
        decoder_token(d, dict_get(&t->bpe.vocab, id, &n_token), n_token, true, out);
    } else if (d->off[id + 1] > d->off[id]) {
        buf_add(out, d->bytes.data + d->off[id], d->off[id + 1] - d->off[id]);
    }
    if (st->continuing || st->stripped == UINT8_MAX || out->failed) return;
    size_t drop = 0, n = out->len - from;
    while (drop < n && st->stripped < d->strip_left && out->data[from + drop] == d->strip_char) {
        drop++;
        st->stripped++;
    }
    if (drop < n || st->stripped >= d->strip_left) st->stripped = UINT8_MAX;
    if (!drop) return;
    memmove(out->data + from, out->data + from + drop, n - drop);
    out->len -= drop;
    out->data[out->len] = 0;
}

int tok_decode(const struct tokenizer *t, const int32_t *ids, int n, bool skip_special, struct buf *out)
{
    struct tok_stream st = {0};
    struct buf raw = {0};
    for (int i = 0; i < n; i++) tok_stream_push(t, &st, ids[i], skip_special, &raw);
    if (raw.failed) out->failed = true;
    if (raw.len) utf8_clean(out, raw.data, raw.len);
    buf_free(&raw);
    return out->failed ? ERR_NOMEM : 0;
}
