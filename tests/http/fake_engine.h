/* An engine without a model, for tests of the HTTP side: it implements engine.h, request.h, tokenizer.h and
 * template.h so that answers are known beforehand and come when the test wants them. Tokens are bytes; 256 is
 * <s>, 257 </s>. The answer to a prompt is a run of lower-case letters that depends on the prompt's tokens
 * and the seed. */
#pragma once
#include <stdatomic.h>
#include "engine.h"

struct fake {
    atomic_int delay_us;   /* between two tokens of a request */
    atomic_int hold;       /* while set, no tokens come */
    atomic_int fail_after; /* > 0: a request fails after so many tokens */
    atomic_int refuse;     /* engine_submit gives this error code */
    atomic_int stalled;    /* engine_state is ENGINE_STALLED */
    atomic_int bad_utf8;   /* answers consist of token 200, which is no character */
};
extern struct fake fake; /* may be changed while running */
void fake_reset(void);

struct engine *fake_open(int max_model_len);
void fake_close(struct engine *en);
int fake_live(struct engine *en);      /* requests that are not finished */
int fake_submitted(struct engine *en); /* in all */
void fake_abort_all(struct engine *en);
/* What a request for this prompt will say. */
void fake_answer(const int32_t *prompt, int n_prompt, uint64_t seed, int n, char *out);
extern const struct model *fake_model(void);
