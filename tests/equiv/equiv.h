/* A fixed set of requests on a tiny real model, and the answers an engine gives them, reduced to digests of
 * tokens and logprob bits. Two ways of running the same requests are equivalent if every digest agrees. */
#pragma once
#include "backend.h"
#include "engine.h"

#define N_REQ   8
#define MAX_CTX 256

struct machine { /* a model on a back end */
    struct pool *pool;
    struct backend *be;
    struct model *model;
    bool is_ref;
};
void machine_open(
    struct machine *m, const char *name, int isa,
    int threads); /* isa -1: the reference, -2: the device that TEST_DEVICE names, deterministic */
void machine_close(struct machine *m);

enum load {
    ONE_BY_ONE, /* each request when the one before is done */
    TOGETHER,   /* all at once */
    DISTURBED,  /* all at once, with neighbours on the same prompts that are cancelled at random */
};
struct results {
    uint64_t digest[N_REQ];
    int n_tok[N_REQ];
    int cached;   /* prompt tokens found in the prefix cache, of all requests */
    int distinct; /* different digests */
    uint64_t preemptions;
    float prompt_logprob[N_REQ][MAX_CTX]; /* of the prompt's tokens, where asked for */
};
struct engine_config equiv_config(enum dtype kv_type);
/* Runs the requests `rounds` times in one engine; the results are the last round's. Checks every invariant
 * after. */
void run_requests(struct machine *m, const struct engine_config *c, enum load load, int preempt, int rounds,
                  struct results *out);
/* KV blocks that one sequence of n tokens needs. */
int blocks_for(const struct machine *m, const struct engine_config *c, int n);
void expect_equal(const struct results *a, const struct results *b, const char *what);
