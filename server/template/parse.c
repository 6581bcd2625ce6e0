/* Statements of the template language. */
#include <stdio.h>
#include <string.h>
#include "ast.h"
#include "ctx.h"

struct node *parse_fail(struct parser *p, int code, const char *fmt, ...)
{
    if (!p->code) {
        char what[160];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(what, sizeof what, fmt, ap);
        va_end(ap);
        p->code = err_set(p->e, code, "line %d: %s", p->tok->line, what);
    }
    while (p->tok->type != T_EOF) p->tok++;
    return &p->bad;
}

bool parse_enter(struct parser *p)
{
    if (++p->depth <= NEST_MAX) return true;
    parse_fail(p, ERR_BUDGET, "nested too deeply");
    return false; /* the caller still decrements */
}

static void node_raise(struct parser *p, struct node *n, const struct node *kid)
{
    if (kid && kid->height >= n->height) n->height = kid->height + 1;
    if (n->height > HEIGHT_MAX) parse_fail(p, ERR_BUDGET, "an expression or block is too complex");
}

struct node *node_new(struct parser *p, enum node_kind kind, struct node *a, struct node *b, struct node *c)
{
    struct node *n = arena_alloc(&p->t->arena, sizeof *n);
    if (!n) return parse_fail(p, ERR_NOMEM, "out of memory");
    *n = (struct node){.kind = (uint8_t)kind, .line = p->tok->line, .a = a, .b = b, .c = c, .height = 1};
    node_raise(p, n, a);
    node_raise(p, n, b);
    node_raise(p, n, c);
    return n;
}

void node_add(struct parser *p, struct node *n, struct node *kid)
{
    if (n == &p->bad) return;
    if (n->n_kid == n->cap_kid) {
        int cap = n->cap_kid ? n->cap_kid * 2 : 4;
        size_t size = sizeof *n->kid;
        struct node **k = arena_grow(&p->t->arena, n->kid, (size_t)n->n_kid * size, (size_t)cap * size);
        if (!k) {
            parse_fail(p, ERR_NOMEM, "out of memory");
            return;
        }
        n->kid = k;
        n->cap_kid = cap;
    }
    n->kid[n->n_kid++] = kid;
    node_raise(p, n, kid);
}

int parse_name_id(struct parser *p, struct val name)
{
    int id = names_add(&p->t->arena, &p->t->names, name);
    if (id == ERR_BUDGET) parse_fail(p, id, "more than %d different names", NAMES_MAX);
    if (id == ERR_NOMEM) parse_fail(p, id, "out of memory");
    return id < 0 ? 0 : id;
}

bool parse_at_op(const struct parser *p, int op) { return p->tok->type == T_OP && p->tok->op == op; }
bool parse_at_word(const struct parser *p, const char *word)
{
    return p->tok->type == T_NAME && val_is(p->tok->v, word);
}
bool parse_skip_op(struct parser *p, int op) { return parse_at_op(p, op) && p->tok++; }
bool parse_skip_word(struct parser *p, const char *word) { return parse_at_word(p, word) && p->tok++; }

void parse_expect_op(struct parser *p, int op)
{
    if (!parse_skip_op(p, op)) parse_fail(p, ERR_FORMAT, "expected '%c'", op & 255);
}

struct val parse_expect_name(struct parser *p)
{
    if (p->tok->type == T_NAME) return (p->tok++)->v;
    parse_fail(p, ERR_FORMAT, "expected a name");
    return val_cstr("");
}

static void expect_block_end(struct parser *p)
{
    if (p->tok->type == T_BLOCK_END) {
        p->tok++;
    } else {
        parse_fail(p, ERR_FORMAT, "unexpected text at the end of a block tag");
    }
}

static struct node *parse_statement(struct parser *p);

/* Up to a block tag that begins with one of the words (separated by spaces), whose name becomes the current
 * token. words NULL: up to the end of the source. */
static struct node *parse_body(struct parser *p, const char *words)
{
    struct node *body = node_new(p, N_BODY, NULL, NULL, NULL);
    bool deep = !parse_enter(p);
    while (!deep && p->tok->type != T_EOF) {
        if (p->tok->type == T_DATA) {
            struct node *text = node_new(p, N_TEXT, NULL, NULL, NULL);
            text->v = (p->tok++)->v;
            node_add(p, body, text);
        } else if (p->tok->type == T_VAR) {
            p->tok++;
            struct node *value = parse_tuple(p, true);
            if (p->tok->type != T_VAR_END) parse_fail(p, ERR_FORMAT, "expected '}}'");
            node_add(p, body, node_new(p, N_OUTPUT, value, NULL, NULL));
            if (p->tok->type == T_VAR_END) p->tok++;
        } else {
            p->tok++;
            for (const char *w = words; w && *w;) {
                size_t n = strcspn(w, " ");
                if (p->tok->type == T_NAME && val_same_str(p->tok->v, val_bytes(w, n))) goto out;
                w += n + (w[n] == ' ');
            }
            node_add(p, body, parse_statement(p));
        }
    }
    if (words) parse_fail(p, ERR_FORMAT, "the template ends, but a block is open: expected %s", words);
out:
    p->depth--;
    return body;
}

static struct node *parse_block(struct parser *p, const char *end)
{
    expect_block_end(p);
    struct node *body = parse_body(p, end);
    if (p->tok->type != T_EOF) p->tok++; /* the end word */
    return body;
}

static struct node *parse_for(struct parser *p)
{
    struct node *n = node_new(p, N_FOR, NULL, NULL, NULL);
    n->a = parse_target(p, false);
    if (!parse_skip_word(p, "in")) parse_fail(p, ERR_FORMAT, "expected 'in'");
    n->b = parse_tuple(p, false);
    if (parse_skip_word(p, "if")) n->c = parse_expr(p);
    if (parse_at_word(p, "recursive")) parse_fail(p, ERR_UNSUPPORTED, "recursive loops are not supported");
    node_raise(p, n, n->a);
    node_raise(p, n, n->b);
    node_raise(p, n, n->c);
    expect_block_end(p);
    p->loops++;
    node_add(p, n, parse_body(p, "endfor else"));
    p->loops--;
    if (parse_skip_word(p, "else")) {
        node_add(p, n, parse_block(p, "endfor"));
    } else if (p->tok->type != T_EOF) {
        p->tok++;
    }
    return n;
}

static struct node *parse_if(struct parser *p)
{
    struct node *n = node_new(p, N_IF, NULL, NULL, NULL);
    for (;;) {
        node_add(p, n, parse_tuple(p, false));
        expect_block_end(p);
        node_add(p, n, parse_body(p, "elif else endif"));
        if (parse_skip_word(p, "elif")) continue;
        if (parse_skip_word(p, "else")) {
            node_add(p, n, parse_block(p, "endif"));
        } else if (p->tok->type != T_EOF) {
            p->tok++;
        }
        return n;
    }
}

static struct node *parse_set(struct parser *p)
{
    struct node *target = parse_target(p, true);
    if (parse_skip_op(p, '=')) return node_new(p, N_SET, target, parse_tuple(p, true), NULL);
    struct node *filter =
        parse_at_op(p, '|') ? parse_filters(p, node_new(p, N_CAPTURED, NULL, NULL, NULL)) : NULL;
    struct node *body = parse_block(p, "endset");
    return node_new(p, N_SET_BLOCK, target, filter, body);
}

/* "(a, b=1)" of a macro; the parameters become the node's kids. */
static void parse_params(struct parser *p, struct node *m)
{
    parse_expect_op(p, '(');
    while (!parse_at_op(p, ')') && p->tok->type != T_EOF) {
        if (m->n_kid) parse_expect_op(p, ',');
        if (parse_at_op(p, ')')) break;
        int id = parse_name_id(p, parse_expect_name(p));
        struct node *value = parse_skip_op(p, '=') ? parse_expr(p) : NULL;
        if (!value && m->n_kid && m->kid[m->n_kid - 1]->a)
            parse_fail(p, ERR_FORMAT, "a parameter without default follows one with a default");
        struct node *param = node_new(p, N_PARAM, value, NULL, NULL);
        param->id = id;
        node_add(p, m, param);
    }
    parse_expect_op(p, ')');
}

static void parse_macro_body(struct parser *p, struct node *m, const char *end)
{
    int loops = p->loops;
    bool varargs = p->varargs, kwargs = p->kwargs;
    p->loops = 0;
    p->varargs = p->kwargs = false;
    m->a = parse_block(p, end);
    node_raise(p, m, m->a);
    m->varargs = p->varargs;
    m->kwargs = p->kwargs;
    p->loops = loops;
    p->varargs = varargs;
    p->kwargs = kwargs;
}

static struct node *parse_macro(struct parser *p)
{
    struct node *m = node_new(p, N_MACRO, NULL, NULL, NULL);
    m->id = parse_name_id(p, parse_expect_name(p));
    parse_params(p, m);
    parse_macro_body(p, m, "endmacro");
    return m;
}

static struct node *parse_call_block(struct parser *p)
{
    struct node *m = node_new(p, N_MACRO, NULL, NULL, NULL);
    m->id = NAME_CALLER;
    if (parse_at_op(p, '(')) parse_params(p, m);
    struct node *call = parse_expr(p);
    if (call->kind != N_CALL) parse_fail(p, ERR_FORMAT, "expected a call");
    parse_macro_body(p, m, "endcall");
    return node_new(p, N_CALL_BLOCK, call, m, NULL);
}

static struct node *parse_filter_block(struct parser *p)
{
    struct node *input = node_new(p, N_CAPTURED, NULL, NULL, NULL);
    /* "{% filter upper %}": the chain's first name stands without a bar; see parse_filters */
    struct node *chain = parse_filters(p, input);
    struct node *body = parse_block(p, "endfilter");
    return node_new(p, N_FILTER_BLOCK, NULL, chain, body);
}

static struct node *parse_with(struct parser *p)
{
    struct node *n = node_new(p, N_WITH, NULL, NULL, NULL);
    while (p->tok->type == T_NAME) {
        node_add(p, n, parse_target(p, false));
        parse_expect_op(p, '=');
        node_add(p, n, parse_expr(p));
        if (!parse_skip_op(p, ',')) break;
    }
    n->c = parse_block(p, "endwith");
    node_raise(p, n, n->c);
    return n;
}

/* {% generation %} marks what a trainer computes loss on: here it is only a scope. */
static struct node *parse_generation(struct parser *p)
{
    return node_new(p, N_WITH, NULL, NULL, parse_block(p, "endgeneration"));
}

static struct node *parse_loop_control(struct parser *p, enum node_kind kind)
{
    if (!p->loops) return parse_fail(p, ERR_FORMAT, "break or continue outside of a loop");
    return node_new(p, kind, NULL, NULL, NULL);
}

static struct node *parse_statement(struct parser *p)
{
    struct val word = parse_expect_name(p);
    struct node *n;
    if (val_is(word, "for"))
        n = parse_for(p);
    else if (val_is(word, "if"))
        n = parse_if(p);
    else if (val_is(word, "set"))
        n = parse_set(p);
    else if (val_is(word, "macro"))
        n = parse_macro(p);
    else if (val_is(word, "call"))
        n = parse_call_block(p);
    else if (val_is(word, "filter"))
        n = parse_filter_block(p);
    else if (val_is(word, "with"))
        n = parse_with(p);
    else if (val_is(word, "generation"))
        n = parse_generation(p);
    else if (val_is(word, "print"))
        n = node_new(p, N_OUTPUT, parse_tuple(p, true), NULL, NULL);
    else if (val_is(word, "break"))
        n = parse_loop_control(p, N_BREAK);
    else if (val_is(word, "continue"))
        n = parse_loop_control(p, N_CONTINUE);
    else
        return parse_fail(p, ERR_UNSUPPORTED, "unknown block tag '%.*s'", val_short(word), word.s);
    expect_block_end(p);
    return n;
}

int jinja_parse(struct template *t, struct tok *tok, struct err *e)
{
    static const char *const fixed[NAME_FIXED] = {"loop", "caller", "varargs", "kwargs"};
    struct parser p = {.t = t, .tok = tok, .e = e, .bad = {.kind = N_CONST, .height = 1}};
    for (int i = 0; i < NAME_FIXED; i++) parse_name_id(&p, val_cstr(fixed[i]));
    t->root = parse_body(&p, NULL);
    return p.code;
}
