/* Source text to tokens, as Jinja's lexer does with trim_blocks and lstrip_blocks on: the newline after a
 * block or comment goes, and so does white space between the start of a line and a block or comment; "-"
 * inside a delimiter strips all white space on that side, "+" leaves it alone. */
#include <stdlib.h>
#include <string.h>
#include "ast.h"
#include "ctx.h"
#include "utf8.h"

struct lexer {
    struct arena *a;
    const char *s;
    size_t n, i;
    int line;
    size_t line_at;  /* up to where newlines are counted */
    bool line_start; /* the last delimiter ended with a newline, or nothing came yet */
    struct tok *tok;
    size_t n_tok, cap;
    struct err *e;
};

static int fail(struct lexer *l, int code, const char *what)
{
    return err_set(l->e, code, "line %d: %s", l->line, what);
}

static int line_of(struct lexer *l, size_t at)
{
    for (; l->line_at < at && l->line_at < l->n; l->line_at++) l->line += l->s[l->line_at] == '\n';
    return l->line;
}

static int push(struct lexer *l, enum tok_type type, int op, struct val v)
{
    if (l->n_tok == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct tok *t = arena_grow(l->a, l->tok, l->n_tok * sizeof *t, cap * sizeof *t);
        if (!t) return fail(l, ERR_NOMEM, "out of memory");
        l->tok = t;
        l->cap = cap;
    }
    l->tok[l->n_tok++] = (struct tok){type, line_of(l, l->i), op, v};
    return 0;
}

static bool at(const struct lexer *l, size_t i, const char *what)
{
    size_t k = strlen(what);
    return l->n - i >= k && memcmp(l->s + i, what, k) == 0;
}

static size_t skip_space(const struct lexer *l, size_t i)
{
    uint32_t cp;
    for (int k; i < l->n && (k = utf8_next(l->s + i, l->n - i, &cp)) > 0 && chr_is_space(cp);) i += (size_t)k;
    return i;
}

/* Start of the white space that ends s[0..n). */
static size_t rstrip(const char *s, size_t n)
{
    while (n) {
        size_t k = n - 1;
        uint32_t cp;
        while (k && ((unsigned char)s[k] & 0xc0) == 0x80) k--;
        if (utf8_next(s + k, n - k, &cp) <= 0 || !chr_is_space(cp)) break;
        n = k;
    }
    return n;
}

/* Text before a delimiter at `end` whose sign is '-', '+' or 0. */
static int push_data(struct lexer *l, size_t end, char sign, bool block)
{
    const char *s = l->s + l->i;
    size_t n = end - l->i;
    if (sign == '-') {
        n = rstrip(s, n);
    } else if (sign != '+' && block) {
        const char *nl = memrchr(s, '\n', n);
        size_t from = nl ? (size_t)(nl - s) + 1 : 0;
        if ((nl || l->line_start) && rstrip(s + from, n - from) == 0) n = from;
    }
    return n ? push(l, T_DATA, 0, val_bytes(s, n)) : 0;
}

/* Is there an end delimiter ("%}", "}}" or "#}", perhaps signed) at l->i? Then moves behind it and what it
 * strips. */
static bool end_tag(struct lexer *l, const char *close)
{
    size_t i = l->i;
    bool trim = close[0] != '}', strip = false;
    if (i < l->n && l->s[i] == '-') {
        strip = true;
        i++;
    } else if (i < l->n && l->s[i] == '+' && trim) {
        trim = false;
        i++;
    }
    if (!at(l, i, close)) return false;
    i += 2;
    if (strip) {
        i = skip_space(l, i);
    } else if (trim && i < l->n && l->s[i] == '\n') {
        i++;
    }
    l->i = i;
    l->line_start = l->s[i - 1] == '\n';
    return true;
}

static bool is_word(unsigned char c)
{
    return c >= 0x80 || c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static int hex_value(char c)
{
    if (is_digit(c)) return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Python's escapes; an unknown one keeps its backslash. Returns bytes of source used after the backslash, 0 =
 * bad. */
static size_t escape(const char *s, size_t n, char *out, int *n_out)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *p = memchr(from, s[0], sizeof from - 1);
    *n_out = 1;
    if (p) {
        out[0] = to[p - from];
        return 1;
    }
    if (s[0] == '\n') {
        *n_out = 0;
        return 1;
    }
    uint32_t cp = 0;
    size_t k = 0, want = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    if (want) {
        for (k = 1; k <= want; k++) {
            int h = k < n ? hex_value(s[k]) : -1;
            if (h < 0 || cp > 0x10ffff) return 0;
            cp = cp << 4 | (uint32_t)h;
        }
    } else if (s[0] >= '0' && s[0] <= '7') {
        for (; k < 3 && k < n && s[k] >= '0' && s[k] <= '7'; k++) cp = cp * 8 + (uint32_t)(s[k] - '0');
    } else {
        out[0] = '\\';
        out[1] = s[0]; /* a byte of a longer code point is followed by its fellows */
        *n_out = 2;
        return 1;
    }
    *n_out = utf8_put(out, cp);
    return *n_out ? k : 0;
}

static int lex_string(struct lexer *l)
{
    char quote = l->s[l->i];
    size_t start = l->i + 1, end = start;
    while (end < l->n && l->s[end] != quote) end += l->s[end] == '\\' ? 2 : 1;
    if (end >= l->n) return fail(l, ERR_FORMAT, "a string is not closed");
    const char *s = l->s + start;
    size_t n = end - start, k = 0;
    char *out = arena_alloc(l->a, n + 4);
    if (!out) return fail(l, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n;) {
        if (s[i] != '\\') {
            out[k++] = s[i++];
            continue;
        }
        int put;
        size_t used = escape(s + i + 1, n - i - 1, out + k, &put);
        if (!used) return fail(l, ERR_FORMAT, "bad escape in a string");
        k += (size_t)put;
        i += 1 + used;
    }
    int status = push(l, T_STR, 0, val_bytes(out, k));
    l->i = end + 1;
    return status;
}

/* Digits with single underscores between them, copied to out without these. */
static size_t digits(const struct lexer *l, size_t i, char *out, size_t *n)
{
    while (i < l->n && (is_digit(l->s[i]) || (l->s[i] == '_' && i + 1 < l->n && is_digit(l->s[i + 1])))) {
        if (l->s[i] != '_' && *n < 60) out[(*n)++] = l->s[i];
        i++;
    }
    return i;
}

static int lex_number(struct lexer *l)
{
    char num[64];
    size_t n = 0, i = l->i;
    bool real = false, after_dot = i && l->s[i - 1] == '.';
    int base = 10;
    char mark = l->n - i > 2 && l->s[i] == '0' ? (char)(l->s[i + 1] | 32) : 0;
    if (mark == 'x' || mark == 'o' || mark == 'b') {
        base = mark == 'x' ? 16 : mark == 'o' ? 8 : 2;
        for (i += 2; i < l->n && (l->s[i] == '_' || hex_value(l->s[i]) >= 0); i++)
            if (l->s[i] != '_' && n < 60) num[n++] = l->s[i];
    } else {
        i = digits(l, i, num, &n);
        size_t mantissa = n, end = i;
        if (!after_dot && end + 1 < l->n && l->s[end] == '.' && is_digit(l->s[end + 1])) {
            num[n++] = '.';
            i = end = digits(l, end + 1, num, &n);
            real = true;
        }
        if (!after_dot && end < l->n && (l->s[end] | 32) == 'e') {
            bool sign = end + 1 < l->n && (l->s[end + 1] == '-' || l->s[end + 1] == '+');
            if (end + 1 + sign < l->n && is_digit(l->s[end + 1 + sign])) {
                num[n++] = 'e';
                if (sign) num[n++] = l->s[end + 1];
                i = digits(l, end + 1 + sign, num, &n);
                real = true;
            }
        }
        if (mantissa >= 60) return fail(l, ERR_FORMAT, "a number is too long");
    }
    num[n < 63 ? n : 63] = 0;
    char *stop;
    struct val v = real ? val_float(strtod(num, &stop)) : val_int((int64_t)strtoull(num, &stop, base));
    if (*stop || n == 0 || (!real && v.i < 0))
        return fail(l, ERR_FORMAT, "a number is malformed or too large");
    int status = push(l, real ? T_FLOAT : T_INT, 0, v);
    l->i = i;
    return status;
}

static int lex_op(struct lexer *l, char *stack, int *depth)
{
    static const char pairs[][3] = {"//", "**", "==", "!=", ">=", "<="};
    char c = l->s[l->i];
    for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++)
        if (at(l, l->i, pairs[k])) {
            int status = push(l, T_OP, OP2(pairs[k][0], pairs[k][1]), val_none());
            l->i += 2;
            return status;
        }
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c)) return fail(l, ERR_FORMAT, "unexpected character");
    if (strchr("([{", c)) {
        if (*depth == NEST_MAX) return fail(l, ERR_BUDGET, "brackets are nested too deeply");
        stack[(*depth)++] = c == '(' ? ')' : (char)(c + 2);
    } else if (strchr(")]}", c)) {
        if (!*depth || stack[--*depth] != c) return fail(l, ERR_FORMAT, "brackets do not match");
    }
    int status = push(l, T_OP, c, val_none());
    l->i++;
    return status;
}

/* Tokens up to the end delimiter. */
static int lex_tag(struct lexer *l, const char *close, enum tok_type end)
{
    char stack[NEST_MAX];
    int depth = 0, status = 0;
    while (!status) {
        l->i = skip_space(l, l->i);
        line_of(l, l->i);
        if (l->i >= l->n) return fail(l, ERR_FORMAT, "a tag is not closed");
        if (depth == 0 && end_tag(l, close)) return push(l, end, 0, val_none());
        char c = l->s[l->i];
        if (c == '"' || c == '\'') {
            status = lex_string(l);
        } else if (is_digit(c)) {
            status = lex_number(l);
        } else if (is_word((unsigned char)c)) {
            size_t i = l->i;
            while (i < l->n && is_word((unsigned char)l->s[i])) i++;
            status = push(l, T_NAME, 0, val_bytes(l->s + l->i, i - l->i));
            l->i = i;
        } else {
            status = lex_op(l, stack, &depth);
        }
    }
    return status;
}

/* {% raw %} ... {% endraw %} with l->i behind "{%" and its sign. 1 = that was one, 0 = it is not, or an
 * error. */
static int lex_raw(struct lexer *l)
{
    size_t i = skip_space(l, l->i);
    if (!at(l, i, "raw")) return 0;
    i = skip_space(l, i + 3);
    bool strip = i < l->n && l->s[i] == '-';
    if (!at(l, i + strip, "%}")) return 0;
    i += 2 + strip;
    if (strip) i = skip_space(l, i);
    l->line_start = l->s[i - 1] == '\n';
    l->i = i;
    for (size_t end = i; end < l->n; end++) {
        if (!at(l, end, "{%")) continue;
        char sign = end + 2 < l->n && (l->s[end + 2] == '-' || l->s[end + 2] == '+') ? l->s[end + 2] : 0;
        size_t k = skip_space(l, end + 2 + (sign != 0));
        if (!at(l, k, "endraw")) continue;
        k = skip_space(l, k + 6);
        if (!at(l, k, "%}") && !at(l, k, "-%}") && !at(l, k, "+%}")) continue;
        int status = push_data(l, end, sign, true);
        l->i = k;
        end_tag(l, "%}");
        return status ? status : 1;
    }
    return fail(l, ERR_FORMAT, "a raw block is not closed");
}

static int lex_all(struct lexer *l)
{
    while (l->i < l->n) {
        size_t tag = l->i;
        while (tag < l->n &&
               !(l->s[tag] == '{' && tag + 1 < l->n && strchr("{%#", l->s[tag + 1]) && l->s[tag + 1]))
            tag++;
        if (tag >= l->n) {
            int status = push_data(l, l->n, '+', false);
            return status ? status : push(l, T_EOF, 0, val_none());
        }
        char what = l->s[tag + 1], sign = tag + 2 < l->n ? l->s[tag + 2] : 0;
        if (sign != '-' && sign != '+') sign = 0;
        int status = push_data(l, tag, sign, what != '{');
        if (status) return status;
        l->i = tag + 2 + (sign != 0);
        if (what == '#') {
            bool closed = false;
            while (l->i < l->n && !(closed = end_tag(l, "#}"))) l->i++;
            if (!closed) return fail(l, ERR_FORMAT, "a comment is not closed");
            continue;
        }
        status = what == '%' ? lex_raw(l) : 0;
        if (status == 1) continue;
        if (!status) status = push(l, what == '{' ? T_VAR : T_BLOCK, 0, val_none());
        if (!status) status = what == '{' ? lex_tag(l, "}}", T_VAR_END) : lex_tag(l, "%}", T_BLOCK_END);
        if (status) return status;
    }
    return push(l, T_EOF, 0, val_none());
}

/* "\r\n" and "\r" become "\n"; one newline at the very end goes. */
static char *normalize(struct arena *a, const char *src, size_t *n)
{
    char *s = arena_alloc(a, *n + 1);
    if (!s) return NULL;
    size_t k = 0;
    for (size_t i = 0; i < *n; i++) {
        if (src[i] == '\r' && i + 1 < *n && src[i + 1] == '\n') continue;
        s[k++] = src[i] == '\r' ? '\n' : src[i];
    }
    if (k && s[k - 1] == '\n') k--;
    s[k] = 0;
    *n = k;
    return s;
}

int jinja_lex(struct arena *a, const char *src, size_t n, struct tok **out, struct err *e)
{
    if (n > SOURCE_MAX) return err_set(e, ERR_BUDGET, "the template is longer than %u bytes", SOURCE_MAX);
    if (!utf8_valid(src, n)) return err_set(e, ERR_FORMAT, "the template is not valid UTF-8");
    struct lexer l = {.a = a, .n = n, .line = 1, .line_start = true, .e = e};
    l.s = normalize(a, src, &l.n);
    if (!l.s) return err_set(e, ERR_NOMEM, "out of memory");
    int status = lex_all(&l);
    *out = l.tok;
    return status;
}
