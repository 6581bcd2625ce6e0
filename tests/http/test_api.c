/* Shapes and contents of whole answers. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "rig.h"
#include "suites.h"

static const cJSON *choice(const cJSON *answer, int i)
{
    return cJSON_GetArrayItem(json_get(answer, "choices"), i);
}
static double num(const cJSON *o, const char *key)
{
    const cJSON *v = json_get(o, key);
    ck_assert_msg(cJSON_IsNumber(v), "%s is no number", key);
    return v->valuedouble;
}
static void check_null(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    ck_assert_msg(v && cJSON_IsNull(v), "%s is not null", key);
}

static void check_usage(const cJSON *answer, int prompt, int completion, int cached)
{
    const cJSON *u = json_get(answer, "usage");
    ck_assert_int_eq((int)num(u, "prompt_tokens"), prompt);
    ck_assert_int_eq((int)num(u, "completion_tokens"), completion);
    ck_assert_int_eq((int)num(u, "total_tokens"), prompt + completion);
    ck_assert_int_eq((int)num(json_get(u, "prompt_tokens_details"), "cached_tokens"), cached);
}

/* What the fake engine says to <s> and this text. */
static const char *said(const char *text, uint64_t seed, int n)
{
    static char out[256];
    int32_t ids[256] = {256};
    int k = 1;
    for (; *text; text++) ids[k++] = (unsigned char)*text;
    fake_answer(ids, k, seed, n, out);
    return out;
}

START_TEST(completion)
{
    cJSON *j = client_json(rig.port, "/v1/completions",
                           "{\"model\":\"fake\",\"prompt\":\"abc\",\"seed\":7,\"max_tokens\":5}", 200);
    ck_assert_msg(!strncmp(json_get_cstr(j, "id"), "cmpl-", 5), "id");
    ck_assert_str_eq(json_get_cstr(j, "object"), "text_completion");
    ck_assert_str_eq(json_get_cstr(j, "model"), "fake");
    ck_assert(num(j, "created") > 1.6e9);
    ck_assert_ptr_nonnull(json_get_cstr(j, "system_fingerprint"));
    const cJSON *c = choice(j, 0);
    ck_assert_int_eq((int)num(c, "index"), 0);
    ck_assert_str_eq(json_get_cstr(c, "text"), said("abc", 7, 5));
    ck_assert_str_eq(json_get_cstr(c, "finish_reason"), "length");
    check_null(c, "logprobs");
    check_null(c, "stop_reason");
    check_usage(j, 4, 5, 2);
    cJSON_Delete(j);
}
END_TEST

START_TEST(chat)
{
    cJSON *j = client_json(rig.port, "/v1/chat/completions",
                           "{\"messages\":[{\"role\":\"system\",\"content\":\"be\"},{\"role\":\"user\","
                           "\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                           "{\"type\":\"text\",\"text\":\"b\"}]}],\"temperature\":0,\"max_tokens\":100,\"max_"
                           "completion_tokens\":6}",
                           200);
    ck_assert_msg(!strncmp(json_get_cstr(j, "id"), "chatcmpl-", 9), "id");
    ck_assert_str_eq(json_get_cstr(j, "object"), "chat.completion");
    const cJSON *c = choice(j, 0), *m = json_get(c, "message");
    ck_assert_str_eq(json_get_cstr(m, "role"), "assistant");
    /* the template's text begins with <s>, which is not added again */
    ck_assert_str_eq(json_get_cstr(m, "content"), said("system: be\nuser: a\nb\nassistant: ", 0, 6));
    check_null(m, "refusal");
    check_usage(j, 33, 6, 16);
    cJSON_Delete(j);
    j = client_json(rig.port, "/v1/chat/completions",
                    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\","
                    "\"content\":\" Once upon \"}],\"continue_final_message\":true,"
                    "\"chat_template_kwargs\":{\"style\":\"terse\"},\"temperature\":0,\"max_tokens\":4}",
                    200);
    ck_assert_str_eq(json_get_cstr(json_get(choice(j, 0), "message"), "content"),
                     said("user: x\nassistant:  Once upon", 0, 4));
    cJSON_Delete(j);
    j = client_json(rig.port, "/v1/chat/completions",
                    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"add_generation_prompt\":false,"
                    "\"chat_template_kwargs\":{\"style\":\"terse\"},\"temperature\":0,\"max_tokens\":4}",
                    200);
    ck_assert_str_eq(json_get_cstr(json_get(choice(j, 0), "message"), "content"),
                     said("user: x\n(terse)", 0, 4));
    cJSON_Delete(j);
}
END_TEST

/* Choice i of n has seed + i; prompts in their order, n choices each. */
START_TEST(many_choices)
{
    cJSON *j = client_json(rig.port, "/v1/completions",
                           "{\"prompt\":[\"a\",\"bc\"],\"n\":3,\"seed\":5,\"max_tokens\":8}", 200);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(j, "choices")), 6);
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq((int)num(choice(j, i), "index"), i);
        ck_assert_str_eq(json_get_cstr(choice(j, i), "text"),
                         said(i < 3 ? "a" : "bc", 5 + (uint64_t)(i % 3), 8));
    }
    check_usage(j, 2 + 3, 48, 1 + 1);
    cJSON_Delete(j);
    j = client_json(rig.port, "/v1/completions", "{\"prompt\":[[1,2,3],[4]],\"max_tokens\":1}", 200);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(j, "choices")), 2);
    check_usage(j, 4, 2, 1);
    cJSON_Delete(j);
    j = client_json(rig.port, "/v1/completions", "{\"prompt\":[1,2,3],\"max_tokens\":1,\"n\":128}", 200);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(j, "choices")), 128);
    check_usage(j, 3, 128, 1);
    cJSON_Delete(j);
}
END_TEST

START_TEST(stops)
{
    const char *text = said("abc", 0, 12);
    char body[256], stop[4] = {text[5], text[6], text[7], 0};
    snprintf(body, sizeof body, "{\"prompt\":\"abc\",\"temperature\":0,\"stop\":[\"QQ\",\"%s\"]}", stop);
    cJSON *j = client_json(rig.port, "/v1/completions", body, 200);
    ck_assert_str_eq(json_get_cstr(choice(j, 0), "finish_reason"), "stop");
    ck_assert_str_eq(json_get_cstr(choice(j, 0), "stop_reason"), stop);
    cJSON_Delete(j);
    snprintf(body, sizeof body, "{\"prompt\":\"abc\",\"temperature\":0,\"stop_token_ids\":[%d]}", text[4]);
    j = client_json(rig.port, "/v1/completions", body, 200);
    ck_assert_str_eq(json_get_cstr(choice(j, 0), "finish_reason"), "stop");
    ck_assert_int_eq((int)num(choice(j, 0), "stop_reason"), text[4]);
    cJSON_Delete(j);
}
END_TEST

START_TEST(completion_logprobs)
{
    const char *text = said("ab", 0, 3);
    cJSON *j = client_json(rig.port, "/v1/completions",
                           "{\"prompt\":\"ab\",\"temperature\":0,\"max_tokens\":3,\"logprobs\":2}", 200);
    const cJSON *lp = json_get(choice(j, 0), "logprobs");
    static const char *const names[] = {"text_offset", "token_logprobs", "tokens", "top_logprobs"};
    for (int i = 0; i < 4; i++) ck_assert_int_eq(cJSON_GetArraySize(json_get(lp, names[i])), 3);
    for (int i = 0; i < 3; i++) {
        char token[2] = {text[i], 0};
        ck_assert_int_eq((int)cJSON_GetArrayItem(json_get(lp, "text_offset"), i)->valuedouble, i);
        ck_assert_str_eq(cJSON_GetArrayItem(json_get(lp, "tokens"), i)->valuestring, token);
        ck_assert_double_eq(cJSON_GetArrayItem(json_get(lp, "token_logprobs"), i)->valuedouble, -0.125);
        const cJSON *top = cJSON_GetArrayItem(json_get(lp, "top_logprobs"), i);
        ck_assert_int_eq(cJSON_GetArraySize(top), 2);
        ck_assert_double_eq(num(top, token), -0.5);
    }
    cJSON_Delete(j);
    j = client_json(rig.port, "/v1/completions",
                    "{\"prompt\":\"ab\",\"temperature\":0,\"max_tokens\":1,\"logprobs\":0,\"return_tokens_as_"
                    "token_ids\":true,\"return_token_ids\":true}",
                    200);
    lp = json_get(choice(j, 0), "logprobs");
    char id[32];
    snprintf(id, sizeof id, "token_id:%d", text[0]);
    ck_assert_str_eq(json_get(lp, "tokens")->child->valuestring, id);
    ck_assert_double_eq(num(json_get(lp, "top_logprobs")->child, id), -0.125);
    ck_assert_int_eq((int)json_get(choice(j, 0), "token_ids")->child->valuedouble, text[0]);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(choice(j, 0), "prompt_token_ids")), 3);
    cJSON_Delete(j);
}
END_TEST

/* lm-eval's way to score a prompt. */
START_TEST(echo)
{
    cJSON *j = client_json(rig.port, "/v1/completions",
                           "{\"prompt\":\"ab\\u00e4\",\"max_tokens\":0,\"echo\":true,\"logprobs\":1}", 200);
    const cJSON *c = choice(j, 0), *lp = json_get(c, "logprobs");
    ck_assert_str_eq(json_get_cstr(c, "text"), "ab\xc3\xa4");
    ck_assert_str_eq(json_get_cstr(c, "finish_reason"), "length");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(lp, "tokens")), 5); /* <s> a b and two bytes */
    ck_assert(cJSON_IsNull(json_get(lp, "token_logprobs")->child));
    ck_assert(cJSON_IsNull(json_get(lp, "top_logprobs")->child));
    ck_assert_double_eq(cJSON_GetArrayItem(json_get(lp, "token_logprobs"), 1)->valuedouble, -0.25);
    ck_assert_double_eq(cJSON_GetArrayItem(json_get(lp, "token_logprobs"), 3)->valuedouble, -9999); /* -inf */
    ck_assert_int_eq((int)cJSON_GetArrayItem(json_get(lp, "text_offset"), 1)->valuedouble, 3);
    check_usage(j, 5, 0, 2);
    cJSON_Delete(j);
    j = client_json(rig.port, "/v1/completions",
                    "{\"prompt\":[97,98],\"max_tokens\":2,\"echo\":true,\"temperature\":0,\"logprobs\":0}",
                    200);
    char want[8] = "ab";
    int32_t ids[2] = {97, 98};
    fake_answer(ids, 2, 0, 2, want + 2);
    ck_assert_str_eq(json_get_cstr(choice(j, 0), "text"), want);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(json_get(choice(j, 0), "logprobs"), "tokens")), 4);
    cJSON_Delete(j);
}
END_TEST

START_TEST(prompt_logprobs)
{
    cJSON *j = client_json(rig.port, "/v1/completions",
                           "{\"prompt\":\"ab\",\"max_tokens\":1,\"prompt_logprobs\":2}", 200);
    const cJSON *p = json_get(choice(j, 0), "prompt_logprobs");
    ck_assert_int_eq(cJSON_GetArraySize(p), 3);
    ck_assert(cJSON_IsNull(p->child));
    const cJSON *a = json_get(p->child->next, "97");
    ck_assert_double_eq(num(a, "logprob"), -0.25);
    ck_assert_int_eq((int)num(a, "rank"), 2);
    ck_assert_str_eq(json_get_cstr(a, "decoded_token"), "a");
    ck_assert_int_eq((int)num(json_get(p->child->next, "98"), "rank"), 2);
    cJSON_Delete(j);
    j = client_json(rig.port, "/v1/chat/completions",
                    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1,\"prompt_"
                    "logprobs\":0,\"return_token_ids\":true}",
                    200);
    ck_assert(cJSON_IsNull(json_get(j, "prompt_logprobs")->child));
    ck_assert_int_gt(cJSON_GetArraySize(json_get(j, "prompt_token_ids")), 5);
    cJSON_Delete(j);
}
END_TEST

START_TEST(chat_logprobs)
{
    fake.bad_utf8 = 1;
    cJSON *j = client_json(rig.port, "/v1/chat/completions",
                           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":2,"
                           "\"logprobs\":true,\"top_logprobs\":3}",
                           200);
    const cJSON *t = json_get(json_get(choice(j, 0), "logprobs"), "content")->child;
    ck_assert_str_eq(json_get_cstr(t, "token"), "\xef\xbf\xbd");
    ck_assert_int_eq((int)json_get(t, "bytes")->child->valuedouble, 200);
    ck_assert_double_eq(num(t, "logprob"), -0.125);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(t, "top_logprobs")), 3);
    ck_assert_ptr_nonnull(t->next);
    cJSON_Delete(j);
    /* tokens of the same text: one key each */
    j = client_json(rig.port, "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":1,\"logprobs\":5}", 200);
    ck_assert_int_eq(cJSON_GetArraySize(json_get(json_get(choice(j, 0), "logprobs"), "top_logprobs")->child),
                     1);
    cJSON_Delete(j);
    fake.bad_utf8 = 0;
}
END_TEST

START_TEST(tokenize)
{
    cJSON *j = client_json(rig.port, "/tokenize",
                           "{\"model\":\"fake\",\"prompt\":\"a<s>b\",\"return_token_strs\":true}", 200);
    ck_assert_int_eq((int)num(j, "count"), 4);
    ck_assert_int_eq((int)num(j, "max_model_len"), 4096);
    char *s = cJSON_PrintUnformatted(json_get(j, "tokens"));
    ck_assert_str_eq(s, "[256,97,256,98]");
    cJSON_free(s);
    s = cJSON_PrintUnformatted(json_get(j, "token_strs"));
    ck_assert_str_eq(s, "[\"<s>\",\"a\",\"<s>\",\"b\"]");
    cJSON_free(s);
    cJSON_Delete(j);
    static const struct {
        const char *body, *tokens;
    } tries[] = {
        {"{\"content\":\"ab\"}", "[97,98]"},
        {"{\"content\":\"ab\",\"add_special\":true}", "[256,97,98]"},
        {"{\"content\":\"<s>\",\"parse_special\":false}", "[60,115,62]"},
        {"{\"content\":\"a\",\"with_pieces\":true}", "[{\"id\":97,\"piece\":\"a\"}]"},
        {"{\"prompt\":\"\"}", "[256]"},
        {"{\"prompt\":\"\",\"add_special_tokens\":false}", "[]"},
        {"{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}],\"add_generation_prompt\":false}",
         "[256,117,58,32,120,10]"},
    };
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        j = client_json(rig.port, "/tokenize", tries[i].body, 200);
        s = cJSON_PrintUnformatted(json_get(j, "tokens"));
        ck_assert_str_eq(s, tries[i].tokens);
        cJSON_free(s);
        cJSON_Delete(j);
    }
    j = client_json(rig.port, "/detokenize", "{\"tokens\":[256,97,228,98]}", 200);
    ck_assert_str_eq(json_get_cstr(j, "prompt"), json_get_cstr(j, "content"));
    cJSON_Delete(j);
    static const char *const bad[][2] = {
        {"/tokenize", "{}"},
        {"/tokenize", "{\"prompt\":1}"},
        {"/tokenize", "{\"content\":[]}"},
        {"/tokenize", "{\"prompt\":\"x\",\"add_special_tokens\":1}"},
        {"/tokenize", "{\"prompt\":\"x\",\"return_token_strs\":1}"},
        {"/detokenize", "{}"},
        {"/detokenize", "{\"tokens\":1}"},
        {"/detokenize", "{\"tokens\":[512]}"},
        {"/detokenize", "{\"tokens\":[-1]}"},
        {"/detokenize", "{\"tokens\":[1.5]}"},
        {"/detokenize", "{\"tokens\":[\"1\"]}"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct answer a;
        client_post(rig.port, bad[i][0], "", bad[i][1], &a);
        ck_assert_str_ne(rig_check_error(&a, 400), "");
        answer_free(&a);
    }
    cJSON_Delete(client_json(rig.port, "/tokenize", "{\"model\":\"other\",\"prompt\":\"x\"}", 404));
}
END_TEST

START_TEST(no_template)
{
    rig_init();
    struct err e = {0};
    ck_assert(!server_open(&rig.c, &rig.server, &e));
    rig.port = server_port(rig.server);
    rig.engine = fake_open(4096);
    ck_assert(!server_attach(rig.server, rig.engine, fake_model(), NULL, &e));
    struct answer a;
    client_post(rig.port, "/v1/chat/completions", "",
                "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", &a);
    ck_assert_str_eq(rig_check_error(&a, 400), "messages");
    ck_assert_ptr_nonnull(strstr(a.body.data, "--chat-template"));
    answer_free(&a);
    rig_check_alive();
    rig_stop();
}
END_TEST

static void plain_start(void)
{
    rig_init();
    rig_start();
}

Suite *suite_api(void)
{
    Suite *s = suite_create("api");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, plain_start, rig_stop);
    tcase_set_timeout(t, 20);
    tcase_add_test(t, completion);
    tcase_add_test(t, chat);
    tcase_add_test(t, many_choices);
    tcase_add_test(t, stops);
    tcase_add_test(t, completion_logprobs);
    tcase_add_test(t, echo);
    tcase_add_test(t, prompt_logprobs);
    tcase_add_test(t, chat_logprobs);
    tcase_add_test(t, tokenize);
    suite_add_tcase(s, t);
    t = tcase_create("no template");
    tcase_add_test(t, no_template);
    suite_add_tcase(s, t);
    return s;
}
