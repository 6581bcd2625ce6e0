/* What the parser makes of a template's source: tokens and the syntax tree. All of it lives in the template's
 * arena and is immutable once compiled. */
#pragma once
#include "arena.h"
#include "err.h"
#include "value.h"

#define SOURCE_MAX (1u << 20) /* bytes of a template */
#define NEST_MAX   100        /* brackets, blocks and prefix operators within each other */
#define HEIGHT_MAX 200        /* of the syntax tree: also bounds chains such as a + b + c + ... */
#define NAMES_MAX  4096       /* different names in a template */
#define OP2(a, b)  ((a) << 8 | (b))
enum { OP_IN = 'i', OP_NOT_IN = 'n' }; /* operators that are words */

enum tok_type { T_DATA, T_VAR, T_VAR_END, T_BLOCK, T_BLOCK_END, T_NAME, T_STR, T_INT, T_FLOAT, T_OP, T_EOF };
struct tok {
    enum tok_type type;
    int line;
    int op;       /* T_OP: the character, or OP2 of two */
    struct val v; /* text, name, string (escapes resolved) or number */
};
/* Whitespace control and newline rules are those of trim_blocks and lstrip_blocks. The array ends with T_EOF.
 */
int jinja_lex(struct arena *a, const char *src, size_t n, struct tok **out, struct err *e);

enum node_kind {
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT,
    N_ATTR,
    N_ITEM,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_CAPTURED,
    N_NOT,
    N_NEG,
    N_POS,
    N_AND,
    N_OR,
    N_COND,
    N_BINARY,
    N_CONCAT,
    N_COMPARE,
    N_OPERAND,
    N_ARG,
    N_ARG_KEY,
    N_ARG_STAR,
    N_ARG_STAR2,
    N_BODY,
    N_TEXT,
    N_OUTPUT,
    N_FOR,
    N_IF,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_PARAM,
    N_CALL_BLOCK,
    N_FILTER_BLOCK,
    N_WITH,
    N_BREAK,
    N_CONTINUE,
};
/* Fields by kind (kid: a list of nodes):
 *   CONST v | NAME id, v=text | LIST TUPLE CONCAT kid | DICT kid = key, value, ... | ATTR a.v | ITEM a[b]
 *   SLICE a[kid0:kid1:kid2], absent ones NULL | CALL a(kid = args) | FILTER TEST a|fn(kid = args) | NOT NEG
 * POS a AND OR a b | COND a if b else c (c may be NULL) | BINARY a op b | COMPARE a, kid = OPERAND{op, a} ARG
 * a | ARG_KEY v=a | ARG_STAR *a | ARG_STAR2 **a | CAPTURED the text of the enclosing filter block BODY kid |
 * TEXT v | OUTPUT a | FOR a=target b=iterable c=filter or NULL, kid = body[, else] IF kid = test, body, test,
 * body, ...[, else] | SET a=target b=value | SET_BLOCK a=target b=filter or NULL c=body MACRO id, kid =
 * PARAM{id, a=default or NULL}, a=body | CALL_BLOCK a=call b=MACRO | FILTER_BLOCK b=filter c=body WITH kid =
 * target, value, ..., c=body */
struct node {
    uint8_t kind;
    bool varargs, kwargs; /* MACRO: the body names varargs, kwargs */
    int op, id, line, height;
    struct node *a, *b, *c;
    struct node **kid;
    int n_kid, cap_kid;
    struct val v;
    const struct builtin *fn;
};

/* Names are numbered; the first ones are fixed. */
enum { NAME_LOOP, NAME_CALLER, NAME_VARARGS, NAME_KWARGS, NAME_FIXED };
struct names {
    struct val *name; /* [n] */
    int n, cap;
    int *slot; /* [n_slot] index + 1, open addressing */
    int n_slot;
};
int names_find(const struct names *t, struct val name);           /* -1: none */
int names_add(struct arena *a, struct names *t, struct val name); /* its number, ERR_NOMEM or ERR_BUDGET */
struct template
{
    struct arena arena;
    struct names names;
    struct node *root;
};

/* A recursive-descent parser with sticky errors: the first one moves it to the end of the tokens, and every
 * function returns some node. */
struct parser {
    struct template *t;
    struct tok *tok; /* the current token */
    int depth, loops;
    bool varargs, kwargs; /* seen in the macro being parsed */
    struct node bad;
    struct err *e;
    int code;
};
int jinja_parse(struct template *t, struct tok *tok, struct err *e);

/* Shared between parse.c (statements) and expr.c (expressions). */
struct node *parse_fail(struct parser *p, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
struct node *node_new(struct parser *p, enum node_kind kind, struct node *a, struct node *b, struct node *c);
void node_add(struct parser *p, struct node *n, struct node *kid);
int parse_name_id(struct parser *p, struct val name);
bool parse_at_op(const struct parser *p, int op);
bool parse_at_word(const struct parser *p, const char *word);
bool parse_skip_op(struct parser *p, int op);
bool parse_skip_word(struct parser *p, const char *word);
void parse_expect_op(struct parser *p, int op);
struct val parse_expect_name(struct parser *p);
bool parse_enter(struct parser *p); /* nesting; false (and an error) when too deep */
struct node *parse_expr(struct parser *p);
struct node *parse_tuple(struct parser *p, bool with_if);
struct node *parse_target(struct parser *p, bool with_namespace);
struct node *parse_filters(struct parser *p, struct node *input);
struct node *parse_postfix(struct parser *p, struct node *n);
void parse_args(struct parser *p, struct node *call);
