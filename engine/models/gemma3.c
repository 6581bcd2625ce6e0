/* Gemma 3: Gemma 2 with norms on the heads of q and k in place of the soft caps, five windowed layers before
 * each full one, and another rotary base for the windowed ones. Sizes that text_config leaves out are those
 * of transformers' default configuration. */
#include <math.h>
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    if (m->json) {
        a->vocab = 262208;
        a->n_layer = 26;
        a->dim = 2304;
        a->ffn_dim = 9216;
        a->n_head = 8;
        a->n_kv_head = 4;
        a->head_dim = 256;
        a->max_ctx = 131072;
    }
    a->tied = true;
    a->act = ACT_GELU_TANH;
    describe_decoder(m, a);
    describe_rope(m, a, 0, "full_attention", 1e6);
    if (json_get(json_get(m->json, "rope_parameters"), "sliding_attention"))
        describe_rope(m, a, 1, "sliding_attention", 10000);
    else
        describe_rope_plain(a, 1,
                            meta_num(m, "rope_local_base_freq", "rope.freq_base_swa", 1.0001, 1e15, 10000));
    a->norm_place = NORM_BOTH;
    a->qk_norm = QK_NORM_HEAD;
    a->norm_offset = m->json ? 1 : 0;
    a->embed_scale = sqrtf((float)a->dim);
    a->attn_cap = meta_num(m, "attn_logit_softcapping", "attn_logit_softcapping", 0, 1e6, 0);
    a->logit_cap = meta_num(m, "final_logit_softcapping", "final_logit_softcapping", 0, 1e6, 0);
    /* GGUF does not say it: the 27B model, of 62 layers, is the one whose scalar is no head size */
    double scalar = m->gguf && a->n_layer == 62 ? (double)a->dim / a->n_head : a->head_dim;
    a->attn_scale = 1 / sqrtf(meta_num(m, "query_pre_attn_scalar", NULL, 1, 1e6, m->json ? 256 : scalar));
    if (meta_bool(m, "use_bidirectional_attention", false))
        meta_fail(m, ERR_UNSUPPORTED, "use_bidirectional_attention", "is not supported");
    describe_windows(m, a, 6, m->json ? 4096 : 0, 1);
}

const struct model_def model_gemma3 = {
    "gemma3", "gemma3", {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"}, describe};
