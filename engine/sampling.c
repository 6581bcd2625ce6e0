#include "sampling.h"
#include <stdlib.h>
#include <string.h>
#include "err.h"

void gen_params_init(struct gen_params *p)
{
    *p = (struct gen_params){.temperature = 1,
                             .top_p = 1,
                             .repetition_penalty = 1,
                             .max_tokens = 16,
                             .logprobs = -1,
                             .prompt_logprobs = -1};
}

/* A copy of n bytes, with a NUL after them. NULL when out of memory. */
static void *copy_bytes(const void *src, size_t n)
{
    char *p = malloc(n + 1);
    if (!p) return NULL;
    if (n) memcpy(p, src, n);
    p[n] = 0;
    return p;
}

int gen_params_copy(struct gen_params *dst, const struct gen_params *src)
{
    *dst = *src;
    dst->n_stop = 0;
    dst->stop_token = NULL;
    dst->bias = NULL;
    for (int i = 0; i < src->n_stop; i++, dst->n_stop++)
        if (!(dst->stop[i] = copy_bytes(src->stop[i], (size_t)src->stop_len[i]))) goto fail;
    if (!(dst->stop_token = copy_bytes(src->stop_token, (size_t)src->n_stop_token * sizeof *src->stop_token)))
        goto fail;
    if (!(dst->bias = copy_bytes(src->bias, (size_t)src->n_bias * sizeof *src->bias))) goto fail;
    return 0;
fail:
    gen_params_free(dst);
    return ERR_NOMEM;
}

void gen_params_free(struct gen_params *p)
{
    for (int i = 0; i < p->n_stop; i++) free(p->stop[i]);
    free(p->stop_token);
    free(p->bias);
    gen_params_init(p);
}
