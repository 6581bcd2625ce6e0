/* Gemma 2: norms on both sides of each branch (stored minus one in Hugging Face files), embeddings times
 * sqrt(dim), GELU, soft caps, and a sliding window on every other layer, the first one included. */
#include <math.h>
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    a->head_dim = 256;
    a->tied = true;
    a->act = ACT_GELU_TANH;
    describe_decoder(m, a);
    a->norm_place = NORM_BOTH;
    a->norm_offset = m->json ? 1 : 0;
    a->embed_scale = sqrtf((float)a->dim);
    a->attn_cap = meta_num(m, "attn_logit_softcapping", "attn_logit_softcapping", 0, 1e6, m->json ? 0 : 50);
    a->logit_cap =
        meta_num(m, "final_logit_softcapping", "final_logit_softcapping", 0, 1e6, m->json ? 0 : 30);
    /* GGUF does not say it: the 27B model, of 46 layers, is the one whose scalar is no head size */
    double scalar = m->gguf && a->n_layer == 46 ? (double)a->dim / a->n_head : a->head_dim;
    a->attn_scale = 1 / sqrtf(meta_num(m, "query_pre_attn_scalar", NULL, 1, 1e6, m->json ? 256 : scalar));
    describe_windows(m, a, 2, 4096, 0);
}

const struct model_def model_gemma2 = {"gemma2", "gemma2", {"Gemma2ForCausalLM"}, describe};
