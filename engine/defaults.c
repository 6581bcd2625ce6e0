#include "defaults.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "file.h"
#include "json.h"
#include "utf8.h"

#define MAX_CONFIG   (16u << 20)
#define MAX_TEMPLATE (1u << 20)

void gen_defaults_init(struct gen_defaults *g)
{
    *g = (struct gen_defaults){.temperature = NAN,
                               .top_p = NAN,
                               .min_p = NAN,
                               .repetition_penalty = NAN,
                               .top_k = -1,
                               .max_new_tokens = -1};
}

void arch_add_eos(struct arch *a, int id)
{
    if (id < 0 || id >= a->vocab || a->n_eos == ARCH_MAX_EOS) return;
    for (int i = 0; i < a->n_eos; i++)
        if (a->eos[i] == id) return;
    a->eos[a->n_eos++] = id;
}

static void read_float(const cJSON *j, const char *key, double min, double max, float *out, struct err *e)
{
    double v;
    if (!e->code && json_get_num(j, key, min, max, &v, e)) *out = (float)v;
}

static void read_int(const cJSON *j, const char *key, int64_t max, int *out, struct err *e)
{
    int64_t v;
    if (!e->code && json_get_int(j, key, 0, max, &v, e)) *out = (int)v;
}

static void read_eos(const cJSON *j, struct arch *a, struct err *e)
{
    const cJSON *eos = json_get(j, "eos_token_id"), *id = cJSON_IsArray(eos) ? eos->child : eos;
    for (; id && !e->code; id = cJSON_IsArray(eos) ? id->next : NULL)
        if (!cJSON_IsNumber(id) || !(id->valuedouble >= 0 && id->valuedouble < a->vocab))
            err_param(e, ERR_INVALID, "eos_token_id", "eos_token_id: must be tokens of the vocabulary");
        else
            arch_add_eos(a, (int)id->valuedouble);
}

int defaults_load_hf(const char *dir, struct model *m, struct err *e)
{
    char path[4096];
    cJSON *j = NULL;
    struct gen_defaults *g = &m->gen;
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    if (access(path, F_OK)) return 0;
    if (json_load(path, MAX_CONFIG, &j, e)) return e->code;
    e->code = 0;
    read_float(j, "temperature", 0, 100, &g->temperature, e);
    read_float(j, "top_p", 1e-6, 1, &g->top_p, e);
    read_float(j, "min_p", 0, 1, &g->min_p, e);
    read_float(j, "repetition_penalty", 1e-3, 100, &g->repetition_penalty, e);
    read_int(j, "top_k", INT32_MAX, &g->top_k, e);
    read_int(j, "max_new_tokens", INT32_MAX, &g->max_new_tokens, e);
    read_eos(j, &m->arch, e);
    cJSON_Delete(j);
    return e->code ? err_prefix(e, "%s: ", path) : 0;
}

/* A template travels through C strings, so it must be UTF-8 without NUL. */
static int keep(const char *s, size_t n, const char *what, char **out, struct err *e)
{
    if (n > MAX_TEMPLATE || memchr(s, 0, n) || !utf8_valid(s, n))
        return err_set(e, ERR_FORMAT, "%s: the chat template is larger than 1 MiB or no UTF-8 text", what);
    *out = strndup(s, n);
    return *out ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

/* A string, or a list of {name, template} of which "default" is taken. */
static const char *template_of(const cJSON *config)
{
    const cJSON *t = json_get(config, "chat_template"), *x;
    if (!cJSON_IsArray(t)) return cJSON_GetStringValue(t);
    cJSON_ArrayForEach(x, t)
    {
        const char *name = json_get_cstr(x, "name");
        if (name && !strcmp(name, "default")) return json_get_cstr(x, "template");
    }
    return NULL;
}

int template_load_hf(const char *dir, char **out, struct err *e)
{
    static const char *const files[] = {"tokenizer_config.json", "chat_template.json"};
    char path[4096];
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    if (!access(path, F_OK)) {
        struct buf b = {0};
        int rc = file_read(path, MAX_TEMPLATE, &b, e);
        if (!rc) rc = keep(b.data ? b.data : "", b.len, path, out, e);
        buf_free(&b);
        return rc;
    }
    for (int i = 0; i < 2; i++) {
        cJSON *j = NULL;
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        if (access(path, F_OK)) continue;
        if (json_load(path, MAX_CONFIG, &j, e)) return e->code;
        const char *t = template_of(j);
        int rc = t ? keep(t, strlen(t), path, out, e) : 0;
        cJSON_Delete(j);
        if (rc || *out) return rc;
    }
    return 0;
}

int template_load_gguf(const struct gguf *g, char **out, struct err *e)
{
    struct gguf_str t;
    return gguf_string(g, "tokenizer.chat_template", &t) ? keep(t.s, t.n, "tokenizer.chat_template", out, e)
                                                         : 0;
}
