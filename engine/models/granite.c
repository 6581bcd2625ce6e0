/* Granite 3 (dense): Llama with four multipliers. */
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    bool rotary = true;
    describe_decoder(m, a);
    a->embed_scale = meta_num(m, "embedding_multiplier", "embedding_scale", 1e-6, 1e6, 1);
    a->resid_scale = meta_num(m, "residual_multiplier", "residual_scale", 1e-6, 1e6, 1);
    a->attn_scale = meta_num(m, "attention_multiplier", "attention.scale", 1e-6, 1e6, a->attn_scale);
    a->logit_scale = 1 / meta_num(m, "logits_scaling", "logit_scale", 1e-6, 1e6, 1);
    if (!m->gguf) return;
    a->rope[0].style = ROPE_PAIRS;
    if (gguf_bool(m->gguf, "granite.rope.scaling.finetuned", &rotary) && !rotary)
        meta_fail(m, ERR_UNSUPPORTED, "granite.rope.scaling.finetuned",
                  "no positions (NoPE) is not supported");
}

const struct model_def model_granite = {"granite", "granite", {"GraniteForCausalLM"}, describe};
