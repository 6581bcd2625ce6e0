/* Phi 3 and 4 (dense): Llama with q, k, v in one matrix, gate and up in another, perhaps a window on every
 * layer, a part of each head rotated, and LongRoPE for the long-context versions. */
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    describe_decoder(m, a);
    describe_windows(m, a, 0, 0, 0);
    a->fused = true;
    a->qkv_bias = a->o_bias = false;
}

const struct model_def model_phi3 = {"phi3", "phi3", {"Phi3ForCausalLM"}, describe};
