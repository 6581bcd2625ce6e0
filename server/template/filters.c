/* Filters on text and numbers, and the table of all filters. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctx.h"
#include "filters.h"
#include "utf8.h"

static struct val f_default(struct ctx *c, struct val self, const struct args *a)
{
    (void)c;
    bool use = self.kind == V_UNDEF || (val_truth(a->v[1]) && !val_truth(self));
    if (!use) return self;
    return a->v[0].kind == V_MISSING ? val_cstr("") : a->v[0];
}

static struct val f_string(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return val_str(c, self);
}
static struct val f_upper(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return str_case(c, val_str(c, self), CASE_UPPER);
}
static struct val f_lower(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return str_case(c, val_str(c, self), CASE_LOWER);
}
static struct val f_capitalize(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return str_case(c, val_str(c, self), CASE_CAPITAL);
}

static struct val f_trim(struct ctx *c, struct val self, const struct args *a)
{
    return str_strip(c, val_str(c, self), a->v[0], true, true);
}

/* Words begin after white space or one of -({[< : unlike str.title, "don't" keeps its small t. */
static struct val f_title(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    struct val s = val_str(c, self);
    struct text t = {.c = c};
    for (size_t i = 0; i < s.n && !c->code;) {
        size_t end = i;
        uint32_t cp = 0;
        bool mark = false;
        for (int k; end < s.n && (k = utf8_next(s.s + end, s.n - end, &cp)) > 0; end += (size_t)k) {
            bool m = chr_is_space(cp) || (cp < 128 && cp && strchr("-({[<", (int)cp));
            if (end > i && m != mark) break;
            mark = m;
        }
        struct val part = val_bytes(s.s + i, end - i);
        if (!mark) part = str_case(c, part, CASE_CAPITAL);
        text_add(&t, part.s, part.n);
        if (end == i || !ctx_step(c, 1)) break;
        i = end;
    }
    return text_done(&t);
}

static struct val f_replace(struct ctx *c, struct val self, const struct args *a)
{
    int64_t count = val_is_integer(a->v[2]) ? a->v[2].i : -1;
    return str_replace(c, val_str(c, self), val_str(c, a->v[0]), val_str(c, a->v[1]), count);
}

static struct val f_escape(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    static const struct {
        char from;
        const char *to;
    } map[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    struct val s = val_str(c, self);
    for (size_t i = 0; i < sizeof map / sizeof *map; i++)
        s = str_replace(c, s, val_bytes(&map[i].from, 1), val_cstr(map[i].to), -1);
    return s;
}

static struct val f_indent(struct ctx *c, struct val self, const struct args *a)
{
    struct text pad = {.c = c}, t = {.c = c};
    struct val s = self, width = a->v[0];
    if (s.kind != V_STR) return ctx_fail(c, ERR_FORMAT, "indent needs a string");
    if (width.kind == V_STR) text_add(&pad, width.s, width.n);
    int64_t n = width.kind == V_MISSING ? 4 : val_is_integer(width) ? width.i : 0;
    for (int64_t i = 0; i < n && ctx_step(c, 1); i++) text_add(&pad, " ", 1);
    struct val in = text_done(&pad), lines = str_lines(c, s, false);
    /* Jinja splits s + "\n": a final newline gives a last, empty line */
    if (!c->code && (!s.n || str_lines(c, val_bytes(s.s + s.n - 1, 1), false).list->v[0].n == 0))
        list_push(c, lines.list, val_cstr(""));
    for (uint32_t i = 0; !c->code && i < lines.list->n && ctx_step(c, 1); i++) {
        struct val line = lines.list->v[i];
        if (i) text_add(&t, "\n", 1);
        bool on = i == 0 ? val_truth(a->v[1]) : line.n || val_truth(a->v[2]);
        if (on) text_add(&t, in.s, in.n);
        text_add(&t, line.s, line.n);
    }
    return text_done(&t);
}

static struct val f_wordcount(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    struct val s = val_str(c, self);
    int64_t n = 0;
    bool in_word = false;
    if (!ctx_step(c, s.n / 4)) return val_int(0);
    for (size_t i = 0; i < s.n;) {
        uint32_t cp = 0;
        int k = utf8_next(s.s + i, s.n - i, &cp);
        bool word = cp == '_' || chr_is_alnum(cp);
        n += word && !in_word;
        in_word = word;
        i += k > 0 ? (size_t)k : 1;
    }
    return val_int(n);
}

/* The whole of s as a Python number: white space around and underscores between digits allowed. */
static bool parse_number(struct val s, int base, bool real, struct val *out)
{
    char num[80];
    size_t n = 0, i = 0, end = s.n;
    while (i < end && chr_is_space((unsigned char)s.s[i])) i++;
    while (end > i && chr_is_space((unsigned char)s.s[end - 1])) end--;
    for (; i < end; i++) {
        bool between = i && i + 1 < end && s.s[i - 1] != '_' && s.s[i + 1] != '_';
        if (s.s[i] == '_' && between) continue;
        if (n == sizeof num - 1 || !s.s[i] || s.s[i] == '_') return false;
        num[n++] = s.s[i];
    }
    num[n] = 0;
    if (!n || chr_is_space((unsigned char)num[0]) || (real && strpbrk(num, "xX(pP"))) return false;
    char *stop;
    if (real) {
        *out = val_float(strtod(num, &stop));
        return *stop == 0;
    }
    const char *p = num + (num[0] == '-' || num[0] == '+');
    bool prefix = p[0] == '0' && (p[1] | 32) == (base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : 0);
    if (prefix) p += 2;
    if (*p == '-' || *p == '+' || *p == 0 || chr_is_space((unsigned char)*p)) return false;
    if (!prefix && base != 10 && (p[1] | 32) == 'x') return false;
    *out = val_int(strtoll(p, &stop, base));
    if (*stop || out->i == INT64_MAX) return false;
    if (num[0] == '-') out->i = -out->i;
    return true;
}

static struct val f_int(struct ctx *c, struct val self, const struct args *a)
{
    struct val v, fallback = a->v[0].kind == V_MISSING ? val_int(0) : a->v[0];
    int base = val_is_integer(a->v[1]) && a->v[1].i >= 2 && a->v[1].i <= 36 ? (int)a->v[1].i : 10;
    if (self.kind == V_UNDEF) return ctx_fail(c, ERR_FORMAT, "int needs a value");
    if (val_is_integer(self)) return val_int(self.i);
    if (self.kind == V_STR) {
        if (parse_number(self, base, false, &v)) return v;
        if (!parse_number(self, 10, true, &self)) return fallback;
    }
    return self.kind == V_FLOAT && fabs(self.f) < 9.2e18 ? val_int((int64_t)self.f) : fallback;
}

static struct val f_float(struct ctx *c, struct val self, const struct args *a)
{
    struct val v;
    if (self.kind == V_UNDEF) return ctx_fail(c, ERR_FORMAT, "float needs a value");
    if (val_is_num(self)) return val_float(val_num(self));
    if (self.kind == V_STR && parse_number(self, 10, true, &v)) return v;
    return a->v[0].kind == V_MISSING ? val_float(0) : a->v[0];
}

static struct val f_abs(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    if (self.kind == V_FLOAT) return val_float(fabs(self.f));
    if (val_is_integer(self) && self.i != INT64_MIN) return val_int(self.i < 0 ? -self.i : self.i);
    return ctx_fail(c, ERR_FORMAT, "abs needs a number");
}

static struct val f_round(struct ctx *c, struct val self, const struct args *a)
{
    int64_t places = val_is_integer(a->v[0]) ? a->v[0].i : 0;
    struct val method = a->v[1].kind == V_MISSING ? val_cstr("common") : a->v[1];
    if (!val_is_num(self) || places < -15 || places > 15)
        return ctx_fail(c, ERR_FORMAT, "round needs a number and at most 15 places");
    /* "+ 0.0": Python's ceil and floor give integers, which have no negative zero */
    double x = val_num(self), scale = pow(10, (double)places);
    if (method.kind == V_STR && val_is(method, "ceil")) return val_float((ceil(x * scale) + 0.0) / scale);
    if (method.kind == V_STR && val_is(method, "floor")) return val_float((floor(x * scale) + 0.0) / scale);
    if (method.kind != V_STR || !val_is(method, "common"))
        return ctx_fail(c, ERR_FORMAT, "round: unknown method");
    if (val_is_integer(self) && places >= 0) return val_int(self.i);
    if (places < 0) {
        double r = rint(x * scale) / scale; /* to even, as Python */
        return val_is_integer(self) && fabs(r) < 9e18 ? val_int((int64_t)r) : val_float(r);
    }
    char num[400]; /* printf rounds the exact binary value, as Python does */
    snprintf(num, sizeof num, "%.*f", (int)places, x);
    return val_float(strtod(num, NULL));
}

static struct val f_format(struct ctx *c, struct val self, const struct args *a)
{
    struct val dict = val_none();
    if (a->n_kw) {
        dict = dict_new(c);
        for (int i = 0; i < a->n_kw && !c->code; i++) dict_set(c, dict.dict, a->kw[i].key, a->kw[i].v);
    }
    return op_format(c, val_str(c, self), a->v, a->n, dict);
}

static struct val f_safe(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return val_str(c, self);
}

static const struct builtin filters[] = {
    {"abs", f_abs, "", 0},
    {"batch", filter_batch, "linecount fill_with", 1},
    {"capitalize", f_capitalize, "", 0},
    {"count", filter_length, "", 0},
    {"d", f_default, "default_value boolean", 0},
    {"default", f_default, "default_value boolean", 0},
    {"dictsort", filter_dictsort, "case_sensitive by reverse", 0},
    {"e", f_escape, "", 0},
    {"escape", f_escape, "", 0},
    {"first", filter_first, "", 0},
    {"float", f_float, "default", 0},
    {"format", f_format, NULL, 0},
    {"indent", f_indent, "width first blank", 0},
    {"int", f_int, "default base", 0},
    {"items", filter_items_of, "", 0},
    {"join", filter_join, "d attribute", 0},
    {"last", filter_last, "", 0},
    {"length", filter_length, "", 0},
    {"list", filter_list, "", 0},
    {"lower", f_lower, "", 0},
    {"map", filter_map, NULL, 0},
    {"max", filter_max, "case_sensitive attribute", 0},
    {"min", filter_min, "case_sensitive attribute", 0},
    {"reject", filter_reject, NULL, 0},
    {"rejectattr", filter_rejectattr, NULL, 0},
    {"replace", f_replace, "old new count", 2},
    {"reverse", filter_reverse, "", 0},
    {"round", f_round, "precision method", 0},
    {"safe", f_safe, "", 0},
    {"select", filter_select, NULL, 0},
    {"selectattr", filter_selectattr, NULL, 0},
    {"slice", filter_slice, "slices fill_with", 1},
    {"sort", filter_sort, "reverse case_sensitive attribute", 0},
    {"string", f_string, "", 0},
    {"sum", filter_sum, "attribute start", 0},
    {"title", f_title, "", 0},
    {"tojson", filter_tojson, "ensure_ascii indent separators sort_keys", 0},
    {"trim", f_trim, "chars", 0},
    {"unique", filter_unique, "case_sensitive attribute", 0},
    {"upper", f_upper, "", 0},
    {"wordcount", f_wordcount, "", 0},
};

const struct builtin *filter_find(struct val name)
{
    return builtin_find(filters, sizeof filters / sizeof *filters, name);
}
