/* The text on its way to ids: bytes, cut into spans, some of which are already tokens; and the operations
 * that normalizers and pre-tokenizers are made of. A struct text belongs to one call. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"
#include "pattern.h"
#include "unicode.h"

enum { SPAN_TEXT = -1, SPAN_FIRST = -2 }; /* FIRST: text that begins where the whole input began */
struct span {
    uint32_t off, len; /* bytes */
    int32_t id;        /* >= 0: this is a token, else SPAN_* */
};
struct text {
    struct buf bytes;
    struct span *v; /* [n] in order; empty spans are never kept */
    size_t n, cap;
};
void text_free(struct text *t);
void text_clear(struct text *t);
int text_push(struct text *t, size_t off, size_t len, int32_t id); /* 0 or ERR_NOMEM; drops empty text */

enum op_kind {
    OP_NORMAL_FORM, /* form */
    OP_LOWER,
    OP_STRIP,   /* left, right: white space off the ends */
    OP_ACCENTS, /* drop marks */
    OP_REPLACE, /* every match of pattern by `with` */
    OP_PREPEND, /* `with`, when: */
    OP_BYTES,   /* to GPT-2's byte alphabet */
    OP_SPLIT,   /* at the matches of pattern: behaviour, invert */
};
enum op_when {
    WHEN_ALWAYS,
    WHEN_LACKING,
    WHEN_FIRST_LACKING
}; /* LACKING: text that does not begin with it */
enum op_behaviour { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
struct op {
    enum op_kind kind;
    enum uni_form form;
    enum op_when when;
    enum op_behaviour behaviour;
    bool invert, left, right;
    struct pattern pattern;
    struct buf with;
};
enum { MAX_OPS = 64 };
struct ops {
    struct op v[MAX_OPS];
    int n;
};
void ops_free(struct ops *o);

struct work {
    struct text a, b; /* the text, and the next state of it */
    struct pattern_scratch scratch;
};
void work_free(struct work *w);
/* Runs the operations in order over the text spans of w->a. */
int ops_run(const struct ops *o, struct work *w, struct err *e);
