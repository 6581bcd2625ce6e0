#include "head.h"
#include <string.h>
#include <strings.h>

#define TARGET_MAX 8192

static bool is_token(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static size_t token_length(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && is_token((unsigned char)s[i])) i++;
    return i;
}

static size_t target_length(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && (unsigned char)s[i] > ' ' && (unsigned char)s[i] < 0x7f) i++;
    return i;
}

static bool has_control(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)s[i] < ' ' && s[i] != '\t') || s[i] == 0x7f) return true;
    return false;
}

/* "GET /path HTTP/1.1" */
static int parse_request_line(const char *s, size_t n, struct head *out)
{
    size_t i = token_length(s, n);
    if (i == 0 || i > 32 || i == n || s[i] != ' ') return 400;
    out->method = s;
    out->n_method = i++;
    out->target = s + i;
    out->n_target = target_length(s + i, n - i);
    i += out->n_target;
    if (out->n_target == 0 || i == n || s[i] != ' ') return 400;
    if (out->n_target > TARGET_MAX) return 414;
    const char *v = s + i + 1;
    size_t n_v = n - i - 1;
    if (n_v != 8 || memcmp(v, "HTTP/", 5) || v[5] < '0' || v[5] > '9' || v[6] != '.' || v[7] < '0' ||
        v[7] > '9')
        return 400;
    if (v[5] != '1' || v[7] > '1') return 505;
    out->minor = v[7] - '0';
    return 200;
}

/* "Name: value"; a line that begins with a space would continue the one before it: refused, as RFC 9112 5.2
 * allows. */
static int parse_field(const char *s, size_t n, struct head_field *f)
{
    size_t i = token_length(s, n);
    if (i == 0 || i == n || s[i] != ':') return 400;
    f->name = s;
    f->n_name = i++;
    while (i < n && (s[i] == ' ' || s[i] == '\t')) i++;
    while (n > i && (s[n - 1] == ' ' || s[n - 1] == '\t')) n--;
    f->value = s + i;
    f->n_value = n - i;
    return has_control(f->value, f->n_value) ? 400 : 200;
}

/* The length of the line at s without its CRLF; -1: unfinished; -2: a bare CR, a bare LF or a NUL. */
static long line_length(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n' || s[i] == 0) return -2;
        if (s[i] != '\r') continue;
        if (i + 1 == n) return -1;
        return s[i + 1] == '\n' ? (long)i : -2;
    }
    return -1;
}

int head_parse(const char *s, size_t n, const struct head_limits *lim, struct head *out, size_t *n_head)
{
    *out = (struct head){0};
    if (n && !is_token((unsigned char)s[0])) return 400;
    size_t at = 0;
    for (int line = 0;; line++) {
        long len = line_length(s + at, n - at);
        if (len == -2) return 400;
        if (len == -1) {
            if (line == 0 && n > TARGET_MAX + 64) return 414;
            return n >= lim->bytes ? 431 : 0;
        }
        size_t end = at + (size_t)len + 2;
        int status = 200;
        if (line == 0) {
            status = parse_request_line(s, (size_t)len, out);
        } else if (len == 0) {
            *n_head = end;
            return end > lim->bytes ? 431 : 200;
        } else if (line > lim->lines || out->n == HEAD_LINES_MAX) {
            return 431;
        } else {
            status = parse_field(s + at, (size_t)len, &out->field[out->n++]);
        }
        if (status != 200) return status;
        at = end;
        if (at > lim->bytes) return 431;
    }
}

const struct head_field *head_find(const struct head *h, const char *name, int *count)
{
    const struct head_field *first = NULL;
    size_t n = strlen(name);
    int k = 0;
    for (int i = 0; i < h->n; i++) {
        if (h->field[i].n_name != n || strncasecmp(h->field[i].name, name, n)) continue;
        if (!first) first = &h->field[i];
        k++;
    }
    if (count) *count = k;
    return first;
}

bool head_value_is(const struct head_field *f, const char *value)
{
    return f->n_value == strlen(value) && !strncasecmp(f->value, value, f->n_value);
}

/* Digits only, as RFC 9110 8.6 has it; -1: malformed, or no number that a length could be. */
static int64_t parse_length(const struct head_field *f)
{
    int64_t v = 0;
    if (f->n_value == 0) return -1;
    for (size_t i = 0; i < f->n_value; i++) {
        if (f->value[i] < '0' || f->value[i] > '9') return -1;
        if (v < INT64_MAX / 16) v = v * 10 + (f->value[i] - '0');
    }
    return v >= INT64_MAX / 16 ? -1 : v;
}

static bool refuse(struct head_verdict *out, int status, const char *why)
{
    *out = (struct head_verdict){.status = status, .why = why};
    return false;
}

static bool check_framing(const struct head *h, struct head_verdict *out)
{
    int n_te, n_len;
    const struct head_field *te = head_find(h, "Transfer-Encoding", &n_te);
    const struct head_field *len = head_find(h, "Content-Length", &n_len);
    if (n_len > 1) return refuse(out, 400, "more than one Content-Length");
    if (n_te > 1) return refuse(out, 400, "more than one Transfer-Encoding");
    if (te && len) return refuse(out, 400, "both Transfer-Encoding and Content-Length");
    if (te) {
        if (h->minor == 0) return refuse(out, 400, "Transfer-Encoding in HTTP/1.0");
        if (!head_value_is(te, "chunked"))
            return refuse(out, 400, "only Transfer-Encoding: chunked is understood");
        out->chunked = true;
    }
    if (len) {
        out->length = parse_length(len);
        if (out->length == -1) return refuse(out, 400, "malformed Content-Length");
    }
    return true;
}

/* Characters: for heads that head_parse has not seen. */
static bool check_lines(const struct head *h, struct head_verdict *out)
{
    if (h->minor < 0) return refuse(out, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    if (token_length(h->method, h->n_method) != h->n_method ||
        target_length(h->target, h->n_target) != h->n_target)
        return refuse(out, 400, "malformed request line");
    for (int i = 0; i < h->n; i++) {
        const struct head_field *f = &h->field[i];
        if (f->n_name == 0 || token_length(f->name, f->n_name) != f->n_name ||
            has_control(f->value, f->n_value))
            return refuse(out, 400, "malformed header");
    }
    return true;
}

void head_check(const struct head *h, const struct head_limits *lim, struct head_verdict *out)
{
    *out = (struct head_verdict){0};
    size_t bytes = 0;
    for (int i = 0; i < h->n; i++) bytes += h->field[i].n_name + h->field[i].n_value + 4;
    if (h->n > lim->lines || bytes > lim->bytes) {
        refuse(out, 431, "too many or too large headers");
        return;
    }
    if (!check_lines(h, out)) return;
    int n_host, n_expect;
    const struct head_field *host = head_find(h, "Host", &n_host);
    if (n_host > 1 || (h->minor > 0 && n_host == 0) || (host && memchr(host->value, ' ', host->n_value))) {
        refuse(out, 400, "exactly one Host header is needed");
        return;
    }
    if (!check_framing(h, out)) return;
    const struct head_field *expect = head_find(h, "Expect", &n_expect);
    if (n_expect > 1 || (expect && !head_value_is(expect, "100-continue"))) {
        refuse(out, 417, "only Expect: 100-continue is understood");
        return;
    }
    out->ask_continue = expect != NULL;
    if (out->length > (int64_t)lim->body) refuse(out, 413, "the request body is too large");
}
