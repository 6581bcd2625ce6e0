/* A loaded model: its data, packed weights, tokenizer and defaults. Immutable after model_load; any thread
 * may read. Of a model that several ranks compute, the weights are this rank's share (split.h). */
#pragma once
#include "buf.h"
#include "comm.h"
#include "split.h"
#include "tokenizer.h"

struct layer_weights { /* NULL = the architecture has no such weight; vectors are in the back end's memory */
    float *attn_norm, *attn_post_norm, *ffn_norm, *ffn_post_norm; /* [dim] */
    float *q_norm, *k_norm;                                       /* [head_dim] or whole row */
    struct weight *q, *k, *v, *o, *gate, *up, *down;
    float *q_bias, *k_bias, *v_bias, *o_bias;
};
struct gen_defaults { /* from generation_config.json; NAN or -1 = not given */
    float temperature, top_p, min_p, repetition_penalty;
    int top_k, max_new_tokens;
};
struct model {
    struct arch arch;            /* as this rank computes it: its heads, its feed-forward rows */
    struct arch whole;           /* as the files describe it */
    struct split split;          /* this rank's shares of it */
    struct backend *be;          /* borrowed; says which rank this is */
    struct comm *comm;           /* borrowed: the way to the other ranks; NULL = there are none */
    struct weight *embed, *head; /* head == embed when tied */
    float *final_norm;
    struct layer_weights *layer; /* [n_layer] */
    struct tokenizer *tok;
    char *chat_template; /* Jinja source or NULL */
    struct gen_defaults gen;
    char name[128];        /* last part of the path, or general.name */
    char weight_types[64]; /* "Q8_0 Q4_K F32": for the model card */
    size_t weight_bytes;   /* packed; of this rank */
    int64_t n_param;       /* of the whole model */
};
struct model_options {
    bool metadata_only; /* inferd check: validate every file and tensor, load no weight */
    bool dummy; /* --load-format dummy: random weights at the config's shape; no weight files needed */
    uint64_t dummy_seed;
    const char *dtype; /* "auto", or "float32", "bfloat16", "float16": format of plain weights in memory */
    const char *quantization;   /* of plain matrices: "q8", "q4" (recipe.c), or NULL */
    const char *quant_cache;    /* folder where the quantised matrices are kept, or NULL */
    struct pool *pool;          /* quantises, or NULL */
    const char *tokenizer;      /* another folder for the tokenizer, or NULL */
    bool no_tokenizer;          /* a rank that only computes needs none: tok stays NULL */
    struct comm *comm;          /* of the rank that be is, or NULL */
    const volatile int *cancel; /* set to non-zero by another thread to give up loading, or NULL */
};
/* path: a GGUF file or a Hugging Face folder. Errors name the file and tensor or key. */
int model_load(const char *path, struct backend *be, const struct model_options *o, struct model **out,
               struct err *e);
void model_free(struct model *m);
void model_card(const struct model *m, struct buf *out); /* human-readable, several lines */
