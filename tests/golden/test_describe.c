/* Descriptions: both dialects of config.json say the same, rope scalings agree with transformers' own
 * numbers, KV layouts pack well, and hostile or unsupported configurations are refused by name. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common.h"
#include "meta.h"

static cJSON *config_of(const char *name)
{
    char path[512];
    cJSON *j = NULL;
    struct err e = {0};
    snprintf(path, sizeof path, "%s/%s/config.json", GOLDEN_DATA, name);
    ck_assert_msg(!json_load(path, 1 << 20, &j, &e), "%s", e.msg);
    return j;
}

static void set(cJSON *j, const char *key, const char *value) /* value NULL: delete */
{
    cJSON_DeleteItemFromObjectCaseSensitive(j, key);
    if (value) ck_assert(cJSON_AddItemToObject(j, key, cJSON_Parse(value)));
}

static void describe_ok(const cJSON *j, struct arch *a)
{
    struct err e = {0};
    ck_assert_msg(!describe_hf(j, a, &e), "%s", e.msg);
}

static void same(const struct arch *a, const struct arch *b)
{
    ck_assert_int_eq(a->n_rope, b->n_rope);
    for (int r = 0; r < a->n_rope; r++) {
        ck_assert_float_eq(a->rope[r].mscale, b->rope[r].mscale);
        ck_assert_mem_eq(a->rope[r].inv_freq, b->rope[r].inv_freq,
                         (size_t)a->rope[r].rot / 2 * sizeof(float));
    }
    ck_assert_mem_eq(a->layer, b->layer, (size_t)a->n_layer * sizeof *a->layer);
}

START_TEST(test_dialect_llama3)
{
    cJSON *j = config_of("llama3");
    struct arch a, b;
    describe_ok(j, &a);
    set(j, "rope_parameters", NULL);
    set(j, "rope_theta", "500000.0");
    set(j, "rope_scaling",
        "{\"type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
        "\"original_max_position_embeddings\":64}");
    set(j, "eos_token_id", "[1017, 1018]");
    set(j, "head_dim", "null");
    set(j, "num_attention_heads", "4");
    describe_ok(j, &b);
    same(&a, &b);
    ck_assert(b.n_eos == 2 && b.eos[1] == 1018 && b.head_dim == 16 && a.n_eos == 1);
    cJSON_Delete(j);
}
END_TEST

START_TEST(test_dialect_gemma3)
{
    cJSON *j = config_of("gemma3"), *wrapper = cJSON_CreateObject();
    struct arch a, b;
    describe_ok(j, &a);
    ck_assert(a.layer[0].window == 16 && a.layer[0].rope == 1 && a.layer[5].window == 0 &&
              a.layer[5].rope == 0);
    ck_assert_float_ne(a.rope[0].inv_freq[1], a.rope[1].inv_freq[1]);
    set(j, "rope_parameters", NULL);
    set(j, "rope_theta", "1000000.0");
    set(j, "rope_local_base_freq", "10000.0");
    set(j, "layer_types", NULL);
    set(j, "_sliding_window_pattern", NULL); /* six is the default */
    describe_ok(j, &b);
    same(&a, &b);
    set(j, "sliding_window_pattern", "6");
    cJSON_AddItemToObject(wrapper, "architectures", cJSON_Parse("[\"Gemma3ForConditionalGeneration\"]"));
    cJSON_AddItemToObject(wrapper, "text_config", j);
    set(j, "eos_token_id", NULL);
    set(wrapper, "eos_token_id", "[1, 106]");
    describe_ok(wrapper, &b);
    same(&a, &b);
    ck_assert(b.n_eos == 2 && b.eos[1] == 106);
    cJSON_Delete(wrapper);
}
END_TEST

/* What transformers 5 computes for a head of 16: inverse frequencies and attention factor. */
static const struct {
    const char *name, *rope;
    float mscale, inv[8];
} ropes[] = {
    {"linear",
     "{\"rope_type\":\"linear\",\"rope_theta\":10000.0,\"factor\":8.0}",
     1,
     {0.125f, 0.03952847f, 0.0125f, 0.003952847f, 0.00125f, 0.0003952847f, 0.000125f, 3.952847e-05f}},
    {"llama3",
     "{\"rope_type\":\"llama3\",\"rope_theta\":500000.0,\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_"
     "factor\":4.0,"
     "\"original_max_position_embeddings\":512}",
     1,
     {1, 0.1939227f, 0.02734414f, 0.0009115831f, 0.0001767767f, 3.428102e-05f, 6.64787e-06f, 1.289173e-06f}},
    {"yarn",
     "{\"rope_type\":\"yarn\",\"rope_theta\":10000.0,\"factor\":4.0,\"original_max_position_embeddings\":"
     "1024}",
     1.138629436f,
     {1, 0.3162278f, 0.08125f, 0.01976424f, 0.004375f, 0.0007905694f, 0.00025f, 7.905694e-05f}},
    {"yarn with everything",
     "{\"rope_type\":\"yarn\",\"rope_theta\":1000000.0,\"factor\":16.0,\"original_max_position_embeddings\":"
     "256,"
     "\"beta_fast\":8,\"beta_slow\":2,\"mscale\":1.0,\"mscale_all_dim\":0.5,\"truncate\":false}",
     1.121751144f,
     {1, 0.1659127f, 0.001976424f, 0.0003514633f, 6.25e-05f, 1.111425e-05f, 1.976424e-06f, 3.514633e-07f}},
    {"longrope",
     "{\"rope_type\":\"longrope\",\"rope_theta\":10000.0,\"original_max_position_embeddings\":1024,"
     "\"short_factor\":[1,1.1,1.2,1.3,1.4,1.5,1.6,1.7],\"long_factor\":[2,3,4,5,6,7,8,9]}",
     1.095445115f,
     {1, 0.2874798f, 0.08333333f, 0.02432521f, 0.007142857f, 0.002108185f, 0.000625f, 0.0001860163f}}};

START_TEST(test_rope)
{
    static const float long_inv[8] = {0.5f,         0.1054093f,   0.025f,    0.006324555f,
                                      0.001666667f, 0.000451754f, 0.000125f, 3.513642e-05f};
    cJSON *j = config_of("llama3");
    struct arch a;
    set(j, "rope_parameters", ropes[_i].rope);
    describe_ok(j, &a);
    ck_assert_float_eq_tol(a.rope[0].mscale, ropes[_i].mscale, 1e-6f);
    for (int i = 0; i < 8; i++) {
        ck_assert_float_eq_tol(a.rope[0].inv_freq[i] / ropes[_i].inv[i], 1, 1e-6f);
        if (a.rope_long) ck_assert_float_eq_tol(a.rope[1].inv_freq[i] / long_inv[i], 1, 1e-6f);
    }
    ck_assert_int_eq(a.rope_long, strcmp(ropes[_i].name, "longrope") ? 0 : 1024);
    cJSON_Delete(j);
}
END_TEST

static const struct {
    const char *model, *key, *value, *message;
} bad[] = {
    {"llama3", "architectures", "[\"GPT2LMHeadModel\"]", "LlamaForCausalLM"}, /* the list of supported ones */
    {"llama3", "architectures", "\"LlamaForCausalLM\"", "architectures"},
    {"llama3", "architectures", NULL, "architectures"},
    {"llama3", "architectures", "[7]", "architectures"},
    {"gemma3", "text_config", "7", "text_config"},
    {"llama3", "hidden_size", NULL, "hidden_size: is missing"},
    {"llama3", "hidden_size", "0", "hidden_size"},
    {"llama3", "hidden_size", "-64", "hidden_size"},
    {"llama3", "hidden_size", "2147483648", "hidden_size"},
    {"llama3", "hidden_size", "64.5", "hidden_size"},
    {"llama3", "hidden_size", "\"64\"", "hidden_size"},
    {"llama3", "hidden_size", "[64]", "hidden_size"},
    {"llama3", "num_hidden_layers", "0", "num_hidden_layers"},
    {"llama3", "num_hidden_layers", "1000000", "num_hidden_layers"},
    {"llama3", "num_attention_heads", "0", "num_attention_heads"},
    {"llama3", "num_key_value_heads", "3", "cannot share"},
    {"llama3", "num_key_value_heads", "16", "KV heads"},
    {"llama3", "num_key_value_heads", "-1", "num_key_value_heads"},
    {"llama3", "head_dim", "15", "rotary"},
    {"llama3", "head_dim", "4096", "rotary"},
    {"llama3", "intermediate_size", "67108864", "feed-forward"},
    {"llama3", "vocab_size", "0", "vocab_size"},
    {"llama3", "vocab_size", "2147483647", "vocab_size"},
    {"llama3", "max_position_embeddings", "0", "max_position_embeddings"},
    {"llama3", "rms_norm_eps", "-1", "rms_norm_eps"},
    {"llama3", "hidden_act", "\"mish\"", "must be silu"},
    {"llama3", "mlp_bias", "true", "mlp_bias"},
    {"llama3", "eos_token_id", "1024", "eos_token_id"},
    {"llama3", "eos_token_id", "[1, \"x\"]", "eos_token_id"},
    {"llama3", "eos_token_id", "\"</s>\"", "eos_token_id"},
    {"llama3", "eos_token_id", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "eos_token_id"},
    {"llama3", "bos_token_id", "5000", "BOS"},
    {"llama3", "tie_word_embeddings", "1", "tie_word_embeddings"},
    {"llama3", "quantization_config", "{\"quant_method\":\"gptq\"}", "quantization_config"},
    {"llama3", "rope_parameters", "{\"rope_type\":\"dynamic\",\"factor\":2}", "dynamic is not supported"},
    {"llama3", "rope_parameters", "{\"rope_type\":\"linear\"}", "factor"},
    {"llama3", "rope_parameters", "{\"rope_type\":\"linear\",\"factor\":0}", "factor"},
    {"llama3", "rope_parameters", "{\"rope_theta\":0}", "rope_theta"},
    {"llama3", "rope_parameters", "{\"rope_theta\":\"big\"}", "rope_theta"},
    {"llama3", "rope_parameters",
     "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":1}",
     "low_freq_factor"},
    {"llama3", "rope_parameters", "{\"rope_type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[1]}",
     "short_factor"},
    {"llama3", "rope_parameters",
     "{\"rope_type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,0],\"long_factor\":[1]}", "short_factor"},
    {"llama3", "rope_parameters", "{\"partial_rotary_factor\":0.01}", "rotary"},
    {"gemma3", "layer_types", "[\"full_attention\"]", "layer_types"},
    {"gemma3", "layer_types", "7", "layer_types"},
    {"gemma3", "layer_types", "[\"mamba\",1,1,1,1,1,1]", "layer_types"},
    {"gemma3", "sliding_window", "-1", "sliding_window"},
    {"gemma3", "query_pre_attn_scalar", "0", "query_pre_attn_scalar"},
    {"gemma3", "use_bidirectional_attention", "true", "use_bidirectional_attention"},
    {"gemma2", "attn_logit_softcapping", "-5", "attn_logit_softcapping"},
    {"granite", "logits_scaling", "0", "logits_scaling"},
    {"granite", "embedding_multiplier", "1e30", "embedding_multiplier"}};

START_TEST(test_bad)
{
    cJSON *j = config_of(bad[_i].model);
    struct arch a;
    struct err e = {0};
    set(j, bad[_i].key, bad[_i].value);
    ck_assert_int_ne(describe_hf(j, &a, &e), 0);
    ck_assert_msg(strstr(e.msg, bad[_i].message), "%s = %s: '%s' does not say '%s'", bad[_i].key,
                  bad[_i].value ? bad[_i].value : "nothing", e.msg, bad[_i].message);
    cJSON_Delete(j);
}
END_TEST

/* Layers, of which each `every`-th is full and the others windowed. */
static const struct {
    int n_layer, every, n_slot, n_group;
} layouts[] = {{32, 1, 32, 1}, {18, 6, 3, 6},  {26, 6, 4, 7}, {26, 2, 13, 2},
               {7, 6, 1, 7},   {62, 6, 6, 11}, {1, 1, 1, 1},  {256, 200, 5, 52}};

START_TEST(test_layout)
{
    struct arch a = {.n_layer = layouts[_i].n_layer};
    struct kv_layout k;
    struct err e = {0};
    bool used[KV_LAYOUT_MAX_GROUPS][ARCH_MAX_LAYERS] = {{false}};
    for (int l = 0; l < a.n_layer; l++) a.layer[l].window = (l + 1) % layouts[_i].every ? 512 : 0;
    ck_assert_msg(!arch_kv_layout(&a, &k, &e), "%s", e.msg);
    for (int l = 0; l < a.n_layer; l++) {
        ck_assert(k.group_of[l] < k.n_group && k.slot_of[l] < k.n_slot && !used[k.group_of[l]][k.slot_of[l]]);
        used[k.group_of[l]][k.slot_of[l]] = true;
        ck_assert_int_eq(k.window[k.group_of[l]], a.layer[l].window);
    }
    ck_assert_msg(k.n_slot == layouts[_i].n_slot, "%d layers: groups of %d", a.n_layer, k.n_slot);
    ck_assert_msg(k.n_group == layouts[_i].n_group, "%d layers: %d groups", a.n_layer, k.n_group);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("describe");
    TCase *t = tcase_create("describe");
    tcase_add_test(t, test_dialect_llama3);
    tcase_add_test(t, test_dialect_gemma3);
    tcase_add_loop_test(t, test_rope, 0, (int)(sizeof ropes / sizeof *ropes));
    tcase_add_loop_test(t, test_bad, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_loop_test(t, test_layout, 0, (int)(sizeof layouts / sizeof *layouts));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
