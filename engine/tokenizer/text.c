#include "text.h"
#include <stdlib.h>
#include <string.h>
#include "utf8.h"

void text_free(struct text *t)
{
    buf_free(&t->bytes);
    free(t->v);
    *t = (struct text){0};
}

void text_clear(struct text *t)
{
    buf_clear(&t->bytes);
    t->n = 0;
}

int text_push(struct text *t, size_t off, size_t len, int32_t id)
{
    if (id < 0 && !len) return 0;
    if (off + len > UINT32_MAX) return ERR_NOMEM;
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        struct span *v = realloc(t->v, cap * sizeof *v);
        if (!v) return ERR_NOMEM;
        t->v = v;
        t->cap = cap;
    }
    t->v[t->n++] = (struct span){(uint32_t)off, (uint32_t)len, id};
    return 0;
}

void work_free(struct work *w)
{
    text_free(&w->a);
    text_free(&w->b);
    pattern_scratch_free(&w->scratch);
}

void ops_free(struct ops *o)
{
    for (int i = 0; i < o->n; i++) {
        pattern_free(&o->v[i].pattern);
        buf_free(&o->v[i].with);
    }
    o->n = 0;
}

static bool begins_with(const char *s, size_t n, const struct buf *w)
{
    return !w->len || (n >= w->len && !memcmp(s, w->data, w->len));
}

static void strip(const struct op *op, const char *s, size_t n, struct buf *out)
{
    size_t i = 0;
    uint32_t cp = 0;
    while (op->left && i < n) {
        int k = utf8_next(s + i, n - i, &cp);
        if (k <= 0 || !uni_is_space(cp)) break;
        i += (size_t)k;
    }
    while (op->right && n > i) {
        size_t j = n - 1;
        while (j > i && (s[j] & 0xc0) == 0x80) j--;
        if (utf8_next(s + j, n - j, &cp) <= 0 || !uni_is_space(cp)) break;
        n = j;
    }
    buf_add(out, s + i, n - i);
}

static void drop_marks(const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int k = utf8_next(s + i, n - i, &cp);
        if (k <= 0) return;
        if (!uni_is_mark(cp)) buf_add(out, s + i, (size_t)k);
        i += (size_t)k;
    }
}

static int replace(const struct op *op, struct work *w, const char *s, size_t n, struct buf *out,
                   struct err *e)
{
    struct match m = {0};
    size_t last = 0;
    int rc;
    while ((rc = pattern_next(&op->pattern, &w->scratch, s, n, &m, e)) > 0) {
        buf_add(out, s + last, m.start - last);
        buf_add(out, op->with.data, op->with.len);
        last = m.end;
    }
    buf_add(out, s + last, n - last);
    return rc;
}

/* Writes what op makes of one span's text to out. */
static int rewrite(const struct op *op, struct work *w, const struct span *sp, struct buf *out, struct err *e)
{
    const char *s = w->a.bytes.data + sp->off;
    size_t n = sp->len;
    switch (op->kind) {
    case OP_NORMAL_FORM: return uni_normalize(op->form, s, n, out);
    case OP_LOWER: uni_lower(s, n, out); return 0;
    case OP_STRIP: strip(op, s, n, out); return 0;
    case OP_ACCENTS: drop_marks(s, n, out); return 0;
    case OP_BYTES: uni_bytes_encode(s, n, out); return 0;
    case OP_REPLACE: return replace(op, w, s, n, out, e);
    case OP_PREPEND:
        if (op->when == WHEN_ALWAYS ||
            (!begins_with(s, n, &op->with) && (op->when == WHEN_LACKING || sp->id == SPAN_FIRST)))
            buf_add(out, op->with.data, op->with.len);
        buf_add(out, s, n);
        return 0;
    case OP_SPLIT: break;
    }
    return ERR_INVALID;
}

static int run_rewrite(const struct op *op, struct work *w, struct err *e)
{
    for (size_t i = 0; i < w->a.n; i++) {
        const struct span *sp = &w->a.v[i];
        size_t off = w->b.bytes.len;
        int status = sp->id >= 0 ? 0 : rewrite(op, w, sp, &w->b.bytes, e);
        if (status) return status;
        if (w->b.bytes.failed || text_push(&w->b, off, w->b.bytes.len - off, sp->id))
            return err_set(e, ERR_NOMEM, "out of memory");
    }
    return 0;
}

/* Cuts one span as Hugging Face's SplitDelimiterBehavior says, given its parts in order: matches, and the
 * text between them. */
struct cutter {
    const struct op *op;
    struct text *out;
    const struct span *sp;
    size_t from, to; /* the piece being gathered; from == to: none */
    bool any, last;  /* a part was seen; it was a match */
};

static int cut_flush(struct cutter *c)
{
    if (!c->any) return 0;
    int32_t id = c->from == 0 ? c->sp->id : SPAN_TEXT;
    return text_push(c->out, c->sp->off + c->from, c->to - c->from, id);
}

static int cut_part(struct cutter *c, size_t from, size_t to, bool match)
{
    bool join = false;
    switch (c->op->behaviour) {
    case SPLIT_REMOVED:
        if (match) return 0;
        break;
    case SPLIT_ISOLATED: break;
    case SPLIT_CONTIGUOUS: join = match == c->last; break;
    case SPLIT_PREVIOUS: join = match && !c->last; break;
    /* The rule is written from the right: a match joins what follows it unless that was a match as well. */
    case SPLIT_NEXT: join = !match && c->last; break;
    }
    if (c->any && join) {
        c->to = to;
    } else {
        if (cut_flush(c)) return ERR_NOMEM;
        c->from = from;
        c->to = to;
    }
    c->any = true;
    c->last = match;
    return 0;
}

static int split_span(const struct op *op, struct work *w, const struct span *sp, struct err *e)
{
    const char *s = w->a.bytes.data + sp->off;
    struct cutter c = {.op = op, .out = &w->b, .sp = sp};
    struct match m = {0};
    size_t last = 0;
    int rc, status = 0;
    while ((rc = pattern_next(&op->pattern, &w->scratch, s, sp->len, &m, e)) > 0) {
        if (m.start > last) status = cut_part(&c, last, m.start, op->invert);
        if (!status) status = cut_part(&c, m.start, m.end, !op->invert);
        if (status) return err_set(e, status, "out of memory");
        last = m.end;
    }
    if (rc < 0) return rc;
    if (last < sp->len) status = cut_part(&c, last, sp->len, op->invert);
    return status || cut_flush(&c) ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

static int run_split(const struct op *op, struct work *w, struct err *e)
{
    for (size_t i = 0; i < w->a.n; i++) {
        const struct span *sp = &w->a.v[i];
        int status = sp->id < 0                                   ? split_span(op, w, sp, e)
                     : text_push(&w->b, sp->off, sp->len, sp->id) ? err_set(e, ERR_NOMEM, "out of memory")
                                                                  : 0;
        if (status) return status;
    }
    struct buf bytes = w->a.bytes; /* a split leaves the bytes as they are */
    w->a.bytes = w->b.bytes;
    w->b.bytes = bytes;
    return 0;
}

int ops_run(const struct ops *o, struct work *w, struct err *e)
{
    for (int i = 0; i < o->n; i++) {
        const struct op *op = &o->v[i];
        text_clear(&w->b);
        int status = op->kind == OP_SPLIT ? run_split(op, w, e) : run_rewrite(op, w, e);
        if (status) return status;
        struct text t = w->a;
        w->a = w->b;
        w->b = t;
    }
    return 0;
}
