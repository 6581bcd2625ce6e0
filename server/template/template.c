/* Compiling and rendering: the border of this folder. Also the global functions. */
#include "template.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "ctx.h"
#include "utf8.h"

struct val ctx_fail(struct ctx *c, int code, const char *fmt, ...)
{
    if (!c->code) {
        char what[280];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(what, sizeof what, fmt, ap);
        va_end(ap);
        c->code = err_set(c->e, code, "chat template, line %d: %s", c->line, what);
    }
    return val_none();
}

struct val ctx_undefined(struct ctx *c, struct val v)
{
    return ctx_fail(c, ERR_FORMAT, "'%.*s' is undefined", val_short(v), v.s);
}

void *ctx_alloc(struct ctx *c, size_t n)
{
    void *p = c->code ? NULL : arena_alloc(&c->arena, n ? n : 1);
    if (!p) ctx_fail(c, ERR_BUDGET, "the template needs too much memory");
    return p;
}

bool ctx_enter(struct ctx *c)
{
    if (c->code) return false;
    if (c->depth >= c->depth_max) {
        ctx_fail(c, ERR_BUDGET, "nested too deeply");
        return false;
    }
    c->depth++;
    return true;
}

/* ---- global functions ---- */

enum { RANGE_MAX = 100000 }; /* as Jinja's sandbox */

static struct val g_range(struct ctx *c, struct val self, const struct args *a)
{
    (void)self;
    int64_t v[3] = {0, 0, 1};
    for (int i = 0; i < a->n && a->v[i].kind != V_MISSING; i++) {
        if (!val_is_integer(a->v[i])) return ctx_fail(c, ERR_FORMAT, "range needs integers");
        v[i] = a->v[i].i;
    }
    bool one = a->v[1].kind == V_MISSING;
    int64_t start = one ? 0 : v[0], stop = one ? v[0] : v[1], step = v[2];
    if (!step) return ctx_fail(c, ERR_FORMAT, "a range's step is zero");
    double n = ceil(((double)stop - (double)start) / (double)step);
    if (n > RANGE_MAX) return ctx_fail(c, ERR_BUDGET, "a range is too long");
    struct val out = list_new(c, V_LIST, n > 0 ? (uint32_t)n : 0);
    for (int64_t i = 0; i < (int64_t)n && !c->code; i++) list_push(c, out.list, val_int(start + i * step));
    return out;
}

/* dict(a=1), dict(mapping, b=2), dict(pairs) */
static struct val g_dict(struct ctx *c, struct val self, const struct args *a)
{
    (void)self;
    struct val out = dict_new(c);
    if (a->n > 1 || (a->n && a->v[0].kind == V_UNDEF))
        return ctx_fail(c, ERR_FORMAT, "dict needs one dict or list of pairs");
    if (a->n && a->v[0].kind == V_DICT) {
        for (uint32_t i = 0; i < a->v[0].dict->n && !c->code; i++)
            dict_set(c, out.dict, a->v[0].dict->e[i].key, a->v[0].dict->e[i].v);
    } else if (a->n) {
        struct list l = val_iter(c, a->v[0]);
        for (uint32_t i = 0; i < l.n && !c->code; i++) {
            struct list pair = val_iter(c, l.v[i]);
            if (pair.n != 2) return ctx_fail(c, ERR_FORMAT, "dict needs pairs");
            dict_set(c, out.dict, pair.v[0], pair.v[1]);
        }
    }
    for (int i = 0; i < a->n_kw && !c->code; i++) dict_set(c, out.dict, a->kw[i].key, a->kw[i].v);
    return out;
}

static struct val g_namespace(struct ctx *c, struct val self, const struct args *a)
{
    struct val out = g_dict(c, self, a);
    if (!c->code) out.kind = V_NAMESPACE;
    return out;
}

/* The text is for whoever sent the messages: it goes out without the template's line. What is not of the
 * template's own words may quote the messages, which an error does no more than shortly. */
#define OWN_WORDS_MAX 300
#define QUOTE_MAX     64
static struct val g_raise_exception(struct ctx *c, struct val self, const struct args *a)
{
    (void)self;
    struct val s = val_str(c, a->v[0]);
    uint32_t max = arena_holds(&c->t->arena, s.s) ? OWN_WORDS_MAX : QUOTE_MAX;
    if (!c->code)
        c->code = err_set(c->e, ERR_INVALID, "%.*s", (int)utf8_whole(s.s, s.n < max ? s.n : max), s.s);
    return val_none();
}

static struct val g_strftime_now(struct ctx *c, struct val self, const struct args *a)
{
    (void)self;
    char fmt[128], out[512];
    time_t now = (time_t)c->now;
    struct tm tm;
    if (a->v[0].kind != V_STR || a->v[0].n >= sizeof fmt || !localtime_r(&now, &tm))
        return ctx_fail(c, ERR_FORMAT, "strftime_now needs a short format");
    memcpy(fmt, a->v[0].s, a->v[0].n);
    fmt[a->v[0].n] = 0;
    struct text t = {.c = c};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    text_add(&t, out, strftime(out, sizeof out, fmt, &tm));
#pragma GCC diagnostic pop
    return text_done(&t);
}

static const struct builtin globals[] = {
    {"dict", g_dict, NULL, 0},
    {"namespace", g_namespace, NULL, 0},
    {"raise_exception", g_raise_exception, "message", 1},
    {"range", g_range, "start stop step", 1},
    {"strftime_now", g_strftime_now, "format", 1},
};

const struct builtin *global_find(struct val name)
{
    return builtin_find(globals, sizeof globals / sizeof *globals, name);
}

/* ---- JSON to values ---- */

/* The text of a cJSON string in place; C0 80 (NUL) needs a copy. */
static struct val import_str(struct ctx *c, const char *s)
{
    size_t n = strlen(s);
    if (n > UINT32_MAX / 2) return ctx_fail(c, ERR_BUDGET, "a string is too long");
    const char *nul = memmem(s, n, "\xc0\x80", 2);
    if (!nul) return val_bytes(s, n);
    char *copy = ctx_alloc(c, n), *to = copy;
    if (!copy) return val_none();
    for (size_t i = 0; i < n; i++) {
        bool pair = s[i] == '\xc0' && s[i + 1] == '\x80';
        *to++ = pair ? 0 : s[i];
        i += pair;
    }
    return val_bytes(copy, (size_t)(to - copy));
}

static struct val import(struct ctx *c, const cJSON *j)
{
    if (cJSON_IsString(j)) return import_str(c, j->valuestring);
    if (cJSON_IsBool(j)) return val_bool(cJSON_IsTrue(j));
    if (cJSON_IsNumber(j)) {
        double d = j->valuedouble;
        return d == floor(d) && fabs(d) < 1e15 ? val_int((int64_t)d) : val_float(d);
    }
    if (!cJSON_IsArray(j) && !cJSON_IsObject(j)) return val_none();
    bool object = cJSON_IsObject(j);
    struct val out = object ? dict_new(c) : list_new(c, V_LIST, 0);
    if (!ctx_enter(c)) return val_none();
    for (const cJSON *k = j->child; k && !c->code; k = k->next) {
        c->steps++; /* free: the request's own limits bound the values */
        if (object) {
            dict_set(c, out.dict, import_str(c, k->string), import(c, k));
        } else {
            list_push(c, out.list, import(c, k));
        }
    }
    c->depth--;
    return out;
}

/* ---- border ---- */

int template_compile(const char *src, size_t n, struct template **out, struct err *e)
{
    *out = NULL;
    struct template *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NOMEM, "out of memory");
    struct tok *tok;
    int status = jinja_lex(&t->arena, src, n, &tok, e);
    if (!status) status = jinja_parse(t, tok, e);
    if (status) {
        template_free(t);
    } else {
        *out = t;
    }
    return status;
}

void template_free(struct template *t)
{
    if (!t) return;
    arena_free(&t->arena);
    free(t);
}

/* Values of the names that the template mentions: the caller's variables, else global functions. */
static void set_globals(struct ctx *c, const cJSON *vars)
{
    const struct names *names = &c->t->names;
    c->global = ctx_alloc(c, (size_t)names->n * sizeof *c->global);
    for (int i = 0; c->global && i < names->n; i++) {
        const struct builtin *fn = global_find(names->name[i]);
        c->global[i] = (struct val){0};
        if (!fn) continue;
        struct bound *b = ctx_alloc(c, sizeof *b);
        if (!b) return;
        *b = (struct bound){.fn = fn};
        c->global[i] = (struct val){.kind = V_BUILTIN, .bound = b};
    }
    for (const cJSON *v = vars ? vars->child : NULL; v && !c->code; v = v->next) {
        int id = v->string ? names_find(names, val_cstr(v->string)) : -1;
        if (id >= 0) c->global[id] = import(c, v);
    }
}

int template_render(const struct template *t, const cJSON *vars, int64_t now, struct template_budget b,
                    struct buf *out, struct err *e)
{
    struct ctx c = {.t = t,
                    .out = out,
                    .out_start = out->len,
                    .out_max = b.output,
                    .steps = b.steps,
                    .now = now,
                    .depth_max = b.depth * 8,
                    .calls_max = b.depth,
                    .e = e,
                    .line = 1};
    set_globals(&c, vars);
    /* what the variables take is bounded by the request; the template's own values get some times the output
     */
    c.arena.limit = c.arena.used + 4 * b.output + (1u << 20);
    if (!c.code) exec_root(&c, t->root);
    if (c.code && out->data) {
        out->len = c.out_start;
        out->data[out->len] = 0;
    }
    arena_free(&c.arena);
    return c.code;
}
