#define PCRE2_CODE_UNIT_WIDTH 8
#include "pattern.h"
#include <pcre2.h>
#include <string.h>
#include "utf8.h"

/* Real patterns need a handful of steps per character; the limits stop catastrophic backtracking of hostile
 * ones. */
enum { MATCH_LIMIT = 20000000, HEAP_LIMIT_KIB = 65536, MAX_PATTERN = 16384, MAX_LITERAL = 256 };

int pattern_regex(struct pattern *p, const char *onig, size_t n, struct err *e)
{
    *p = (struct pattern){0};
    if (n > MAX_PATTERN) return err_set(e, ERR_UNSUPPORTED, "pattern longer than %d bytes", MAX_PATTERN);
    struct buf b = {0};
    int status = onig_translate(onig, n, &b, e);
    pcre2_compile_context *ctx = status ? NULL : pcre2_compile_context_create(NULL);
    if (!status && (!ctx || b.failed)) status = err_set(e, ERR_NOMEM, "out of memory");
    if (!status) {
        int code = 0;
        size_t at = 0;
        pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(ctx, 64);
        p->code =
            pcre2_compile((PCRE2_SPTR)b.data, b.len,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, ctx);
        if (!p->code) {
            char what[128] = "";
            pcre2_get_error_message(code, (PCRE2_UCHAR *)what, sizeof what);
            status = err_set(e, ERR_FORMAT, "bad regular expression near byte %zu: %s", at, what);
        } else {
            pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* where there is no JIT, the interpreter runs */
        }
    }
    if (ctx) pcre2_compile_context_free(ctx);
    buf_free(&b);
    return status;
}

const char *bytes_find(const char *s, size_t n, const char *what, size_t n_what)
{
    const char *end = s + n;
    while (n_what && (size_t)(end - s) >= n_what) {
        s = memchr(s, what[0], (size_t)(end - s) - n_what + 1);
        if (!s) return NULL;
        if (!memcmp(s, what, n_what)) return s;
        s++;
    }
    return NULL;
}

int pattern_literal(struct pattern *p, const char *s, size_t n, struct err *e)
{
    *p = (struct pattern){0};
    if (!n || n > MAX_LITERAL)
        return err_set(e, ERR_UNSUPPORTED, "pattern is empty or longer than %d bytes", MAX_LITERAL);
    buf_add(&p->literal, s, n);
    return p->literal.failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

void pattern_free(struct pattern *p)
{
    if (p->code) pcre2_code_free(p->code);
    buf_free(&p->literal);
    *p = (struct pattern){0};
}

void pattern_scratch_free(struct pattern_scratch *sc)
{
    if (sc->match) pcre2_match_data_free(sc->match);
    if (sc->context) pcre2_match_context_free(sc->context);
    *sc = (struct pattern_scratch){0};
}

static int scratch_make(struct pattern_scratch *sc, struct err *e)
{
    if (sc->match) return 0;
    if (!sc->context) sc->context = pcre2_match_context_create(NULL);
    if (!sc->context) return err_set(e, ERR_NOMEM, "out of memory");
    pcre2_set_match_limit(sc->context, MATCH_LIMIT);
    pcre2_set_heap_limit(sc->context, HEAP_LIMIT_KIB);
    sc->match = pcre2_match_data_create(1, NULL);
    return sc->match ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

static int regex_next(const struct pattern *p, struct pattern_scratch *sc, const char *s, size_t n,
                      struct match *m, struct err *e)
{
    if (scratch_make(sc, e)) return ERR_NOMEM;
    const size_t *v = pcre2_get_ovector_pointer(sc->match);
    for (size_t at = m->end; at <= n;) {
        PCRE2_SPTR subject = (PCRE2_SPTR)s;
        int rc = pcre2_match(p->code, subject, n, at, PCRE2_NO_UTF_CHECK, sc->match, sc->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(p->code, subject, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, sc->match,
                             sc->context);
        if (rc == PCRE2_ERROR_NOMATCH) return 0;
        if (rc < 0)
            return err_set(e, ERR_BUDGET, "the tokenizer's pattern takes too many steps on this text");
        if (v[1] > v[0] || !m->any || v[0] != m->end) {
            *m = (struct match){v[0], v[1], true};
            return 1;
        }
        uint32_t cp;
        int k = at < n ? utf8_next(s + at, n - at, &cp) : 1;
        at += k > 0 ? (size_t)k : 1;
    }
    return 0;
}

int pattern_next(const struct pattern *p, struct pattern_scratch *sc, const char *s, size_t n,
                 struct match *m, struct err *e)
{
    if (p->code) return regex_next(p, sc, s, n, m, e);
    if (!p->is) {
        const char *at = bytes_find(s + m->end, n - m->end, p->literal.data, p->literal.len);
        if (!at) return 0;
        *m = (struct match){(size_t)(at - s), (size_t)(at - s) + p->literal.len, true};
        return 1;
    }
    for (size_t i = m->end; i < n;) {
        uint32_t cp = 0;
        int k = utf8_next(s + i, n - i, &cp);
        if (k <= 0) k = 1;
        if (p->is(cp)) {
            *m = (struct match){i, i + (size_t)k, true};
            return 1;
        }
        i += (size_t)k;
    }
    return 0;
}
