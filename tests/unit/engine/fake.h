/* A model without weights under the real engine, scheduler and KV bookkeeping.
 *
 * The runner keeps in its "KV cache" a running hash of the sequence's tokens, at the place that the block
 * table names; the logits of a row follow from the hash of its prefix. So an answer is a function of the
 * tokens before it, and any block that is freed, shared or recomputed wrongly changes it. A second group with
 * a sliding window keeps the tokens themselves and checks all that the window shows.
 *
 * The tokenizer's ids 0 to 255 are bytes; FAKE_WORDS follow; the last id is the end of sequence. */
#pragma once
#include <stdatomic.h>
#include "engine.h"

#define FAKE_VOCAB  300
#define FAKE_EOS    299
#define FAKE_WINDOW 20
#define FAKE_CTX    512

extern struct fake {
    _Atomic int delay_us;  /* of each forward */
    _Atomic int fail;      /* so many forwards fail, from the next on */
    _Atomic int nan_token; /* rows whose last token is this one have no finite logit; -1 = none */
    _Atomic int
        eos_boost; /* makes the end of sequence the likeliest after a prefix whose hash is 0 modulo this */
    _Atomic int kv_faults;                      /* places in the cache that did not hold what they should */
    _Atomic int forwards, max_items, prefilled; /* prefilled: tokens computed in items of more than one */
    _Atomic int ahead; /* forwards called before the outcome of the one before was there */
} fake;
extern bool fake_draws; /* it draws tokens itself, and does nothing before it is waited for */
void fake_reset(void);
struct model *fake_model(void); /* static */
/* Greedy tokens after the prompt, computed without any engine; returns how many, stopping after the end of
 * sequence. */
int fake_greedy(const int32_t *prompt, int n, int32_t *out, int max);
void fake_logits(const int32_t *tok, int n, float *x); /* [FAKE_VOCAB] after n tokens */
uint64_t fake_chain(uint64_t h, int32_t token);        /* hash of a prefix with one token more */
void fake_logits_of(uint64_t h, float *x);             /* [FAKE_VOCAB] after the prefix with that hash */
