/* Tests: "x is defined". */
#include "ctx.h"

#define TEST(name, expr)                                                                                     \
    static struct val name(struct ctx *c, struct val self, const struct args *a)                             \
    {                                                                                                        \
        (void)c, (void)self, (void)a;                                                                        \
        return val_bool(expr);                                                                               \
    }

TEST(t_defined, self.kind != V_UNDEF)
TEST(t_undefined, self.kind == V_UNDEF)
TEST(t_none, self.kind == V_NONE)
TEST(t_boolean, self.kind == V_BOOL)
TEST(t_true, self.kind == V_BOOL && self.i)
TEST(t_false, self.kind == V_BOOL && !self.i)
TEST(t_integer, self.kind == V_INT)
TEST(t_float, self.kind == V_FLOAT)
TEST(t_number, val_is_num(self))
TEST(t_string, self.kind == V_STR)
TEST(t_mapping, self.kind == V_DICT)
TEST(t_sequence, self.kind == V_STR || val_is_seq(self) || self.kind == V_DICT || self.kind == V_UNDEF)
TEST(t_iterable, self.kind == V_STR || val_is_seq(self) || self.kind == V_DICT || self.kind == V_UNDEF ||
                     self.kind == V_LOOP)
TEST(t_callable,
     self.kind == V_BUILTIN || self.kind == V_MACRO || self.kind == V_LOOP || self.kind == V_UNDEF)
TEST(t_eq, op_compare(c, OP2('=', '='), self, a->v[0]))
TEST(t_ne, op_compare(c, OP2('!', '='), self, a->v[0]))
TEST(t_lt, op_compare(c, '<', self, a->v[0]))
TEST(t_le, op_compare(c, OP2('<', '='), self, a->v[0]))
TEST(t_gt, op_compare(c, '>', self, a->v[0]))
TEST(t_ge, op_compare(c, OP2('>', '='), self, a->v[0]))
TEST(t_in, op_compare(c, OP_IN, self, a->v[0]))
TEST(t_sameas, self.kind == a->v[0].kind && val_eq(c, self, a->v[0]))
TEST(t_escaped, false)
TEST(t_filter, self.kind == V_STR && filter_find(self))
TEST(t_test, self.kind == V_STR && test_find(self))

static struct val remainder_is(struct ctx *c, struct val self, struct val by, int64_t want)
{
    struct val r = op_binary(c, '%', self, by);
    return val_bool(val_is_num(r) && val_num(r) == (double)want);
}
static struct val t_even(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return remainder_is(c, self, val_int(2), 0);
}
static struct val t_odd(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return remainder_is(c, self, val_int(2), 1);
}
static struct val t_divisibleby(struct ctx *c, struct val self, const struct args *a)
{
    return remainder_is(c, self, a->v[0], 0);
}

/* Some letter, and none of the other case. */
static struct val cased(struct ctx *c, struct val self, enum str_case how, enum str_case other)
{
    struct val s = val_str(c, self);
    return val_bool(val_eq(c, str_case(c, s, how), s) && !val_eq(c, str_case(c, s, other), s));
}
static struct val t_lower(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return cased(c, self, CASE_LOWER, CASE_UPPER);
}
static struct val t_upper(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return cased(c, self, CASE_UPPER, CASE_LOWER);
}

static const struct builtin tests[] = {
    {"!=", t_ne, "other", 1},
    {"<", t_lt, "other", 1},
    {"<=", t_le, "other", 1},
    {"==", t_eq, "other", 1},
    {">", t_gt, "other", 1},
    {">=", t_ge, "other", 1},
    {"boolean", t_boolean, "", 0},
    {"callable", t_callable, "", 0},
    {"defined", t_defined, "", 0},
    {"divisibleby", t_divisibleby, "num", 1},
    {"eq", t_eq, "other", 1},
    {"equalto", t_eq, "other", 1},
    {"escaped", t_escaped, "", 0},
    {"even", t_even, "", 0},
    {"false", t_false, "", 0},
    {"filter", t_filter, "", 0},
    {"float", t_float, "", 0},
    {"ge", t_ge, "other", 1},
    {"greaterthan", t_gt, "other", 1},
    {"gt", t_gt, "other", 1},
    {"in", t_in, "seq", 1},
    {"integer", t_integer, "", 0},
    {"iterable", t_iterable, "", 0},
    {"le", t_le, "other", 1},
    {"lessthan", t_lt, "other", 1},
    {"lower", t_lower, "", 0},
    {"lt", t_lt, "other", 1},
    {"mapping", t_mapping, "", 0},
    {"ne", t_ne, "other", 1},
    {"none", t_none, "", 0},
    {"number", t_number, "", 0},
    {"odd", t_odd, "", 0},
    {"sameas", t_sameas, "other", 1},
    {"sequence", t_sequence, "", 0},
    {"string", t_string, "", 0},
    {"test", t_test, "", 0},
    {"true", t_true, "", 0},
    {"undefined", t_undefined, "", 0},
    {"upper", t_upper, "", 0},
};

const struct builtin *test_find(struct val name)
{
    return builtin_find(tests, sizeof tests / sizeof *tests, name);
}
