/* Mistral: Llama with a sliding window on every layer, in the first release; later ones have none. */
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    describe_decoder(m, a);
    describe_windows(m, a, 0, 0, 0);
}

const struct model_def model_mistral = {
    "mistral", NULL, {"MistralForCausalLM", "Mistral3ForConditionalGeneration"}, describe};
