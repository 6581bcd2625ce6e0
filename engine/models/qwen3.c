/* Qwen 3: RMS norms on each head of q and k, head size independent of the hidden size, no biases. */
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    a->head_dim = 128;
    describe_decoder(m, a);
    a->qk_norm = QK_NORM_HEAD;
    if (meta_bool(m, "use_sliding_window", false)) describe_windows(m, a, 0, 0, 0);
}

const struct model_def model_qwen3 = {"qwen3", "qwen3", {"Qwen3ForCausalLM"}, describe};
