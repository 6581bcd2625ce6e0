/* From ids to bytes. What a token contributes does not depend on its neighbours, so it is worked out once at
 * load time; only the start of a text has rules of its own. Read-only after loading. */
#pragma once
#include "dict.h"
#include "err.h"

enum dec_kind {
    DEC_REPLACE,      /* from -> to in each token */
    DEC_STRIP,        /* up to `left` and `right` times `from` off the ends of each token */
    DEC_METASPACE,    /* from -> ' ', but dropped in the first token if `first` */
    DEC_BYTE_LEVEL,   /* GPT-2's alphabet -> bytes */
    DEC_BYTE_FALLBACK /* "<0xNN>" -> the byte */
};
struct dec_op {
    enum dec_kind kind;
    struct buf from, to;
    int left, right;
    bool first;
};
enum { MAX_DEC_OPS = 16 };
struct decoder {
    struct dec_op op[MAX_DEC_OPS];
    int n_op;
    bool join_spaces; /* no decoder: tokens are joined by spaces */
    char strip_char;  /* up to strip_left of these off the start of the whole text */
    uint8_t strip_left;
    bool first_differs;
    struct buf bytes; /* all pieces, back to back */
    uint32_t *off;    /* [n_id + 1] */
};

void decoder_free(struct decoder *d);
/* Runs the operations on one token. */
void decoder_token(const struct decoder *d, const char *s, size_t n, bool first, struct buf *out);
