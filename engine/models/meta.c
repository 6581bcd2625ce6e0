#include "meta.h"
#include <math.h>
#include <stdio.h>

void meta_fail(struct meta *m, int code, const char *key, const char *what)
{
    if (!m->e->code) err_param(m->e, code, key, "%s: %s", key, what);
}

const char *meta_key(const struct meta *m, const char *gguf, char out[128])
{
    snprintf(out, 128, "%s.%s", m->prefix, gguf);
    return out;
}

/* GGUF writes some values once per layer; one that differs between layers is none for us. */
static bool gguf_number(struct meta *m, const char *key, double *out)
{
    const struct gguf_kv *kv = gguf_find(m->gguf, key);
    if (!kv) return false;
    if (kv->elem == GGUF_STRING || kv->elem == GGUF_BOOL || !kv->n) {
        meta_fail(m, ERR_INVALID, key, "must be a number");
        return false;
    }
    *out = gguf_array_num(kv, 0);
    for (uint64_t i = 1; i < kv->n; i++)
        if (gguf_array_num(kv, i) != *out)
            return meta_fail(m, ERR_UNSUPPORTED, key, "differs between layers, which is not supported"),
                   false;
    return true;
}

/* The value under its name in this dialect. *key is the name for messages. */
static bool lookup(struct meta *m, const char *hf, const char *gguf, char buf[128], const char **key,
                   double *out)
{
    *key = m->json ? hf : gguf ? meta_key(m, gguf, buf) : NULL;
    if (!*key || m->e->code) return false;
    if (!m->json) return gguf_number(m, *key, out);
    return json_get_num(m->json, *key, -INFINITY, INFINITY, out, m->e);
}

float meta_num(struct meta *m, const char *hf, const char *gguf, double min, double max, double dflt)
{
    char buf[128], what[96];
    const char *key;
    double v;
    if (!lookup(m, hf, gguf, buf, &key, &v)) return (float)dflt;
    if (v >= min && v <= max) return (float)v;
    snprintf(what, sizeof what, "%g is not between %g and %g", v, min, max);
    meta_fail(m, ERR_INVALID, key, what);
    return (float)dflt;
}

int meta_int(struct meta *m, const char *hf, const char *gguf, int min, int max, int64_t dflt)
{
    char buf[128], what[96];
    const char *key;
    double v;
    if (!lookup(m, hf, gguf, buf, &key, &v)) {
        if (dflt != META_NEED) return (int)dflt;
        meta_fail(m, ERR_INVALID, key ? key : "metadata", "is missing");
        return 0;
    }
    if (v >= min && v <= max && v == floor(v)) return (int)v;
    snprintf(what, sizeof what, "%.17g is not a whole number between %d and %d", v, min, max);
    meta_fail(m, ERR_INVALID, key, what);
    return 0;
}

bool meta_bool(struct meta *m, const char *hf, bool dflt)
{
    if (m->json && !m->e->code) json_get_bool(m->json, hf, &dflt, m->e);
    return dflt;
}
