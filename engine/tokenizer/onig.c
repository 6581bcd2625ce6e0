/* Oniguruma's syntax is near to Perl's; this rewrites what differs. Everything it does not know is refused,
 * so a tokenizer never runs with a pattern that means something else. */
#include <string.h>
#include "pattern.h"

enum { MAX_DEPTH = 64 };

/* White_Space and word characters, spelled out: PCRE2's own \s has U+180E too and its \w lacks marks. Below
 * U+0100 Oniguruma counts superscripts and fractions as word characters. */
#define SPACE                                                                                                \
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORD                                                                                                 \
    "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"                                                                   \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"         \
    "\\x{1f170}-\\x{1f189}"

struct translate {
    const char *s;
    size_t n, i;
    struct buf *out;
    struct err *e;
    size_t atom;            /* where the last atom starts in out: a quantifier applies to it */
    size_t open[MAX_DEPTH]; /* where each open group starts in out */
    int depth;
};

static int refuse(struct translate *t, int code, const char *what)
{
    return err_set(t->e, code, "regular expression, byte %zu: %s", t->i, what);
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static char peek(const struct translate *t, size_t k) { return t->i + k < t->n ? t->s[t->i + k] : 0; }

/* \p{Name}, after "\p" or "\P": categories have the same names, scripts need sc: (PCRE2 means scx otherwise).
 */
static int property(struct translate *t, char p)
{
    static const char *const category[][2] = {
        {"Letter", "L"},
        {"Mark", "M"},
        {"Number", "N"},
        {"Punctuation", "P"},
        {"Punct", "P"},
        {"Symbol", "S"},
        {"Separator", "Z"},
        {"Other", "C"},
        {"Alpha", "Alphabetic"},
        {"Space", "White_Space"},
        {"Alphabetic", "Alphabetic"},
        {"White_Space", "White_Space"},
        {"Uppercase", "Uppercase"},
        {"Lowercase", "Lowercase"},
        {"Emoji", "Emoji"},
        {"Any", "Any"},
    };
    const char *close = peek(t, 0) == '{' ? memchr(t->s + t->i, '}', t->n - t->i) : NULL;
    if (!close) return refuse(t, ERR_FORMAT, "\\p needs {name}");
    const char *name = t->s + t->i + 1;
    bool negate = *name == '^';
    name += negate;
    size_t len = (size_t)(close - name);
    if (!len || len > 32) return refuse(t, ERR_FORMAT, "bad property name");
    for (size_t k = 0; k < len; k++)
        if (!is_letter(name[k]) && name[k] != '_') return refuse(t, ERR_UNSUPPORTED, "this property name");
    const char *known = NULL;
    for (size_t k = 0; k < sizeof category / sizeof *category; k++)
        if (strlen(category[k][0]) == len && !memcmp(category[k][0], name, len)) known = category[k][1];
    buf_fmt(t->out, "\\%c{", negate ? p ^ 0x20 : p);
    if (known) {
        buf_str(t->out, known);
    } else {
        if (len > 2) buf_str(t->out, "sc:");
        buf_add(t->out, name, len);
    }
    buf_chr(t->out, '}');
    t->i = (size_t)(close - t->s) + 1;
    return 0;
}

/* A code point in hexadecimal: \xHH, \x{H...}, \uHHHH; t->i is behind the x or u. */
static int code_point(struct translate *t, char kind)
{
    size_t n = 0;
    if (kind == 'x' && peek(t, 0) == '{') {
        const char *close = memchr(t->s + t->i, '}', t->n - t->i);
        n = close ? (size_t)(close - t->s) - t->i - 1 : 0;
        if (!n || n > 8) return refuse(t, ERR_FORMAT, "bad \\x{...}");
        t->i++;
    } else {
        size_t max = kind == 'u' ? 4 : 2;
        while (n < max && is_hex(peek(t, n))) n++;
        if (!n || (kind == 'u' && n != 4)) return refuse(t, ERR_FORMAT, "bad code point");
    }
    bool braced = t->i && t->s[t->i - 1] == '{';
    unsigned value = 0;
    for (size_t k = 0; k < n; k++) {
        char c = peek(t, k);
        if (!is_hex(c)) return refuse(t, ERR_FORMAT, "bad code point");
        value = value << 4 | (unsigned)(is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (kind == 'x' && !braced && value > 0x7f)
        return refuse(t, ERR_UNSUPPORTED, "\\xHH above 7f is a raw byte");
    buf_fmt(t->out, "\\x{%x}", value);
    t->i += n + braced;
    return 0;
}

static int escape(struct translate *t, bool in_class)
{
    t->i++;
    if (t->i >= t->n) return refuse(t, ERR_FORMAT, "ends with a backslash");
    char c = t->s[t->i++];
    if (c == 'p' || c == 'P') return property(t, c);
    if (c == 'x' || c == 'u') return code_point(t, c);
    if (!is_letter(c) && !is_digit(c)) {
        buf_chr(t->out, '\\');
        if (c & 0x80) t->out->len--; /* an escaped non-ASCII character is itself */
        buf_chr(t->out, c);
        return 0;
    }
    const char *to = NULL;
    switch (c) {
    case 's': to = in_class ? SPACE : "[" SPACE "]"; break;
    case 'S': to = in_class ? "\\P{White_Space}" : "[^" SPACE "]"; break;
    case 'w': to = in_class ? WORD : "[" WORD "]"; break;
    case 'W': to = in_class ? NULL : "[^" WORD "]"; break;
    case 'h': to = in_class ? "0-9a-fA-F" : "[0-9a-fA-F]"; break;
    case 'd': to = "\\p{Nd}"; break;
    case 'D': to = "\\P{Nd}"; break;
    case 'v': to = "\\x0b"; break;
    case 't': to = "\\t"; break;
    case 'n': to = "\\n"; break;
    case 'r': to = "\\r"; break;
    case 'f': to = "\\f"; break;
    case 'a': to = "\\a"; break;
    case 'e': to = "\\e"; break;
    case 'A': to = in_class ? NULL : "\\A"; break;
    case 'z': to = in_class ? NULL : "\\z"; break;
    case 'Z': to = in_class ? NULL : "\\Z"; break;
    case 'b':
        to = in_class ? "\\x08" : "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))";
        break;
    case 'B': to = in_class ? NULL : "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))"; break;
    case '0': to = peek(t, 0) >= '0' && peek(t, 0) <= '7' ? NULL : "\\x00"; break;
    default: break;
    }
    if (!to) return refuse(t, ERR_UNSUPPORTED, "this escape");
    buf_str(t->out, to);
    return 0;
}

static int char_set(struct translate *t)
{
    buf_chr(t->out, '[');
    t->i++;
    if (peek(t, 0) == '^') {
        buf_chr(t->out, '^');
        t->i++;
    }
    if (peek(t, 0) == ']') return refuse(t, ERR_UNSUPPORTED, "empty character class");
    while (t->i < t->n && t->s[t->i] != ']') {
        char c = t->s[t->i];
        if (c == '[') return refuse(t, ERR_UNSUPPORTED, "nested or POSIX character class");
        if (c == '&' && peek(t, 1) == '&') return refuse(t, ERR_UNSUPPORTED, "intersection of classes");
        if (c == '\\') {
            if (escape(t, true)) return t->e ? t->e->code : ERR_FORMAT;
            continue;
        }
        buf_chr(t->out, c);
        t->i++;
    }
    if (t->i >= t->n) return refuse(t, ERR_FORMAT, "character class without end");
    buf_chr(t->out, ']');
    t->i++;
    return 0;
}

/* "(?" and what follows. Ruby's (?m) is Perl's (?s); ^ and $ are always those of lines. */
static int group(struct translate *t)
{
    if (t->depth == MAX_DEPTH) return refuse(t, ERR_UNSUPPORTED, "too many nested groups");
    t->open[t->depth++] = t->out->len;
    buf_chr(t->out, '(');
    t->i++;
    if (peek(t, 0) != '?') {
        buf_str(t->out, "?:"); /* nothing refers to groups: back references are refused */
        return 0;
    }
    buf_chr(t->out, '?');
    t->i++;
    char c = peek(t, 0), d = peek(t, 1);
    if (c == ':' || c == '=' || c == '!' || c == '>') {
        buf_chr(t->out, c);
        t->i++;
        return 0;
    }
    if (c == '<' && (d == '=' || d == '!')) {
        buf_chr(t->out, c);
        buf_chr(t->out, d);
        t->i += 2;
        return 0;
    }
    bool at_start = t->out->len == 2;
    for (; peek(t, 0) == 'i' || peek(t, 0) == 'm' || peek(t, 0) == '-'; t->i++)
        buf_chr(t->out, t->s[t->i] == 'm' ? 's' : t->s[t->i]);
    if (peek(t, 0) != ':' && peek(t, 0) != ')') return refuse(t, ERR_UNSUPPORTED, "this kind of group");
    if (peek(t, 0) == ')') {
        /* Later in a pattern the two disagree about how far (?i) reaches over an alternation. */
        if (!at_start) return refuse(t, ERR_UNSUPPORTED, "an option that is not first");
        buf_chr(t->out, ')');
        t->depth--;
        t->i++;
        return 0;
    }
    buf_chr(t->out, ':');
    t->i++;
    return 0;
}

/* {n}, {n,}, {n,m}, and {,m} which PCRE2 10.42 would take literally. A + behind it repeats the whole in
 * Oniguruma, but would be possessive in PCRE2. */
static int interval(struct translate *t)
{
    size_t k = 1, digits = 0, commas = 0;
    for (; is_digit(peek(t, k)) || peek(t, k) == ','; k++) {
        digits += is_digit(peek(t, k));
        commas += peek(t, k) == ',';
    }
    if (peek(t, k) != '}' || !digits || commas > 1 || digits > 10) {
        buf_str(t->out, "\\{"); /* not an interval: literal */
        t->atom = t->out->len - 2;
        t->i++;
        return 0;
    }
    bool repeated = peek(t, k + 1) == '+';
    if (repeated) {
        struct buf tail = {0};
        buf_add(&tail, t->out->data + t->atom, t->out->len - t->atom);
        t->out->len = t->atom;
        buf_str(t->out, "(?:");
        buf_add(t->out, tail.data, tail.len);
        if (tail.failed) t->out->failed = true;
        buf_free(&tail);
    }
    buf_chr(t->out, '{');
    if (peek(t, 1) == ',') buf_chr(t->out, '0');
    buf_add(t->out, t->s + t->i + 1, k);
    t->i += k + 1;
    if (repeated) {
        buf_str(t->out, ")+");
        t->i++;
    }
    return 0;
}

int onig_translate(const char *s, size_t n, struct buf *out, struct err *e)
{
    struct err local = {0};
    struct translate t = {.s = s, .n = n, .out = out, .e = e ? e : &local};
    while (t.i < n) {
        int status = 0;
        char c = s[t.i];
        if (c == '{') {
            status = interval(&t);
        } else if (c == '*' || c == '+' || c == '?') {
            buf_chr(out, c); /* a second sign means lazy or possessive in both */
            t.i++;
        } else if (c == ')') {
            if (!t.depth) return refuse(&t, ERR_FORMAT, "unmatched )");
            t.atom = t.open[--t.depth];
            buf_chr(out, ')');
            t.i++;
        } else {
            t.atom = out->len;
            if (c == '\\') {
                status = escape(&t, false);
            } else if (c == '[') {
                status = char_set(&t);
            } else if (c == '(') {
                status = group(&t);
            } else {
                buf_chr(out, c);
                for (t.i++; t.i < n && (s[t.i] & 0xc0) == 0x80; t.i++) buf_chr(out, s[t.i]); /* one atom */
            }
        }
        if (status) return status;
    }
    if (t.depth) return refuse(&t, ERR_FORMAT, "group without end");
    return out->failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}
