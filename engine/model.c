#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "bind.h"
#include "defaults.h"
#include "json.h"
#include "meta.h"
#include "quant_cache.h"
#include "utf8.h"

#define MAX_CONFIG (16u << 20)

static int parse_dtype(const char *name, enum dtype *out, struct err *e)
{
    static const struct {
        const char *name;
        enum dtype type;
    } types[] = {{"auto", DT_COUNT},    {"float32", DT_F32}, {"float", DT_F32},
                 {"bfloat16", DT_BF16}, {"float16", DT_F16}, {"half", DT_F16}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!name || !strcmp(name, types[i].name)) {
            *out = types[i].type;
            return 0;
        }
    return err_param(e, ERR_INVALID, "dtype", "dtype: must be auto, float32, float16 or bfloat16");
}

/* The last part of the path, without .gguf: what clients call the model. */
static void name_model(const char *path, char *out, size_t size)
{
    char real[4096];
    if (!realpath(path, real)) snprintf(real, sizeof real, "%s", path);
    const char *base = strrchr(real, '/') ? strrchr(real, '/') + 1 : real;
    size_t n = strlen(base);
    if (n > 5 && !strcmp(base + n - 5, ".gguf")) n -= 5;
    if (n >= size) n = size - 1;
    if (!n || !utf8_valid(base, n)) base = "model", n = 5;
    memcpy(out, base, n);
    out[n] = 0;
}

/* The type that the checkpoint is computed in: the one dummy weights take. */
static enum dtype config_dtype(const cJSON *config)
{
    const char *t = json_get_cstr(config, "dtype");
    if (!t) t = json_get_cstr(config, "torch_dtype");
    if (t && !strcmp(t, "float32")) return DT_F32;
    return t && !strcmp(t, "float16") ? DT_F16 : DT_BF16;
}

/* The copies are of whole matrices. The first rank makes them, the others find them (or, on another machine,
 * make their own). */
static int apply_cache(const struct model *m, struct store *s, const struct quant_cache *c, struct err *e)
{
    if (m->comm && m->split.rank && comm_barrier(m->comm, e)) return e->code;
    int rc = quant_cache_apply(s, c, e);
    return !rc && m->comm && !m->split.rank ? comm_barrier(m->comm, e) : rc;
}

/* Everything is checked, and the type of each matrix known, before work begins that may take minutes. */
static int bind_quantised(const struct model_options *o, struct bind *b)
{
    const struct quant_cache cache = {.dir = o->quant_cache, .pool = o->pool, .cancel = o->cancel};
    struct bind check = *b;
    struct model *m = b->m;
    struct arch whole = m->arch;
    if (split_arch(&whole, m->be ? m->be->rank : 0, m->be ? m->be->size : 1, &m->split, &m->arch, b->e))
        return b->e->code;
    m->whole = whole;
    if (b->recipe && b->be && !o->dummy) {
        check.be = NULL;
        if (bind_weights(&check) || apply_cache(m, b->store, &cache, b->e)) return b->e->code;
        bind_undo(&check);
    }
    store_use_pool(b->store, o->pool);
    return bind_weights(b);
}

static int load_folder(const char *dir, const struct model_options *o, struct model *m, struct bind *b,
                       struct err *e)
{
    char path[4096];
    cJSON *config = NULL;
    int rc;
    snprintf(path, sizeof path, "%s/config.json", dir);
    if ((rc = json_load(path, MAX_CONFIG, &config, e))) return rc;
    if (describe_hf(config, &m->arch, e)) {
        rc = err_prefix(e, "%s: ", path);
        goto out;
    }
    if ((rc = defaults_load_hf(dir, m, e)) || (rc = template_load_hf(dir, &m->chat_template, e))) goto out;
    if (!o->no_tokenizer &&
        (rc = tok_load_hf(o->tokenizer && *o->tokenizer ? o->tokenizer : dir, &m->tok, e)))
        goto out;
    rc = o->dummy ? store_open_dummy(o->dummy_seed, config_dtype(config), &b->store, e)
                  : store_open_folder(dir, &b->store, e);
    if (!rc && (rc = bind_quantised(o, b))) err_prefix(e, "%s: ", dir);
out:
    cJSON_Delete(config);
    return rc;
}

static int load_gguf(const char *path, const struct model_options *o, struct model *m, struct bind *b,
                     struct err *e)
{
    struct gguf *g = NULL;
    int rc;
    if (o->dummy)
        return err_param(e, ERR_UNSUPPORTED, "load-format", "%s: dummy weights need a Hugging Face folder",
                         path);
    uint64_t identity = store_identity(0, path);
    if ((rc = gguf_open(path, &g, e))) return rc;
    b->gguf = true;
    if ((rc = describe_gguf(g, &m->arch, e)) || (rc = template_load_gguf(g, &m->chat_template, e)) ||
        (rc = o->no_tokenizer                 ? 0
              : o->tokenizer && *o->tokenizer ? tok_load_hf(o->tokenizer, &m->tok, e)
                                              : tok_load_gguf(g, &m->tok, e)) ||
        (rc = store_open_gguf(g, &b->store, e)))
        err_prefix(e, "%s: ", path);
    if (!rc) {
        store_set_identity(b->store, identity);
        if ((rc = bind_quantised(o, b))) err_prefix(e, "%s: ", path);
    }
    store_close(b->store); /* it points into g */
    b->store = NULL;
    gguf_close(g);
    return rc;
}

/* The tokenizer's own end tokens count too where the file's metadata is thin: always in GGUF, else if there
 * are none. */
static void add_tokenizer_eos(struct model *m, bool gguf)
{
    int32_t id[ARCH_MAX_EOS];
    if (!m->tok || (!gguf && m->arch.n_eos)) return;
    arch_add_eos(&m->arch, tok_eos(m->tok));
    int n = tok_eog(m->tok, id, ARCH_MAX_EOS);
    for (int i = 0; i < n && i < ARCH_MAX_EOS; i++) arch_add_eos(&m->arch, id[i]);
}

int model_load(const char *path, struct backend *be, const struct model_options *o, struct model **out,
               struct err *e)
{
    struct model *m = calloc(1, sizeof *m);
    struct err own = {0};
    struct stat st;
    int rc;
    *out = NULL;
    if (!e) e = &own;
    if (!m) return err_set(e, ERR_NOMEM, "out of memory");
    m->be = be;
    m->comm = o->comm;
    gen_defaults_init(&m->gen);
    struct bind b = {.m = m, .be = o->metadata_only ? NULL : be, .cancel = o->cancel, .e = e};
    name_model(path, m->name, sizeof m->name);
    if ((rc = parse_dtype(o->dtype, &b.as, e)) || (rc = recipe_parse(o->quantization, &b.recipe, e)))
        goto out;
    if (stat(path, &st))
        rc = err_set(e, ERR_NOTFOUND, "%s: no such file or folder", path);
    else
        rc = S_ISDIR(st.st_mode) ? load_folder(path, o, m, &b, e) : load_gguf(path, o, m, &b, e);
    if (!rc) add_tokenizer_eos(m, b.gguf);
out:
    store_close(b.store);
    if (rc)
        model_free(m);
    else
        *out = m;
    return rc;
}

static void free_layer(struct model *m, struct layer_weights *w)
{
    struct weight *const matrices[] = {w->q, w->k, w->v, w->o, w->gate, w->up, w->down};
    float *const vectors[] = {w->attn_norm, w->attn_post_norm, w->ffn_norm, w->ffn_post_norm, w->q_norm,
                              w->k_norm,    w->q_bias,         w->k_bias,   w->v_bias,        w->o_bias};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        if (matrices[i]) m->be->ops->weight_free(m->be, matrices[i]);
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        if (vectors[i]) m->be->ops->mem_free(m->be, vectors[i]);
}

void model_free(struct model *m)
{
    if (!m) return;
    for (int l = 0; m->layer && l < m->arch.n_layer; l++) free_layer(m, &m->layer[l]);
    if (m->head && m->head != m->embed) m->be->ops->weight_free(m->be, m->head);
    if (m->embed) m->be->ops->weight_free(m->be, m->embed);
    if (m->final_norm) m->be->ops->mem_free(m->be, m->final_norm);
    free(m->layer);
    free(m->chat_template);
    if (m->tok) tok_free(m->tok);
    free(m);
}

void model_card(const struct model *m, struct buf *out)
{
    const struct arch *a = &m->whole;
    int windowed = 0, window = 0;
    for (int l = 0; l < a->n_layer; l++)
        if (a->layer[l].window) windowed++, window = a->layer[l].window;
    buf_fmt(out, "model        %s\n", m->name);
    buf_fmt(out, "architecture %s, %d layers, hidden %d, feed-forward %d\n", a->name, a->n_layer, a->dim,
            a->ffn_dim);
    buf_fmt(out, "attention    %d heads of %d, %d KV heads", a->n_head, a->head_dim, a->n_kv_head);
    if (windowed) buf_fmt(out, "; window %d on %d layers", window, windowed);
    buf_fmt(out, "\nvocabulary   %d%s\n", a->vocab, a->tied ? ", head tied to the embedding" : "");
    buf_fmt(out, "context      %d\n", a->max_ctx);
    buf_fmt(out, "parameters   %.1f M\n", (double)m->n_param * 1e-6);
    buf_fmt(out, "weights      %.1f MiB (%s)\n", (double)m->weight_bytes / 1048576, m->weight_types);
    buf_fmt(out, "template     %s\n", m->chat_template ? "yes" : "none");
}
