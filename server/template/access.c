/* Attributes, items and slices. What is not there is undefined, as in Jinja; only looking into something
 * undefined is an error. */
#include <string.h>
#include "ctx.h"

static struct val bind(struct ctx *c, const struct builtin *fn, struct val self)
{
    struct bound *b = ctx_alloc(c, sizeof *b);
    if (!b) return val_none();
    *b = (struct bound){fn, self};
    return (struct val){.kind = V_BUILTIN, .bound = b};
}

static struct val loop_attr(struct ctx *c, struct val self, struct val name)
{
    const struct loop *l = self.loop;
    int64_t i = l->i, n = l->items.n;
    if (val_is(name, "index")) return val_int(i + 1);
    if (val_is(name, "index0")) return val_int(i);
    if (val_is(name, "revindex")) return val_int(n - i);
    if (val_is(name, "revindex0")) return val_int(n - i - 1);
    if (val_is(name, "first")) return val_bool(i == 0);
    if (val_is(name, "last")) return val_bool(i == n - 1);
    if (val_is(name, "length")) return val_int(n);
    if (val_is(name, "depth")) return val_int(1); /* of recursion, which there is none of */
    if (val_is(name, "depth0")) return val_int(0);
    if (val_is(name, "previtem") && i > 0) return l->items.v[i - 1];
    if (val_is(name, "nextitem") && i < n - 1) return l->items.v[i + 1];
    const struct builtin *m = method_find(V_LOOP, name);
    return m ? bind(c, m, self) : val_undef(name);
}

struct val get_attr(struct ctx *c, struct val obj, struct val name)
{
    if (c->code) return val_none();
    if (obj.kind == V_UNDEF) return ctx_undefined(c, obj);
    if (obj.kind == V_LOOP) return loop_attr(c, obj, name);
    const struct builtin *m = method_find((enum kind)obj.kind, name);
    if (m) return bind(c, m, obj);
    if (obj.kind == V_DICT || obj.kind == V_NAMESPACE) {
        const struct val *v = dict_at(c, obj.dict, name);
        if (v) return *v;
    }
    return val_undef(name);
}

static struct val char_at(struct ctx *c, struct val s, int64_t i)
{
    if (i < 0) i += (int64_t)str_length(c, s);
    if (i < 0 || i >= s.n || !ctx_bytes(c, s.n)) return val_undef(val_cstr("character"));
    size_t from = str_offset(s, (size_t)i);
    struct val rest = val_bytes(s.s + from, s.n - from);
    return rest.n ? val_bytes(rest.s, str_offset(rest, 1)) : val_undef(val_cstr("character"));
}

struct val get_item(struct ctx *c, struct val obj, struct val key)
{
    if (c->code) return val_none();
    if (obj.kind == V_UNDEF) return ctx_undefined(c, obj);
    if (obj.kind == V_DICT && key.kind != V_LIST && key.kind != V_DICT) {
        const struct val *v = dict_at(c, obj.dict, key);
        if (v) return *v;
    }
    if (val_is_integer(key) && val_is_seq(obj)) {
        int64_t i = key.i < 0 ? key.i + obj.list->n : key.i;
        if (i >= 0 && i < obj.list->n) return obj.list->v[i];
    }
    if (val_is_integer(key) && obj.kind == V_STR) return char_at(c, obj, key.i);
    if (key.kind == V_STR)
        return obj.kind == V_DICT && !method_find(V_DICT, key) ? val_undef(key) : get_attr(c, obj, key);
    return val_undef(val_cstr("item"));
}

struct val get_path(struct ctx *c, struct val obj, struct val path)
{
    if (path.kind != V_STR) return get_item(c, obj, path);
    for (uint32_t i = 0; i <= path.n && !c->code;) {
        uint32_t start = i;
        bool number = i < path.n;
        for (; i < path.n && path.s[i] != '.'; i++) number = number && path.s[i] >= '0' && path.s[i] <= '9';
        struct val part = val_bytes(path.s + start, i - start);
        if (number && part.n && part.n < 10) {
            int64_t k = 0;
            for (uint32_t j = 0; j < part.n; j++) k = k * 10 + (part.s[j] - '0');
            part = val_int(k);
        }
        obj = get_item(c, obj, part);
        i++;
    }
    return obj;
}

/* Python's slice.indices: the first index, the end (exclusive in the step's direction) and the count of n
 * elements. */
static int64_t slice_bounds(const struct val part[3], int64_t n, int64_t *start, int64_t *step)
{
    *step = part[2].kind == V_NONE ? 1 : part[2].i;
    if (*step < -n - 1) *step = -n - 1; /* no difference, and no overflow */
    if (*step > n + 1) *step = n + 1;
    bool back = *step < 0;
    int64_t lo = back ? -1 : 0, hi = back ? n - 1 : n, at[2] = {back ? hi : lo, back ? lo : hi};
    for (int i = 0; i < 2; i++) {
        if (part[i].kind == V_NONE) continue;
        int64_t v = part[i].i < 0 ? part[i].i + n : part[i].i;
        at[i] = v < lo ? lo : v > hi ? hi : v;
    }
    *start = at[0];
    int64_t span = back ? at[0] - at[1] : at[1] - at[0], stride = back ? -*step : *step;
    return span <= 0 ? 0 : (span - 1) / stride + 1;
}

static struct val slice_str(struct ctx *c, struct val s, int64_t start, int64_t step, int64_t count)
{
    if (!count || !ctx_bytes(c, s.n)) return val_cstr("");
    if (step == 1) {
        size_t from = str_offset(s, (size_t)start);
        struct val rest = val_bytes(s.s + from, s.n - from);
        return val_bytes(rest.s, str_offset(rest, (size_t)count));
    }
    struct list l = val_iter(c, s);
    struct text t = {.c = c};
    for (int64_t i = 0; i < count && ctx_step(c, 1); i++)
        text_add(&t, l.v[start + i * step].s, l.v[start + i * step].n);
    return text_done(&t);
}

struct val get_slice(struct ctx *c, struct val obj, const struct val part[3])
{
    if (c->code) return val_none();
    if (obj.kind == V_UNDEF) return ctx_undefined(c, obj);
    for (int i = 0; i < 3; i++)
        if (part[i].kind != V_NONE && !val_is_integer(part[i]))
            return ctx_fail(c, ERR_FORMAT, "slice parts must be integers");
    if (!val_is_seq(obj) && obj.kind != V_STR) return ctx_fail(c, ERR_FORMAT, "this value has no slices");
    if (part[2].kind != V_NONE && part[2].i == 0) return ctx_fail(c, ERR_FORMAT, "a slice's step is zero");
    int64_t start, step, n = obj.kind == V_STR ? (int64_t)str_length(c, obj) : obj.list->n;
    int64_t count = slice_bounds(part, n, &start, &step);
    if (obj.kind == V_STR) return slice_str(c, obj, start, step, count);
    struct val out = list_new(c, (enum kind)obj.kind, (uint32_t)count);
    for (int64_t i = 0; i < count && !c->code; i++) list_push(c, out.list, obj.list->v[start + i * step]);
    return out;
}
