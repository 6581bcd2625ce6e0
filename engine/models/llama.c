/* Llama 2 and 3 and what is built alike: RMS norms before each branch, rotary embedding, SwiGLU. GGUF stores
 * q and k permuted, so that rotated pairs are neighbours; Mistral files carry this name too there. */
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    describe_decoder(m, a);
    if (!m->gguf) return;
    a->rope[0].style = ROPE_PAIRS;
    describe_windows(m, a, 0, 0, 0); /* Mistral */
}

const struct model_def model_llama = {"llama", "llama", {"LlamaForCausalLM"}, describe};
