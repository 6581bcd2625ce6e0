/* A request as its reader sees it. Reference counted: one reference is the reader's, one the engine's. The
 * reader creates it with the prompt's tokens, hands it to engine_submit, takes output until `done`, and
 * releases it at any time (releasing before done does not cancel: call engine_cancel). All functions here may
 * be called from any thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "err.h"
#include "sampling.h"

enum finish_reason { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_ABORT, FINISH_ERROR };
const char *finish_reason_name(enum finish_reason f); /* "stop", "length", "abort", "error"; NULL for NONE */

/* One generated (or, in out_batch.prompt, prompt) token. logprob is log softmax of the raw logits. */
struct out_token {
    int32_t token;
    float logprob;  /* meaningful if logprobs were asked for */
    int rank;       /* 1 = most likely */
    int n_top, top; /* alternatives: out_batch.top[top .. top + n_top) */
};
struct request_usage {
    int prompt_tokens, completion_tokens, cached_tokens;
    /* seconds on the monotonic clock; 0 = not reached */
    double t_arrival, t_scheduled, t_first_token, t_last_token;
};
/* What arrived since the last take. Arrays are owned by the request and valid until its release. */
struct out_batch {
    const char *text;
    size_t n_text; /* visible text, whole code points; stop strings already cut or kept */
    const struct out_token *tok;
    int n_tok;
    const struct out_token *prompt;
    int n_prompt; /* all at once, with prompt_logprobs; entry 0 has no logprob */
    const struct token_logprob *top;
    bool done;
    enum finish_reason finish; /* set when done */
    int stop_token;            /* the stop_token_ids member that ended it, or -1 */
    const char *stop_string;   /* the stop string that ended it, or NULL */
    struct err error;          /* when finish is FINISH_ERROR */
    struct request_usage usage;
};
struct request;

/* wake(ctx), if not NULL, is called by the engine thread after new output arrived (at most once between two
 * takes), and never after request_release has returned. It runs with the request locked: it must only signal,
 * and call no function of this header. Copies tokens and parameters. */
int request_new(const int32_t *prompt, int n_prompt, const struct gen_params *p, void (*wake)(void *ctx),
                void *ctx, struct request **out, struct err *e);
void request_release(struct request *r);
/* Everything new. timeout_ms: 0 returns at once, -1 waits. Returns 1 if *out has anything new or done, else
 * 0. */
int request_take(struct request *r, struct out_batch *out, int timeout_ms);
