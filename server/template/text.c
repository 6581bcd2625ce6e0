/* str() and repr() as Python prints values, and strings under construction. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "ctx.h"
#include "utf8.h"

void text_add(struct text *t, const char *s, size_t n)
{
    if (!ctx_bytes(t->c, n)) return;
    if (n > t->cap - t->n) {
        size_t cap = (t->n + n) * 2;
        char *grown = cap <= UINT32_MAX ? arena_grow(&t->c->arena, t->s, t->cap, cap) : NULL;
        if (!grown) {
            ctx_fail(t->c, ERR_BUDGET, "the template needs too much memory");
            return;
        }
        t->s = grown;
        t->cap = cap;
    }
    if (n) memcpy(t->s + t->n, s, n);
    t->n += n;
}

void text_cstr(struct text *t, const char *s) { text_add(t, s, strlen(s)); }

/* Hands unused room back, so that the next concatenation can go on at the string's end. */
struct val text_done(const struct text *t)
{
    if (t->s && t->s + t->cap == t->c->arena.tail) t->c->arena.tail = t->s + t->n;
    return t->n ? val_bytes(t->s, t->n) : val_cstr(""); /* never NULL */
}

struct val str_concat(struct ctx *c, struct val a, struct val b)
{
    if (!b.n) return a;
    if (!a.n) return b;
    if (!ctx_bytes(c, b.n) || (uint64_t)a.n + b.n > UINT32_MAX) return a;
    size_t n = (size_t)a.n + b.n;
    char *s = (char *)(uintptr_t)a.s;
    if (s + a.n == c->arena.tail && b.n <= (size_t)(c->arena.end - c->arena.tail)) {
        c->arena.tail += b.n; /* a ends where the free memory begins: its bytes stay as they are, b follows */
    } else {
        /* spare room behind the result, given back at once, lets a loop that appends to it stay linear */
        size_t spare = n < 1024 ? 0 : n;
        ctx_bytes(c, a.n);
        s = arena_alloc(&c->arena, n + spare);
        if (!s) s = arena_alloc(&c->arena, n + (spare = 0));
        if (!s) {
            ctx_fail(c, ERR_BUDGET, "the template needs too much memory");
            return a;
        }
        c->arena.tail = s + n;
        memcpy(s, a.s, a.n);
    }
    memcpy(s + a.n, b.s, b.n);
    return val_bytes(s, n);
}

/* The shortest digits that read back as f, in Python's layout. */
void text_float(struct text *t, double f)
{
    char raw[40], out[64];
    ctx_step(t->c, 16);
    if (isnan(f) || isinf(f)) {
        text_cstr(t, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(raw, sizeof raw, "%.*e", digits - 1, f);
        if (strtod(raw, NULL) == f) break;
    }
    const char *mark = strchr(raw, 'e');
    int exp = (int)strtol(mark + 1, NULL, 10), n = 0;
    char digit[24];
    for (const char *p = raw; p < mark; p++)
        if (*p >= '0' && *p <= '9') digit[n++] = *p;
    const char *sign = raw[0] == '-' ? "-" : "";
    if (exp < -4 || exp >= 16) {
        snprintf(out, sizeof out, "%s%c%s%.*se%c%02d", sign, digit[0], n > 1 ? "." : "", n - 1, digit + 1,
                 exp < 0 ? '-' : '+', abs(exp));
    } else if (exp < 0) {
        snprintf(out, sizeof out, "%s0.%.*s%.*s", sign, -exp - 1, "0000", n, digit);
    } else if (n <= exp + 1) {
        snprintf(out, sizeof out, "%s%.*s%.*s.0", sign, n, digit, exp + 1 - n, "0000000000000000");
    } else {
        snprintf(out, sizeof out, "%s%.*s.%.*s", sign, exp + 1, digit, n - exp - 1, digit + exp + 1);
    }
    text_cstr(t, out);
}

static void repr_chr(struct text *t, uint32_t cp, const char *s, size_t n, char quote)
{
    char esc[12];
    utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)cp);
    bool printable = cp == ' ' || (cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_SO);
    if (cp == (uint32_t)quote || cp == '\\') {
        text_add(t, "\\", 1);
        text_add(t, s, n);
    } else if (cp == '\n' || cp == '\r' || cp == '\t') {
        text_cstr(t, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
    } else if (printable) {
        text_add(t, s, n);
    } else {
        snprintf(esc, sizeof esc,
                 cp < 0x100     ? "\\x%02x"
                 : cp < 0x10000 ? "\\u%04x"
                                : "\\U%08x",
                 (unsigned)cp);
        text_cstr(t, esc);
    }
}

static void repr_str(struct text *t, struct val v)
{
    char quote = v.n && memchr(v.s, '\'', v.n) && !memchr(v.s, '"', v.n) ? '"' : '\'';
    text_add(t, &quote, 1);
    ctx_step(t->c, v.n / 4);
    for (size_t i = 0; i < v.n && !t->c->code;) {
        uint32_t cp;
        int k = utf8_next(v.s + i, v.n - i, &cp);
        if (k <= 0) break;
        repr_chr(t, cp, v.s + i, (size_t)k, quote);
        i += (size_t)k;
    }
    text_add(t, &quote, 1);
}

static void repr_box(struct text *t, struct val v)
{
    bool dict = v.kind == V_DICT || v.kind == V_NAMESPACE;
    uint32_t n = dict ? v.dict->n : v.list->n;
    text_cstr(t, v.kind == V_NAMESPACE ? "<Namespace {" : dict ? "{" : v.kind == V_TUPLE ? "(" : "[");
    for (uint32_t i = 0; i < n && ctx_step(t->c, 1); i++) {
        if (i) text_cstr(t, ", ");
        if (dict) {
            text_repr(t, v.dict->e[i].key);
            text_cstr(t, ": ");
        }
        text_repr(t, dict ? v.dict->e[i].v : v.list->v[i]);
    }
    text_cstr(t, v.kind == V_NAMESPACE ? "}>" : dict ? "}" : v.kind == V_LIST ? "]" : n == 1 ? ",)" : ")");
}

void text_repr(struct text *t, struct val v)
{
    if (!ctx_enter(t->c)) return;
    char num[32];
    switch ((enum kind)v.kind) {
    case V_MISSING:
    case V_UNDEF: text_cstr(t, "Undefined"); break;
    case V_NONE: text_cstr(t, "None"); break;
    case V_BOOL: text_cstr(t, v.i ? "True" : "False"); break;
    case V_INT:
        snprintf(num, sizeof num, "%lld", (long long)v.i);
        text_cstr(t, num);
        break;
    case V_FLOAT: text_float(t, v.f); break;
    case V_STR: repr_str(t, v); break;
    case V_LIST:
    case V_TUPLE:
    case V_DICT:
    case V_NAMESPACE: repr_box(t, v); break;
    case V_LOOP: text_cstr(t, "<LoopContext>"); break;
    case V_BUILTIN: text_cstr(t, "<function>"); break;
    case V_MACRO: text_cstr(t, "<Macro>"); break;
    }
    t->c->depth--;
}

void text_val(struct text *t, struct val v)
{
    if (v.kind == V_STR) {
        text_add(t, v.s, v.n);
    } else if (v.kind != V_UNDEF && v.kind != V_MISSING) {
        text_repr(t, v);
    }
}

struct val val_str(struct ctx *c, struct val v)
{
    if (v.kind == V_STR) return v;
    struct text t = {.c = c};
    text_val(&t, v);
    return text_done(&t);
}
