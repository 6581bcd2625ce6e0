/* A model is this data. engine/models/NAME.c fills a struct arch from config.json or GGUF metadata; forward.c
 * runs every architecture through one layer loop. Each oddity is a field with a neutral default; a NULL
 * weight is an absent feature. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "ops.h"

#define ARCH_MAX_LAYERS 256
#define ARCH_MAX_EOS    16

enum qk_norm {
    QK_NORM_NONE,
    QK_NORM_HEAD,
    QK_NORM_ROW
}; /* none; per head (Qwen3, Gemma3); whole row (OLMo2) */

/* Where the RMS norms stand: before each branch (Llama), before and after (Gemma 2), or only after (OLMo 2).
 */
enum norm_place { NORM_PRE, NORM_BOTH, NORM_POST };

#define ROPE_MAX_HALF 512
struct rope_spec {
    enum rope_style style;
    int rot;                       /* rotated dimensions of a head */
    float mscale;                  /* attention factor of yarn / longrope, else 1 */
    float inv_freq[ROPE_MAX_HALF]; /* [rot/2] after scaling (linear, llama3, yarn, longrope) */
};
struct layer_spec {
    int window; /* 0 = full attention */
    int rope;   /* index into arch.rope */
};
struct arch {
    char name[32]; /* "llama", "gemma3" */
    int n_layer, dim, n_head, n_kv_head, head_dim, ffn_dim, vocab;
    int max_ctx; /* positions that the model was made for */
    float eps;
    float
        embed_scale; /* embeddings times this: sqrt(dim) in Gemma, embedding_multiplier in Granite; else 1 */
    float resid_scale;         /* each branch times this before it is added; else 1 */
    float attn_scale;          /* usually 1/sqrt(head_dim) */
    float logit_scale;         /* logits times this; else 1 */
    float attn_cap, logit_cap; /* soft caps, 0 = none */
    enum act act;
    enum qk_norm qk_norm;
    enum norm_place norm_place;
    bool qkv_bias, o_bias;
    bool tied; /* the LM head is the embedding table */
    int n_rope;
    struct rope_spec rope[2];
    int rope_long; /* contexts longer than this take rope 1 in place of rope 0 (longrope); 0 = off */
    struct layer_spec layer[ARCH_MAX_LAYERS];
    int bos; /* -1 = none */
    int n_eos, eos[ARCH_MAX_EOS];
    /* how the file stores the weights */
    bool fused;        /* q, k, v in one matrix, gate and up in another, rows in this order (Phi 3) */
    float norm_offset; /* added to every norm weight: 1 in Gemma's Hugging Face files */
};

/* How the KV cache is laid out for this model: layers of equal spec in groups of equal size, so that one
 * block pool serves all. Layer l lives in group group_of[l], slot slot_of[l]. */
#define KV_LAYOUT_MAX_GROUPS 64 /* as KV_MAX_GROUPS of kv.h */
struct kv_layout {
    int n_group, n_slot;              /* groups; layers in a group (the last group of a kind may be padded) */
    int window[KV_LAYOUT_MAX_GROUPS]; /* of each group, 0 = full */
    int group_of[ARCH_MAX_LAYERS], slot_of[ARCH_MAX_LAYERS];
};
int arch_check(const struct arch *a, struct err *e); /* ranges and consistency of a described model */
int arch_kv_layout(const struct arch *a, struct kv_layout *out, struct err *e);
