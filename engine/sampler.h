/* From one row of logits to one token: a pure function of (logits, parameters, penalties, seed, position),
 * bit for bit, whatever else is in the batch. The order is vLLM's: logprobs of the raw logits; logit_bias,
 * banned ids, penalties; temperature; min_p; top_k; top_p; then the draw.
 *
 * Probabilities are fixed-point: weight q = floor(exp((x - max) / T) * 2^30), so the likeliest token weighs
 * 2^30 and sums are 64-bit integers. Integer sums are exact in any order: that is what makes cuts and draws
 * reproducible and lets every pass run on vectors. Tokens are ordered by (q descending, id ascending).
 *
 * A struct sampler is scratch memory for one thread at a time; a penalty_set belongs to one sequence. */
#pragma once
#include "request.h"

#define SAMPLER_BAN_MAX 1024 /* ids in each ban list */
#define SAMPLER_ONE     (1 << 30)

/* Which tokens a sequence has seen. Memory comes from the owner, zeroed: penalty_set_bytes(most tokens). */
struct penalty_set {
    struct penalty *entry; /* [n], in order of appearance */
    int32_t *slot;         /* [mask + 1] open addressing by token: index into entry + 1, 0 = empty */
    uint32_t mask;
    int n;
};
size_t penalty_set_bytes(int max_tokens);
void penalty_set_init(struct penalty_set *s, int max_tokens, void *mem);
void penalty_set_add(struct penalty_set *s, int32_t token, bool in_answer);

struct sample_in {
    const struct gen_params *p;
    const struct penalty_set *seen; /* NULL: no penalties */
    const int32_t *ban[2];          /* ids that may not come yet (min_tokens) */
    int n_ban[2];
    int position; /* of the drawn token in its sequence */
};
struct sample_out {
    int32_t token;
    float logprob; /* this and below only if p->logprobs >= 0 */
    int rank;      /* 1 = most likely; ties by id */
    int n_top;
    struct token_logprob top[LOGPROBS_MAX]; /* by (logprob descending, id ascending) */
};
struct sampler;

int sampler_open(int vocab, int max_ctx, struct sampler **out, struct err *e);
void sampler_close(struct sampler *s);
/* Changes x [vocab] in place. ERR_INVALID if no logit is finite. */
int sampler_row(struct sampler *s, float *x, const struct sample_in *in, struct sample_out *out,
                struct err *e);
/* How likely the raw logits x make `token`: fills out with n_top alternatives. For prompt_logprobs. */
int sampler_score(struct sampler *s, const float *x, int32_t token, int n_top, struct sample_out *out,
                  struct err *e);

/* The parts, for tests: 64 random bits of a (seed, position), and the draw that r makes; -1 if nothing is
 * finite. */
uint64_t sampler_random(uint64_t seed, int position);
int32_t sampler_pick(struct sampler *s, const float *x, const struct gen_params *p, uint64_t r);
