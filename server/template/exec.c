/* Executes statements, and macros. */
#include <string.h>
#include "ctx.h"

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };

static enum flow exec(struct ctx *c, const struct node *n);

static void put(struct ctx *c, struct val v)
{
    if (v.kind != V_STR) v = val_str(c, v);
    if (!ctx_bytes(c, v.n)) return;
    if (v.n > c->out_max - (c->out->len - c->out_start)) {
        ctx_fail(c, ERR_BUDGET, "the template writes too much");
        return;
    }
    buf_add(c->out, v.s, v.n);
    if (c->out->failed) ctx_fail(c, ERR_NOMEM, "out of memory");
}

/* What was written since `start`, taken back from the output. */
static struct val take(struct ctx *c, size_t start)
{
    struct text t = {.c = c};
    if (c->out->len > start) text_add(&t, c->out->data + start, c->out->len - start);
    c->out->len = start;
    if (c->out->data) c->out->data[start] = 0;
    return text_done(&t);
}

static struct scope *scope_push(struct ctx *c)
{
    struct scope *s = ctx_alloc(c, sizeof *s);
    if (!s) return NULL;
    *s = (struct scope){.up = c->scope};
    return c->scope = s;
}

void scope_set(struct ctx *c, int id, struct val v)
{
    struct scope *s = c->scope;
    if (!ctx_step(c, (size_t)s->n / 32)) return;
    for (int i = 0; i < s->n; i++)
        if (s->slot[i].id == id) {
            s->slot[i].v = v;
            return;
        }
    if (s->n == s->cap) {
        int cap = s->cap ? s->cap * 2 : 4;
        struct slot *grown =
            arena_grow(&c->arena, s->slot, (size_t)s->cap * sizeof *grown, (size_t)cap * sizeof *grown);
        if (!grown) {
            ctx_fail(c, ERR_BUDGET, "the template needs too much memory");
            return;
        }
        s->slot = grown;
        s->cap = cap;
    }
    s->slot[s->n++] = (struct slot){id, v};
}

static void assign(struct ctx *c, const struct node *target, struct val v)
{
    if (c->code) return;
    if (target->kind == N_NAME) {
        scope_set(c, target->id, v);
    } else if (target->kind == N_ATTR) {
        struct val ns = eval(c, target->a);
        if (ns.kind == V_NAMESPACE) {
            dict_set(c, ns.dict, target->v, v);
        } else {
            ctx_fail(c, ERR_FORMAT, "only attributes of a namespace can be set");
        }
    } else {
        struct list l = val_iter(c, v);
        if (l.n != (uint32_t)target->n_kid) ctx_fail(c, ERR_FORMAT, "wrong number of values to unpack");
        for (int i = 0; i < target->n_kid && !c->code; i++) assign(c, target->kid[i], l.v[i]);
    }
}

/* The scope of the next iteration or block: the current one emptied, unless a macro holds on to it. */
static void scope_renew(struct ctx *c)
{
    if (c->scope->kept) {
        c->scope = c->scope->up;
        scope_push(c);
    } else {
        c->scope->n = 0;
    }
}

/* The elements for which the loop's own "if" holds. */
static struct list filter_items(struct ctx *c, const struct node *n, struct list items)
{
    struct val kept = list_new(c, V_LIST, 0);
    for (uint32_t i = 0; i < items.n && !c->code; i++) {
        scope_renew(c);
        assign(c, n->a, items.v[i]);
        if (val_truth(eval(c, n->c)) && !c->code) list_push(c, kept.list, items.v[i]);
    }
    return c->code ? (struct list){0} : *kept.list;
}

static void exec_for(struct ctx *c, const struct node *n)
{
    struct scope *outer = c->scope;
    struct loop *loop = ctx_alloc(c, sizeof *loop);
    struct list items = val_iter(c, eval(c, n->b));
    if (c->code || !loop || !scope_push(c)) return;
    if (n->c) items = filter_items(c, n, items);
    *loop = (struct loop){.items = items};
    bool completed = false; /* some iteration ran to its end: Jinja's condition for skipping "else" */
    for (; loop->i < items.n && ctx_step(c, 1); loop->i++) {
        scope_renew(c);
        scope_set(c, NAME_LOOP, (struct val){.kind = V_LOOP, .loop = loop});
        assign(c, n->a, items.v[loop->i]);
        enum flow f = exec(c, n->kid[0]);
        if (f == FLOW_BREAK) break;
        completed = completed || f == FLOW_NEXT;
    }
    if (!completed && n->n_kid > 1 && !c->code) {
        scope_renew(c);
        exec(c, n->kid[1]);
    }
    c->scope = outer;
}

static enum flow exec_if(struct ctx *c, const struct node *n)
{
    int i = 0;
    for (; i + 1 < n->n_kid && !c->code; i += 2)
        if (val_truth(eval(c, n->kid[i]))) return exec(c, n->kid[i + 1]);
    return i < n->n_kid ? exec(c, n->kid[i]) : FLOW_NEXT;
}

/* Runs a body in a scope of its own and returns what it wrote. */
static struct val capture(struct ctx *c, const struct node *body, enum flow *f)
{
    struct scope *outer = c->scope;
    size_t start = c->out->len;
    *f = FLOW_NEXT;
    if (scope_push(c)) *f = exec(c, body);
    c->scope = outer;
    return take(c, start);
}

static struct val filter_captured(struct ctx *c, const struct node *filter, struct val text)
{
    struct val saved = c->captured;
    c->captured = text;
    if (filter) text = eval(c, filter);
    c->captured = saved;
    return text;
}

static enum flow exec_captured(struct ctx *c, const struct node *n)
{
    enum flow f;
    struct val text = capture(c, n->c, &f);
    if (f != FLOW_NEXT || c->code) return f;
    text = filter_captured(c, n->b, text);
    if (n->kind == N_SET_BLOCK) {
        assign(c, n->a, text);
    } else {
        put(c, text);
    }
    return FLOW_NEXT;
}

static struct val macro_new(struct ctx *c, const struct node *def)
{
    struct macro *m = ctx_alloc(c, sizeof *m);
    if (!m) return val_none();
    *m = (struct macro){def, c->scope};
    for (struct scope *s = c->scope; s && !s->kept; s = s->up) s->kept = true;
    return (struct val){.kind = V_MACRO, .macro = m};
}

static void exec_call_block(struct ctx *c, const struct node *n)
{
    struct val caller = macro_new(c, n->b), f = eval(c, n->a->a);
    struct args a;
    eval_args(c, n->a, &a);
    if (!a.kw) a.kw = ctx_alloc(c, sizeof *a.kw);
    if (c->code || !a.kw) return;
    a.kw[a.n_kw++] = (struct entry){val_cstr("caller"), caller, 0};
    put(c, call_value(c, f, &a));
}

static enum flow exec_with(struct ctx *c, const struct node *n)
{
    struct scope *outer = c->scope, *inner = scope_push(c);
    if (!inner) return FLOW_NEXT;
    for (int i = 0; i + 1 < n->n_kid && !c->code; i += 2) {
        c->scope = outer;
        struct val v = eval(c, n->kid[i + 1]);
        c->scope = inner;
        assign(c, n->kid[i], v);
    }
    enum flow f = exec(c, n->c);
    c->scope = outer;
    return f;
}

static enum flow exec_body(struct ctx *c, const struct node *n)
{
    enum flow f = FLOW_NEXT;
    for (int i = 0; i < n->n_kid && f == FLOW_NEXT && !c->code; i++) f = exec(c, n->kid[i]);
    return f;
}

static enum flow exec_node(struct ctx *c, const struct node *n)
{
    switch ((enum node_kind)n->kind) {
    case N_BODY: return exec_body(c, n);
    case N_TEXT: put(c, n->v); break;
    case N_OUTPUT: put(c, eval(c, n->a)); break;
    case N_FOR: exec_for(c, n); break;
    case N_IF: return exec_if(c, n);
    case N_SET: assign(c, n->a, eval(c, n->b)); break;
    case N_SET_BLOCK:
    case N_FILTER_BLOCK: return exec_captured(c, n);
    case N_MACRO: scope_set(c, n->id, macro_new(c, n)); break;
    case N_CALL_BLOCK: exec_call_block(c, n); break;
    case N_WITH: return exec_with(c, n);
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    default: ctx_fail(c, ERR_FORMAT, "not a statement");
    }
    return FLOW_NEXT;
}

static enum flow exec(struct ctx *c, const struct node *n)
{
    if (!ctx_step(c, 1) || !ctx_enter(c)) return FLOW_NEXT;
    c->line = n->line;
    enum flow f = exec_node(c, n);
    c->depth--;
    return f;
}

void exec_root(struct ctx *c, const struct node *root)
{
    if (scope_push(c)) exec(c, root);
}

/* ---- macros ---- */

/* Binds the arguments as variables of the current scope. */
static void bind_params(struct ctx *c, const struct node *def, const struct args *a)
{
    struct val rest = list_new(c, V_TUPLE, 0), named = dict_new(c), caller = {0};
    if (c->code) return;
    for (int i = 0; i < a->n_kw; i++) dict_set(c, named.dict, a->kw[i].key, a->kw[i].v);
    bool has_caller = dict_pop(c, named.dict, val_cstr("caller"), &caller);
    if (has_caller) scope_set(c, NAME_CALLER, caller);
    for (int i = 0; i < def->n_kid && !c->code; i++) {
        const struct node *param = def->kid[i];
        struct val v = i < a->n ? a->v[i] : (struct val){0}, again;
        bool given = dict_pop(c, named.dict, c->t->names.name[param->id], i < a->n ? &again : &v);
        if (given && i < a->n) ctx_fail(c, ERR_FORMAT, "a macro's argument is given twice");
        if (v.kind == V_MISSING) v = param->a ? eval(c, param->a) : val_undef(c->t->names.name[param->id]);
        scope_set(c, param->id, v);
    }
    if ((a->n > def->n_kid && !def->varargs) || (named.dict->n && !def->kwargs))
        ctx_fail(c, ERR_FORMAT, "a macro gets an argument that it does not take");
    for (int i = def->n_kid; i < a->n && !c->code; i++) list_push(c, rest.list, a->v[i]);
    if (def->varargs) scope_set(c, NAME_VARARGS, rest);
    if (def->kwargs) scope_set(c, NAME_KWARGS, named);
}

struct val call_macro(struct ctx *c, const struct macro *m, const struct args *a)
{
    if (c->code) return val_none();
    if (c->calls == c->calls_max) return ctx_fail(c, ERR_BUDGET, "macros call each other too deeply");
    struct scope *outer = c->scope;
    size_t start = c->out->len;
    c->calls++;
    c->scope = m->scope;
    if (scope_push(c)) {
        bind_params(c, m->def, a);
        if (!c->code) exec(c, m->def->a);
    }
    c->scope = outer;
    c->calls--;
    return take(c, start);
}
