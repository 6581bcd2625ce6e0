/* Qwen 2 and 2.5: biases on q, k and v only. Windows, where switched on, begin at layer max_window_layers. */
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    describe_decoder(m, a);
    a->qkv_bias = true;
    a->o_bias = false;
    if (!meta_bool(m, "use_sliding_window", false)) return;
    describe_windows(m, a, 0, 0, 0);
    int full = meta_int(m, "max_window_layers", NULL, 0, 1 << 20, 28);
    for (int i = 0; !json_get(m->json, "layer_types") && i < a->n_layer && i < full; i++)
        a->layer[i].window = 0;
}

const struct model_def model_qwen2 = {"qwen2", "qwen2", {"Qwen2ForCausalLM"}, describe};
