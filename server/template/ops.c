/* Operators on values, with Python's meaning. Integers have 64 bits; leaving them is an error. */
#include <math.h>
#include "ctx.h"

static struct val overflow(struct ctx *c) { return ctx_fail(c, ERR_FORMAT, "an integer is too large"); }

static struct val type_error(struct ctx *c, int op, struct val a, struct val b)
{
    struct val u = a.kind == V_UNDEF ? a : b;
    if (u.kind == V_UNDEF) return ctx_undefined(c, u);
    return ctx_fail(c, ERR_FORMAT, "'%c' does not work on these types", op & 255);
}

static struct val int_pow(struct ctx *c, int64_t x, int64_t y)
{
    int64_t r = 1;
    if (y < 0) return x ? val_float(pow((double)x, (double)y)) : ctx_fail(c, ERR_FORMAT, "division by zero");
    while (y) {
        if (y & 1 && __builtin_mul_overflow(r, x, &r)) return overflow(c);
        y >>= 1;
        if (y && __builtin_mul_overflow(x, x, &x)) return overflow(c);
    }
    return val_int(r);
}

static struct val int_op(struct ctx *c, int op, int64_t x, int64_t y)
{
    int64_t r;
    switch (op) {
    case '+': return __builtin_add_overflow(x, y, &r) ? overflow(c) : val_int(r);
    case '-': return __builtin_sub_overflow(x, y, &r) ? overflow(c) : val_int(r);
    case '*': return __builtin_mul_overflow(x, y, &r) ? overflow(c) : val_int(r);
    case OP2('*', '*'): return int_pow(c, x, y);
    default: break;
    }
    if (y == 0) return ctx_fail(c, ERR_FORMAT, "division by zero");
    if (op == '/') return val_float((double)x / (double)y);
    if (y == -1) return op == '%' ? val_int(0) : int_op(c, '-', 0, x); /* INT64_MIN / -1 traps */
    r = x % y;
    bool adjust = r != 0 && (r < 0) != (y < 0); /* the remainder has the divisor's sign */
    return val_int(op == '%' ? (adjust ? r + y : r) : x / y - adjust);
}

static struct val float_op(struct ctx *c, int op, double x, double y)
{
    switch (op) {
    case '+': return val_float(x + y);
    case '-': return val_float(x - y);
    case '*': return val_float(x * y);
    case OP2('*', '*'):
        if ((x == 0 && y < 0) || (x < 0 && y != floor(y)))
            return ctx_fail(c, ERR_FORMAT, "this power is not a real number");
        return val_float(pow(x, y));
    default: break;
    }
    if (y == 0) return ctx_fail(c, ERR_FORMAT, "division by zero");
    if (op == '/') return val_float(x / y);
    double r = fmod(x, y), q = (x - r) / y; /* an integer but for rounding: CPython's float_div_mod */
    if (r != 0 && (r < 0) != (y < 0)) {
        r += y;
        q -= 1;
    }
    if (op == '%') return val_float(r != 0 ? r : copysign(0.0, y));
    if (q == 0) return val_float(copysign(0.0, x / y));
    double whole = floor(q);
    return val_float(q - whole > 0.5 ? whole + 1 : whole);
}

static struct val seq_add(struct ctx *c, struct val a, struct val b)
{
    struct val out = list_new(c, (enum kind)a.kind, a.list->n + b.list->n);
    for (uint32_t i = 0; i < a.list->n && !c->code; i++) list_push(c, out.list, a.list->v[i]);
    for (uint32_t i = 0; i < b.list->n && !c->code; i++) list_push(c, out.list, b.list->v[i]);
    return out;
}

static struct val repeat(struct ctx *c, struct val v, int64_t times)
{
    if (v.kind == V_STR) {
        struct text t = {.c = c};
        for (int64_t i = 0; v.n && i < times && ctx_step(c, 1); i++) text_add(&t, v.s, v.n);
        return text_done(&t);
    }
    struct val out = list_new(c, (enum kind)v.kind, 0);
    for (int64_t i = 0; v.list->n && i < times && !c->code; i++)
        for (uint32_t k = 0, n = v.list->n; k < n && !c->code; k++) list_push(c, out.list, v.list->v[k]);
    return out;
}

struct val op_binary(struct ctx *c, int op, struct val a, struct val b)
{
    if (c->code) return val_none();
    if (val_is_integer(a) && val_is_integer(b)) return int_op(c, op, a.i, b.i);
    if (val_is_num(a) && val_is_num(b)) return float_op(c, op, val_num(a), val_num(b));
    if (op == '+' && a.kind == V_STR && b.kind == V_STR) return str_concat(c, a, b);
    if (op == '+' && val_is_seq(a) && a.kind == b.kind) return seq_add(c, a, b);
    if (op == '*' && (a.kind == V_STR || val_is_seq(a)) && val_is_integer(b)) return repeat(c, a, b.i);
    if (op == '*' && (b.kind == V_STR || val_is_seq(b)) && val_is_integer(a)) return repeat(c, b, a.i);
    if (op == '%' && a.kind == V_STR && b.kind == V_TUPLE)
        return op_format(c, a, b.list->v, (int)b.list->n, b);
    if (op == '%' && a.kind == V_STR && b.kind != V_UNDEF) return op_format(c, a, &b, 1, b);
    return type_error(c, op, a, b);
}

bool op_compare(struct ctx *c, int op, struct val a, struct val b)
{
    if (op == OP2('=', '=')) return val_eq(c, a, b);
    if (op == OP2('!', '=')) return !val_eq(c, a, b);
    if (op == OP_IN) return val_contains(c, b, a);
    if (op == OP_NOT_IN) return !val_contains(c, b, a);
    if (a.kind == V_UNDEF || b.kind == V_UNDEF) {
        type_error(c, op, a, b);
        return false;
    }
    int d = val_cmp(c, a, b);
    if (d == CMP_UNORDERED) return false;
    return op == '<' ? d < 0 : op == '>' ? d > 0 : op == OP2('<', '=') ? d <= 0 : d >= 0;
}
