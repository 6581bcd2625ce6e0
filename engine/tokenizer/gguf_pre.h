/* GGUF names a pre-tokenizer instead of carrying it: the table of tokenizer.ggml.pre. */
#pragma once
#include <stdbool.h>

enum { PRE_MAX_REGEX = 6 };
struct gguf_pre {
    const char *names;                    /* separated by spaces */
    const char *regex[PRE_MAX_REGEX + 1]; /* applied in turn, each isolating its matches; NULL ends */
    bool nfc;                             /* the published model normalises to NFC */
    bool ignore_merges;                   /* a word that is a token is taken whole */
    bool add_bos;                         /* unless tokenizer.ggml.add_bos_token says otherwise */
    bool raw;                             /* spaces become U+2581 and no byte alphabet is used (Gemma 4) */
};
const struct gguf_pre *gguf_pre_find(const char *name, unsigned long n); /* NULL = unknown */
const char *gguf_pre_known(int i); /* names of the i-th entry, NULL at the end */
