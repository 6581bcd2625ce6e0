/* Byte-pair merging: pairs of ids by rank (tokenizer.json, GGUF "gpt2"), or pieces of text by score (GGUF
 * "llama", which is SentencePiece). The model is read-only after loading; struct bpe_work belongs to one
 * call. */
#pragma once
#include "dict.h"
#include "err.h"
#include "vec.h"

enum {
    BPE_CHARS = 0x180, /* look-ups of the first code points go through a table */
    BPE_CLASSES = 1024,
};
struct bpe {
    struct dict vocab; /* every id has its string; only the model's own can be found */
    struct pairs merges;
    uint32_t *rank;             /* by score: [vocab.n_id] rank of the merged token; else NULL */
    int32_t char_id[BPE_CHARS]; /* code point -> id, -1 = none */
    int32_t byte_id[256];       /* "<0xNN>" -> id, -1 = none */
    int32_t unk;                /* -1 = none: the character is dropped */
    bool byte_fallback, fuse_unk, ignore_merges;
    /* Which characters stand side by side within some token that merging can make, [BPE_CLASSES][BPE_CLASSES]
     * bits over classes of characters: between others a text can be cut, and its parts merged one by one,
     * without changing the outcome. NULL: not used. */
    uint64_t *joint;
};

struct symbol {
    int32_t id;         /* -1: none (by score only), -2: merged away */
    int32_t prev, next; /* -1 at the ends */
    uint32_t off, len;  /* its text in the word */
};
struct merge {
    uint64_t key; /* rank << 32 | position: the smallest first */
    int32_t id;   /* what it gives: an entry is stale if the pair no longer gives this */
    uint32_t len; /* of the text it covers */
};
struct bpe_word; /* cache line */
struct bpe_work {
    struct symbol *sym;
    size_t n_sym, cap_sym;
    struct merge *heap; /* 4-ary */
    size_t n_heap, cap_heap;
    struct bpe_word *cache; /* [cache_mask + 1] recent words, direct mapped */
    uint32_t cache_mask;
};

int byte_token(const char *s, size_t n); /* "<0xNN>" -> NN, else -1 */
void bpe_free(struct bpe *m);
/* After the vocabulary is in: fills the tables. 0 or ERR_NOMEM. */
int bpe_index(struct bpe *m);
void bpe_work_init(struct bpe_work *w,
                   size_t text_len); /* a cache that suits the text; none if memory is short */
void bpe_work_free(struct bpe_work *w);
/* Appends the ids of s, valid UTF-8. 0 or ERR_NOMEM. */
int bpe_encode(const struct bpe *m, struct bpe_work *w, const char *s, size_t n, struct vec_i32 *out);
