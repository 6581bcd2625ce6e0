#include "recipe.h"
#include <string.h>

int recipe_parse(const char *name, enum recipe *out, struct err *e)
{
    static const struct {
        const char *name;
        enum recipe recipe;
    } names[] = {{"", RECIPE_NONE},   {"none", RECIPE_NONE}, {"q8", RECIPE_Q8},
                 {"q8_0", RECIPE_Q8}, {"int8", RECIPE_Q8},   {"q4", RECIPE_Q4},
                 {"q4_k", RECIPE_Q4}, {"q4_k_m", RECIPE_Q4}, {"int4", RECIPE_Q4}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name ? name : "", names[i].name)) {
            *out = names[i].recipe;
            return 0;
        }
    return err_param(e, ERR_INVALID, "quantization",
                     "--quantization: must be none, q8 (also q8_0, int8) or q4 (also q4_k, q4_k_m, int4)");
}

/* Half of the layers: those at both ends, where errors do most harm, and every third between. */
static bool sensitive_layer(int layer, int n)
{
    return layer < n / 8 || layer >= n * 7 / 8 || (layer - n / 8) % 3 == 2;
}

static bool is(const char *tensor, const char *a, const char *b)
{
    return !strcmp(tensor, a) || !strcmp(tensor, b);
}

/* Values of the layers' matrices, divided by dim. */
static double layer_values(const struct arch *a)
{
    return a->n_layer * (2 * ((double)a->n_head + a->n_kv_head) * a->head_dim + 3.0 * a->ffn_dim);
}

/* Whether a tied table of tokens, not of whole super-blocks, is so much of the model (4/3 of the layers) that
 * what it saves with 6 bits instead of 8 pays for 8 bits in the layers. */
static bool table_pays(const struct arch *a)
{
    return a->tied && a->dim % 256 && 3.0 * a->vocab >= 4 * layer_values(a);
}

/* The mixture known as Q4_K_M: 6 bits for the matrix of the logits, and for values and the way down in half
 * of the layers; 4 for the rest. Rows that are not whole super-blocks of 256 take the next larger type in
 * blocks of 32. */
static enum dtype q4_type(const struct arch *a, const char *tensor, int layer, int n_in)
{
    bool more = !strcmp(tensor, "output") || (a->tied && !strcmp(tensor, "token_embd"));
    if (table_pays(a)) return more ? DT_Q5_1 : DT_Q8_0;
    if (layer >= 0 && (is(tensor, "attn_v", "ffn_down") || !strcmp(tensor, "attn_qkv")))
        more = sensitive_layer(layer, a->n_layer);
    if (n_in % 256) return more ? DT_Q8_0 : DT_Q5_0;
    return more ? DT_Q6_K : DT_Q4_K;
}

enum dtype recipe_type(enum recipe r, const struct arch *a, const char *tensor, int layer, int n_in)
{
    if (r == RECIPE_NONE || n_in % 32) return DT_COUNT;
    return r == RECIPE_Q8 ? DT_Q8_0 : q4_type(a, tensor, layer, n_in);
}
