/* Expressions of the template language, lowest precedence first: if-else, or, and, not, comparisons, + -, ~,
 * * / // %,
 * **, unary signs, then postfix (. [] ()) and filters and tests. */
#include <string.h>
#include "ast.h"
#include "ctx.h"

static struct node *parse_unary(struct parser *p, bool with_filter);

static struct node *const_node(struct parser *p, struct val v)
{
    struct node *n = node_new(p, N_CONST, NULL, NULL, NULL);
    n->v = v;
    return n;
}

static struct node *parse_string(struct parser *p)
{
    struct val v = (p->tok++)->v;
    while (p->tok->type == T_STR) { /* neighbours are one string */
        struct val w = (p->tok++)->v;
        char *s = arena_alloc(&p->t->arena, (size_t)v.n + w.n);
        if (!s) return parse_fail(p, ERR_NOMEM, "out of memory");
        memcpy(s, v.s, v.n);
        memcpy(s + v.n, w.s, w.n);
        v = val_bytes(s, (size_t)v.n + w.n);
    }
    return const_node(p, v);
}

static struct node *parse_name(struct parser *p)
{
    static const struct {
        const char *word;
        struct val v;
    } literal[] = {{"true", {.kind = V_BOOL, .i = 1}}, {"True", {.kind = V_BOOL, .i = 1}},
                   {"false", {.kind = V_BOOL}},        {"False", {.kind = V_BOOL}},
                   {"none", {.kind = V_NONE}},         {"None", {.kind = V_NONE}}};
    struct val name = (p->tok++)->v;
    for (size_t i = 0; i < sizeof literal / sizeof *literal; i++)
        if (val_is(name, literal[i].word)) return const_node(p, literal[i].v);
    struct node *n = node_new(p, N_NAME, NULL, NULL, NULL);
    n->v = name;
    n->id = parse_name_id(p, name);
    p->varargs |= n->id == NAME_VARARGS;
    p->kwargs |= n->id == NAME_KWARGS;
    return n;
}

/* The elements of a list or (close '}') the keys and values of a dict, after the opening bracket. */
static struct node *parse_display(struct parser *p, enum node_kind kind, int close)
{
    struct node *n = node_new(p, kind, NULL, NULL, NULL);
    while (!parse_at_op(p, close) && p->tok->type != T_EOF) {
        if (n->n_kid) parse_expect_op(p, ',');
        if (parse_at_op(p, close)) break;
        node_add(p, n, parse_expr(p));
        if (kind != N_DICT) continue;
        parse_expect_op(p, ':');
        node_add(p, n, parse_expr(p));
    }
    parse_expect_op(p, close);
    return n;
}

static bool at_tuple_end(const struct parser *p)
{
    return p->tok->type == T_VAR_END || p->tok->type == T_BLOCK_END || p->tok->type == T_EOF ||
           parse_at_op(p, ')') || parse_at_word(p, "recursive");
}

static struct node *parse_or(struct parser *p);

/* One expression, or several with commas between or behind them: a tuple. */
static struct node *tuple_rest(struct parser *p, struct node *first, bool with_if)
{
    if (!parse_at_op(p, ',')) return first;
    struct node *n = node_new(p, N_TUPLE, NULL, NULL, NULL);
    node_add(p, n, first);
    while (parse_skip_op(p, ',')) {
        if (at_tuple_end(p)) break;
        node_add(p, n, with_if ? parse_expr(p) : parse_or(p));
    }
    return n;
}

struct node *parse_tuple(struct parser *p, bool with_if)
{
    if (at_tuple_end(p)) return parse_fail(p, ERR_FORMAT, "expected an expression");
    return tuple_rest(p, with_if ? parse_expr(p) : parse_or(p), with_if);
}

static struct node *parse_primary(struct parser *p)
{
    const struct tok *t = p->tok;
    if (t->type == T_NAME) return parse_name(p);
    if (t->type == T_STR) return parse_string(p);
    if (t->type == T_INT || t->type == T_FLOAT) return const_node(p, (p->tok++)->v);
    if (parse_skip_op(p, '[')) return parse_display(p, N_LIST, ']');
    if (parse_skip_op(p, '{')) return parse_display(p, N_DICT, '}');
    if (parse_skip_op(p, '(')) {
        struct node *n = parse_at_op(p, ')') ? node_new(p, N_TUPLE, NULL, NULL, NULL) : parse_tuple(p, true);
        parse_expect_op(p, ')');
        return n;
    }
    return parse_fail(p, ERR_FORMAT, "expected an expression");
}

/* What "set" and "for" assign to: a name, names in a tuple, or (set) an attribute of a namespace. */
struct node *parse_target(struct parser *p, bool with_namespace)
{
    struct node *n;
    bool ok = parse_enter(p);
    struct node *tuple = NULL;
    do {
        if (tuple && (parse_at_word(p, "in") || parse_at_op(p, '=') || parse_at_op(p, ')'))) break;
        if (parse_skip_op(p, '(')) {
            n = ok ? parse_target(p, with_namespace) : &p->bad;
            parse_expect_op(p, ')');
        } else {
            n = node_new(p, N_NAME, NULL, NULL, NULL);
            n->v = parse_expect_name(p);
            n->id = parse_name_id(p, n->v);
            if (with_namespace && parse_skip_op(p, '.')) {
                struct val attr = parse_expect_name(p);
                n = node_new(p, N_ATTR, n, NULL, NULL);
                n->v = attr;
            }
        }
        if (tuple || parse_at_op(p, ',')) {
            if (!tuple) tuple = node_new(p, N_TUPLE, NULL, NULL, NULL);
            node_add(p, tuple, n);
        }
    } while (parse_skip_op(p, ','));
    p->depth--;
    return tuple ? tuple : n;
}

void parse_args(struct parser *p, struct node *call)
{
    parse_expect_op(p, '(');
    bool named = false;
    for (bool first = true; !parse_at_op(p, ')') && p->tok->type != T_EOF; first = false) {
        if (!first) parse_expect_op(p, ',');
        if (parse_at_op(p, ')')) break;
        struct node *arg;
        if (parse_skip_op(p, OP2('*', '*'))) {
            arg = node_new(p, N_ARG_STAR2, parse_expr(p), NULL, NULL);
            named = true;
        } else if (parse_skip_op(p, '*')) {
            arg = node_new(p, N_ARG_STAR, parse_expr(p), NULL, NULL);
        } else if (p->tok->type == T_NAME && p->tok[1].type == T_OP && p->tok[1].op == '=') {
            struct val name = p->tok->v;
            p->tok += 2;
            arg = node_new(p, N_ARG_KEY, parse_expr(p), NULL, NULL);
            arg->v = name;
            named = true;
        } else {
            if (named) parse_fail(p, ERR_FORMAT, "a positional argument follows a named one");
            arg = node_new(p, N_ARG, parse_expr(p), NULL, NULL);
        }
        node_add(p, call, arg);
    }
    parse_expect_op(p, ')');
}

/* After '[': an index, a slice, or a tuple of indexes. */
static struct node *parse_index(struct parser *p, struct node *obj)
{
    struct node *part[3] = {0};
    int n_colon = 0;
    for (;;) {
        if (parse_skip_op(p, ':')) {
            if (++n_colon > 2) return parse_fail(p, ERR_FORMAT, "a slice has at most three parts");
        } else if (parse_at_op(p, ']') || part[n_colon] || p->tok->type == T_EOF) {
            break;
        } else {
            part[n_colon] = parse_expr(p);
            if (n_colon == 0) part[0] = tuple_rest(p, part[0], true);
        }
    }
    parse_expect_op(p, ']');
    if (n_colon == 0)
        return part[0] ? node_new(p, N_ITEM, obj, part[0], NULL) : parse_fail(p, ERR_FORMAT, "empty index");
    struct node *n = node_new(p, N_SLICE, obj, NULL, NULL);
    for (int i = 0; i < 3; i++) node_add(p, n, part[i]);
    return n;
}

struct node *parse_postfix(struct parser *p, struct node *n)
{
    for (;;) {
        if (parse_skip_op(p, '.')) {
            if (p->tok->type == T_INT) {
                n = node_new(p, N_ITEM, n, const_node(p, p->tok->v), NULL);
                p->tok++;
            } else {
                struct val name = parse_expect_name(p);
                n = node_new(p, N_ATTR, n, NULL, NULL);
                n->v = name;
            }
        } else if (parse_skip_op(p, '[')) {
            n = parse_index(p, n);
        } else if (parse_at_op(p, '(')) {
            n = node_new(p, N_CALL, n, NULL, NULL);
            parse_args(p, n);
        } else {
            return n;
        }
    }
}

static struct node *parse_filter(struct parser *p, struct node *input)
{
    struct val name = parse_expect_name(p);
    struct node *n = node_new(p, N_FILTER, input, NULL, NULL);
    n->fn = filter_find(name);
    if (!n->fn) return parse_fail(p, ERR_UNSUPPORTED, "unknown filter '%.*s'", val_short(name), name.s);
    if (parse_at_op(p, '(')) parse_args(p, n);
    return n;
}

/* A chain of filters for a block; the first may stand without a bar. */
struct node *parse_filters(struct parser *p, struct node *input)
{
    parse_skip_op(p, '|');
    do input = parse_filter(p, input);
    while (parse_skip_op(p, '|'));
    return input;
}

static struct node *parse_test(struct parser *p, struct node *input)
{
    bool negated = parse_skip_word(p, "not");
    struct val name = parse_expect_name(p);
    struct node *n = node_new(p, N_TEST, input, NULL, NULL);
    n->fn = test_find(name);
    if (!n->fn) return parse_fail(p, ERR_UNSUPPORTED, "unknown test '%.*s'", val_short(name), name.s);
    const struct tok *t = p->tok;
    if (parse_at_op(p, '(')) {
        parse_args(p, n);
    } else if (t->type == T_STR || t->type == T_INT || t->type == T_FLOAT || parse_at_op(p, '[') ||
               parse_at_op(p, '{') ||
               (t->type == T_NAME && !val_is(t->v, "else") && !val_is(t->v, "or") && !val_is(t->v, "and"))) {
        if (val_is(t->v, "is") && t->type == T_NAME)
            return parse_fail(p, ERR_FORMAT, "tests cannot be chained");
        struct node *arg = parse_postfix(p, parse_primary(p)); /* "x is divisibleby 3" */
        node_add(p, n, node_new(p, N_ARG, arg, NULL, NULL));
    }
    return negated ? node_new(p, N_NOT, n, NULL, NULL) : n;
}

static struct node *parse_filters_and_tests(struct parser *p, struct node *n)
{
    for (;;) {
        if (parse_skip_op(p, '|')) {
            n = parse_filter(p, n);
        } else if (parse_skip_word(p, "is")) {
            n = parse_test(p, n);
        } else if (parse_at_op(p, '(')) {
            n = node_new(p, N_CALL, n, NULL, NULL);
            parse_args(p, n);
        } else {
            return n;
        }
    }
}

static struct node *parse_unary(struct parser *p, bool with_filter)
{
    struct node *n;
    if (!parse_enter(p)) {
        n = &p->bad;
    } else if (parse_skip_op(p, '-')) {
        n = node_new(p, N_NEG, parse_unary(p, false), NULL, NULL);
    } else if (parse_skip_op(p, '+')) {
        n = node_new(p, N_POS, parse_unary(p, false), NULL, NULL);
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    if (with_filter) n = parse_filters_and_tests(p, n);
    p->depth--;
    return n;
}

/* Binary operators, loosest first. All group to the left, ** too. '~' makes one node of all its operands. */
enum { LEVEL_ADD, LEVEL_CONCAT, LEVEL_MUL, LEVEL_POW, LEVEL_UNARY };

static int op_level(const struct tok *t)
{
    if (t->type != T_OP) return -1;
    switch (t->op) {
    case '+':
    case '-': return LEVEL_ADD;
    case '~': return LEVEL_CONCAT;
    case '*':
    case '/':
    case '%':
    case OP2('/', '/'): return LEVEL_MUL;
    case OP2('*', '*'): return LEVEL_POW;
    default: return -1;
    }
}

static struct node *parse_binary(struct parser *p, int level)
{
    if (level == LEVEL_UNARY) return parse_unary(p, true);
    struct node *n = parse_binary(p, level + 1);
    if (level == LEVEL_CONCAT && parse_at_op(p, '~')) {
        struct node *all = node_new(p, N_CONCAT, NULL, NULL, NULL);
        node_add(p, all, n);
        while (parse_skip_op(p, '~')) node_add(p, all, parse_binary(p, level + 1));
        return all;
    }
    while (op_level(p->tok) == level) {
        int op = (p->tok++)->op;
        n = node_new(p, N_BINARY, n, parse_binary(p, level + 1), NULL);
        n->op = op;
    }
    return n;
}

static int compare_op(struct parser *p)
{
    static const int ops[] = {OP2('=', '='), OP2('!', '='), '<', OP2('<', '='), '>', OP2('>', '=')};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (parse_skip_op(p, ops[i])) return ops[i];
    if (parse_skip_word(p, "in")) return OP_IN;
    if (parse_at_word(p, "not") && p->tok[1].type == T_NAME && val_is(p->tok[1].v, "in")) {
        p->tok += 2;
        return OP_NOT_IN;
    }
    return 0;
}

static struct node *parse_compare(struct parser *p)
{
    struct node *n = parse_binary(p, LEVEL_ADD), *all = NULL;
    for (int op; (op = compare_op(p));) {
        if (!all) all = node_new(p, N_COMPARE, n, NULL, NULL);
        struct node *rhs = node_new(p, N_OPERAND, parse_binary(p, LEVEL_ADD), NULL, NULL);
        rhs->op = op;
        node_add(p, all, rhs);
    }
    return all ? all : n;
}

static struct node *parse_not(struct parser *p)
{
    if (!parse_skip_word(p, "not")) return parse_compare(p);
    struct node *n = parse_enter(p) ? node_new(p, N_NOT, parse_not(p), NULL, NULL) : &p->bad;
    p->depth--;
    return n;
}

static struct node *parse_and(struct parser *p)
{
    struct node *n = parse_not(p);
    while (parse_skip_word(p, "and")) n = node_new(p, N_AND, n, parse_not(p), NULL);
    return n;
}

static struct node *parse_or(struct parser *p)
{
    struct node *n = parse_and(p);
    while (parse_skip_word(p, "or")) n = node_new(p, N_OR, n, parse_and(p), NULL);
    return n;
}

struct node *parse_expr(struct parser *p)
{
    struct node *n = parse_enter(p) ? parse_or(p) : &p->bad;
    while (parse_skip_word(p, "if")) {
        struct node *test = parse_or(p);
        struct node *other = parse_skip_word(p, "else") ? parse_expr(p) : NULL;
        n = node_new(p, N_COND, n, test, other);
    }
    p->depth--;
    return n;
}
