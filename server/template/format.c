/* printf-style formatting as Python's "%" has it: "%s", "%-8.3f", "%(name)d". */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "ctx.h"

struct spec {
    bool left, zero, plus, space, alt;
    int width, precision; /* precision -1: none */
    char letter;
};

static void put_padded(struct text *t, const struct spec *s, struct val sign, struct val body)
{
    int64_t fill = s->width - (int64_t)str_length(t->c, sign) - (int64_t)str_length(t->c, body);
    if (fill > 0) ctx_step(t->c, (size_t)fill / 8);
    bool zero = s->zero && !s->left && s->letter != 's' && s->letter != 'r';
    for (int64_t i = 0; !s->left && !zero && i < fill; i++) text_add(t, " ", 1);
    text_add(t, sign.s, sign.n);
    for (int64_t i = 0; zero && i < fill; i++) text_add(t, "0", 1);
    text_add(t, body.s, body.n);
    for (int64_t i = 0; s->left && i < fill; i++) text_add(t, " ", 1);
}

static int put_real(char *out, size_t n, const struct spec *s, double f)
{
    int p = s->precision < 0 ? 6 : s->precision;
    switch (s->letter) {
    case 'e': return snprintf(out, n, "%.*e", p, f);
    case 'E': return snprintf(out, n, "%.*E", p, f);
    case 'g': return snprintf(out, n, "%.*g", p, f);
    case 'G': return snprintf(out, n, "%.*G", p, f);
    default: return snprintf(out, n, "%.*f", p, f);
    }
}

static int put_integer(char *out, size_t n, const struct spec *s, unsigned long long u)
{
    int p = s->precision < 0 ? 1 : s->precision;
    switch (s->letter) {
    case 'x': return snprintf(out, n, "%.*llx", p, u);
    case 'X': return snprintf(out, n, "%.*llX", p, u);
    case 'o': return snprintf(out, n, "%.*llo", p, u);
    default: return snprintf(out, n, "%.*llu", p, u);
    }
}

static void put_number(struct text *t, const struct spec *s, struct val v)
{
    char body[512], sign[4];
    bool real = strchr("eEfFgG", s->letter) != NULL, hex = strchr("xXo", s->letter) != NULL;
    int n;
    if (!val_is_num(v) || (hex && !val_is_integer(v)) ||
        (!real && v.kind == V_FLOAT && !(fabs(v.f) < 9e18))) {
        ctx_fail(t->c, ERR_FORMAT, "a format needs a number");
        return;
    }
    bool negative = v.kind == V_FLOAT ? signbit(v.f) != 0 : v.i < 0;
    if (real) {
        n = put_real(body, sizeof body, s, fabs(val_num(v)));
    } else {
        int64_t i = v.kind == V_FLOAT ? (int64_t)v.f : v.i;
        negative = i < 0;
        n = put_integer(body, sizeof body, s, negative ? 0 - (unsigned long long)i : (unsigned long long)i);
    }
    snprintf(sign, sizeof sign, "%s%s",
             negative   ? "-"
             : s->plus  ? "+"
             : s->space ? " "
                        : "",
             !s->alt || !hex    ? ""
             : s->letter == 'o' ? "0o"
             : s->letter == 'x' ? "0x"
                                : "0X");
    put_padded(t, s, val_cstr(sign), val_bytes(body, n > 0 && (size_t)n < sizeof body ? (size_t)n : 0));
}

static void put_text(struct text *t, const struct spec *s, struct val v)
{
    struct text repr = {.c = t->c};
    if (s->letter == 'r') text_repr(&repr, v);
    v = s->letter == 'r' ? text_done(&repr) : val_str(t->c, v);
    if (s->precision >= 0) v.n = (uint32_t)str_offset(v, (size_t)s->precision);
    put_padded(t, s, val_cstr(""), v);
}

/* Flags, width, precision and letter from fmt[i] on; returns the letter's place, or fmt.n when malformed. */
static uint32_t parse_spec(struct val fmt, uint32_t i, struct spec *s)
{
    *s = (struct spec){.precision = -1};
    for (; i < fmt.n && fmt.s[i] && strchr("-0+ #", fmt.s[i]); i++) {
        s->left |= fmt.s[i] == '-';
        s->zero |= fmt.s[i] == '0';
        s->plus |= fmt.s[i] == '+';
        s->space |= fmt.s[i] == ' ';
        s->alt |= fmt.s[i] == '#';
    }
    for (; i < fmt.n && fmt.s[i] >= '0' && fmt.s[i] <= '9'; i++)
        if ((s->width = s->width * 10 + (fmt.s[i] - '0')) > 1000) return fmt.n;
    if (i < fmt.n && fmt.s[i] == '.') {
        s->precision = 0;
        for (i++; i < fmt.n && fmt.s[i] >= '0' && fmt.s[i] <= '9'; i++)
            if ((s->precision = s->precision * 10 + (fmt.s[i] - '0')) > 100) return fmt.n;
    }
    s->letter = i < fmt.n ? fmt.s[i] : 0;
    return s->letter && strchr("%srdiuxXoeEfFgG", s->letter) ? i : fmt.n;
}

struct val op_format(struct ctx *c, struct val fmt, const struct val *v, int n, struct val whole)
{
    struct text t = {.c = c};
    int used = 0;
    for (uint32_t i = 0; i < fmt.n && ctx_step(c, 1); i++) {
        const char *mark = memchr(fmt.s + i, '%', fmt.n - i);
        size_t plain = mark ? (size_t)(mark - fmt.s) - i : fmt.n - i;
        text_add(&t, fmt.s + i, plain);
        i += (uint32_t)plain + 1;
        if (!mark) break;
        const struct val *value = NULL;
        if (i < fmt.n && fmt.s[i] == '(') {
            const char *end = memchr(fmt.s + i, ')', fmt.n - i);
            uint32_t start = i + 1;
            i = end ? (uint32_t)(end - fmt.s) + 1 : fmt.n;
            if (end && whole.kind == V_DICT)
                value = dict_at(c, whole.dict, val_bytes(fmt.s + start, i - 1 - start));
            if (!value) return ctx_fail(c, ERR_FORMAT, "a format names a key that is not there");
        }
        struct spec s;
        i = parse_spec(fmt, i, &s);
        if (i >= fmt.n) return ctx_fail(c, ERR_FORMAT, "a format is malformed or too wide");
        if (s.letter == '%') {
            text_add(&t, "%", 1);
            continue;
        }
        if (!value && used >= n) return ctx_fail(c, ERR_FORMAT, "not enough arguments for a format");
        if (!value) value = &v[used++];
        if (s.letter == 's' || s.letter == 'r') {
            put_text(&t, &s, *value);
        } else {
            put_number(&t, &s, *value);
        }
    }
    /* a list counts as a mapping there, which need not be used up: CPython asks only for __getitem__ */
    if (used < n && whole.kind != V_DICT && whole.kind != V_LIST)
        return ctx_fail(c, ERR_FORMAT, "too many arguments for a format");
    return text_done(&t);
}
