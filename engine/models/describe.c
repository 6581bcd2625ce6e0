#include <math.h>
#include <stdio.h>
#include <string.h>
#include "meta.h"

static void describe_sizes(struct meta *m, struct arch *a)
{
    int64_t need = META_NEED;
    a->n_layer =
        meta_int(m, "num_hidden_layers", "block_count", 1, ARCH_MAX_LAYERS, a->n_layer ? a->n_layer : need);
    a->dim = meta_int(m, "hidden_size", "embedding_length", 1, META_BIG, a->dim ? a->dim : need);
    a->ffn_dim =
        meta_int(m, "intermediate_size", "feed_forward_length", 1, META_BIG, a->ffn_dim ? a->ffn_dim : need);
    a->n_head =
        meta_int(m, "num_attention_heads", "attention.head_count", 1, META_BIG, a->n_head ? a->n_head : need);
    if (m->e->code) return;
    a->n_kv_head = meta_int(m, "num_key_value_heads", "attention.head_count_kv", 1, META_BIG,
                            a->n_kv_head ? a->n_kv_head : a->n_head);
    a->head_dim = meta_int(m, "head_dim", "attention.key_length", 1, META_BIG,
                           a->head_dim && m->json ? a->head_dim : a->dim / a->n_head);
    if (meta_int(m, NULL, "attention.value_length", 1, META_BIG, a->head_dim) != a->head_dim)
        meta_fail(m, ERR_UNSUPPORTED, "attention.value_length",
                  "keys and values of different sizes are not supported");
    a->max_ctx = meta_int(m, "max_position_embeddings", "context_length", 1, INT32_MAX,
                          a->max_ctx ? a->max_ctx : need);
    a->eps = meta_num(m, "rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-12, 0.1, 1e-6);
    a->attn_scale = 1.0f / sqrtf((float)a->head_dim);
}

static void describe_act(struct meta *m, struct arch *a)
{
    static const struct {
        const char *name;
        enum act act;
    } acts[] = {
        {"silu", ACT_SILU},          {"swish", ACT_SILU},          {"gelu_pytorch_tanh", ACT_GELU_TANH},
        {"gelu_new", ACT_GELU_TANH}, {"gelu_tanh", ACT_GELU_TANH}, {"gelu", ACT_GELU},
        {"relu", ACT_RELU}};
    const char *name = json_get_cstr(m->json, "hidden_activation");
    if (!name) name = json_get_cstr(m->json, "hidden_act");
    if (!name) return;
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (!strcmp(name, acts[i].name)) {
            a->act = acts[i].act;
            return;
        }
    meta_fail(m, ERR_UNSUPPORTED, "hidden_act", "must be silu, gelu, gelu_pytorch_tanh, gelu_new or relu");
}

static void add_eos(struct meta *m, struct arch *a, const char *key, double id)
{
    if (!(id >= 0 && id < a->vocab) || id != floor(id))
        meta_fail(m, ERR_INVALID, key, "is not a token of the vocabulary");
    else if (a->n_eos < ARCH_MAX_EOS)
        a->eos[a->n_eos++] = (int)id;
    else
        meta_fail(m, ERR_UNSUPPORTED, key, "has too many entries");
}

/* Token ids of config.json; multimodal wrappers keep them outside of text_config. */
static void describe_tokens_hf(struct meta *m, struct arch *a)
{
    const cJSON *bos = json_get(m->json, "bos_token_id"), *eos = json_get(m->json, "eos_token_id"), *id;
    if (!bos) bos = json_get(m->outer, "bos_token_id");
    if (!eos) eos = json_get(m->outer, "eos_token_id");
    a->bos = -1;
    if (cJSON_IsNumber(bos))
        a->bos = bos->valuedouble >= 0 && bos->valuedouble < a->vocab ? (int)bos->valuedouble : a->vocab;
    if (cJSON_IsNumber(eos))
        add_eos(m, a, "eos_token_id", eos->valuedouble);
    else if (cJSON_IsArray(eos))
        cJSON_ArrayForEach(id, eos) add_eos(m, a, "eos_token_id", cJSON_IsNumber(id) ? id->valuedouble : -1);
    else if (eos)
        meta_fail(m, ERR_INVALID, "eos_token_id", "must be an integer or a list of them");
}

static void describe_tokens_gguf(struct meta *m, struct arch *a)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};
    int64_t id;
    a->bos = gguf_int(m->gguf, "tokenizer.ggml.bos_token_id", &id) && id >= 0 && id < a->vocab ? (int)id : -1;
    for (int i = 0; i < 2; i++)
        if (gguf_int(m->gguf, keys[i], &id)) add_eos(m, a, keys[i], (double)id);
}

/* What the metadata leave out can be seen from the tensors that are there. */
static void describe_gguf_tensors(struct meta *m, struct arch *a)
{
    const struct gguf_tensor *embed = gguf_tensor(m->gguf, "token_embd.weight");
    if (!embed) {
        meta_fail(m, ERR_FORMAT, "token_embd.weight", "the tensor is missing");
        return;
    }
    a->vocab = (int)embed->dim[1];
    a->tied = !gguf_tensor(m->gguf, "output.weight");
    a->qkv_bias = gguf_tensor(m->gguf, "blk.0.attn_q.bias") != NULL;
    a->o_bias = gguf_tensor(m->gguf, "blk.0.attn_output.bias") != NULL;
}

void describe_decoder(struct meta *m, struct arch *a)
{
    describe_sizes(m, a);
    if (m->e->code) return;
    if (m->gguf) {
        describe_gguf_tensors(m, a);
        describe_tokens_gguf(m, a);
    } else {
        a->vocab = meta_int(m, "vocab_size", NULL, 1, META_BIG, a->vocab ? a->vocab : META_NEED);
        a->tied = meta_bool(m, "tie_word_embeddings", a->tied);
        a->qkv_bias = a->o_bias = meta_bool(m, "attention_bias", false);
        if (meta_bool(m, "mlp_bias", false))
            meta_fail(m, ERR_UNSUPPORTED, "mlp_bias", "biases in the feed-forward part are not supported");
        describe_act(m, a);
        describe_tokens_hf(m, a);
    }
    describe_rope(m, a, 0, "full_attention", 10000);
}

/* "sliding_attention" and "full_attention", one for each layer. */
static void windows_by_name(struct meta *m, struct arch *a, const cJSON *types, int window, int rope)
{
    const cJSON *t;
    int i = 0;
    if (!cJSON_IsArray(types) || cJSON_GetArraySize(types) != a->n_layer) {
        meta_fail(m, ERR_INVALID, "layer_types", "must be a list with one entry for each layer");
        return;
    }
    cJSON_ArrayForEach(t, types)
    {
        const char *s = cJSON_IsString(t) ? t->valuestring : "";
        if (!strcmp(s, "sliding_attention"))
            a->layer[i] = (struct layer_spec){window, rope};
        else if (strcmp(s, "full_attention"))
            meta_fail(m, ERR_UNSUPPORTED, "layer_types",
                      "only full_attention and sliding_attention are supported");
        i++;
    }
}

void describe_windows(struct meta *m, struct arch *a, int full_every, int window, int rope)
{
    const cJSON *types = json_get(m->json, "layer_types");
    const struct gguf_kv *pattern;
    char key[128];
    window = meta_int(m, "sliding_window", "attention.sliding_window", 0, INT32_MAX, window);
    if (m->e->code || !window) return;
    if (types) {
        windows_by_name(m, a, types, window, rope);
        return;
    }
    full_every = meta_int(m, "_sliding_window_pattern", NULL, 0, ARCH_MAX_LAYERS, full_every);
    full_every = meta_int(m, "sliding_window_pattern", NULL, 0, ARCH_MAX_LAYERS, full_every);
    pattern = m->gguf ? gguf_find(m->gguf, meta_key(m, "attention.sliding_window_pattern", key)) : NULL;
    if (pattern && pattern->type != GGUF_ARRAY)
        full_every = meta_int(m, NULL, "attention.sliding_window_pattern", 0, ARCH_MAX_LAYERS, 0);
    else if (pattern && (pattern->elem != GGUF_BOOL || pattern->n < (uint64_t)a->n_layer))
        meta_fail(m, ERR_INVALID, key, "must be a number, or a list with a bool for each layer");
    if (m->e->code) return;
    for (int i = 0; i < a->n_layer; i++) {
        bool full = pattern && pattern->type == GGUF_ARRAY ? !gguf_array_int(pattern, (uint64_t)i)
                                                           : full_every && (i + 1) % full_every == 0;
        if (!full) a->layer[i] = (struct layer_spec){window, rope};
    }
}
