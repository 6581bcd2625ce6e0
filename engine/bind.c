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
    const struct arch *a; /* the whole model: the shapes in the file */
    const struct split *split;
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
    if (b->be && total && !b->m->split.rank) /* the other ranks load the same at the same time */
        log_progress("loading weights", (long long)(used < total ? used : total - 1), (long long)total);
}

static void matrix_named(struct binder *x, const struct matrix_spec *s, struct weight **out)
{
    struct bind *b = x->b;
    if (stopped(x)) return;
    if (store_matrix(b->store, b->be, s, out, b->e)) {
        if (b->m->split.size > 1) err_prefix(b->e, "--tensor-parallel-size %d: ", b->m->split.size);
        return;
    }
    if (*out) b->m->weight_bytes += b->be->ops->weight_info(*out).bytes;
    progress(b);
}

/* The type that a plain matrix becomes. */
static enum dtype type_of(const struct binder *x, const char *gguf, int n_in)
{
    const struct arch *a = x->a;
    enum dtype t = recipe_type(x->b->recipe, a, gguf, x->layer, n_in);
    return t == DT_COUNT ? x->b->as : t;
}

/* The rank's share of the weight that is rows [first, first + rows.n) of a matrix [n_out][cols.n]. */
static void part(struct binder *x, const char *hf, const char *gguf, int n_out, int first, struct share rows,
                 struct share cols, struct weight **out)
{
    char name[160];
    name_of(x, hf, gguf, "weight", name);
    enum dtype as = type_of(x, gguf, cols.n);
    matrix_named(
        x, &(struct matrix_spec){name, n_out, cols.n, first + rows.at, rows.take, as, cols.at, cols.take},
        out);
    x->b->m->n_param += (int64_t)rows.n * cols.n;
}

static void matrix(struct binder *x, const char *hf, const char *gguf, struct share rows, struct share cols,
                   struct weight **out)
{
    part(x, hf, gguf, rows.n, 0, rows, cols, out);
}

static void vector(struct binder *x, const char *hf, const char *gguf, const char *tail, struct share s,
                   float offset, float **out)
{
    char name[160];
    struct bind *b = x->b;
    float *host;
    size_t bytes = (size_t)s.take * sizeof(float);
    name_of(x, hf, gguf, tail, name);
    if (stopped(x) || store_vector(b->store, name, s.n, offset, !b->be || !bytes, &host, b->e)) return;
    if (b->be && bytes && !b->be->ops->mem_alloc(b->be, bytes, (void **)out, b->e))
        b->be->ops->mem_write(b->be, *out, host + s.at, bytes);
    free(host);
    b->m->n_param += s.n;
    b->m->weight_bytes += bytes;
}

static void norm(struct binder *x, const char *hf, const char *gguf, int n, float **out)
{
    vector(x, hf, gguf, "weight", share_all(n), x->a->norm_offset, out);
}

static void bias(struct binder *x, const char *hf, const char *gguf, struct share s, float **out)
{
    vector(x, hf, gguf, "bias", s, 0, out);
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
    struct share q = x->split->q, kv = x->split->kv, dim = share_all(a->dim);
    bool row = a->qk_norm == QK_NORM_ROW;
    if (a->fused) {
        int n_out = q.n + 2 * kv.n;
        part(x, "self_attn.qkv_proj", "attn_qkv", n_out, 0, q, dim, &w->q);
        part(x, "self_attn.qkv_proj", "attn_qkv", n_out, q.n, kv, dim, &w->k);
        part(x, "self_attn.qkv_proj", "attn_qkv", n_out, q.n + kv.n, kv, dim, &w->v);
    } else {
        matrix(x, "self_attn.q_proj", "attn_q", q, dim, &w->q);
        matrix(x, "self_attn.k_proj", "attn_k", kv, dim, &w->k);
        matrix(x, "self_attn.v_proj", "attn_v", kv, dim, &w->v);
    }
    matrix(x, "self_attn.o_proj", "attn_output", dim, q, &w->o);
    if (a->qk_norm) norm(x, "self_attn.q_norm", "attn_q_norm", row ? q.n : a->head_dim, &w->q_norm);
    if (a->qk_norm) norm(x, "self_attn.k_norm", "attn_k_norm", row ? kv.n : a->head_dim, &w->k_norm);
    if (a->qkv_bias) bias(x, "self_attn.q_proj", "attn_q", q, &w->q_bias);
    if (a->qkv_bias) bias(x, "self_attn.k_proj", "attn_k", kv, &w->k_bias);
    if (a->qkv_bias) bias(x, "self_attn.v_proj", "attn_v", kv, &w->v_bias);
    /* the ranks' outputs are added: one of them has the bias */
    if (x->split->rank) dim.take = 0;
    if (a->o_bias) bias(x, "self_attn.o_proj", "attn_output", dim, &w->o_bias);
}

static void bind_ffn(struct binder *x, struct layer_weights *w)
{
    struct share ffn = x->split->ffn, dim = share_all(x->a->dim);
    if (x->a->fused) {
        part(x, "mlp.gate_up_proj", "ffn_up", 2 * ffn.n, 0, ffn, dim, &w->gate);
        part(x, "mlp.gate_up_proj", "ffn_up", 2 * ffn.n, ffn.n, ffn, dim, &w->up);
    } else {
        matrix(x, "mlp.gate_proj", "ffn_gate", ffn, dim, &w->gate);
        matrix(x, "mlp.up_proj", "ffn_up", ffn, dim, &w->up);
    }
    matrix(x, "mlp.down_proj", "ffn_down", dim, ffn, &w->down);
}

static void bind_ends(struct binder *x)
{
    struct model *m = x->b->m;
    const struct arch *a = x->a;
    struct share vocab = x->split->vocab;
    matrix(x, "embed_tokens", "token_embd", vocab, share_all(a->dim), &m->embed);
    norm(x, "norm", "output_norm", a->dim, &m->final_norm);
    if (a->tied) {
        m->head = m->embed;
        return;
    }
    const char *name = x->b->gguf ? "output.weight" : x->prefix->head;
    enum dtype as = type_of(x, "output", a->dim);
    matrix_named(x, &(struct matrix_spec){name, vocab.n, a->dim, vocab.at, vocab.take, as, 0, 0}, &m->head);
    m->n_param += (int64_t)vocab.n * a->dim;
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
    struct binder x = {.b = b, .prefix = prefixes, .a = &m->whole, .split = &m->split, .layer = -1};
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
    if (!b->e->code && b->be && store_total_bytes(b->store) && !m->split.rank)
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
