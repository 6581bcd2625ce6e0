/* What a model's file says about itself, in either dialect: config.json of a Hugging Face folder, or GGUF
 * metadata. Each value is asked for by both of its names. The first fault (absent, wrong type, out of range)
 * stays in `e` and ends all further reading, so that a description reads like a table. */
#pragma once
#include "arch.h"
#include "gguf.h"
#include "json.h"

struct meta {
    const cJSON *json;       /* the language model's part of config.json, or NULL */
    const cJSON *outer;      /* the whole of config.json */
    const struct gguf *gguf; /* or NULL */
    const char *prefix;      /* general.architecture, which begins most GGUF keys */
    struct err *e;
};

#define META_NEED INT64_MIN /* as default: the value must be there */
#define META_BIG  (1 << 26)

/* hf or gguf may be NULL: the dialect has no such key, so the default holds. GGUF keys go without prefix. */
int meta_int(struct meta *m, const char *hf, const char *gguf, int min, int max, int64_t dflt);
float meta_num(struct meta *m, const char *hf, const char *gguf, double min, double max, double dflt);
bool meta_bool(struct meta *m, const char *hf, bool dflt);
const char *meta_key(const struct meta *m, const char *gguf, char out[128]); /* with prefix */
/* A message in m->e, unless there is one already. */
void meta_fail(struct meta *m, int code, const char *key, const char *what);

/* Bricks of descriptions, for engine/models/NAME.c. Values already set in *a are defaults. */
void describe_decoder(struct meta *m, struct arch *a); /* sizes, activation, biases, special tokens, rope 0 */
void describe_rope(struct meta *m, struct arch *a, int index, const char *layer_type, double theta);
void describe_rope_plain(struct arch *a, int index, double theta); /* whole heads, no scaling */
/* Sliding windows: of every layer, or, where full_every is given, of all but each full_every-th;
 * `layer_types` and the pattern keys of both dialects override it. Windowed layers take rope `rope`. */
void describe_windows(struct meta *m, struct arch *a, int full_every, int window, int rope);

struct model_def {
    const char *name;
    const char *gguf;  /* general.architecture, NULL = none of its own */
    const char *hf[3]; /* `architectures` in config.json */
    void (*describe)(struct meta *m, struct arch *a);
};
const struct model_def *model_by_gguf(const char *name, size_t n);
const struct model_def *model_by_hf(const char *architecture);
void model_list(struct buf *out, bool gguf); /* "llama, qwen2": for messages */

/* Fills *a completely and checks it. Errors name the key. */
int describe_hf(const cJSON *config, struct arch *a, struct err *e);
int describe_gguf(const struct gguf *g, struct arch *a, struct err *e);
