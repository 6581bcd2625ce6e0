/* The state of one rendering, owned by template_render on its caller's stack. Errors are sticky: the first
 * one sets `code`, from then on every operation returns something harmless and every loop ends. */
#pragma once
#include "ast.h"
#include "buf.h"
#include "template.h"

struct slot {
    int id;
    struct val v;
};
struct scope { /* variables of a block, looked up from the innermost outwards */
    struct scope *up;
    struct slot *slot;
    int n, cap;
    bool kept; /* a macro refers to it: not to be reused */
};
struct loop {
    struct list items;
    uint32_t i;
    struct val changed; /* last arguments of loop.changed, or V_MISSING */
};
struct macro {
    const struct node *def;
    struct scope *scope; /* where it was defined */
};
struct ctx {
    struct arena arena;
    const struct template *t;
    struct buf *out;
    size_t out_start, out_max;
    int64_t steps, now;
    int depth, depth_max; /* nested evaluations, values within values */
    int calls, calls_max; /* nested macro calls */
    struct val *global;   /* [names.n] by name id */
    struct scope *scope;
    struct val captured; /* input of the filter of a block */
    int line;
    int code;
    struct err *e;
};

struct val ctx_fail(struct ctx *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
struct val ctx_undefined(struct ctx *c, struct val v); /* fails: v is undefined */
/* Uses up n steps; false once the budget is gone or the rendering failed. */
static inline bool ctx_step(struct ctx *c, size_t n)
{
    if (__builtin_expect(c->code || (c->steps -= (int64_t)n) < 0, 0)) {
        if (!c->code) ctx_fail(c, ERR_BUDGET, "the template needs too many steps");
        return false;
    }
    return true;
}
/* The same for work on n bytes. */
static inline bool ctx_bytes(struct ctx *c, size_t n) { return ctx_step(c, n / 256); }
void *ctx_alloc(struct ctx *c, size_t n); /* NULL: failed */
bool ctx_enter(struct ctx *c); /* one level deeper; false: too deep. Pair with c->depth-- when true */

/* text.c: a string under construction in the arena */
struct text {
    struct ctx *c;
    char *s;
    size_t n, cap;
};
void text_add(struct text *t, const char *s, size_t n);
void text_cstr(struct text *t, const char *s);
void text_val(struct text *t, struct val v);  /* as str(v) */
void text_repr(struct text *t, struct val v); /* as repr(v) */
struct val text_done(const struct text *t);
struct val val_str(struct ctx *c, struct val v); /* str(v) */
struct val str_concat(struct ctx *c, struct val a, struct val b);
void text_float(struct text *t, double f);

/* tojson.c: as transformers defines the filter */
struct val filter_tojson(struct ctx *c, struct val self, const struct args *a);

/* eval.c, call.c, ops.c, access.c, exec.c */
struct val eval(struct ctx *c, const struct node *n);
void eval_args(struct ctx *c, const struct node *n, struct args *out);
struct val call_value(struct ctx *c, struct val f, struct args *a);
struct val call_builtin(struct ctx *c, const struct builtin *b, struct val self, const struct args *a);
struct val call_macro(struct ctx *c, const struct macro *m, const struct args *a);
struct val op_binary(struct ctx *c, int op, struct val a, struct val b);
bool op_compare(struct ctx *c, int op, struct val a, struct val b);
struct val op_format(struct ctx *c, struct val fmt, const struct val *v, int n,
                     struct val whole); /* fmt % v; whole: v as one value, for "%(name)s" */
struct val get_attr(struct ctx *c, struct val obj, struct val name);
struct val get_item(struct ctx *c, struct val obj, struct val key);
struct val get_path(struct ctx *c, struct val obj, struct val path); /* "a.b.0", as filters take attributes */
struct val get_slice(struct ctx *c, struct val obj, const struct val part[3]); /* absent parts: V_NONE */
void scope_set(struct ctx *c, int id, struct val v);
void exec_root(struct ctx *c, const struct node *root);

/* Tables. NULL if there is no such name. */
const struct builtin *filter_find(struct val name);
const struct builtin *test_find(struct val name);
const struct builtin *method_find(enum kind kind, struct val name);
const struct builtin *str_method_find(struct val name);
const struct builtin *global_find(struct val name);
const struct builtin *builtin_find(const struct builtin *table, size_t n, struct val name);

/* strings.c: helpers for Unicode text */
bool chr_is_space(uint32_t cp);                 /* Python's str.isspace */
bool chr_is_alnum(uint32_t cp);                 /* letters and all kinds of digits */
size_t str_length(struct ctx *c, struct val s); /* code points */
size_t str_offset(struct val s, size_t i);      /* byte offset of code point i, or s.n */
struct val str_strip(struct ctx *c, struct val s, struct val chars, bool left,
                     bool right); /* chars: string, or whitespace */
enum str_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_CAPITAL, CASE_SWAP };
struct val str_case(struct ctx *c, struct val s, enum str_case how);
struct val str_replace(struct ctx *c, struct val s, struct val from, struct val to, int64_t count);
struct val str_split(struct ctx *c, struct val s, struct val sep, int64_t max, bool from_right);
struct val str_lines(struct ctx *c, struct val s, bool keep_ends);
const char *str_find(struct val s, struct val what); /* NULL if not found */
const char *str_find_last(struct ctx *c, struct val s, struct val what);
