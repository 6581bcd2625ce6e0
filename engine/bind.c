#include "bind.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "log.h"

/* A Hugging Face wrapper around the language model moves its tensors. */
static const struct prefix {
    const char *body, *head;
} prefixes[] = {
    {"model.", "lm_head.weight"},
    {"language_model.model.", "language_model.lm_head.weight"},
    {"model.language_model.", "lm_head.weight"},
};

struct binder {
    struct bind *b;
    const struct prefix *prefix;
    const struct arch *a;
    int layer; /* -1 = outside of the layers */
};

static bool stopped(struct binder *x)
{
    struct bind *b = x->b;
    if (!b->e->code && b->cancel && *b->cancel) err_set(b->e, ERR_CLOSED, "loading was given up");
    return b->e->code != 0;
}

static void name_of(const struct binder *x, const char *hf, const char *gguf, const char *tail, char out[160])
{
    if (x->b->gguf && x->layer >= 0)
        snprintf(out, 160, "blk.%d.%s.%s", x->layer, gguf, tail);
    else if (x->b->gguf)
        snprintf(out, 160, "%s.%s", gguf, tail);
    else if (x->layer >= 0)
        snprintf(out, 160, "%slayers.%d.%s.%s", x->prefix->body, x->layer, hf, tail);
    else
        snprintf(out, 160, "%s%s.%s", x->prefix->body, hf, tail);
}

static void progress(struct bind *b)
{
    size_t total = store_total_bytes(b->store), used = store_used_bytes(b->store);
    if (b->be && total)
        log_progress("loading weights", (long long)(used < total ? used : total - 1), (long long)total);
}

static void matrix_named(struct binder *x, const struct matrix_spec *s, struct weight **out)
{
    struct bind *b = x->b;
    if (stopped(x) || store_matrix(b->store, b->be, s, out, b->e)) return;
    b->m->n_param += (int64_t)s->n_row * s->n_in;
    if (*out) b->m->weight_bytes += b->be->ops->weight_info(*out).bytes;
    progress(b);
}

/* The type that a plain matrix becomes. */
static enum dtype type_of(const struct binder *x, const char *gguf, int n_in)
{
    const struct arch *a = x->a;
    enum dtype t = recipe_type(x->b->recipe, gguf, x->layer, a->n_layer, a->tied, n_in);
    return t == DT_COUNT ? x->b->as : t;
}

/* Rows [row, row + n_row) of a matrix [n_out][n_in]. */
static void rows(struct binder *x, const char *hf, const char *gguf, int n_out, int n_in, int row, int n_row,
                 struct weight **out)
{
    char name[160];
    name_of(x, hf, gguf, "weight", name);
    matrix_named(x, &(struct matrix_spec){name, n_out, n_in, row, n_row, type_of(x, gguf, n_in)}, out);
}

static void matrix(struct binder *x, const char *hf, const char *gguf, int n_out, int n_in,
                   struct weight **out)
{
    rows(x, hf, gguf, n_out, n_in, 0, n_out, out);
}

static void vector(struct binder *x, const char *hf, const char *gguf, const char *tail, int n, float offset,
                   float **out)
{
    char name[160];
    struct bind *b = x->b;
    float *host;
    name_of(x, hf, gguf, tail, name);
    if (stopped(x) || store_vector(b->store, name, n, offset, !b->be, &host, b->e)) return;
    if (b->be && !b->be->ops->mem_alloc(b->be, (size_t)n * sizeof(float), (void **)out, b->e))
        b->be->ops->mem_write(b->be, *out, host, (size_t)n * sizeof(float));
    free(host);
    b->m->n_param += n;
    b->m->weight_bytes += (size_t)n * sizeof(float);
}

static void norm(struct binder *x, const char *hf, const char *gguf, int n, float **out)
{
    vector(x, hf, gguf, "weight", n, x->a->norm_offset, out);
}

static void bias(struct binder *x, const char *hf, const char *gguf, int n, float **out)
{
    vector(x, hf, gguf, "bias", n, 0, out);
}

/* The same Hugging Face name, post_attention_layernorm, stands for two different norms. */
static void bind_norms(struct binder *x, struct layer_weights *w)
{
    const struct arch *a = x->a;
    bool pre = a->norm_place != NORM_POST, post = a->norm_place != NORM_PRE;
    if (pre) norm(x, "input_layernorm", "attn_norm", a->dim, &w->attn_norm);
    if (pre)
        norm(x, post ? "pre_feedforward_layernorm" : "post_attention_layernorm", "ffn_norm", a->dim,
             &w->ffn_norm);
    if (post) norm(x, "post_attention_layernorm", "post_attention_norm", a->dim, &w->attn_post_norm);
    if (post) norm(x, "post_feedforward_layernorm", "post_ffw_norm", a->dim, &w->ffn_post_norm);
}

static void bind_attention(struct binder *x, struct layer_weights *w)
{
    const struct arch *a = x->a;
    int q = a->n_head * a->head_dim, kv = a->n_kv_head * a->head_dim;
    bool row = a->qk_norm == QK_NORM_ROW;
    if (a->fused) {
        rows(x, "self_attn.qkv_proj", "attn_qkv", q + 2 * kv, a->dim, 0, q, &w->q);
        rows(x, "self_attn.qkv_proj", "attn_qkv", q + 2 * kv, a->dim, q, kv, &w->k);
        rows(x, "self_attn.qkv_proj", "attn_qkv", q + 2 * kv, a->dim, q + kv, kv, &w->v);
    } else {
        matrix(x, "self_attn.q_proj", "attn_q", q, a->dim, &w->q);
        matrix(x, "self_attn.k_proj", "attn_k", kv, a->dim, &w->k);
        matrix(x, "self_attn.v_proj", "attn_v", kv, a->dim, &w->v);
    }
    matrix(x, "self_attn.o_proj", "attn_output", a->dim, q, &w->o);
    if (a->qk_norm) norm(x, "self_attn.q_norm", "attn_q_norm", row ? q : a->head_dim, &w->q_norm);
    if (a->qk_norm) norm(x, "self_attn.k_norm", "attn_k_norm", row ? kv : a->head_dim, &w->k_norm);
    if (a->qkv_bias) bias(x, "self_attn.q_proj", "attn_q", q, &w->q_bias);
    if (a->qkv_bias) bias(x, "self_attn.k_proj", "attn_k", kv, &w->k_bias);
    if (a->qkv_bias) bias(x, "self_attn.v_proj", "attn_v", kv, &w->v_bias);
    if (a->o_bias) bias(x, "self_attn.o_proj", "attn_output", a->dim, &w->o_bias);
}

static void bind_ffn(struct binder *x, struct layer_weights *w)
{
    const struct arch *a = x->a;
    if (a->fused) {
        rows(x, "mlp.gate_up_proj", "ffn_up", 2 * a->ffn_dim, a->dim, 0, a->ffn_dim, &w->gate);
        rows(x, "mlp.gate_up_proj", "ffn_up", 2 * a->ffn_dim, a->dim, a->ffn_dim, a->ffn_dim, &w->up);
    } else {
        matrix(x, "mlp.gate_proj", "ffn_gate", a->ffn_dim, a->dim, &w->gate);
        matrix(x, "mlp.up_proj", "ffn_up", a->ffn_dim, a->dim, &w->up);
    }
    matrix(x, "mlp.down_proj", "ffn_down", a->dim, a->ffn_dim, &w->down);
}

static void bind_ends(struct binder *x)
{
    struct model *m = x->b->m;
    const struct arch *a = x->a;
    matrix(x, "embed_tokens", "token_embd", a->vocab, a->dim, &m->embed);
    norm(x, "norm", "output_norm", a->dim, &m->final_norm);
    if (a->tied) {
        m->head = m->embed;
        return;
    }
    const char *name = x->b->gguf ? "output.weight" : x->prefix->head;
    enum dtype as = type_of(x, "output", a->dim);
    matrix_named(x, &(struct matrix_spec){name, a->vocab, a->dim, 0, a->vocab, as}, &m->head);
}

/* Parts of the file that are no part of the language model: the head's copy where it is tied, and the image
 * side of multimodal models. */
static bool not_ours(const char *name, void *ctx)
{
    static const char *const other[] = {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                                        "model.multi_modal_projector."};
    const struct binder *x = ctx;
    if (x->b->gguf) return false;
    if (x->a->tied && !strcmp(name, x->prefix->head)) return true;
    for (size_t i = 0; x->prefix != prefixes && i < sizeof other / sizeof *other; i++)
        if (!strncmp(name, other[i], strlen(other[i]))) return true;
    return false;
}

int bind_weights(struct bind *b)
{
    struct model *m = b->m;
    struct binder x = {.b = b, .prefix = prefixes, .a = &m->arch, .layer = -1};
    char probe[160];
    for (size_t i = 0; !b->gguf && i < sizeof prefixes / sizeof *prefixes; i++) {
        snprintf(probe, sizeof probe, "%sembed_tokens.weight", prefixes[i].body);
        if (store_find(b->store, probe)) x.prefix = &prefixes[i];
    }
    m->layer = calloc((size_t)m->arch.n_layer, sizeof *m->layer);
    if (!m->layer) return err_set(b->e, ERR_NOMEM, "out of memory");
    b->e->code = 0;
    bind_ends(&x);
    for (x.layer = 0; x.layer < m->arch.n_layer && !b->e->code; x.layer++) {
        bind_norms(&x, &m->layer[x.layer]);
        bind_attention(&x, &m->layer[x.layer]);
        bind_ffn(&x, &m->layer[x.layer]);
    }
    if (!b->e->code) store_check_leftover(b->store, not_ours, &x, b->e);
    if (!b->e->code && b->be && store_total_bytes(b->store))
        log_progress("loading weights", (long long)store_total_bytes(b->store),
                     (long long)store_total_bytes(b->store));
    store_types(b->store, m->weight_types, sizeof m->weight_types);
    if (!b->be) m->weight_bytes += store_matrix_bytes(b->store); /* the vectors are counted already */
    return b->e->code;
}

void bind_undo(struct bind *b)
{
    free(b->m->layer);
    b->m->layer = NULL;
    b->m->weight_bytes = 0;
    b->m->n_param = 0;
    store_restart(b->store);
}
