/* The tokenizer's inside. Filled by load_hf.c or load_gguf.c, read-only afterwards. */
#pragma once
#include "added.h"
#include "bpe.h"
#include "decode.h"
#include "text.h"
#include "tokenizer.h"

enum { TOK_MAX_VOCAB = 1 << 22, TOK_MAX_AFFIX = 16, TOK_MAX_EOG = 32, TOK_MAX_FILE = 256 << 20 };

struct tokenizer {
    struct bpe bpe;
    struct added *added; /* [n_added] */
    int n_added;
    struct dict added_name;     /* index into added <-> content */
    struct matcher raw, normal; /* added tokens found before and after normalisation */
    struct ops normalizer, pre;
    struct decoder decoder;
    uint8_t *special;     /* [n_id] skipped when decoding */
    uint8_t *literal;     /* [n_id] decoded as stored, or NULL: none is */
    bool normalized_name; /* some added token is decoded in its normalised form */
    size_t longest;       /* bytes of text that one id can stand for; 0: no limit */
    int32_t prefix[TOK_MAX_AFFIX], suffix[TOK_MAX_AFFIX];
    int n_prefix, n_suffix;
    int32_t bos, eos, eog[TOK_MAX_EOG];
    int n_eog;
};

/* Steps common to both loaders. */
struct tokenizer *tok_new(int n_id, struct err *e); /* the vocabulary's ids, all holes */
int tok_add(struct tokenizer *t, struct added a, const char *s, size_t n,
            struct err *e);                         /* the id's string is set */
int tok_finish(struct tokenizer *t, struct err *e); /* tables, matchers, end tokens */
int tok_index_decoder(struct tokenizer *t);
/* The form in which an added token that is matched after normalisation is decoded; false if id is no such
 * token. */
bool tok_normalized_name(const struct tokenizer *t, int32_t id, struct buf *out);

/* Builders of the operations, errors set; the string is copied. */
struct op *ops_add(struct ops *o, enum op_kind kind, struct err *e); /* NULL: too many */
int ops_add_split(struct ops *o, const char *regex, size_t n, enum op_behaviour b, bool invert,
                  struct err *e);
int ops_add_class(struct ops *o, char_class *is, enum op_behaviour b, struct err *e);
int ops_add_with(struct ops *o, enum op_kind kind, enum op_when when, const char *s, size_t n, struct err *e);
int ops_add_replace(struct ops *o, const char *from, size_t n_from, const char *to, size_t n_to,
                    struct err *e);
/* GPT-2's pre-tokenizer pattern, the default of ByteLevel. */
#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
