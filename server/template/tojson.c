/* The tojson filter as transformers defines it: json.dumps with ensure_ascii off and no HTML escapes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctx.h"
#include "utf8.h"

struct dump {
    struct text *t;
    bool ascii, sort;
    bool pretty;
    struct val indent;       /* one level */
    struct val comma, colon; /* separators */
};

static void dump_unit(struct text *t, unsigned u)
{
    char esc[8];
    snprintf(esc, sizeof esc, "\\u%04x", u & 0xffff);
    text_cstr(t, esc);
}

static void dump_str(const struct dump *d, struct val v)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    text_cstr(d->t, "\"");
    ctx_step(d->t->c, v.n / 32);
    size_t start = 0;
    for (size_t i = 0; i < v.n && !d->t->c->code;) {
        uint32_t cp = (unsigned char)v.s[i];
        size_t k = 1;
        bool plain = cp >= 0x20 && cp < 0x7f && cp != '"' && cp != '\\';
        if (plain || (cp >= 0x7f && !d->ascii)) {
            i++;
            continue;
        }
        text_add(d->t, v.s + start, i - start);
        const char *p = cp ? memchr(from, (int)cp, sizeof from - 1) : NULL;
        if (p) {
            char esc[2] = {'\\', to[p - from]};
            text_add(d->t, esc, 2);
        } else if (cp < 0x80) {
            dump_unit(d->t, cp);
        } else {
            int len = utf8_next(v.s + i, v.n - i, &cp);
            k = len > 0 ? (size_t)len : 1;
            if (cp >= 0x10000) dump_unit(d->t, 0xd800 + ((cp - 0x10000) >> 10));
            dump_unit(d->t, cp >= 0x10000 ? 0xdc00 + (cp & 0x3ff) : cp);
        }
        start = i += k;
    }
    text_add(d->t, v.s + start, v.n - start);
    text_cstr(d->t, "\"");
}

static void dump_float(const struct dump *d, double f)
{
    if (isnan(f) || isinf(f)) {
        text_cstr(d->t, isnan(f) ? "NaN" : f < 0 ? "-Infinity" : "Infinity");
    } else {
        text_float(d->t, f);
    }
}

static void dump_break(const struct dump *d, int level)
{
    if (!d->pretty) return;
    text_cstr(d->t, "\n");
    for (int i = 0; i < level && !d->t->c->code; i++) text_add(d->t, d->indent.s, d->indent.n);
}

static void dump_scalar(const struct dump *d, struct val v)
{
    switch ((enum kind)v.kind) {
    case V_NONE: text_cstr(d->t, "null"); break;
    case V_BOOL: text_cstr(d->t, v.i ? "true" : "false"); break;
    case V_INT: text_repr(d->t, v); break;
    case V_FLOAT: dump_float(d, v.f); break;
    case V_STR: dump_str(d, v); break;
    default: ctx_fail(d->t->c, ERR_FORMAT, "tojson: this value has no JSON form");
    }
}

static void dump_key(const struct dump *d, struct val k)
{
    if (k.kind == V_STR) {
        dump_str(d, k);
    } else {
        text_cstr(d->t, "\"");
        dump_scalar(d, k);
        text_cstr(d->t, "\"");
    }
}

static int by_key(const void *a, const void *b)
{
    const struct val *x = &(*(struct entry *const *)a)->key, *y = &(*(struct entry *const *)b)->key;
    uint32_t n = x->n < y->n ? x->n : y->n;
    int c = n ? memcmp(x->s, y->s, n) : 0;
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

/* The entries in the order to write them. */
static struct entry **sorted(const struct dump *d, struct dict *box)
{
    struct ctx *c = d->t->c;
    struct entry **e = ctx_alloc(c, box->n * sizeof *e + 1);
    if (!e || !ctx_step(c, box->n)) return NULL;
    bool text = true;
    for (uint32_t i = 0; i < box->n; i++) {
        e[i] = &box->e[i];
        text = text && e[i]->key.kind == V_STR;
    }
    if (!d->sort || box->n < 2) return e;
    if (text) {
        ctx_step(c, (size_t)box->n * 8);
        qsort(e, box->n, sizeof *e, by_key);
    } else {
        ctx_fail(c, ERR_UNSUPPORTED, "tojson: sort_keys needs keys that are strings");
    }
    return e;
}

static void dump(const struct dump *d, struct val v, int level)
{
    struct ctx *c = d->t->c;
    if (v.kind != V_DICT && !val_is_seq(v)) {
        dump_scalar(d, v);
        return;
    }
    bool dict = v.kind == V_DICT;
    uint32_t n = dict ? v.dict->n : v.list->n;
    struct entry **e = dict ? sorted(d, v.dict) : NULL;
    if ((dict && !e) || !ctx_enter(c)) return;
    text_cstr(d->t, dict ? "{" : "[");
    for (uint32_t i = 0; i < n && ctx_step(c, 1); i++) {
        if (i) text_add(d->t, d->comma.s, d->comma.n);
        dump_break(d, level + 1);
        if (dict) {
            dump_key(d, e[i]->key);
            text_add(d->t, d->colon.s, d->colon.n);
        }
        dump(d, dict ? e[i]->v : v.list->v[i], level + 1);
    }
    if (n) dump_break(d, level);
    text_cstr(d->t, dict ? "}" : "]");
    c->depth--;
}

/* params: ensure_ascii indent separators sort_keys */
struct val filter_tojson(struct ctx *c, struct val self, const struct args *a)
{
    struct text t = {.c = c}, indent = {.c = c};
    struct dump d = {.t = &t, .ascii = val_truth(a->v[0]), .sort = val_truth(a->v[3])};
    if (val_is_integer(a->v[1])) {
        d.pretty = true;
        for (int64_t i = 0; i < a->v[1].i && i < 64; i++) text_cstr(&indent, " ");
        d.indent = text_done(&indent);
    } else if (a->v[1].kind == V_STR) {
        d.pretty = true;
        d.indent = a->v[1];
    }
    d.comma = val_cstr(d.pretty ? "," : ", ");
    d.colon = val_cstr(": ");
    if (val_is_seq(a->v[2]) && a->v[2].list->n == 2) {
        d.comma = val_str(c, a->v[2].list->v[0]);
        d.colon = val_str(c, a->v[2].list->v[1]);
    }
    t = (struct text){.c = c}; /* begins after the indent's memory */
    dump(&d, self, 0);
    return text_done(&t);
}
