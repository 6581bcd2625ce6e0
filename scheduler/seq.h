/* One sequence as the scheduler sees it: tokens and counters, nothing of tensors or text. Created by the
 * engine at submit, owned by the engine thread from then on. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "kv.h"

enum seq_state { SEQ_NEW, SEQ_WAITING, SEQ_RUNNING, SEQ_FINISHED };

struct seq {
    uint64_t id;
    void *owner;  /* the engine's request: opaque here */
    int32_t *tok; /* [cap_tok] prompt, then generated tokens; memory of the owner */
    int n_tok, cap_tok;
    int n_prompt;
    int n_known;     /* leading tokens that are known. A launched step draws the others: ~row of its logits */
    int n_flying;    /* steps with this sequence that were launched and not committed */
    int n_computed;  /* leading tokens whose KV is stored, or will be by launched steps */
    int n_cached;    /* of these, how many came from the prefix cache when first admitted */
    int max_total;   /* prompt + most tokens to generate; <= cap_tok */
    int priority;    /* lower runs first */
    int64_t arrival; /* submit order; breaks ties: older first */
    uint64_t salt;   /* part of the prefix cache's key */
    bool all_logits; /* logits of every prompt position wanted: no prefix hit is used */
    bool no_prefix;  /* neither reads nor writes the prefix cache */
    enum seq_state state;
    int n_preempted;
    struct kv_ref kv;
    struct seq *prev, *next; /* queue links: private to scheduler/ */
};
