/* Tokens and their probabilities as JSON, in the three shapes that OpenAI's and vLLM's clients read. Arrays
 * are built without brackets, entry by entry, as the tokens arrive; nothing here keeps state but what the
 * caller holds. */
#pragma once
#include "buf.h"
#include "request.h"
#include "tokenizer.h"

struct logprob_arrays {
    struct buf tokens, logprobs, top, offset; /* completions: four parallel arrays */
    struct buf content;                       /* chat: one array of objects */
    int next_offset;                          /* code points before the next token */
};
struct logprob_style {
    const struct tokenizer *tok;
    bool chat, as_ids; /* as_ids: "token_id:7" in place of text */
};
/* t's alternatives are top[t->top ...]. has_logprob: false for a prompt's first token. st moves past the
 * token. */
void logprobs_add(struct logprob_arrays *a, const struct logprob_style *s, struct tok_stream *st,
                  const struct out_token *t, const struct token_logprob *top, bool has_logprob);
void logprobs_write(const struct logprob_arrays *a, bool chat,
                    struct buf *out);          /* the whole "logprobs" value */
void logprobs_clear(struct logprob_arrays *a); /* keeps next_offset */
void logprobs_free(struct logprob_arrays *a);
/* vLLM's prompt_logprobs: [null, {"id": {"logprob", "rank", "decoded_token"}}, ...] */
void logprobs_prompt(struct buf *out, const struct tokenizer *tok, const struct out_token *t, int n,
                     const struct token_logprob *top);
