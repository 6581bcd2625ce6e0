/* Methods of strings. */
#include <string.h>
#include <utf8proc.h>
#include "ctx.h"
#include "utf8.h"

#define METHOD(name) static struct val name(struct ctx *c, struct val self, const struct args *a)

static bool want_str(struct ctx *c, struct val v)
{
    if (v.kind != V_STR) ctx_fail(c, ERR_FORMAT, "a string method needs a string");
    return v.kind == V_STR;
}
static int64_t int_or(struct val v, int64_t fallback) { return val_is_integer(v) ? v.i : fallback; }

static struct val strip(struct ctx *c, struct val self, struct val chars, bool left, bool right)
{
    if (chars.kind != V_MISSING && chars.kind != V_NONE && !want_str(c, chars)) return self;
    return str_strip(c, self, chars, left, right);
}
METHOD(s_strip) { return strip(c, self, a->v[0], true, true); }
METHOD(s_lstrip) { return strip(c, self, a->v[0], true, false); }
METHOD(s_rstrip) { return strip(c, self, a->v[0], false, true); }

static struct val split(struct ctx *c, struct val self, const struct args *a, bool from_right)
{
    if (a->v[0].kind != V_MISSING && a->v[0].kind != V_NONE && !want_str(c, a->v[0])) return self;
    return str_split(c, self, a->v[0], int_or(a->v[1], -1), from_right);
}
METHOD(s_split) { return split(c, self, a, false); }
METHOD(s_rsplit) { return split(c, self, a, true); }
METHOD(s_splitlines) { return str_lines(c, self, val_truth(a->v[0])); }
METHOD(s_upper)
{
    (void)a;
    return str_case(c, self, CASE_UPPER);
}
METHOD(s_lower)
{
    (void)a;
    return str_case(c, self, CASE_LOWER);
}
METHOD(s_title)
{
    (void)a;
    return str_case(c, self, CASE_TITLE);
}
METHOD(s_capitalize)
{
    (void)a;
    return str_case(c, self, CASE_CAPITAL);
}
METHOD(s_swapcase)
{
    (void)a;
    return str_case(c, self, CASE_SWAP);
}

METHOD(s_replace)
{
    if (!want_str(c, a->v[0]) || !want_str(c, a->v[1])) return self;
    return str_replace(c, self, a->v[0], a->v[1], int_or(a->v[2], -1));
}

/* Does the string begin (or end) with affix, or with one of a tuple of them? */
static bool has_affix(struct ctx *c, struct val s, struct val affix, bool at_end)
{
    if (affix.kind == V_TUPLE) {
        for (uint32_t i = 0; i < affix.list->n && ctx_step(c, 1); i++)
            if (want_str(c, affix.list->v[i]) && has_affix(c, s, affix.list->v[i], at_end)) return true;
        return false;
    }
    if (!want_str(c, affix) || affix.n > s.n || !ctx_bytes(c, affix.n)) return false;
    return !affix.n || memcmp(at_end ? s.s + s.n - affix.n : s.s, affix.s, affix.n) == 0;
}
METHOD(s_startswith) { return val_bool(has_affix(c, self, a->v[0], false)); }
METHOD(s_endswith) { return val_bool(has_affix(c, self, a->v[0], true)); }
METHOD(s_removeprefix)
{
    return has_affix(c, self, a->v[0], false) ? val_bytes(self.s + a->v[0].n, self.n - a->v[0].n) : self;
}
METHOD(s_removesuffix)
{
    return has_affix(c, self, a->v[0], true) ? val_bytes(self.s, self.n - a->v[0].n) : self;
}

/* Code point index of the first or last place of sub, or -1. */
static int64_t find(struct ctx *c, struct val s, struct val sub, bool last)
{
    if (!want_str(c, sub) || !ctx_step(c, s.n / 64)) return -1;
    const char *hit = last ? str_find_last(c, s, sub) : str_find(s, sub);
    return hit ? (int64_t)str_length(c, val_bytes(s.s, (size_t)(hit - s.s))) : -1;
}
METHOD(s_find) { return val_int(find(c, self, a->v[0], false)); }
METHOD(s_rfind) { return val_int(find(c, self, a->v[0], true)); }
METHOD(s_index)
{
    int64_t i = find(c, self, a->v[0], false);
    return i < 0 ? ctx_fail(c, ERR_FORMAT, "index: substring not found") : val_int(i);
}

METHOD(s_count)
{
    int64_t n = 0;
    if (!want_str(c, a->v[0]) || !ctx_step(c, self.n / 64)) return val_int(0);
    if (!a->v[0].n) return val_int((int64_t)str_length(c, self) + 1);
    for (const char *hit; (hit = str_find(self, a->v[0])) && ctx_step(c, 1); n++) {
        size_t skip = (size_t)(hit - self.s) + a->v[0].n;
        self = val_bytes(self.s + skip, self.n - skip);
    }
    return val_int(n);
}

METHOD(s_join)
{
    struct list l = val_iter(c, a->v[0]);
    struct text t = {.c = c};
    for (uint32_t i = 0; i < l.n && ctx_step(c, 1) && want_str(c, l.v[i]); i++) {
        if (i) text_add(&t, self.s, self.n);
        text_add(&t, l.v[i].s, l.v[i].n);
    }
    return text_done(&t);
}

enum { IS_DIGIT, IS_ALPHA, IS_ALNUM, IS_SPACE };

/* Not empty, and every code point of the class. */
static struct val all_of(struct ctx *c, struct val s, int what)
{
    if (!ctx_step(c, s.n / 4)) return val_bool(false);
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        int k = utf8_next(s.s + i, s.n - i, &cp);
        utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)cp);
        bool alpha = cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO,
             digit = cat == UTF8PROC_CATEGORY_ND;
        bool ok = what == IS_DIGIT   ? digit
                  : what == IS_ALPHA ? alpha
                  : what == IS_ALNUM ? chr_is_alnum(cp)
                                     : chr_is_space(cp);
        if (k <= 0 || !ok) return val_bool(false);
        i += (size_t)k;
    }
    return val_bool(s.n != 0);
}
METHOD(s_isdigit)
{
    (void)a;
    return all_of(c, self, IS_DIGIT);
}
METHOD(s_isalpha)
{
    (void)a;
    return all_of(c, self, IS_ALPHA);
}
METHOD(s_isalnum)
{
    (void)a;
    return all_of(c, self, IS_ALNUM);
}
METHOD(s_isspace)
{
    (void)a;
    return all_of(c, self, IS_SPACE);
}
METHOD(s_isupper) { return call_builtin(c, test_find(val_cstr("upper")), self, &(struct args){.n = a->n}); }
METHOD(s_islower) { return call_builtin(c, test_find(val_cstr("lower")), self, &(struct args){.n = a->n}); }

static struct val pad(struct ctx *c, struct val s, const struct args *a, int left_share)
{
    int64_t n = int_or(a->v[0], 0) - (int64_t)str_length(c, s), left = left_share == 1 ? n / 2
                                                                       : left_share    ? n
                                                                                       : 0;
    struct val fill = a->n > 1 && a->v[1].kind == V_STR ? a->v[1] : val_cstr(" ");
    if (n <= 0) return s;
    if (left_share == 1) left += n & int_or(a->v[0], 0) & 1; /* CPython's rule for the odd one */
    struct text t = {.c = c};
    for (int64_t i = 0; i < left && ctx_step(c, 1); i++) text_add(&t, fill.s, fill.n);
    text_add(&t, s.s, s.n);
    for (int64_t i = left; i < n && ctx_step(c, 1); i++) text_add(&t, fill.s, fill.n);
    return text_done(&t);
}
METHOD(s_ljust) { return pad(c, self, a, 0); }
METHOD(s_center) { return pad(c, self, a, 1); }
METHOD(s_rjust) { return pad(c, self, a, 2); }

/* "{} {0} {name}".format(...): fields without conversions and format specifications. */
METHOD(s_format)
{
    struct text t = {.c = c};
    int next = 0;
    for (uint32_t i = 0; i < self.n && ctx_step(c, 1); i++) {
        char ch = self.s[i];
        bool twice = i + 1 < self.n && self.s[i + 1] == ch;
        if (ch != '{' && ch != '}') {
            text_add(&t, &self.s[i], 1);
        } else if (twice) {
            text_add(&t, &self.s[i++], 1);
        } else {
            const char *end = ch == '{' ? memchr(self.s + i, '}', self.n - i) : NULL;
            if (!end) return ctx_fail(c, ERR_FORMAT, "format: single brace");
            struct val field = val_bytes(self.s + i + 1, (size_t)(end - self.s) - i - 1), v = {0};
            int64_t at = field.n ? 0 : next++;
            bool number = true;
            for (uint32_t k = 0; k < field.n; k++) {
                number = number && k < 6 && field.s[k] >= '0' && field.s[k] <= '9';
                if (number) at = at * 10 + (field.s[k] - '0');
            }
            if (number && at < a->n) v = a->v[at];
            for (int k = 0; !number && k < a->n_kw; k++)
                if (val_same_str(a->kw[k].key, field)) v = a->kw[k].v;
            if (v.kind == V_MISSING)
                return ctx_fail(c, ERR_FORMAT, "format: a field has no value, or a specification");
            v = val_str(c, v);
            text_add(&t, v.s, v.n);
            i = (uint32_t)(end - self.s);
        }
    }
    return text_done(&t);
}

static const struct builtin str_methods[] = {
    {"capitalize", s_capitalize, "", 0},
    {"center", s_center, "width fillchar", 1},
    {"count", s_count, "sub", 1},
    {"endswith", s_endswith, "suffix", 1},
    {"find", s_find, "sub", 1},
    {"format", s_format, NULL, 0},
    {"index", s_index, "sub", 1},
    {"isalnum", s_isalnum, "", 0},
    {"isalpha", s_isalpha, "", 0},
    {"isdecimal", s_isdigit, "", 0},
    {"isdigit", s_isdigit, "", 0},
    {"islower", s_islower, "", 0},
    {"isspace", s_isspace, "", 0},
    {"isupper", s_isupper, "", 0},
    {"join", s_join, "iterable", 1},
    {"ljust", s_ljust, "width fillchar", 1},
    {"lower", s_lower, "", 0},
    {"lstrip", s_lstrip, "chars", 0},
    {"removeprefix", s_removeprefix, "prefix", 1},
    {"removesuffix", s_removesuffix, "suffix", 1},
    {"replace", s_replace, "old new count", 2},
    {"rfind", s_rfind, "sub", 1},
    {"rjust", s_rjust, "width fillchar", 1},
    {"rsplit", s_rsplit, "sep maxsplit", 0},
    {"rstrip", s_rstrip, "chars", 0},
    {"split", s_split, "sep maxsplit", 0},
    {"splitlines", s_splitlines, "keepends", 0},
    {"startswith", s_startswith, "prefix", 1},
    {"strip", s_strip, "chars", 0},
    {"swapcase", s_swapcase, "", 0},
    {"title", s_title, "", 0},
    {"upper", s_upper, "", 0},
};

const struct builtin *str_method_find(struct val name)
{
    return builtin_find(str_methods, sizeof str_methods / sizeof *str_methods, name);
}
