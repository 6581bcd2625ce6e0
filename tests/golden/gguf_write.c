#include "gguf_write.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "json.h"
#include "safetensors.h"

static void put(struct buf *b, uint64_t v, int bytes) { buf_add(b, &v, (size_t)bytes); }

static void put_str(struct buf *b, const char *s)
{
    put(b, strlen(s), 8);
    buf_str(b, s);
}

static void put_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    put_str(&w->kv, key);
    put(&w->kv, type, 4);
    w->n_kv++;
}

void gw_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    put_key(w, key, 4);
    put(&w->kv, v, 4);
}

void gw_f32(struct gguf_writer *w, const char *key, double v)
{
    float f = (float)v;
    put_key(w, key, 6);
    buf_add(&w->kv, &f, 4);
}

void gw_str(struct gguf_writer *w, const char *key, const char *v)
{
    put_key(w, key, 8);
    put_str(&w->kv, v);
}

void gw_tensor(struct gguf_writer *w, const char *name, enum dtype type, const int64_t dim[2],
               const float *values)
{
    static const unsigned char code[] = {
        [DT_F32] = 0, [DT_F16] = 1, [DT_BF16] = 30, [DT_Q8_0] = 8, [DT_Q4_0] = 2};
    int64_t row = dim[1] ? dim[1] : dim[0], n_row = dim[1] ? dim[0] : 1;
    size_t bytes = dtype_row_bytes(type, row);
    put_str(&w->info, name);
    put(&w->info, dim[1] ? 2 : 1, 4);
    put(&w->info, (uint64_t)row, 8);
    if (dim[1]) put(&w->info, (uint64_t)n_row, 8);
    put(&w->info, code[type], 4);
    put(&w->info, w->data.len, 8);
    for (int64_t i = 0; i < n_row && !buf_reserve(&w->data, bytes); i++) {
        if (type == DT_F32)
            memcpy(w->data.data + w->data.len, values + i * row, bytes);
        else
            dtype_from_f32(type, values + i * row, w->data.data + w->data.len, row);
        w->data.len += bytes;
    }
    while (w->data.len % 32) buf_chr(&w->data, 0);
    w->n_tensor++;
}

void gw_bytes(struct gguf_writer *w, struct buf *out)
{
    buf_str(out, "GGUF");
    put(out, 3, 4);
    put(out, w->n_tensor, 8);
    put(out, w->n_kv, 8);
    buf_add(out, w->kv.data, w->kv.len);
    buf_add(out, w->info.data, w->info.len);
    while (out->len % 32) buf_chr(out, 0);
    buf_add(out, w->data.data, w->data.len);
    buf_free(&w->kv);
    buf_free(&w->info);
    buf_free(&w->data);
}

static int save(struct gguf_writer *w, const char *path, struct err *e)
{
    struct buf b = {0};
    FILE *f = fopen(path, "wb");
    gw_bytes(w, &b);
    bool ok = f && fwrite(b.data, b.len, 1, f) == 1;
    if (f && fclose(f)) ok = false;
    buf_free(&b);
    return ok ? 0 : err_set(e, ERR_IO, "%s: cannot write", path);
}

/* ------------------------------------------------------------------------------------- conversion */

static const char *const layer_names[][2] = {{"input_layernorm", "attn_norm"},
                                             {"post_attention_layernorm", "post_attention_norm"},
                                             {"pre_feedforward_layernorm", "ffn_norm"},
                                             {"post_feedforward_layernorm", "post_ffw_norm"},
                                             {"self_attn.q_proj", "attn_q"},
                                             {"self_attn.k_proj", "attn_k"},
                                             {"self_attn.v_proj", "attn_v"},
                                             {"self_attn.o_proj", "attn_output"},
                                             {"self_attn.qkv_proj", "attn_qkv"},
                                             {"self_attn.q_norm", "attn_q_norm"},
                                             {"self_attn.k_norm", "attn_k_norm"},
                                             {"mlp.gate_proj", "ffn_gate"},
                                             {"mlp.up_proj", "ffn_up"},
                                             {"mlp.down_proj", "ffn_down"},
                                             {"mlp.gate_up_proj", "ffn_up"}};

struct conversion {
    const char *arch; /* general.architecture */
    bool permute, both_norms, norm_plus_one, post_norm;
    int n_head, n_kv_head;
};

static void gguf_name(const struct conversion *c, const char *hf, char *out, size_t n)
{
    int layer, at = 0;
    const char *dot = strrchr(hf, '.'); /* .weight or .bias */
    if (sscanf(hf, "model.layers.%d.%n", &layer, &at) != 1) {
        snprintf(out, n, "%s.weight",
                 !strcmp(hf, "model.norm.weight") ? "output_norm"
                 : !strcmp(hf, "lm_head.weight")  ? "output"
                                                  : "token_embd");
        return;
    }
    for (size_t i = 0; i < sizeof layer_names / sizeof *layer_names; i++) {
        size_t k = strlen(layer_names[i][0]);
        if (strncmp(hf + at, layer_names[i][0], k) || hf + at + k != dot) continue;
        bool llama_ffn = i == 1 && !c->both_norms && !c->post_norm;
        snprintf(out, n, "blk.%d.%s%s", layer, llama_ffn ? "ffn_norm" : layer_names[i][1], dot);
    }
}

/* Rows of each head from halves (i, i + half) to neighbours (2i, 2i + 1). */
static void permute(float *x, int64_t rows, int64_t cols, int n_head)
{
    int64_t hd = rows / n_head, half = hd / 2;
    float *copy = malloc((size_t)(rows * cols) * sizeof *copy);
    memcpy(copy, x, (size_t)(rows * cols) * sizeof *copy);
    for (int64_t h = 0; h < n_head; h++)
        for (int64_t i = 0; i < hd; i++) {
            int64_t to = i < half ? 2 * i : 2 * (i - half) + 1;
            memcpy(x + (h * hd + to) * cols, copy + (h * hd + i) * cols, (size_t)cols * sizeof *x);
        }
    free(copy);
}

static void convert_tensor(struct gguf_writer *w, const struct conversion *c, const struct safetensor *t,
                           enum dtype type)
{
    int64_t dim[2] = {t->dim[0], t->n_dim > 1 ? t->dim[1] : 0}, cols = dim[1] ? dim[1] : 1, n = dim[0] * cols;
    char name[128] = "";
    float *x = malloc((size_t)n * sizeof *x);
    dtype_to_f32(t->type, t->data, x, n);
    gguf_name(c, t->name, name, sizeof name);
    if (c->permute && strstr(t->name, "q_proj")) permute(x, dim[0], cols, c->n_head);
    if (c->permute && strstr(t->name, "k_proj")) permute(x, dim[0], cols, c->n_kv_head);
    for (int64_t i = 0; c->norm_plus_one && strstr(t->name, "norm") && i < n; i++) x[i] += 1;
    gw_tensor(w, name, dim[1] ? type : DT_F32, dim, x);
    free(x);
}

static double num(const cJSON *c, const char *key, double dflt)
{
    const cJSON *v = json_get(c, key);
    return v ? v->valuedouble : dflt;
}

/* Llama 3's scaling as the table of divisors that the converter writes. */
static void llama3_factors(struct gguf_writer *w, const cJSON *rope, int head_dim)
{
    float f[256];
    double orig = num(rope, "original_max_position_embeddings", 0), factor = num(rope, "factor", 0),
           lo = num(rope, "low_freq_factor", 0), hi = num(rope, "high_freq_factor", 0);
    for (int i = 0; i < head_dim / 2; i++) {
        double wave = 2 * M_PI * pow(num(rope, "rope_theta", 0), 2.0 * i / head_dim);
        double smooth = (orig / wave - lo) / (hi - lo);
        f[i] = (float)(wave < orig / hi   ? 1
                       : wave > orig / lo ? factor
                                          : 1 / ((1 - smooth) / factor + smooth));
    }
    gw_tensor(w, "rope_freqs.weight", DT_F32, (int64_t[2]){head_dim / 2, 0}, f);
}

struct key {
    const char *hf, *gguf;
};

static void convert_config(struct gguf_writer *w, const struct conversion *c, const cJSON *j)
{
    static const struct key ints[] = {{"num_hidden_layers", "block_count"},
                                      {"hidden_size", "embedding_length"},
                                      {"intermediate_size", "feed_forward_length"},
                                      {"num_attention_heads", "attention.head_count"},
                                      {"num_key_value_heads", "attention.head_count_kv"},
                                      {"max_position_embeddings", "context_length"},
                                      {"head_dim", "attention.key_length"},
                                      {"head_dim", "attention.value_length"},
                                      {"sliding_window", "attention.sliding_window"}};
    static const struct key floats[] = {{"rms_norm_eps", "attention.layer_norm_rms_epsilon"},
                                        {"embedding_multiplier", "embedding_scale"},
                                        {"residual_multiplier", "residual_scale"},
                                        {"attention_multiplier", "attention.scale"},
                                        {"logits_scaling", "logit_scale"},
                                        {"attn_logit_softcapping", "attn_logit_softcapping"},
                                        {"final_logit_softcapping", "final_logit_softcapping"}};
    const cJSON *rope = json_get(j, "rope_parameters"), *full = json_get(rope, "full_attention");
    char key[128];
    gw_str(w, "general.architecture", c->arch);
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        snprintf(key, sizeof key, "%s.%s", c->arch, ints[i].gguf);
        if (json_get(j, ints[i].hf)) gw_u32(w, key, (uint32_t)num(j, ints[i].hf, 0));
    }
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        snprintf(key, sizeof key, "%s.%s", c->arch, floats[i].gguf);
        if (json_get(j, floats[i].hf)) gw_f32(w, key, num(j, floats[i].hf, 0));
    }
    snprintf(key, sizeof key, "%s.rope.freq_base", c->arch);
    gw_f32(w, key, num(full ? full : rope, "rope_theta", 10000));
    const char *type = json_get_cstr(rope, "rope_type");
    if (type && !strcmp(type, "llama3")) llama3_factors(w, rope, (int)num(j, "head_dim", 0));
}

int gguf_convert(const char *dir, const char *path, enum dtype type, struct err *e)
{
    char file[512];
    cJSON *j = NULL;
    struct safetensors *s = NULL;
    struct gguf_writer w = {0};
    snprintf(file, sizeof file, "%s/config.json", dir);
    if (json_load(file, 1 << 20, &j, e)) return e->code;
    snprintf(file, sizeof file, "%s/model.safetensors", dir);
    if (safetensors_open(file, &s, e)) return e->code;
    const char *mt = json_get_cstr(j, "model_type");
    bool llama = !strcmp(mt, "llama") || !strcmp(mt, "mistral"), gemma = !strncmp(mt, "gemma", 5);
    struct conversion c = {.arch = llama                        ? "llama"
                                   : !strcmp(mt, "gemma3_text") ? "gemma3"
                                                                : mt,
                           .permute = llama || !strcmp(mt, "granite"),
                           .both_norms = gemma,
                           .norm_plus_one = gemma,
                           .post_norm = !strcmp(mt, "olmo2"),
                           .n_head = (int)num(j, "num_attention_heads", 0),
                           .n_kv_head = (int)num(j, "num_key_value_heads", 0)};
    convert_config(&w, &c, j);
    for (int i = 0; i < safetensors_count(s); i++) convert_tensor(&w, &c, safetensors_at(s, i), type);
    safetensors_close(s);
    cJSON_Delete(j);
    return save(&w, path, e);
}
