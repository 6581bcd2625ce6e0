/* Rotary frequencies of the scaling methods in use, from either dialect. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "meta.h"

enum kind { KIND_DEFAULT, KIND_LINEAR, KIND_LLAMA3, KIND_YARN, KIND_LONG };
struct conf {
    enum kind kind;
    double theta, factor, low, high, beta_fast, beta_slow, mscale, orig;
    bool truncate;
};

static bool parse_kind(struct meta *m, const char *key, const char *name, size_t n, enum kind *out)
{
    static const struct {
        const char *name;
        enum kind kind;
    } kinds[] = {{"default", KIND_DEFAULT}, {"none", KIND_DEFAULT}, {"linear", KIND_LINEAR},
                 {"llama3", KIND_LLAMA3},   {"yarn", KIND_YARN},    {"longrope", KIND_LONG},
                 {"su", KIND_LONG}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (n == strlen(kinds[i].name) && !memcmp(name, kinds[i].name, n)) {
            *out = kinds[i].kind;
            return true;
        }
    meta_fail(m, ERR_UNSUPPORTED, key,
              "rope type must be default, linear, llama3, yarn or longrope (dynamic is not supported)");
    return false;
}

/* YaRN, Peng et al. 2023: low frequencies are interpolated, high ones kept, with a ramp between the
 * dimensions that turn beta_slow and beta_fast times in the original context. */
static void fill_yarn(const struct conf *c, int rot, float *inv)
{
    double two_ln = 2 * log(c->theta);
    double low = rot * log(c->orig / (c->beta_fast * 2 * M_PI)) / two_ln;
    double high = rot * log(c->orig / (c->beta_slow * 2 * M_PI)) / two_ln;
    if (c->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, rot - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < rot / 2; i++) {
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        inv[i] = (float)(inv[i] * (1 - ramp) + inv[i] / c->factor * ramp);
    }
}

/* Llama 3.1: wavelengths beyond orig / low are interpolated, those below orig / high kept, a blend between.
 */
static void fill_llama3(const struct conf *c, int rot, float *inv)
{
    for (int i = 0; i < rot / 2; i++) {
        double turns = c->orig * inv[i] / (2 * M_PI); /* orig / wavelength */
        double keep = fmin(fmax((turns - c->low) / (c->high - c->low), 0), 1);
        inv[i] = (float)(inv[i] * keep + inv[i] / c->factor * (1 - keep));
    }
}

static void fill(const struct conf *c, struct rope_spec *r)
{
    r->mscale = (float)c->mscale;
    for (int i = 0; i < r->rot / 2; i++) r->inv_freq[i] = (float)pow(c->theta, -2.0 * i / r->rot);
    if (c->kind == KIND_LLAMA3) fill_llama3(c, r->rot, r->inv_freq);
    if (c->kind == KIND_YARN) fill_yarn(c, r->rot, r->inv_freq);
    for (int i = 0; c->kind == KIND_LINEAR && i < r->rot / 2; i++) r->inv_freq[i] /= (float)c->factor;
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* Attention factors where the file gives none. LongRoPE: Ding et al. 2024. */
static double default_mscale(const struct conf *c, double mscale, double all_dim)
{
    if (c->kind == KIND_YARN && mscale > 0 && all_dim > 0)
        return yarn_mscale(c->factor, mscale) / yarn_mscale(c->factor, all_dim);
    if (c->kind == KIND_YARN) return yarn_mscale(c->factor, 1);
    if (c->kind == KIND_LONG && c->factor > 1) return sqrt(1 + log(c->factor) / log(c->orig));
    return 1;
}

/* LongRoPE has two tables of divisors: rope 0 becomes the short one, rope 1 the long one. */
static void fill_long(struct meta *m, struct arch *a, const struct conf *c, const cJSON *rope)
{
    static const char *const hf[] = {"short_factor", "long_factor"};
    static const char *const names[] = {"rope_factors_short.weight", "rope_factors_long.weight"};
    int half = a->rope[0].rot / 2;
    a->n_rope = 2;
    a->rope_long = (int)c->orig;
    a->rope[1].rot = a->rope[0].rot;
    for (int t = 0; t < 2; t++) {
        const cJSON *list = json_get(rope, hf[t]), *x = cJSON_IsArray(list) ? list->child : NULL;
        const struct gguf_tensor *g = m->gguf ? gguf_tensor(m->gguf, names[t]) : NULL;
        fill(c, &a->rope[t]);
        if (m->gguf ? !g || g->type != DT_F32 || g->bytes != (size_t)half * 4
                    : !x || cJSON_GetArraySize(list) != half) {
            meta_fail(m, ERR_INVALID, m->gguf ? names[t] : hf[t],
                      "must have a number for each pair of rotated dimensions");
            return;
        }
        for (int i = 0; i < half; i++, x = x ? x->next : NULL) {
            float f = 0;
            if (g)
                memcpy(&f, (const char *)g->data + (size_t)i * 4, 4);
            else if (cJSON_IsNumber(x))
                f = (float)x->valuedouble;
            if (!(f > 1e-3f && f < 1e6f))
                meta_fail(m, ERR_INVALID, m->gguf ? names[t] : hf[t], "has a divisor out of range");
            a->rope[t].inv_freq[i] /= f;
        }
    }
}

/* A number of the rope object, or else of the configuration around it. */
static double hf_num(struct meta *m, const cJSON *rope, const char *key, double min, double max, double dflt)
{
    if (m->e->code) return dflt;
    if (!json_get_num(rope, key, min, max, &dflt, m->e) && !m->e->code)
        json_get_num(m->json, key, min, max, &dflt, m->e);
    return dflt;
}

/* transformers 5 has `rope_parameters`, perhaps one for each layer type; older files `rope_theta`,
 * `rope_scaling`. */
static const cJSON *hf_rope(const struct meta *m, const char *layer_type)
{
    const cJSON *rope = json_get(m->json, "rope_parameters"), *nested = json_get(rope, layer_type);
    if (nested) return nested;
    return rope ? rope : json_get(m->json, "rope_scaling");
}

static void conf_hf(struct meta *m, struct arch *a, const cJSON *rope, struct conf *c)
{
    const char *key = "rope_type", *type = json_get_cstr(rope, key);
    double mscale, all_dim;
    if (!type) type = json_get_cstr(rope, key = "type");
    if (type && !parse_kind(m, key, type, strlen(type), &c->kind)) return;
    c->theta = hf_num(m, rope, "rope_theta", 1.0001, 1e15, c->theta);
    if (c->kind == KIND_DEFAULT) return;
    c->orig = hf_num(m, rope, "original_max_position_embeddings", 2, META_BIG, a->max_ctx);
    c->factor = hf_num(m, rope, "factor", 1e-3, 1e6, c->kind == KIND_LONG ? a->max_ctx / c->orig : 0);
    if (c->kind == KIND_LONG) c->factor = a->max_ctx / c->orig; /* as transformers has it */
    c->low = hf_num(m, rope, "low_freq_factor", 1e-3, 1e6, 1);
    c->high = hf_num(m, rope, "high_freq_factor", 1e-3, 1e6, 4);
    c->beta_fast = hf_num(m, rope, "beta_fast", 1e-3, 1e6, 32);
    c->beta_slow = hf_num(m, rope, "beta_slow", 1e-3, 1e6, 1);
    mscale = hf_num(m, rope, "mscale", 0, 1e3, 0);
    all_dim = hf_num(m, rope, "mscale_all_dim", 0, 1e3, 0);
    if (!m->e->code) json_get_bool(rope, "truncate", &c->truncate, m->e);
    c->mscale = hf_num(m, rope, "attention_factor", 1e-3, 1e3, default_mscale(c, mscale, all_dim));
    if (c->kind == KIND_YARN && a->max_ctx <= c->orig && c->orig * c->factor < META_BIG)
        a->max_ctx = (int)(c->orig * c->factor); /* some files keep the length before scaling */
}

static void conf_gguf(struct meta *m, struct arch *a, struct conf *c)
{
    char key[128];
    struct gguf_str type;
    c->theta = meta_num(m, NULL, "rope.freq_base", 1.0001, 1e15, c->theta);
    if (gguf_string(m->gguf, meta_key(m, "rope.scaling.type", key), &type) &&
        !parse_kind(m, key, type.s, type.n, &c->kind))
        return;
    c->factor = meta_num(m, NULL, "rope.scaling.factor", 1e-3, 1e6, 0);
    if (c->kind == KIND_DEFAULT && !gguf_find(m->gguf, key) && c->factor > 0 && c->factor != 1)
        c->kind = KIND_LINEAR;
    if (gguf_tensor(m->gguf, "rope_factors_long.weight")) c->kind = KIND_LONG;
    c->orig = meta_num(m, NULL, "rope.scaling.original_context_length", 2, META_BIG, a->max_ctx);
    if (c->kind == KIND_LONG) c->factor = a->max_ctx / c->orig;
    c->beta_fast = meta_num(m, NULL, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32);
    c->beta_slow = meta_num(m, NULL, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1);
    c->mscale = meta_num(m, NULL, "rope.scaling.attn_factor", 1e-3, 1e3,
                         c->kind == KIND_YARN ? 1 : default_mscale(c, 0, 0));
    if (c->kind == KIND_YARN) c->mscale *= yarn_mscale(c->factor, 1); /* here the key comes on top */
}

/* Llama 3's scaling arrives in GGUF as a table of divisors. */
static void divide_gguf(struct meta *m, struct rope_spec *r)
{
    const struct gguf_tensor *g = gguf_tensor(m->gguf, "rope_freqs.weight");
    if (!g) return;
    if (g->type != DT_F32 || g->bytes != (size_t)r->rot / 2 * 4) {
        meta_fail(m, ERR_INVALID, "rope_freqs.weight",
                  "must have a float for each pair of rotated dimensions");
        return;
    }
    for (int i = 0; i < r->rot / 2; i++) {
        float f;
        memcpy(&f, (const char *)g->data + (size_t)i * 4, 4);
        if (!(f > 1e-3f && f < 1e6f))
            meta_fail(m, ERR_INVALID, "rope_freqs.weight", "has a divisor out of range");
        r->inv_freq[i] /= f;
    }
}

void describe_rope_plain(struct arch *a, int index, double theta)
{
    if (a->n_rope <= index) a->n_rope = index + 1;
    a->rope[index].rot = a->head_dim;
    if (a->head_dim <= 2 * ROPE_MAX_HALF) fill(&(struct conf){.theta = theta, .mscale = 1}, &a->rope[index]);
}

void describe_rope(struct meta *m, struct arch *a, int index, const char *layer_type, double theta)
{
    struct conf c = {.theta = theta, .mscale = 1, .low = 1, .high = 4, .truncate = true};
    struct rope_spec *r = &a->rope[index];
    const cJSON *rope = m->json ? hf_rope(m, layer_type) : NULL;
    if (m->e->code) return;
    if (a->n_rope <= index) a->n_rope = index + 1;
    r->rot = meta_int(m, NULL, "rope.dimension_count", 0, a->head_dim, a->head_dim);
    if (m->json) r->rot = (int)(a->head_dim * hf_num(m, rope, "partial_rotary_factor", 0, 1, 1));
    if (m->e->code || r->rot < 2 || r->rot % 2 || r->rot > 2 * ROPE_MAX_HALF) {
        meta_fail(m, ERR_UNSUPPORTED, "rotary dimensions", "must be an even number up to 1024");
        return;
    }
    if (m->json)
        conf_hf(m, a, rope, &c);
    else
        conf_gguf(m, a, &c);
    if (m->e->code) return;
    if (c.kind != KIND_DEFAULT && !(c.factor > 0))
        meta_fail(m, ERR_INVALID, "rope scaling factor", "is missing");
    else if (c.kind == KIND_LLAMA3 && !(c.low < c.high))
        meta_fail(m, ERR_INVALID, "low_freq_factor", "must be below high_freq_factor");
    else if (c.kind == KIND_LONG)
        fill_long(m, a, &c, rope);
    else
        fill(&c, r);
    if (m->gguf && c.kind != KIND_LONG) divide_gguf(m, r);
}
