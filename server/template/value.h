/* Values of a rendering. They live in the rendering's arena (strings may also point into the template or into
 * the request's JSON) and are never freed one by one. Strings are valid UTF-8 and may contain NUL; n counts
 * bytes. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "arena.h"

enum kind {
    V_MISSING, /* no value at all: an argument not given */
    V_UNDEF,   /* Jinja's Undefined; s names it */
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STR,
    V_LIST,
    V_TUPLE,
    V_DICT,
    V_NAMESPACE,
    V_LOOP,
    V_BUILTIN,
    V_MACRO
};
struct val {
    uint8_t kind;
    uint32_t n; /* V_STR, V_UNDEF: bytes of s */
    union {
        int64_t i; /* V_INT, V_BOOL */
        double f;
        const char *s;
        struct list *list; /* V_LIST, V_TUPLE */
        struct dict *dict; /* V_DICT, V_NAMESPACE */
        struct loop *loop;
        struct bound *bound; /* V_BUILTIN */
        struct macro *macro;
    };
};
struct list {
    struct val *v;
    uint32_t n, cap;
};
struct entry {
    struct val key, v;
    uint32_t hash;
};
struct dict { /* insertion order; index (entry + 1, open addressing) exists above a few entries */
    struct entry *e;
    uint32_t n, cap;
    uint32_t *index, n_index;
};

struct ctx;
struct args { /* of a call: positional ones, then by name */
    struct val *v;
    int n;
    struct entry *kw;
    int n_kw;
};
/* A filter, test, method or global function. params: names of its parameters, separated by spaces, the first
 * `need` of which must be given; the function then gets exactly that many v, absent ones V_MISSING. params
 * NULL: the arguments as they came. */
struct builtin {
    const char *name;
    struct val (*fn)(struct ctx *c, struct val self, const struct args *a);
    const char *params;
    int need;
};
struct bound {
    const struct builtin *fn;
    struct val self;
};

static inline struct val val_none(void) { return (struct val){.kind = V_NONE}; }
static inline struct val val_bool(bool b) { return (struct val){.kind = V_BOOL, .i = b}; }
static inline struct val val_int(int64_t i) { return (struct val){.kind = V_INT, .i = i}; }
static inline struct val val_float(double f) { return (struct val){.kind = V_FLOAT, .f = f}; }
static inline struct val val_bytes(const char *s, size_t n)
{
    return (struct val){.kind = V_STR, .n = (uint32_t)n, .s = s};
}
static inline struct val val_undef(struct val name)
{
    return (struct val){.kind = V_UNDEF, .n = name.n, .s = name.s};
}
struct val val_cstr(const char *s); /* s outlives the rendering */
static inline bool val_is_seq(struct val v) { return v.kind == V_LIST || v.kind == V_TUPLE; }
static inline bool val_is_num(struct val v)
{
    return v.kind == V_INT || v.kind == V_BOOL || v.kind == V_FLOAT;
}
static inline bool val_is_integer(struct val v) { return v.kind == V_INT || v.kind == V_BOOL; }
static inline double val_num(struct val v) { return v.kind == V_FLOAT ? v.f : (double)v.i; }
static inline bool val_same_str(struct val v, struct val w)
{
    return v.n == w.n && (v.n == 0 || __builtin_memcmp(v.s, w.s, v.n) == 0);
}
bool val_is(struct val v, const char *s); /* is it this string? */
int val_short(struct val v);              /* bytes of it to show in an error: few, whole code points */

/* ---- everything below may fail the rendering (see ctx.h) and then returns something harmless ---- */
bool val_truth(struct val v);
bool val_eq(struct ctx *c, struct val a, struct val b);
enum { CMP_UNORDERED = 2 };
int val_cmp(struct ctx *c, struct val a, struct val b); /* <0, 0, >0, or CMP_UNORDERED with a NaN */
bool val_contains(struct ctx *c, struct val box, struct val x);

struct val list_new(struct ctx *c, enum kind kind, uint32_t cap);
void list_push(struct ctx *c, struct list *l, struct val v);
struct val dict_new(struct ctx *c);
void dict_set(struct ctx *c, struct dict *d, struct val key, struct val v);
struct val *dict_at(struct ctx *c, const struct dict *d, struct val key); /* NULL if absent */
bool dict_pop(struct ctx *c, struct dict *d, struct val key, struct val *out);
/* The elements that iterating over v gives: a snapshot of pointers, not of a list's elements. */
struct list val_iter(struct ctx *c, struct val v);
