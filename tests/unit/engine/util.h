/* What the engine's tests share: opening one over the fake model, and reading a whole answer. */
#pragma once
#include "engine.h"

struct answer {
    int32_t tok[512];
    struct out_token out[512];
    char text[8192];
    int n;
    size_t n_text;
    struct out_batch last; /* the batch with done */
};
struct engine_config small_config(void); /* 4 running, 64 tokens a step, 8-token blocks, 128 of them */
struct engine *open_engine(const struct engine_config *c, struct pool *pool, struct metrics *m); /* ready */
void close_engine(struct engine *en); /* waits until idle and checks the invariants first */
struct request *new_request(const int32_t *prompt, int n, const struct gen_params *p);
struct request *submit(struct engine *en, const int32_t *prompt, int n, const struct gen_params *p);
void read_answer(struct request *r, struct answer *a); /* to the end; releases r */
struct gen_params greedy(int max_tokens);
void fill_prompt(int32_t *prompt, int n, int seed);
void wait_running(struct engine *en, int n);
