/* Filters on sequences. Where Jinja gives a generator, these give a list. */
#include "filters.h"
#include <string.h>
#include "ctx.h"

struct val filter_length(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    switch ((enum kind)self.kind) {
    case V_STR: return val_int((int64_t)str_length(c, self));
    case V_LIST:
    case V_TUPLE: return val_int(self.list->n);
    case V_DICT: return val_int(self.dict->n);
    case V_UNDEF: return val_int(0);
    case V_LOOP: return val_int(self.loop->items.n);
    default: return ctx_fail(c, ERR_FORMAT, "this value has no length");
    }
}

static struct val end_of(struct ctx *c, struct val self, bool last)
{
    struct list l = val_iter(c, self);
    return l.n ? l.v[last ? l.n - 1 : 0] : val_undef(val_cstr("an item of an empty sequence"));
}
struct val filter_first(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return end_of(c, self, false);
}
struct val filter_last(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    return end_of(c, self, true);
}

struct val filter_list(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    struct list l = val_iter(c, self);
    struct val out = list_new(c, V_LIST, l.n);
    for (uint32_t i = 0; i < l.n && !c->code; i++) list_push(c, out.list, l.v[i]);
    return out;
}

struct val filter_items_of(struct ctx *c, struct val self, const struct args *a)
{
    (void)a;
    struct val out = list_new(c, V_LIST, 0);
    if (self.kind == V_UNDEF) return out;
    if (self.kind != V_DICT) return ctx_fail(c, ERR_FORMAT, "items needs a mapping");
    for (uint32_t i = 0; i < self.dict->n && !c->code; i++) {
        struct val pair = list_new(c, V_TUPLE, 2);
        if (c->code) break;
        list_push(c, pair.list, self.dict->e[i].key);
        list_push(c, pair.list, self.dict->e[i].v);
        list_push(c, out.list, pair);
    }
    return out;
}

struct val filter_reverse(struct ctx *c, struct val self, const struct args *a)
{
    struct val out = filter_list(c, self, a);
    if (c->code) return out;
    for (uint32_t i = 0, n = out.list->n; i < n / 2; i++) {
        struct val v = out.list->v[i];
        out.list->v[i] = out.list->v[n - 1 - i];
        out.list->v[n - 1 - i] = v;
    }
    if (self.kind != V_STR) return out;
    struct text t = {.c = c};
    for (uint32_t i = 0; i < out.list->n && ctx_step(c, 1); i++)
        text_add(&t, out.list->v[i].s, out.list->v[i].n);
    return text_done(&t);
}

struct val filter_join(struct ctx *c, struct val self, const struct args *a)
{
    struct list l = val_iter(c, self);
    struct val sep = a->v[0].kind == V_MISSING ? val_cstr("") : val_str(c, a->v[0]);
    /* parts first: turning a value into text takes memory of its own, and the joined text grows best
     * undisturbed */
    struct val parts = list_new(c, V_LIST, l.n);
    for (uint32_t i = 0; i < l.n && !c->code; i++) {
        struct val v =
            a->v[1].kind == V_MISSING || a->v[1].kind == V_NONE ? l.v[i] : get_path(c, l.v[i], a->v[1]);
        list_push(c, parts.list, val_str(c, v));
    }
    struct text t = {.c = c};
    for (uint32_t i = 0; !c->code && i < parts.list->n; i++) {
        if (i) text_add(&t, sep.s, sep.n);
        text_add(&t, parts.list->v[i].s, parts.list->v[i].n);
    }
    return text_done(&t);
}

/* ---- order ---- */

/* What an element is compared by: an attribute, and without regard to case unless asked for. */
static struct val sort_key(struct ctx *c, struct val v, struct val attribute, struct val case_sensitive)
{
    if (attribute.kind != V_MISSING && attribute.kind != V_NONE) v = get_path(c, v, attribute);
    return v.kind == V_STR && !val_truth(case_sensitive) ? str_case(c, v, CASE_LOWER) : v;
}

struct keyed {
    struct val key, v;
};

/* Stable merge sort; reversed order keeps equal elements in place, as Python does. */
static void merge_sort(struct ctx *c, struct keyed *v, struct keyed *tmp, uint32_t n, bool reverse)
{
    if (n < 2 || c->code) return;
    uint32_t h = n / 2, i = 0, j = h, k = 0;
    merge_sort(c, v, tmp, h, reverse);
    merge_sort(c, v + h, tmp, n - h, reverse);
    while (i < h && j < n && !c->code) {
        int d = val_cmp(c, v[j].key, v[i].key);
        bool right = d != CMP_UNORDERED && (reverse ? d > 0 : d < 0);
        tmp[k++] = right ? v[j++] : v[i++];
    }
    if (c->code) return;
    memcpy(tmp + k, v + i, (h - i) * sizeof *v);
    memcpy(v, tmp, (k + h - i) * sizeof *v);
}

static struct val sorted(struct ctx *c, struct list l, struct val attribute, struct val case_sensitive,
                         bool reverse)
{
    struct keyed *v = ctx_alloc(c, (size_t)l.n * 2 * sizeof *v);
    struct val out = list_new(c, V_LIST, l.n);
    if (!v || c->code) return out;
    for (uint32_t i = 0; i < l.n && !c->code; i++)
        v[i] = (struct keyed){sort_key(c, l.v[i], attribute, case_sensitive), l.v[i]};
    merge_sort(c, v, v + l.n, l.n, reverse);
    for (uint32_t i = 0; i < l.n && !c->code; i++) list_push(c, out.list, v[i].v);
    return out;
}

struct val filter_sort(struct ctx *c, struct val self, const struct args *a)
{
    return sorted(c, val_iter(c, self), a->v[2], a->v[1], val_truth(a->v[0]));
}

struct val filter_dictsort(struct ctx *c, struct val self, const struct args *a)
{
    struct val by = val_int(0);
    if (a->v[1].kind == V_STR && val_is(a->v[1], "value")) by = val_int(1);
    if (self.kind != V_DICT) return ctx_fail(c, ERR_FORMAT, "dictsort needs a dict");
    struct val pairs = filter_items_of(c, self, a);
    return c->code ? pairs : sorted(c, *pairs.list, by, a->v[0], val_truth(a->v[2]));
}

struct val filter_unique(struct ctx *c, struct val self, const struct args *a)
{
    struct list l = val_iter(c, self);
    struct val seen = dict_new(c), out = list_new(c, V_LIST, 0);
    for (uint32_t i = 0; i < l.n && !c->code; i++) {
        struct val key = sort_key(c, l.v[i], a->v[1], a->v[0]);
        if (dict_at(c, seen.dict, key)) continue;
        dict_set(c, seen.dict, key, val_none());
        list_push(c, out.list, l.v[i]);
    }
    return out;
}

static struct val extreme(struct ctx *c, struct val self, const struct args *a, int sign)
{
    struct list l = val_iter(c, self);
    struct val best = val_undef(val_cstr("an item of an empty sequence")), best_key = {0};
    for (uint32_t i = 0; i < l.n && !c->code; i++) {
        struct val key = sort_key(c, l.v[i], a->v[1], a->v[0]);
        int d = i ? val_cmp(c, key, best_key) : sign;
        if (d == CMP_UNORDERED || d * sign <= 0) continue;
        best = l.v[i];
        best_key = key;
    }
    return best;
}
struct val filter_min(struct ctx *c, struct val self, const struct args *a)
{
    return extreme(c, self, a, -1);
}
struct val filter_max(struct ctx *c, struct val self, const struct args *a) { return extreme(c, self, a, 1); }

struct val filter_sum(struct ctx *c, struct val self, const struct args *a)
{
    struct list l = val_iter(c, self);
    struct val sum = a->v[1].kind == V_MISSING ? val_int(0) : a->v[1];
    for (uint32_t i = 0; i < l.n && ctx_step(c, 1); i++) {
        struct val v =
            a->v[0].kind == V_MISSING || a->v[0].kind == V_NONE ? l.v[i] : get_path(c, l.v[i], a->v[0]);
        sum = op_binary(c, '+', sum, v);
    }
    return sum;
}

/* ---- groups ---- */

struct val filter_batch(struct ctx *c, struct val self, const struct args *a)
{
    struct list l = val_iter(c, self);
    struct val out = list_new(c, V_LIST, 0);
    if (!val_is_integer(a->v[0]) || a->v[0].i < 1)
        return ctx_fail(c, ERR_FORMAT, "batch needs a positive number");
    int64_t size = a->v[0].i;
    for (uint32_t i = 0; i < l.n && !c->code;) {
        struct val row = list_new(c, V_LIST, 0);
        for (int64_t k = 0; k < size && i < l.n && !c->code; k++) list_push(c, row.list, l.v[i++]);
        bool fill = a->v[1].kind != V_MISSING && a->v[1].kind != V_NONE;
        while (fill && !c->code && row.list->n < size) list_push(c, row.list, a->v[1]);
        list_push(c, out.list, row);
    }
    return out;
}

struct val filter_slice(struct ctx *c, struct val self, const struct args *a)
{
    struct list l = val_iter(c, self);
    struct val out = list_new(c, V_LIST, 0);
    if (!val_is_integer(a->v[0]) || a->v[0].i < 1)
        return ctx_fail(c, ERR_FORMAT, "slice needs a positive number");
    int64_t slices = a->v[0].i, each = l.n / slices, extra = l.n % slices, at = 0;
    bool fill = a->v[1].kind != V_MISSING && a->v[1].kind != V_NONE;
    for (int64_t s = 0; s < slices && ctx_step(c, 1); s++) {
        struct val row = list_new(c, V_LIST, 0);
        for (int64_t k = 0; k < each + (s < extra) && !c->code; k++) list_push(c, row.list, l.v[at++]);
        if (fill && s >= extra && !c->code) list_push(c, row.list, a->v[1]);
        list_push(c, out.list, row);
    }
    return out;
}

/* ---- map, select ---- */

static const struct val *keyword(const struct args *a, const char *name)
{
    for (int i = 0; i < a->n_kw; i++)
        if (val_is(a->kw[i].key, name)) return &a->kw[i].v;
    return NULL;
}

/* map('filter', args) or map(attribute='a.b', default=x) */
struct val filter_map(struct ctx *c, struct val self, const struct args *a)
{
    const struct val *attribute = keyword(a, "attribute"), *fallback = keyword(a, "default");
    const struct builtin *fn = a->n && a->v[0].kind == V_STR ? filter_find(a->v[0]) : NULL;
    if (!fn && (!attribute || a->n))
        return ctx_fail(c, ERR_FORMAT, "map needs the name of a filter, or attribute=");
    struct list l = val_iter(c, self);
    struct val out = list_new(c, V_LIST, l.n);
    struct args rest = {fn ? a->v + 1 : NULL, a->n - 1, a->kw, a->n_kw};
    for (uint32_t i = 0; i < l.n && !c->code; i++) {
        struct val v = fn ? call_builtin(c, fn, l.v[i], &rest) : get_path(c, l.v[i], *attribute);
        list_push(c, out.list, !fn && fallback && v.kind == V_UNDEF ? *fallback : v);
    }
    return out;
}

/* Keeps elements for which the test (or truth) is `want`; by_attr: of the attribute that the first argument
 * names. */
static struct val select_by(struct ctx *c, struct val self, const struct args *a, bool by_attr, bool want)
{
    if (a->n < by_attr) return ctx_fail(c, ERR_FORMAT, "an attribute's name is missing");
    struct args rest = {by_attr ? a->v + 1 : a->v, a->n - by_attr, a->kw, a->n_kw};
    const struct builtin *fn = NULL;
    if (rest.n) {
        fn = rest.v[0].kind == V_STR ? test_find(rest.v[0]) : NULL;
        if (!fn) return ctx_fail(c, ERR_FORMAT, "no test of this name");
        rest.v++;
        rest.n--;
    }
    struct list l = val_iter(c, self);
    struct val out = list_new(c, V_LIST, 0);
    for (uint32_t i = 0; i < l.n && !c->code; i++) {
        struct val v = by_attr ? get_path(c, l.v[i], a->v[0]) : l.v[i];
        if (fn) v = call_builtin(c, fn, v, &rest);
        if (val_truth(v) == want) list_push(c, out.list, l.v[i]);
    }
    return out;
}
struct val filter_select(struct ctx *c, struct val self, const struct args *a)
{
    return select_by(c, self, a, false, true);
}
struct val filter_reject(struct ctx *c, struct val self, const struct args *a)
{
    return select_by(c, self, a, false, false);
}
struct val filter_selectattr(struct ctx *c, struct val self, const struct args *a)
{
    return select_by(c, self, a, true, true);
}
struct val filter_rejectattr(struct ctx *c, struct val self, const struct args *a)
{
    return select_by(c, self, a, true, false);
}
