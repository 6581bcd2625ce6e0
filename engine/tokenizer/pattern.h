/* What tokenizer.json calls a pattern: a literal, a regular expression in Oniguruma's syntax (run by PCRE2),
 * or a class of characters. Compiled while loading, read-only afterwards; the scratch belongs to one call. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"

typedef bool char_class(uint32_t cp);
struct pattern {
    struct buf literal; /* used if nothing else is set; never empty */
    void *code;         /* pcre2_code_8 */
    char_class *is;
};
struct pattern_scratch {
    void *match;   /* pcre2_match_data, made on first use */
    void *context; /* pcre2_match_context with its limits */
};

int pattern_regex(struct pattern *p, const char *onig, size_t n,
                  struct err *e); /* errors quote the position only */
/* First occurrence of the n_what bytes in s[0..n), NULL = none; fast for the short ones that patterns are. */
const char *bytes_find(const char *s, size_t n, const char *what, size_t n_what);
int pattern_literal(struct pattern *p, const char *s, size_t n, struct err *e);
void pattern_free(struct pattern *p);
void pattern_scratch_free(struct pattern_scratch *sc);

struct match {
    size_t start, end; /* bytes */
    bool any;          /* false before the first search */
};
/* Steps m to the next match in s[0..n), leftmost first, zero-initialised before the first. Returns 1, 0 = no
 * more, or a negative error. An empty match right behind the previous one is passed over. */
int pattern_next(const struct pattern *p, struct pattern_scratch *sc, const char *s, size_t n,
                 struct match *m, struct err *e);

/* Oniguruma (ONIG_SYNTAX_ONIGURUMA, UTF-8) to PCRE2 (UTF, UCP, MULTILINE); ERR_UNSUPPORTED or ERR_FORMAT name
 * the byte position of what could not be translated. */
int onig_translate(const char *s, size_t n, struct buf *out, struct err *e);
