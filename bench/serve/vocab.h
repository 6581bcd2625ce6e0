/* What /tokenize of the server under test tells: safe token ids, lengths of texts. */
#pragma once
#include "client.h"
#include "vec.h"

/* Ordinary text tokens, neither special nor unused in any known vocabulary: low..low+count-1, or the list. */
struct vocab {
    int low, count;
    struct vec_i32 list; /* used if n > 0 */
};

int vocab_ask(struct vocab *v, struct client *c, const char *prefix, const char *model, struct err *e);
/* Token ids of text, without special tokens; ERR_UNSUPPORTED if the server has no such endpoint. */
int vocab_tokenize(struct client *c, const char *prefix, const char *model, const char *text,
                   struct vec_i32 *ids, struct err *e);
