/* Evaluates expressions, and calls. */
#include <string.h>
#include "ctx.h"

static struct val lookup(struct ctx *c, const struct node *n)
{
    for (const struct scope *s = c->scope; s; s = s->up) {
        if (!ctx_step(c, (size_t)s->n / 32)) break;
        for (int i = 0; i < s->n; i++)
            if (s->slot[i].id == n->id) return s->slot[i].v;
    }
    struct val v = c->global[n->id];
    return v.kind == V_MISSING ? val_undef(n->v) : v;
}

static struct val eval_display(struct ctx *c, const struct node *n)
{
    if (n->kind == N_DICT) {
        struct val d = dict_new(c);
        for (int i = 0; i + 1 < n->n_kid && !c->code; i += 2) {
            struct val key = eval(c, n->kid[i]);
            dict_set(c, d.dict, key, eval(c, n->kid[i + 1]));
        }
        return d;
    }
    struct val l = list_new(c, n->kind == N_LIST ? V_LIST : V_TUPLE, (uint32_t)n->n_kid);
    for (int i = 0; i < n->n_kid && !c->code; i++) list_push(c, l.list, eval(c, n->kid[i]));
    return l;
}

static struct val eval_slice(struct ctx *c, const struct node *n)
{
    struct val obj = eval(c, n->a), part[3];
    for (int i = 0; i < 3; i++) part[i] = n->kid[i] ? eval(c, n->kid[i]) : val_none();
    return get_slice(c, obj, part);
}

static struct val eval_concat(struct ctx *c, const struct node *n)
{
    struct val v = val_cstr("");
    for (int i = 0; i < n->n_kid && !c->code; i++) v = str_concat(c, v, val_str(c, eval(c, n->kid[i])));
    return v;
}

static struct val eval_compare(struct ctx *c, const struct node *n)
{
    struct val left = eval(c, n->a);
    for (int i = 0; i < n->n_kid && !c->code; i++) {
        struct val right = eval(c, n->kid[i]->a);
        if (c->code || !op_compare(c, n->kid[i]->op, left, right)) return val_bool(false);
        left = right;
    }
    return val_bool(true);
}

static struct val eval_sign(struct ctx *c, const struct node *n)
{
    struct val v = eval(c, n->a);
    if (c->code) return v;
    if (v.kind == V_FLOAT) return val_float(n->kind == N_NEG ? -v.f : v.f);
    if (val_is_integer(v) && v.i != INT64_MIN) return val_int(n->kind == N_NEG ? -v.i : v.i);
    return ctx_fail(c, ERR_FORMAT, "a sign needs a number");
}

static struct val eval_node(struct ctx *c, const struct node *n)
{
    struct args args;
    struct val v;
    switch ((enum node_kind)n->kind) {
    case N_CONST: return n->v;
    case N_NAME: return lookup(c, n);
    case N_CAPTURED: return c->captured;
    case N_LIST:
    case N_TUPLE:
    case N_DICT: return eval_display(c, n);
    case N_ATTR: return get_attr(c, eval(c, n->a), n->v);
    case N_ITEM: v = eval(c, n->a); return get_item(c, v, eval(c, n->b));
    case N_SLICE: return eval_slice(c, n);
    case N_NOT: return val_bool(!val_truth(eval(c, n->a)));
    case N_NEG:
    case N_POS: return eval_sign(c, n);
    case N_AND: v = eval(c, n->a); return val_truth(v) ? eval(c, n->b) : v;
    case N_OR: v = eval(c, n->a); return val_truth(v) ? v : eval(c, n->b);
    case N_COND:
        if (val_truth(eval(c, n->b))) return eval(c, n->a);
        return n->c ? eval(c, n->c) : val_undef(val_cstr("the else part of an if expression"));
    case N_BINARY: v = eval(c, n->a); return op_binary(c, n->op, v, eval(c, n->b));
    case N_CONCAT: return eval_concat(c, n);
    case N_COMPARE: return eval_compare(c, n);
    case N_CALL:
        v = eval(c, n->a);
        eval_args(c, n, &args);
        return call_value(c, v, &args);
    case N_FILTER:
    case N_TEST:
        v = eval(c, n->a);
        eval_args(c, n, &args);
        return call_builtin(c, n->fn, v, &args);
    default: return ctx_fail(c, ERR_FORMAT, "not an expression");
    }
}

struct val eval(struct ctx *c, const struct node *n)
{
    if (!ctx_step(c, 1) || !ctx_enter(c)) return val_none();
    c->line = n->line;
    struct val v = eval_node(c, n);
    c->depth--;
    return c->code ? val_none() : v;
}

/* ---- calls ---- */

/* Number of values that the call's arguments may come to, "*" and "**" included. */
static bool spread(struct ctx *c, const struct node *n, struct val *star, struct args *size)
{
    *size = (struct args){0};
    for (int i = 0; i < n->n_kid; i++) {
        const struct node *arg = n->kid[i];
        star[i] = eval(c, arg->a);
        if (c->code) return false;
        if (arg->kind == N_ARG_STAR) {
            struct list l = val_iter(c, star[i]);
            star[i] = list_new(c, V_LIST, l.n);
            for (uint32_t k = 0; k < l.n && !c->code; k++) list_push(c, star[i].list, l.v[k]);
            size->n += (int)l.n;
        } else if (arg->kind == N_ARG_STAR2) {
            if (star[i].kind != V_DICT) {
                ctx_fail(c, ERR_FORMAT, "'**' needs a dict");
                return false;
            }
            size->n_kw += (int)star[i].dict->n;
        } else {
            size->n += arg->kind == N_ARG;
            size->n_kw += arg->kind == N_ARG_KEY;
        }
    }
    return !c->code;
}

void eval_args(struct ctx *c, const struct node *n, struct args *out)
{
    *out = (struct args){0};
    if (!n->n_kid) return;
    struct args size;
    struct val *value = ctx_alloc(c, (size_t)n->n_kid * sizeof *value);
    if (!value || !spread(c, n, value, &size)) return;
    out->v = ctx_alloc(c, (size_t)size.n * sizeof *out->v);
    out->kw = ctx_alloc(c, ((size_t)size.n_kw + 1) * sizeof *out->kw); /* + 1: the caller of a call block */
    if (!out->v || !out->kw) return;
    for (int i = 0; i < n->n_kid; i++) {
        const struct node *arg = n->kid[i];
        if (arg->kind == N_ARG) out->v[out->n++] = value[i];
        if (arg->kind == N_ARG_KEY) out->kw[out->n_kw++] = (struct entry){arg->v, value[i], 0};
        for (uint32_t k = 0; arg->kind == N_ARG_STAR && k < value[i].list->n; k++)
            out->v[out->n++] = value[i].list->v[k];
        for (uint32_t k = 0; arg->kind == N_ARG_STAR2 && k < value[i].dict->n; k++) {
            out->kw[out->n_kw++] = value[i].dict->e[k];
            if (value[i].dict->e[k].key.kind != V_STR)
                ctx_fail(c, ERR_FORMAT, "'**' needs keys that are strings");
        }
    }
}

/* Place of a name among space-separated words, or -1; *count is the number of words. */
static int param_index(const char *params, struct val name, int *count)
{
    int found = -1;
    *count = 0;
    for (const char *p = params; *p;) {
        size_t n = strcspn(p, " ");
        if (name.kind == V_STR && val_same_str(name, val_bytes(p, n))) found = *count;
        p += n + (p[n] == ' ');
        (*count)++;
    }
    return found;
}

enum { PARAMS_MAX = 8 };

struct val call_builtin(struct ctx *c, const struct builtin *b, struct val self, const struct args *a)
{
    if (!ctx_step(c, 1)) return val_none();
    if (!b->params) return b->fn(c, self, a);
    struct val v[PARAMS_MAX] = {0};
    int n;
    param_index(b->params, val_none(), &n);
    if (a->n > n) return ctx_fail(c, ERR_FORMAT, "%s: too many arguments", b->name);
    for (int i = 0; i < a->n; i++) v[i] = a->v[i];
    for (int i = 0; i < a->n_kw; i++) {
        int at = param_index(b->params, a->kw[i].key, &n);
        if (at < 0 || v[at].kind != V_MISSING)
            return ctx_fail(c, ERR_FORMAT, "%s: unexpected named argument", b->name);
        v[at] = a->kw[i].v;
    }
    for (int i = 0; i < b->need; i++)
        if (v[i].kind == V_MISSING) return ctx_fail(c, ERR_FORMAT, "%s: an argument is missing", b->name);
    return b->fn(c, self, &(struct args){v, n, NULL, 0});
}

struct val call_value(struct ctx *c, struct val f, struct args *a)
{
    if (c->code) return val_none();
    if (f.kind == V_BUILTIN) return call_builtin(c, f.bound->fn, f.bound->self, a);
    if (f.kind == V_MACRO) return call_macro(c, f.macro, a);
    if (f.kind == V_UNDEF) return ctx_undefined(c, f);
    return ctx_fail(c, ERR_FORMAT, "this value cannot be called");
}
