/* Request bodies: every field with values that it must refuse, 400 naming the field, and with values that it
 * must take. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "rig.h"
#include "suites.h"

static void repeat(struct buf *b, const char *s, int n)
{
    for (int i = 0; i < n; i++) buf_str(b, s);
}

/* c: completions, m: chat, b: both, with a valid prompt or messages added unless the case has its
 * own. */
static const struct {
    char where;
    const char *json, *param;
} fields[] = {
    {'b', "\"model\":1", "model"},
    {'b', "\"stream\":1", "stream"},
    {'b', "\"stream\":\"true\"", "stream"},
    {'b', "\"stream_options\":{}", "stream_options"},
    {'b', "\"stream\":true,\"stream_options\":1", "stream_options"},
    {'b', "\"stream\":true,\"stream_options\":{\"include_usage\":1}", "include_usage"},
    {'b', "\"temperature\":\"1\"", "temperature"},
    {'b', "\"temperature\":true", "temperature"},
    {'b', "\"temperature\":-0.1", "temperature"},
    {'b', "\"temperature\":2.1", "temperature"},
    {'b', "\"temperature\":[1]", "temperature"},
    {'b', "\"top_p\":0", "top_p"},
    {'b', "\"top_p\":1.01", "top_p"},
    {'b', "\"top_k\":-2", "top_k"},
    {'b', "\"top_k\":1.5", "top_k"},
    {'b', "\"top_k\":3000000000", "top_k"},
    {'b', "\"min_p\":-0.1", "min_p"},
    {'b', "\"min_p\":1.1", "min_p"},
    {'b', "\"repetition_penalty\":0", "repetition_penalty"},
    {'b', "\"repetition_penalty\":-1", "repetition_penalty"},
    {'b', "\"frequency_penalty\":-2.1", "frequency_penalty"},
    {'b', "\"presence_penalty\":2.1", "presence_penalty"},
    {'b', "\"seed\":1.5", "seed"},
    {'b', "\"seed\":1e30", "seed"},
    {'b', "\"seed\":\"1\"", "seed"},
    {'b', "\"stop\":1", "stop"},
    {'b', "\"stop\":\"\"", "stop"},
    {'b', "\"stop\":[\"\"]", "stop"},
    {'b', "\"stop\":[1]", "stop"},
    {'b', "\"stop\":{}", "stop"},
    {'b', "\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "stop"},
    {'b', "\"stop_token_ids\":1", "stop_token_ids"},
    {'b', "\"stop_token_ids\":[-1]", "stop_token_ids"},
    {'b', "\"stop_token_ids\":[512]", "stop_token_ids"},
    {'b', "\"stop_token_ids\":[1e300]", "stop_token_ids"},
    {'b', "\"stop_token_ids\":[\"1\"]", "stop_token_ids"},
    {'b', "\"stop_token_ids\":[1.5]", "stop_token_ids"},
    {'b', "\"include_stop_str_in_output\":1", "include_stop_str_in_output"},
    {'b', "\"ignore_eos\":0", "ignore_eos"},
    {'b', "\"min_tokens\":-1", "min_tokens"},
    {'b', "\"min_tokens\":9,\"max_tokens\":8", "min_tokens"},
    {'b', "\"max_tokens\":0", "max_tokens"},
    {'b', "\"max_tokens\":-5", "max_tokens"},
    {'b', "\"max_tokens\":1.5", "max_tokens"},
    {'b', "\"max_tokens\":9999999999", "max_tokens"},
    {'b', "\"max_tokens\":\"9\"", "max_tokens"},
    {'m', "\"max_completion_tokens\":0", "max_completion_tokens"},
    {'b', "\"skip_special_tokens\":1", "skip_special_tokens"},
    {'b', "\"logit_bias\":1", "logit_bias"},
    {'b', "\"logit_bias\":[1]", "logit_bias"},
    {'b', "\"logit_bias\":{\"x\":1}", "logit_bias"},
    {'b', "\"logit_bias\":{\"-1\":1}", "logit_bias"},
    {'b', "\"logit_bias\":{\"512\":1}", "logit_bias"},
    {'b', "\"logit_bias\":{\"01\":1}", "logit_bias"},
    {'b', "\"logit_bias\":{\"\":1}", "logit_bias"},
    {'b', "\"logit_bias\":{\"4294967297\":1}", "logit_bias"},
    {'b', "\"logit_bias\":{\"1\":101}", "logit_bias"},
    {'b', "\"logit_bias\":{\"1\":\"1\"}", "logit_bias"},
    {'b', "\"n\":0", "n"},
    {'b', "\"n\":129", "n"},
    {'b', "\"n\":1.5", "n"},
    {'c', "\"logprobs\":21", "logprobs"},
    {'c', "\"logprobs\":-1", "logprobs"},
    {'c', "\"logprobs\":true", "logprobs"},
    {'m', "\"logprobs\":5", "logprobs"},
    {'m', "\"top_logprobs\":5", "top_logprobs"},
    {'m', "\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
    {'m', "\"logprobs\":true,\"top_logprobs\":-1", "top_logprobs"},
    {'b', "\"prompt_logprobs\":21", "prompt_logprobs"},
    {'b', "\"prompt_logprobs\":-1", "prompt_logprobs"},
    {'b', "\"prompt_logprobs\":1,\"stream\":true", "prompt_logprobs"},
    {'c', "\"echo\":1", "echo"},
    {'m', "\"echo\":true", "echo"},
    {'b', "\"priority\":\"high\"", "priority"},
    {'b', "\"priority\":1e10", "priority"},
    {'b', "\"cache_salt\":\"\"", "cache_salt"},
    {'b', "\"cache_salt\":1", "cache_salt"},
    {'b', "\"return_token_ids\":1", "return_token_ids"},
    {'c', "\"add_special_tokens\":1", "add_special_tokens"},
    /* prompts */
    {'c', "\"prompt\":null", "prompt"},
    {'c', "\"prompt\":1", "prompt"},
    {'c', "\"prompt\":{}", "prompt"},
    {'c', "\"prompt\":[]", "prompt"},
    {'c', "\"prompt\":[[]]", "prompt"},
    {'c', "\"prompt\":\"\",\"add_special_tokens\":false", "prompt"},
    {'c', "\"prompt\":[1,\"x\"]", "prompt"},
    {'c', "\"prompt\":[\"x\",1]", "prompt"},
    {'c', "\"prompt\":[\"x\",null]", "prompt"},
    {'c', "\"prompt\":[1,512]", "prompt"},
    {'c', "\"prompt\":[-1]", "prompt"},
    {'c', "\"prompt\":[1.5]", "prompt"},
    {'c', "\"prompt\":[4294967296]", "prompt"},
    {'c', "\"prompt\":[[1],[2,-3]]", "prompt"},
    {'c', "\"prompt\":[[1],2]", "prompt"},
    {'c', "\"prompt\":[[[1]]]", "prompt"},
    {'c', "\"prompt\":[\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\"],\"n\":128", "n"},
    /* messages */
    {'m', "\"messages\":null", "messages"},
    {'m', "\"messages\":[]", "messages"},
    {'m', "\"messages\":\"hello\"", "messages"},
    {'m', "\"messages\":[1]", "messages"},
    {'m', "\"messages\":[{}]", "messages"},
    {'m', "\"messages\":[{\"role\":1,\"content\":\"x\"}]", "messages"},
    {'m', "\"messages\":[{\"role\":\"user\"}]", "messages"},
    {'m', "\"messages\":[{\"role\":\"user\",\"content\":1}]", "messages"},
    {'m', "\"messages\":[{\"role\":\"user\",\"content\":[1]}]", "messages"},
    {'m', "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages"},
    {'m',
     "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"http://"
     "x\"}}]}]",
     "messages"},
    {'m', "\"messages\":[{\"role\":\"villain\",\"content\":\"x\"}]", "messages"},
    {'m', "\"add_generation_prompt\":1", "add_generation_prompt"},
    {'m', "\"add_generation_prompt\":true,\"continue_final_message\":true", "continue_final_message"},
    {'m', "\"messages\":[{\"role\":\"assistant\",\"content\":\" \"}],\"continue_final_message\":true",
     "continue_final_message"},
    {'m', "\"chat_template_kwargs\":1", "chat_template_kwargs"},
    {'m', "\"chat_template_kwargs\":{\"messages\":[]}", "chat_template_kwargs"},
    {'m', "\"chat_template_kwargs\":{\"tokenize\":true}", "chat_template_kwargs"},
    {'m', "\"chat_template_kwargs\":{\"bos_token\":\"\"}", "chat_template_kwargs"},
    {'m', "\"reasoning_effort\":3", "reasoning_effort"},
    /* known, not implemented */
    {'b', "\"tools\":[{\"type\":\"function\"}]", "tools"},
    {'b', "\"tool_choice\":\"required\"", "tool_choice"},
    {'b', "\"response_format\":{\"type\":\"json_object\"}", "response_format"},
    {'b', "\"response_format\":{}x", ""},
    {'b', "\"structured_outputs\":{\"regex\":\"a\"}", "structured_outputs"},
    {'b', "\"guided_json\":{\"a\":1}", "guided_json"},
    {'b', "\"guided_regex\":\"a\"", "guided_regex"},
    {'b', "\"guided_choice\":[\"a\"]", "guided_choice"},
    {'b', "\"guided_grammar\":\"a\"", "guided_grammar"},
    {'b', "\"grammar\":\"a\"", "grammar"},
    {'b', "\"logits_processors\":[\"a\"]", "logits_processors"},
    {'b', "\"best_of\":2", "best_of"},
    {'b', "\"suffix\":\"a\"", "suffix"},
    {'b', "\"use_beam_search\":true", "use_beam_search"},
    {'b', "\"prompt_embeds\":\"AAAA\"", "prompt_embeds"},
    {'b', "\"audio\":{\"voice\":\"x\"}", "audio"},
    {'b', "\"modalities\":[\"text\",\"audio\"]", "modalities"},
    {'b', "\"bad_words\":[\"x\"]", "bad_words"},
    {'b', "\"truncate_prompt_tokens\":5", "truncate_prompt_tokens"},
    {'m', "\"chat_template\":\"{{x}}\"", "chat_template"},
    {'m', "\"functions\":[{}]", "functions"},
};

static void build(struct buf *b, bool chat, const char *json)
{
    bool own = strstr(json, chat ? "\"messages\":" : "\"prompt\":") == json;
    buf_str(b, "{");
    if (!own)
        buf_str(b, chat ? "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]," : "\"prompt\":\"x\",");
    buf_fmt(b, "%s}", json);
}

START_TEST(bad_fields)
{
    for (int chat = 0; chat < 2; chat++) {
        if (fields[_i].where != 'b' && (fields[_i].where == 'm') != chat) continue;
        struct buf b = {0};
        struct answer a;
        build(&b, chat, fields[_i].json);
        client_post(rig.port, chat ? "/v1/chat/completions" : "/v1/completions", "", b.data, &a);
        ck_assert_msg(a.status == 400, "%s: %d %s", b.data, a.status, a.body.data);
        const char *param = rig_check_error(&a, 400);
        ck_assert_msg(!strcmp(param, fields[_i].param), "%s: param is %s, not %s", b.data, param,
                      fields[_i].param);
        answer_free(&a);
        buf_free(&b);
    }
    ck_assert_int_eq(fake_submitted(rig.engine), 0);
}
END_TEST

/* Neutral values of what is not implemented, unknown fields, null everywhere. */
START_TEST(good_fields)
{
    static const char *const good[] = {
        "\"tools\":[],\"tool_choice\":\"none\",\"response_format\":{\"type\":\"text\"},\"best_of\":1,"
        "\"suffix\":\"\",\"use_beam_search\":false,\"guided_json\":null",
        "\"user\":\"me\",\"metadata\":{\"a\":\"b\"},\"store\":true,\"service_tier\":\"auto\",\"parallel_tool_"
        "calls\":true",
        "\"temperature\":null,\"top_p\":null,\"stop\":null,\"n\":null,\"logprobs\":null,\"logit_bias\":null,"
        "\"seed\":null,\"stream\":null,\"model\":null,\"stream_options\":null",
        "\"temperature\":2,\"top_p\":1,\"top_k\":-1,\"min_p\":1,\"frequency_penalty\":-2,\"presence_"
        "penalty\":2,\"repetition_penalty\":1.5",
        "\"seed\":-9007199254740991,\"stop\":[\"zz\",\"yy\"],\"stop_token_ids\":[0,511],\"logit_bias\":{"
        "\"0\":-100,\"511\":100},\"priority\":-5,\"cache_salt\":\"s\"",
        "\"modalities\":[\"text\"],\"typical_p\":1.0,\"mirostat\":0",
        "\"max_tokens\":2147483647,\"min_tokens\":0,\"ignore_eos\":true",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        for (int chat = 0; chat < 2; chat++) {
            struct buf b = {0};
            build(&b, chat, good[i]);
            cJSON_Delete(
                client_json(rig.port, chat ? "/v1/chat/completions" : "/v1/completions", b.data, 200));
            buf_free(&b);
        }
    struct answer a;
    char v[128];
    client_post(rig.port, "/v1/completions", "",
                "{\"prompt\":\"x\",\"temprature\":1,\"a\\r\\nb\":2,\"zz\":null,\"user\":\"u\"}", &a);
    ck_assert_int_eq(a.status, 200);
    ck_assert_str_eq(answer_header(&a, "X-Inferd-Ignored", v, sizeof v), "temprature, zz");
    answer_free(&a);
}
END_TEST

START_TEST(too_long)
{
    struct buf b = {0};
    struct answer a;
    buf_str(&b, "{\"prompt\":\"");
    repeat(&b, "0123456789", 410);
    buf_str(&b, "\"}");
    client_post(rig.port, "/v1/completions", "", b.data, &a);
    ck_assert_str_eq(rig_check_error(&a, 400), "prompt");
    ck_assert_ptr_nonnull(strstr(a.body.data, "\"type\":\"context_length_exceeded\""));
    ck_assert_ptr_nonnull(strstr(a.body.data, "maximum context length is 4096"));
    answer_free(&a);
    buf_free(&b);
    buf_str(&b, "{\"prompt\":\"x\",\"stop\":\"");
    repeat(&b, "0123456789", 103);
    buf_str(&b, "\"}");
    client_post(rig.port, "/v1/completions", "", b.data, &a);
    ck_assert_str_eq(rig_check_error(&a, 400), "stop");
    answer_free(&a);
    buf_free(&b);
    buf_str(&b, "{\"prompt\":[\"x\"");
    repeat(&b, ",\"x\"", 1024);
    buf_str(&b, "]}");
    client_post(rig.port, "/v1/completions", "", b.data, &a);
    ck_assert_str_eq(rig_check_error(&a, 400), "prompt");
    answer_free(&a);
    buf_free(&b);
}
END_TEST

START_TEST(other_refusals)
{
    struct answer a;
    char v[16];
    client_post(rig.port, "/v1/completions", "", "{\"model\":\"gpt-\\u001b[31m<>\",\"prompt\":\"x\"}", &a);
    ck_assert_str_eq(rig_check_error(&a, 404), "model");
    answer_free(&a);
    static const struct {
        int code, status;
    } refusals[] = {{ERR_FULL, 429}, {ERR_TOO_LONG, 400}, {ERR_CLOSED, 503}, {ERR_NOMEM, 503}};
    for (int i = 0; i < 4; i++) {
        fake.refuse = refusals[i].code;
        client_post(rig.port, "/v1/completions", "", "{\"prompt\":[\"x\",\"y\"],\"n\":2}", &a);
        rig_check_error(&a, refusals[i].status);
        if (refusals[i].status > 400) ck_assert_ptr_nonnull(answer_header(&a, "Retry-After", v, sizeof v));
        answer_free(&a);
    }
    fake.refuse = 0;
    fake.fail_after = 3;
    client_post(rig.port, "/v1/completions", "", "{\"prompt\":\"x\"}", &a);
    rig_check_error(&a, 500);
    answer_free(&a);
    fake.fail_after = 0;
    rig_check_alive();
}
END_TEST

static void plain_start(void)
{
    rig_init();
    rig_start();
}

Suite *suite_fields(void)
{
    Suite *s = suite_create("fields");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, plain_start, rig_stop);
    tcase_set_timeout(t, 20);
    tcase_add_loop_test(t, bad_fields, 0, (int)(sizeof fields / sizeof fields[0]));
    tcase_add_test(t, good_fields);
    tcase_add_test(t, too_long);
    tcase_add_test(t, other_refusals);
    suite_add_tcase(s, t);
    return s;
}
