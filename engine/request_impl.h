/* The inside of a request, for request.c and the engine.
 *
 * Output is append-only. The engine thread writes beyond the published counts without a lock; request_publish
 * moves the counts under `mu` and wakes the reader; the reader sees only what lies below them. So nothing is
 * copied and a step allocates nothing: all arrays live in one mapping, sized at submit for the longest
 * answer. Its pages cost memory only once they are written. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "request.h"
#include "sampler.h"
#include "seq.h"
#include "stop.h"

struct request_counts { /* how much of each output array there is */
    size_t n_text;
    int n_tok, n_prompt;
};
struct request {
    atomic_int refs;
    struct gen_params p;
    int32_t *prompt; /* [n_prompt] until submit, then NULL: the tokens are in seq.tok */
    int n_prompt;

    pthread_mutex_t mu; /* guards this group */
    pthread_cond_t news;
    void (*wake)(void *ctx);
    void *wake_ctx;
    bool woken, submitted;
    struct request_counts published, taken;
    bool done, done_taken;
    enum finish_reason finish;
    int stop_token, stop_string; /* stop_string: index, -1 = none */
    struct err error;
    struct request_usage usage;

    atomic_bool cancelled;                    /* set once, perhaps before submit */
    struct request *next_inbox, *next_cancel; /* written under the engine's lock */

    /* The engine thread's from here on, once submitted. */
    struct seq seq;
    bool live;   /* in the engine: not finished */
    bool hidden; /* the warm-up's: not counted */
    void *map;   /* the arrays below */
    size_t map_size;
    struct out_token *out;        /* [cap_out] */
    struct out_token *prompt_out; /* [n_prompt] with prompt_logprobs */
    struct token_logprob *top;    /* [cap_top]: prompt rows first, then answer rows */
    int n_out, cap_out, n_prompt_out;
    struct stop_text text;
    struct penalty_set seen;
    bool penalised;
    struct request_counts ready; /* what the next publish shows */
    struct request_usage now;
};

/* The arrays for n_prompt + at most max_new tokens, each adding at most text_bound bytes; fills seq.
 * ERR_NOMEM. */
int request_reserve(struct request *r, int max_new, size_t text_bound, struct err *e);
/* Index into `top` of the alternatives of a prompt position (>= 1), or of an answer token. */
int request_top_prompt(const struct request *r, int pos);
int request_top_answer(const struct request *r, int i);
/* Shows what is ready. Engine thread. */
void request_publish(struct request *r);
/* Shows all, marks it done and wakes. e is copied for FINISH_ERROR. */
void request_finish(struct request *r, enum finish_reason f, int stop_token, int stop_string,
                    const struct err *e);
void request_ref(struct request *r);
void request_unref(struct request *r); /* the engine's way to let go: leaves the reader's wake alone */
