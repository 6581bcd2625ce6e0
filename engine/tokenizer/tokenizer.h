/* Text to token ids and back, exactly as the model's own tokenizer does. Immutable after load: any thread may
 * encode and decode at once. Linear time in the length of the text. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"
#include "vec.h"

enum {
    TOK_ADD_SPECIAL = 1, /* BOS, EOS and templates as the tokenizer's post-processor says */
    TOK_PARSE_SPECIAL =
        2, /* special tokens written in the text become their ids (always on in Hugging Face's) */
};
struct gguf;
struct tokenizer;

/* dir holds tokenizer.json, and perhaps tokenizer_config.json. Errors name file and key. */
int tok_load_hf(const char *dir, struct tokenizer **out, struct err *e);
int tok_parse_hf(const char *json, size_t n, const char *config_json, size_t n_config, struct tokenizer **out,
                 struct err *e); /* config_json may be NULL */
int tok_load_gguf(const struct gguf *g, struct tokenizer **out, struct err *e);
void tok_free(struct tokenizer *t);

int tok_vocab(const struct tokenizer *t); /* ids are < this; holes are possible */
int tok_bos(const struct tokenizer *t);   /* -1 = none */
int tok_eos(const struct tokenizer *t);
/* Every end-of-generation id that the tokenizer knows (eos, <|eot_id|>, <|im_end|>, <end_of_turn> ...). */
int tok_eog(const struct tokenizer *t, int32_t *out, int max);
bool tok_is_special(const struct tokenizer *t, int32_t id);
int32_t tok_find(const struct tokenizer *t, const char *piece,
                 size_t n); /* exact vocabulary entry, -1 = none */
/* Vocabulary text of an id ("<s>", byte-level pieces as stored); NULL for holes. */
const char *tok_token(const struct tokenizer *t, int32_t id, size_t *n);

/* Appends ids to out. s may hold any bytes; invalid UTF-8 is treated as U+FFFD. */
int tok_encode(const struct tokenizer *t, const char *s, size_t n, unsigned flags, struct vec_i32 *out,
               struct err *e);
/* A lower bound on the ids that any text of n bytes gives: a text that can never fit need not be encoded to
 * know it. 0 where the tokenizer may drop text. */
size_t tok_min_ids(const struct tokenizer *t, size_t n);
/* Whole text of ids, as the reference decoder gives it (leading-space rules included); appends to out. Always
 * valid UTF-8: each maximal invalid part becomes one U+FFFD. (Hugging Face's ByteFallback replaces every byte
 * of a run of byte tokens that has a fault anywhere; text that has been streamed cannot be taken back, so
 * this does not.) */
int tok_decode(const struct tokenizer *t, const int32_t *ids, int n, bool skip_special, struct buf *out);

/* Incremental decoding: appends the bytes that `id` adds to the text. They may end within a code point; the
 * concatenation over a sequence, cleaned by utf8_clean, equals tok_decode of it. Zero-initialise the state at
 * the start of an answer; continuing = 1 when a prompt precedes (so that no leading space is stripped).
 * Allocates only through out. */
struct tok_stream {
    uint8_t continuing;
    uint8_t started;  /* a token has been pushed */
    uint8_t stripped; /* leading characters dropped so far; UINT8_MAX: text has begun */
};
void tok_stream_push(const struct tokenizer *t, struct tok_stream *st, int32_t id, bool skip_special,
                     struct buf *out);
