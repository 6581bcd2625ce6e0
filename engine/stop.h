/* The visible text of an answer: tokens to bytes, bytes to whole code points, and stop strings wherever the
 * token borders fall. The result depends on the concatenated text only: the match that ends first wins, the
 * longest of those. Text that may yet become part of a stop string, or of a code point, is held back.
 *
 * Owned by the engine thread; `text` is memory of the owner, and bytes below `visible` never change again. */
#pragma once
#include "buf.h"
#include "sampling.h"
#include "tokenizer.h"

struct stop_text {
    char *text; /* [cap] UTF-8 */
    size_t cap, n;
    size_t visible;  /* leading bytes that the reader may have */
    size_t searched; /* a match must end beyond this */
    struct tok_stream stream;
    char tail[4]; /* an unfinished code point */
    int n_tail;
    int match;     /* index of the stop string found, or -1 */
    bool overflow; /* cap was too small: never with a sane tokenizer */
};
struct stop_scratch { /* bytes on their way; the engine's, so that a step allocates nothing */
    struct buf raw, clean;
};

void stop_text_init(struct stop_text *t, char *mem, size_t cap);
/* Most bytes of text that one token can add; for cap. Walks the vocabulary. */
size_t stop_text_bound(const struct tokenizer *tok);
int stop_scratch_init(struct stop_scratch *s, size_t bound, struct err *e);
void stop_scratch_free(struct stop_scratch *s);
/* Adds a token. With search, looks for stop strings; true when one was found (the text is then final). */
bool stop_text_push(struct stop_text *t, const struct gen_params *p, const struct tokenizer *tok,
                    int32_t token, bool search, struct stop_scratch *s);
/* The answer ended otherwise: everything becomes visible, an unfinished code point as U+FFFD. */
void stop_text_finish(struct stop_text *t, struct stop_scratch *s);
