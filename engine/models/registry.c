#include <stdio.h>
#include <string.h>
#include "meta.h"
#include "utf8.h"

/* A new architecture is a file beside this one and a line in each of these two lists. */
extern const struct model_def model_llama, model_mistral, model_qwen2, model_qwen3, model_gemma2,
    model_gemma3, model_phi3, model_olmo2, model_granite;

static const struct model_def *const models[] = {&model_llama, &model_mistral, &model_qwen2,
                                                 &model_qwen3, &model_gemma2,  &model_gemma3,
                                                 &model_phi3,  &model_olmo2,   &model_granite};
#define N_MODEL (sizeof models / sizeof *models)

const struct model_def *model_by_gguf(const char *name, size_t n)
{
    for (size_t i = 0; i < N_MODEL; i++)
        if (models[i]->gguf && strlen(models[i]->gguf) == n && !memcmp(models[i]->gguf, name, n))
            return models[i];
    return NULL;
}

const struct model_def *model_by_hf(const char *architecture)
{
    for (size_t i = 0; i < N_MODEL; i++)
        for (int k = 0; k < 3 && models[i]->hf[k]; k++)
            if (!strcmp(models[i]->hf[k], architecture)) return models[i];
    return NULL;
}

void model_list(struct buf *out, bool gguf)
{
    for (size_t i = 0; i < N_MODEL; i++) {
        const char *name = gguf ? models[i]->gguf : models[i]->hf[0];
        if (name) buf_fmt(out, "%s%s", out->len ? ", " : "", name);
    }
}

static int unknown(const char *key, const char *name, size_t n, bool gguf, struct err *e)
{
    struct buf list = {0};
    model_list(&list, gguf);
    if (!utf8_valid(name, n > 64 ? n = 64 : n)) name = "", n = 0;
    err_param(e, ERR_UNSUPPORTED, key, "%s: %.*s is not supported; these are: %s", key, (int)n, name,
              list.data ? list.data : "");
    buf_free(&list);
    return e->code;
}

static int describe(const struct model_def *d, struct meta *m, struct arch *a)
{
    *a = (struct arch){.embed_scale = 1, .resid_scale = 1, .logit_scale = 1, .bos = -1};
    d->describe(m, a);
    snprintf(a->name, sizeof a->name, "%s", d->name);
    return m->e->code ? m->e->code : arch_check(a, m->e);
}

int describe_hf(const cJSON *config, struct arch *a, struct err *e)
{
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(json_get(config, "architectures"), 0));
    const cJSON *text = json_get(config, "text_config");
    struct meta m = {.json = text ? text : config, .outer = config, .prefix = "", .e = e};
    if (!name)
        return err_param(e, ERR_INVALID, "architectures", "architectures: must name the model's class");
    if (text && !cJSON_IsObject(text))
        return err_param(e, ERR_INVALID, "text_config", "text_config: must be an object");
    if (json_get(config, "quantization_config") || json_get(m.json, "quantization_config"))
        return err_param(
            e, ERR_UNSUPPORTED, "quantization_config",
            "quantization_config: quantised Hugging Face models are not supported; use a GGUF file");
    e->code = 0;
    const struct model_def *d = model_by_hf(name);
    return d ? describe(d, &m, a) : unknown("architectures", name, strlen(name), false, e);
}

int describe_gguf(const struct gguf *g, struct arch *a, struct err *e)
{
    struct meta m = {.gguf = g, .e = e};
    struct gguf_str name;
    int64_t split;
    if (!gguf_string(g, "general.architecture", &name))
        return err_param(e, ERR_FORMAT, "general.architecture", "general.architecture: is missing");
    if (gguf_int(g, "split.count", &split) && split > 1)
        return err_param(e, ERR_UNSUPPORTED, "split.count",
                         "split.count: a model split over several GGUF files; merge them first");
    e->code = 0;
    const struct model_def *d = model_by_gguf(name.s, name.n);
    if (!d) return unknown("general.architecture", name.s, name.n, true, e);
    m.prefix = d->gguf;
    return describe(d, &m, a);
}
