/* OLMo 2: norms after each branch only, and over the whole rows of q and k. */
#include "meta.h"

static void describe(struct meta *m, struct arch *a)
{
    describe_decoder(m, a);
    a->norm_place = NORM_POST;
    a->qk_norm = QK_NORM_ROW;
    if (meta_int(m, NULL, "attention.sliding_window", 0, INT32_MAX, 0)) /* OLMo 3 under the same name */
        meta_fail(m, ERR_UNSUPPORTED, "olmo2.attention.sliding_window", "windows are not supported here");
}

const struct model_def model_olmo2 = {"olmo2", "olmo2", {"Olmo2ForCausalLM"}, describe};
