/* Truth, equality, order, and the containers. */
#include "value.h"
#include <math.h>
#include <string.h>
#include "ctx.h"
#include "utf8.h"

struct val val_cstr(const char *s) { return val_bytes(s, strlen(s)); }
bool val_is(struct val v, const char *s) { return v.n == strlen(s) && memcmp(v.s, s, v.n) == 0; }

int val_short(struct val v) { return (int)utf8_whole(v.s, v.n < 40 ? v.n : 40); }

bool val_truth(struct val v)
{
    switch ((enum kind)v.kind) {
    case V_MISSING:
    case V_UNDEF:
    case V_NONE: return false;
    case V_BOOL:
    case V_INT: return v.i != 0;
    case V_FLOAT: return v.f != 0;
    case V_STR: return v.n != 0;
    case V_LIST:
    case V_TUPLE: return v.list->n != 0;
    case V_DICT: return v.dict->n != 0;
    default: return true;
    }
}

static bool seq_eq(struct ctx *c, const struct list *a, const struct list *b)
{
    if (a->n != b->n || !ctx_enter(c)) return false;
    bool same = true;
    for (uint32_t i = 0; same && i < a->n && i < b->n; i++) same = val_eq(c, a->v[i], b->v[i]);
    c->depth--;
    return same;
}

static bool dict_eq(struct ctx *c, const struct dict *a, const struct dict *b)
{
    if (a->n != b->n || !ctx_enter(c)) return false;
    bool same = true;
    for (uint32_t i = 0; same && i < a->n; i++) {
        const struct val *v = dict_at(c, b, a->e[i].key);
        same = v && val_eq(c, a->e[i].v, *v);
    }
    c->depth--;
    return same;
}

bool val_eq(struct ctx *c, struct val a, struct val b)
{
    if (!ctx_step(c, 1)) return false;
    if (val_is_num(a) && val_is_num(b))
        return a.kind == V_FLOAT || b.kind == V_FLOAT ? val_num(a) == val_num(b) : a.i == b.i;
    if (a.kind != b.kind) return false;
    switch ((enum kind)a.kind) {
    case V_STR: return ctx_bytes(c, a.n) && val_same_str(a, b);
    case V_LIST:
    case V_TUPLE: return a.list == b.list || seq_eq(c, a.list, b.list);
    case V_DICT: return a.dict == b.dict || dict_eq(c, a.dict, b.dict);
    case V_NAMESPACE: return a.dict == b.dict;
    case V_LOOP: return a.loop == b.loop;
    case V_BUILTIN: return a.bound == b.bound;
    case V_MACRO: return a.macro == b.macro;
    default: return true; /* none, undefined, missing */
    }
}

int val_cmp(struct ctx *c, struct val a, struct val b)
{
    if (!ctx_step(c, 1)) return 0;
    if (val_is_integer(a) && val_is_integer(b)) return (a.i > b.i) - (a.i < b.i);
    if (val_is_num(a) && val_is_num(b)) {
        double x = val_num(a), y = val_num(b);
        return isnan(x) || isnan(y) ? CMP_UNORDERED : (x > y) - (x < y);
    }
    if (a.kind == V_STR && b.kind == V_STR) { /* byte order of UTF-8 is code point order */
        uint32_t n = a.n < b.n ? a.n : b.n;
        ctx_bytes(c, n);
        int d = n ? memcmp(a.s, b.s, n) : 0;
        return d ? (d > 0) - (d < 0) : (a.n > b.n) - (a.n < b.n);
    }
    if (val_is_seq(a) && a.kind == b.kind && ctx_enter(c)) {
        int d = 0;
        uint32_t i = 0;
        for (; !d && i < a.list->n && i < b.list->n; i++)
            if (!val_eq(c, a.list->v[i], b.list->v[i])) d = val_cmp(c, a.list->v[i], b.list->v[i]);
        c->depth--;
        return d ? d : (a.list->n > b.list->n) - (a.list->n < b.list->n);
    }
    ctx_fail(c, ERR_FORMAT, "values of these types have no order");
    return 0;
}

bool val_contains(struct ctx *c, struct val box, struct val x)
{
    switch ((enum kind)box.kind) {
    case V_STR:
        if (x.kind != V_STR) break;
        return ctx_bytes(c, box.n) && str_find(box, x) != NULL;
    case V_LIST:
    case V_TUPLE:
        for (uint32_t i = 0; i < box.list->n && !c->code; i++)
            if (val_eq(c, box.list->v[i], x)) return true;
        return false;
    case V_DICT: return dict_at(c, box.dict, x) != NULL;
    case V_UNDEF: return false;
    default: break;
    }
    ctx_fail(c, ERR_FORMAT, "'in' does not work on these types");
    return false;
}

struct val list_new(struct ctx *c, enum kind kind, uint32_t cap)
{
    struct list *l = ctx_alloc(c, sizeof *l);
    struct val *v = l && cap ? ctx_alloc(c, cap * sizeof *v) : NULL;
    if (!l || (cap && !v)) return val_none();
    *l = (struct list){v, 0, cap};
    return (struct val){.kind = (uint8_t)kind, .list = l};
}

void list_push(struct ctx *c, struct list *l, struct val v)
{
    if (!ctx_step(c, 1)) return;
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 4;
        struct val *grown =
            cap > l->cap ? arena_grow(&c->arena, l->v, l->n * sizeof v, cap * sizeof v) : NULL;
        if (!grown) {
            ctx_fail(c, ERR_BUDGET, "the template needs too much memory");
            return;
        }
        l->v = grown;
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

struct list val_iter(struct ctx *c, struct val v)
{
    struct val out = val_none();
    switch ((enum kind)v.kind) {
    case V_LIST:
    case V_TUPLE: return *v.list;
    case V_UNDEF: return (struct list){0};
    case V_DICT:
        out = list_new(c, V_LIST, v.dict->n);
        for (uint32_t i = 0; out.kind == V_LIST && i < v.dict->n && !c->code; i++)
            list_push(c, out.list, v.dict->e[i].key);
        break;
    case V_STR:
        out = list_new(c, V_LIST, 0);
        for (uint32_t i = 0, k; out.kind == V_LIST && i < v.n && !c->code; i += k) {
            for (k = 1; i + k < v.n && ((unsigned char)v.s[i + k] & 0xc0) == 0x80;) k++;
            list_push(c, out.list, val_bytes(v.s + i, k));
        }
        break;
    default: ctx_fail(c, ERR_FORMAT, "this value cannot be iterated over");
    }
    return out.kind == V_LIST ? *out.list : (struct list){0};
}

/* ---- dict ---- */

static uint32_t hash_bytes(const void *p, size_t n, uint32_t h)
{
    for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char *)p)[i]) * 16777619u;
    return h;
}

static uint32_t val_hash(struct ctx *c, struct val v)
{
    uint32_t h = 2166136261u;
    double d;
    switch ((enum kind)v.kind) {
    case V_STR: ctx_bytes(c, v.n); return hash_bytes(v.s, v.n, h);
    case V_BOOL:
    case V_INT:
    case V_FLOAT: /* equal numbers are equal keys whatever their type */
        d = val_num(v) + 0.0;
        return hash_bytes(&d, sizeof d, h);
    case V_TUPLE:
        if (!ctx_enter(c)) return 0;
        for (uint32_t i = 0; i < v.list->n && ctx_step(c, 1); i++) {
            uint32_t k = val_hash(c, v.list->v[i]);
            h = hash_bytes(&k, sizeof k, h);
        }
        c->depth--;
        return h;
    case V_LIST:
    case V_DICT: ctx_fail(c, ERR_FORMAT, "a list or dict cannot be a key"); return 0;
    default: return v.kind;
    }
}

struct val dict_new(struct ctx *c)
{
    struct dict *d = ctx_alloc(c, sizeof *d);
    if (!d) return val_none();
    *d = (struct dict){0};
    return (struct val){.kind = V_DICT, .dict = d};
}

enum { INDEX_FROM = 8 }; /* below so many entries a scan is as fast */

/* Entry number, or -1. Probes are paid for: keys chosen to collide use up the budget, not the time. */
static int64_t dict_find(struct ctx *c, const struct dict *d, struct val key, uint32_t hash)
{
    if (!d->n_index) {
        for (uint32_t i = 0; i < d->n; i++)
            if (d->e[i].hash == hash && val_eq(c, d->e[i].key, key)) return i;
        return -1;
    }
    for (uint32_t h = hash, k; (k = d->index[h & (d->n_index - 1)]) && ctx_step(c, 1); h++)
        if (d->e[k - 1].hash == hash && val_eq(c, d->e[k - 1].key, key)) return k - 1;
    return -1;
}

static void dict_index(struct ctx *c, struct dict *d)
{
    if (d->n_index) memset(d->index, 0, d->n_index * sizeof *d->index);
    for (uint32_t i = 0; d->n_index && i < d->n; i++) {
        uint32_t h = d->e[i].hash;
        while (d->index[h & (d->n_index - 1)] && ctx_step(c, 1)) h++;
        d->index[h & (d->n_index - 1)] = i + 1;
    }
}

static bool dict_grow(struct ctx *c, struct dict *d)
{
    uint32_t cap = d->cap ? d->cap * 2 : 4;
    struct entry *e = arena_grow(&c->arena, d->e, d->n * sizeof *e, cap * sizeof *e);
    uint32_t n_index = cap > INDEX_FROM ? cap * 2 : 0;
    uint32_t *index = e && n_index ? ctx_alloc(c, n_index * sizeof *index) : NULL;
    if (!e || (n_index && !index)) {
        ctx_fail(c, ERR_BUDGET, "the template needs too much memory");
        return false;
    }
    *d = (struct dict){e, d->n, cap, index, n_index};
    dict_index(c, d);
    return true;
}

void dict_set(struct ctx *c, struct dict *d, struct val key, struct val v)
{
    uint32_t hash = val_hash(c, key);
    int64_t at = dict_find(c, d, key, hash);
    if (c->code) return;
    if (at >= 0) {
        d->e[at].v = v;
        return;
    }
    if (d->n == d->cap && !dict_grow(c, d)) return;
    d->e[d->n++] = (struct entry){key, v, hash};
    if (!d->n_index) return;
    uint32_t h = hash;
    while (d->index[h & (d->n_index - 1)]) h++;
    d->index[h & (d->n_index - 1)] = d->n;
}

struct val *dict_at(struct ctx *c, const struct dict *d, struct val key)
{
    int64_t at = dict_find(c, d, key, val_hash(c, key));
    return at < 0 ? NULL : &d->e[at].v;
}

bool dict_pop(struct ctx *c, struct dict *d, struct val key, struct val *out)
{
    int64_t at = dict_find(c, d, key, val_hash(c, key));
    if (at < 0 || !ctx_step(c, d->n)) return false;
    *out = d->e[at].v;
    d->n--;
    memmove(d->e + at, d->e + at + 1, (d->n - (size_t)at) * sizeof *d->e);
    dict_index(c, d);
    return true;
}
