/* Unicode text as Python's str methods treat it. Case mapping is one code point to one, but for ß. */
#include <string.h>
#include <utf8proc.h>
#include "ctx.h"
#include "utf8.h"

bool chr_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

bool chr_is_alnum(uint32_t cp)
{
    utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)cp);
    return (cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO) ||
           (cat >= UTF8PROC_CATEGORY_ND && cat <= UTF8PROC_CATEGORY_NO);
}

/* Bytes of the code point at s[i]. */
static size_t step_at(struct val s, size_t i, uint32_t *cp)
{
    int k = utf8_next(s.s + i, s.n - i, cp);
    return k > 0 ? (size_t)k : 1;
}

static bool is_start(char c) { return ((unsigned char)c & 0xc0) != 0x80; }

size_t str_length(struct ctx *c, struct val s)
{
    size_t n = 0;
    if (!ctx_bytes(c, s.n)) return 0;
    for (size_t i = 0; i < s.n; i++) n += is_start(s.s[i]);
    return n;
}

size_t str_offset(struct val s, size_t i)
{
    size_t at = 0;
    while (at < s.n && (i || !is_start(s.s[at])))
        if (is_start(s.s[at++]) && i) {
            i--;
            while (at < s.n && !is_start(s.s[at])) at++;
        }
    return at;
}

const char *str_find(struct val s, struct val what)
{
    return what.n == 1 ? memchr(s.s, what.s[0], s.n) : memmem(s.s, s.n, what.s, what.n);
}

const char *str_find_last(struct ctx *c, struct val s, struct val what)
{
    if (!what.n) return s.s + s.n;
    for (size_t i = s.n; i >= what.n; i--) {
        if (s.s[i - 1] != what.s[what.n - 1]) continue;
        if (!ctx_step(c, 1 + what.n / 256)) break; /* candidates that almost match are paid for */
        if (!memcmp(s.s + i - what.n, what.s, what.n)) return s.s + i - what.n;
    }
    return NULL;
}

static bool in_set(uint32_t cp, struct val chars)
{
    if (chars.kind != V_STR) return chr_is_space(cp);
    char utf8[4];
    int n = utf8_put(utf8, cp);
    return n && str_find(chars, val_bytes(utf8, (size_t)n)) != NULL;
}

struct val str_strip(struct ctx *c, struct val s, struct val chars, bool left, bool right)
{
    uint32_t cp;
    size_t from = 0, to = s.n, k, cost = chars.kind == V_STR ? 1 + chars.n / 32 : 0;
    if (!ctx_step(c, 1 + s.n / 256)) return s;
    for (; left && from < to && (k = step_at(s, from, &cp), in_set(cp, chars)); from += k)
        if (!ctx_step(c, cost)) return s;
    while (right && to > from) {
        k = to - 1;
        while (k > from && !is_start(s.s[k])) k--;
        step_at(s, k, &cp);
        if (!in_set(cp, chars) || !ctx_step(c, cost)) break;
        to = k;
    }
    ctx_step(c, (s.n - (to - from)) / 16);
    return val_bytes(s.s + from, to - from);
}

struct val str_case(struct ctx *c, struct val s, enum str_case how)
{
    struct text t = {.c = c};
    bool in_word = false;
    if (!ctx_step(c, s.n / 4)) return s;
    for (size_t i = 0, k; i < s.n && !c->code; i += k) {
        uint32_t cp;
        k = step_at(s, i, &cp);
        utf8proc_int32_t u = (utf8proc_int32_t)cp, up = utf8proc_toupper(u), low = utf8proc_tolower(u);
        bool first = how == CASE_CAPITAL ? i == 0 : how == CASE_TITLE && !in_word;
        utf8proc_int32_t r = how == CASE_UPPER  ? up
                             : how == CASE_SWAP ? (u == low ? up : low)
                             : first            ? utf8proc_totitle(u)
                                                : low;
        in_word = up != u || low != u;
        char out[4];
        int n = utf8_put(out, (uint32_t)r);
        if (cp == 0xdf && r != u) { /* the one common letter whose capital form is two */
            memcpy(out, how == CASE_TITLE || how == CASE_CAPITAL ? "Ss" : "SS", 2);
            n = 2;
        }
        text_add(&t, out, n > 0 ? (size_t)n : 0);
    }
    return text_done(&t);
}

struct val str_replace(struct ctx *c, struct val s, struct val from, struct val to, int64_t count)
{
    struct text t = {.c = c};
    struct val rest = s;
    if (count < 0) count = INT64_MAX;
    const char *hit;
    ctx_bytes(c, s.n);
    while (count-- > 0 && ctx_step(c, 1) && (hit = str_find(rest, from))) {
        size_t skip = (size_t)(hit - rest.s) + from.n;
        text_add(&t, rest.s, skip - from.n);
        text_add(&t, to.s, to.n);
        if (!from.n) { /* an empty pattern matches before every code point and at the end */
            if (!rest.n) return text_done(&t);
            skip = str_offset(rest, 1);
            text_add(&t, rest.s, skip);
        }
        rest = val_bytes(rest.s + skip, rest.n - skip);
    }
    if (!t.n) return rest.n == s.n ? s : rest;
    text_add(&t, rest.s, rest.n);
    return text_done(&t);
}

static void reverse(struct list *l)
{
    for (uint32_t i = 0; i < l->n / 2; i++) {
        struct val v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}

/* Over code points that are space, or that are not: forwards from i, or backwards from end. */
static size_t skip(struct val s, size_t i, bool space)
{
    uint32_t cp;
    for (size_t k; i < s.n && (k = step_at(s, i, &cp), chr_is_space(cp) == space);) i += k;
    return i;
}

static size_t skip_back(struct val s, size_t end, bool space)
{
    uint32_t cp;
    while (end) {
        size_t k = end - 1;
        while (k && !is_start(s.s[k])) k--;
        step_at(s, k, &cp);
        if (chr_is_space(cp) != space) break;
        end = k;
    }
    return end;
}

/* Words; after max splits the rest stays whole, as CPython leaves it: with its outer white space. */
static struct val split_space(struct ctx *c, struct val s, int64_t max, bool from_right)
{
    struct val out = list_new(c, V_LIST, 0);
    if (!ctx_step(c, s.n / 8)) return out;
    if (!from_right) {
        for (size_t i = skip(s, 0, true), end; i < s.n && !c->code; i = skip(s, end, true)) {
            end = max-- == 0 ? s.n : skip(s, i, false);
            list_push(c, out.list, val_bytes(s.s + i, end - i));
        }
    } else {
        for (size_t end = skip_back(s, s.n, true), i; end && !c->code; end = skip_back(s, i, true)) {
            i = max-- == 0 ? 0 : skip_back(s, end, false);
            list_push(c, out.list, val_bytes(s.s + i, end - i));
        }
    }
    return out;
}

struct val str_split(struct ctx *c, struct val s, struct val sep, int64_t max, bool from_right)
{
    struct val out;
    if (sep.kind != V_STR) {
        out = split_space(c, s, max, from_right);
        if (from_right && !c->code) reverse(out.list);
        return out;
    }
    if (!sep.n) return ctx_fail(c, ERR_FORMAT, "empty separator");
    out = list_new(c, V_LIST, 0);
    if (!ctx_step(c, s.n / 64)) return out;
    while (max-- != 0 && !c->code) {
        const char *hit = from_right ? str_find_last(c, s, sep) : str_find(s, sep);
        if (!hit) break;
        size_t at = (size_t)(hit - s.s), after = at + sep.n;
        list_push(c, out.list, from_right ? val_bytes(s.s + after, s.n - after) : val_bytes(s.s, at));
        s = from_right ? val_bytes(s.s, at) : val_bytes(s.s + after, s.n - after);
    }
    list_push(c, out.list, s);
    if (from_right && !c->code) reverse(out.list);
    return out;
}

struct val str_lines(struct ctx *c, struct val s, bool keep_ends)
{
    struct val out = list_new(c, V_LIST, 0);
    if (!ctx_step(c, s.n / 64)) return out;
    for (size_t i = 0, start = 0, k; i < s.n && !c->code;) {
        uint32_t cp;
        k = step_at(s, i, &cp);
        bool end =
            (cp >= 10 && cp <= 13) || (cp >= 28 && cp <= 30) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
        if (end && cp == '\r' && i + 1 < s.n && s.s[i + 1] == '\n') k = 2;
        if (end || i + k == s.n) {
            list_push(c, out.list, val_bytes(s.s + start, (end && !keep_ends ? i : i + k) - start));
            start = i + k;
        }
        i += k;
    }
    return out;
}
