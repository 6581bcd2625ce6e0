/* Methods of lists, dicts and the loop variable, and the look-up of all methods. */
#include <string.h>
#include "ctx.h"
#include "filters.h"

#define METHOD(name) static struct val name(struct ctx *c, struct val self, const struct args *a)

static int64_t int_or(struct val v, int64_t fallback) { return val_is_integer(v) ? v.i : fallback; }

/* ---- list, tuple ---- */

METHOD(l_append)
{
    list_push(c, self.list, a->v[0]);
    return val_none();
}
METHOD(l_extend)
{
    struct list l = val_iter(c, a->v[0]);
    for (uint32_t i = 0; i < l.n && !c->code; i++) list_push(c, self.list, l.v[i]);
    return val_none();
}
METHOD(l_insert)
{
    struct list *l = self.list;
    int64_t at = int_or(a->v[0], 0), n = l->n;
    list_push(c, l, a->v[1]);
    if (!ctx_step(c, l->n / 16)) return val_none();
    at = at < 0 ? (at + n < 0 ? 0 : at + n) : at > n ? n : at;
    memmove(l->v + at + 1, l->v + at, (size_t)(n - at) * sizeof *l->v);
    l->v[at] = a->v[1];
    return val_none();
}
METHOD(l_pop)
{
    struct list *l = self.list;
    int64_t at = int_or(a->v[0], -1);
    if (at < 0) at += l->n;
    if (at < 0 || at >= l->n || !ctx_step(c, l->n / 16))
        return ctx_fail(c, ERR_FORMAT, "pop: no such element");
    struct val v = l->v[at];
    l->n--;
    memmove(l->v + at, l->v + at + 1, (l->n - (size_t)at) * sizeof v);
    return v;
}
METHOD(l_index)
{
    for (uint32_t i = 0; i < self.list->n && !c->code; i++)
        if (val_eq(c, self.list->v[i], a->v[0])) return val_int(i);
    return ctx_fail(c, ERR_FORMAT, "index: no such element");
}
METHOD(l_count)
{
    int64_t n = 0;
    for (uint32_t i = 0; i < self.list->n && !c->code; i++) n += val_eq(c, self.list->v[i], a->v[0]);
    return val_int(n);
}

/* ---- dict ---- */

METHOD(d_get)
{
    const struct val *v = dict_at(c, self.dict, a->v[0]);
    return v ? *v : a->v[1].kind == V_MISSING ? val_none() : a->v[1];
}
METHOD(d_keys) { return filter_list(c, self, a); }
METHOD(d_values)
{
    (void)a;
    struct val out = list_new(c, V_LIST, self.dict->n);
    for (uint32_t i = 0; i < self.dict->n && !c->code; i++) list_push(c, out.list, self.dict->e[i].v);
    return out;
}
METHOD(d_update)
{
    const struct val src = a->n ? a->v[0] : val_undef(val_cstr(""));
    if (a->n && src.kind != V_DICT) return ctx_fail(c, ERR_FORMAT, "update needs a dict");
    for (uint32_t i = 0; a->n && i < src.dict->n && !c->code; i++)
        dict_set(c, self.dict, src.dict->e[i].key, src.dict->e[i].v);
    for (int i = 0; i < a->n_kw && !c->code; i++) dict_set(c, self.dict, a->kw[i].key, a->kw[i].v);
    return val_none();
}
METHOD(d_pop)
{
    struct val v;
    if (dict_pop(c, self.dict, a->v[0], &v)) return v;
    return a->v[1].kind == V_MISSING ? ctx_fail(c, ERR_FORMAT, "pop: no such key") : a->v[1];
}
METHOD(d_setdefault)
{
    const struct val *v = dict_at(c, self.dict, a->v[0]);
    struct val fallback = a->v[1].kind == V_MISSING ? val_none() : a->v[1];
    if (v) return *v;
    dict_set(c, self.dict, a->v[0], fallback);
    return fallback;
}
METHOD(d_copy)
{
    struct val out = dict_new(c);
    (void)a;
    for (uint32_t i = 0; i < self.dict->n && !c->code; i++)
        dict_set(c, out.dict, self.dict->e[i].key, self.dict->e[i].v);
    return out;
}

/* ---- loop ---- */

METHOD(loop_cycle)
{
    return a->n ? a->v[self.loop->i % (uint32_t)a->n] : ctx_fail(c, ERR_FORMAT, "cycle needs values");
}
METHOD(loop_changed)
{
    struct val now = list_new(c, V_TUPLE, (uint32_t)a->n);
    for (int i = 0; i < a->n && !c->code; i++) list_push(c, now.list, a->v[i]);
    bool same = !c->code && self.loop->changed.kind == V_TUPLE && val_eq(c, self.loop->changed, now);
    self.loop->changed = now;
    return val_bool(!same);
}

static const struct builtin list_methods[] = {
    {"append", l_append, "object", 1},       {"count", l_count, "value", 1},
    {"extend", l_extend, "iterable", 1},     {"index", l_index, "value", 1},
    {"insert", l_insert, "index object", 2}, {"pop", l_pop, "index", 0},
};
static const struct builtin dict_methods[] = {
    {"copy", d_copy, "", 0},           {"get", d_get, "key default", 1},
    {"items", filter_items_of, "", 0}, {"keys", d_keys, "", 0},
    {"pop", d_pop, "key default", 1},  {"setdefault", d_setdefault, "key default", 1},
    {"update", d_update, NULL, 0},     {"values", d_values, "", 0},
};
static const struct builtin loop_methods[] = {{"changed", loop_changed, NULL, 0},
                                              {"cycle", loop_cycle, NULL, 0}};

const struct builtin *builtin_find(const struct builtin *table, size_t n, struct val name)
{
    for (size_t lo = 0; lo < n;) { /* tables are sorted by name */
        size_t mid = lo + (n - lo) / 2, k = strlen(table[mid].name);
        int d = memcmp(name.s, table[mid].name, k < name.n ? k : name.n);
        if (d == 0 && k == name.n) return &table[mid];
        if (d > 0 || (d == 0 && name.n > k)) {
            lo = mid + 1;
        } else {
            n = mid;
        }
    }
    return NULL;
}

const struct builtin *method_find(enum kind kind, struct val name)
{
    if (name.kind != V_STR) return NULL;
    switch (kind) {
    case V_STR: return str_method_find(name);
    case V_LIST: return builtin_find(list_methods, sizeof list_methods / sizeof *list_methods, name);
    case V_DICT: return builtin_find(dict_methods, sizeof dict_methods / sizeof *dict_methods, name);
    case V_LOOP: return builtin_find(loop_methods, sizeof loop_methods / sizeof *loop_methods, name);
    case V_TUPLE:
        if (val_is(name, "index")) return &list_methods[3];
        return val_is(name, "count") ? &list_methods[1] : NULL;
    default: return NULL;
    }
}
