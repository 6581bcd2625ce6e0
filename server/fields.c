#include "fields.h"
#include <string.h>

#define UNKNOWN_MAX 512 /* bytes of names reported */

enum use {
    USED,     /* openai_in.c or chat.c looks at it */
    HARMLESS, /* cannot change the answer, or is about features that are absent */
    /* Refused, unless null or: */
    REFUSED, /* empty: false, "", [], {} */
    REFUSED_UNLESS_0,
    REFUSED_UNLESS_1,
    REFUSED_UNLESS_TRUE,
    REFUSED_UNLESS_TEXT, /* {"type": "text"}, or ["text"] */
    REFUSED_UNLESS_AUTO, /* "none" or "auto", which mean the same without tools */
};
static const struct {
    const char *name;
    enum use use;
} fields[] = {
    {"model", USED},
    {"prompt", USED},
    {"messages", USED},
    {"stream", USED},
    {"stream_options", USED},
    {"temperature", USED},
    {"top_p", USED},
    {"top_k", USED},
    {"min_p", USED},
    {"repetition_penalty", USED},
    {"frequency_penalty", USED},
    {"presence_penalty", USED},
    {"seed", USED},
    {"stop", USED},
    {"stop_token_ids", USED},
    {"include_stop_str_in_output", USED},
    {"ignore_eos", USED},
    {"min_tokens", USED},
    {"max_tokens", USED},
    {"max_completion_tokens", USED},
    {"skip_special_tokens", USED},
    {"add_special_tokens", USED},
    {"logit_bias", USED},
    {"n", USED},
    {"logprobs", USED},
    {"top_logprobs", USED},
    {"prompt_logprobs", USED},
    {"echo", USED},
    {"priority", USED},
    {"cache_salt", USED},
    {"return_token_ids", USED},
    {"return_tokens_as_token_ids", USED},
    {"add_generation_prompt", USED},
    {"continue_final_message", USED},
    {"chat_template_kwargs", USED},
    {"reasoning_effort", USED},

    {"user", HARMLESS},
    {"metadata", HARMLESS},
    {"store", HARMLESS},
    {"service_tier", HARMLESS},
    {"request_id", HARMLESS},
    {"rid", HARMLESS},
    {"session_id", HARMLESS},
    {"safety_identifier", HARMLESS},
    {"prompt_cache_key", HARMLESS},
    {"prompt_cache_retention", HARMLESS},
    {"cache_prompt", HARMLESS},
    {"parallel_tool_calls", HARMLESS},
    {"include_reasoning", HARMLESS},
    {"separate_reasoning", HARMLESS},
    {"stream_reasoning", HARMLESS},

    {"tools", REFUSED},
    {"tool_choice", REFUSED_UNLESS_AUTO},
    {"functions", REFUSED},
    {"function_call", REFUSED_UNLESS_AUTO},
    {"response_format", REFUSED_UNLESS_TEXT},
    {"structured_outputs", REFUSED},
    {"guided_json", REFUSED},
    {"guided_regex", REFUSED},
    {"guided_choice", REFUSED},
    {"guided_grammar", REFUSED},
    {"guided_decoding", REFUSED},
    {"grammar", REFUSED},
    {"json_schema", REFUSED},
    {"regex", REFUSED},
    {"ebnf", REFUSED},
    {"structural_tag", REFUSED},
    {"logits_processors", REFUSED},
    {"custom_logit_processor", REFUSED},
    {"best_of", REFUSED_UNLESS_1},
    {"use_beam_search", REFUSED},
    {"length_penalty", REFUSED_UNLESS_1},
    {"suffix", REFUSED},
    {"prompt_embeds", REFUSED},
    {"audio", REFUSED},
    {"modalities", REFUSED_UNLESS_TEXT},
    {"prediction", REFUSED},
    {"web_search_options", REFUSED},
    {"verbosity", REFUSED},
    {"allowed_token_ids", REFUSED},
    {"bad_words", REFUSED},
    {"logprob_token_ids", REFUSED},
    {"truncate_prompt_tokens", REFUSED},
    {"kv_transfer_params", REFUSED},
    {"ec_transfer_params", REFUSED},
    {"vllm_xargs", REFUSED},
    {"repetition_detection", REFUSED},
    {"thinking_token_budget", REFUSED},
    {"spaces_between_special_tokens", REFUSED_UNLESS_TRUE},
    {"stream_interval", REFUSED_UNLESS_1},
    {"documents", REFUSED},
    {"chat_template", REFUSED},
    {"mm_processor_kwargs", REFUSED},
    {"media_io_kwargs", REFUSED},
    {"stop_regex", REFUSED},
    {"lora", REFUSED},
    {"lora_path", REFUSED},
    {"typical_p", REFUSED_UNLESS_1},
    {"mirostat", REFUSED_UNLESS_0},
    {"dry_multiplier", REFUSED_UNLESS_0},
    {"xtc_probability", REFUSED_UNLESS_0},
    {"dynatemp_range", REFUSED_UNLESS_0},
};

static bool is_text(const cJSON *v)
{
    const cJSON *t = cJSON_IsArray(v) ? v->child : json_get(v, "type");
    return cJSON_IsString(t) && !strcmp(t->valuestring, "text") && !(cJSON_IsArray(v) && t->next);
}

static bool is_neutral(const cJSON *v, enum use use)
{
    if (cJSON_IsNull(v)) return true;
    switch (use) {
    case REFUSED_UNLESS_0: return cJSON_IsNumber(v) && v->valuedouble == 0;
    case REFUSED_UNLESS_1: return cJSON_IsNumber(v) && v->valuedouble == 1;
    case REFUSED_UNLESS_TRUE: return cJSON_IsTrue(v);
    case REFUSED_UNLESS_TEXT: return is_text(v);
    case REFUSED_UNLESS_AUTO:
        return cJSON_IsString(v) && (!strcmp(v->valuestring, "none") || !strcmp(v->valuestring, "auto"));
    default:
        return cJSON_IsFalse(v) || (cJSON_IsString(v) && !*v->valuestring) ||
               ((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child);
    }
}

/* A header is made of these names: only plain ones are repeated. */
static void add_unknown(struct buf *out, const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    if (n == 0 || n > 64 || name[n] || out->len + n + 2 > UNKNOWN_MAX) return;
    if (out->len) buf_str(out, ", ");
    buf_add(out, name, n);
}

int fields_check(const cJSON *body, struct buf *unknown, struct err *e)
{
    const size_t n_field = sizeof fields / sizeof fields[0];
    for (const cJSON *v = body->child; v; v = v->next) {
        size_t i = 0;
        while (i < n_field && strcmp(fields[i].name, v->string)) i++;
        if (i == n_field)
            add_unknown(unknown, v->string);
        else if (fields[i].use >= REFUSED && !is_neutral(v, fields[i].use))
            return err_param(e, ERR_UNSUPPORTED, fields[i].name, "%s: not supported by this server",
                             fields[i].name);
    }
    return 0;
}
