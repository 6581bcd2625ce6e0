/* The pure parts of the server: heads, error bodies, keys, request parsing, answers as JSON. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "auth.h"
#include "fake_engine.h"
#include "head.h"
#include "json.h"
#include "openai_in.h"
#include "openai_out.h"
#include "reply.h"
#include "utf8.h"

static const struct head_limits limits = {100, 32 << 10, 1 << 20};

/* A head is judged the same whatever pieces it comes in: no prefix is accepted early, none is refused unless
 * the whole is. */
START_TEST(head_in_pieces)
{
    static const char *const heads[] = {"GET /x?y=1 HTTP/1.1\r\nHost: a\r\nX:\t b c \t\r\n\r\n",
                                        "POST / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n",
                                        "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"};
    static const int want[] = {200, 200, 400, 400};
    for (int k = 0; k < 4; k++) {
        size_t n = strlen(heads[k]), n_head = 0;
        struct head h;
        ck_assert_int_eq(head_parse(heads[k], n, &limits, &h, &n_head), want[k]);
        if (want[k] == 200) ck_assert_uint_eq(n_head, n);
        for (size_t i = 0; i < n; i++) {
            char *exact = malloc(i + 1); /* so that a sanitizer sees a read beyond the piece */
            memcpy(exact, heads[k], i);
            int status = head_parse(exact, i, &limits, &h, &n_head);
            ck_assert_msg(status == 0 || (want[k] != 200 && status == want[k]), "%d at %zu of %s", status, i,
                          heads[k]);
            free(exact);
        }
    }
    struct head h;
    size_t n_head;
    ck_assert_int_eq(head_parse(heads[0], strlen(heads[0]), &limits, &h, &n_head), 200);
    int count;
    const struct head_field *f = head_find(&h, "x", &count);
    ck_assert(count == 1 && f->n_value == 3 && head_value_is(f, "B C"));
    ck_assert(h.n_target == 6 && h.minor == 1);
}
END_TEST

static struct head_verdict judge(const char *lines, int minor)
{
    struct head_verdict v;
    struct head h;
    size_t n_head;
    struct buf b = {0};
    buf_fmt(&b, "POST / HTTP/1.%d\r\n%s\r\n", minor, lines);
    ck_assert_int_eq(head_parse(b.data, b.len, &limits, &h, &n_head), 200);
    head_check(&h, &limits, &v);
    buf_free(&b);
    return v;
}

/* Heads that another parser has read: judged by their characters too. */
START_TEST(head_of_others)
{
    static const struct {
        const char *method, *target, *name, *value;
        int minor, status;
    } heads[] = {{"GET", "/x", "A", "b \t\xff", 1, 0},  {"G T", "/x", "A", "b", 1, 400},
                 {"GET", "/\x01", "A", "b", 1, 400},    {"GET", "/x", "A b", "c", 1, 400},
                 {"GET", "/x", "", "c", 1, 400},        {"GET", "/x", "A", "\x01", 1, 400},
                 {"GET", "/x", "A", "b\rC: d", 1, 400}, {"GET", "/x", "A", "b\x7f", 1, 400},
                 {"GET", "/x", "A", "b", -1, 505},      {"GET", "/x", "A", "b", 0, 0}};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        struct head_verdict v;
        struct head h = {
            .method = heads[i].method,
            .target = heads[i].target,
            .n_method = strlen(heads[i].method),
            .n_target = strlen(heads[i].target),
            .minor = heads[i].minor,
            .n = 2,
            .field = {{"Host", "x", 4, 1},
                      {heads[i].name, heads[i].value, strlen(heads[i].name), strlen(heads[i].value)}}};
        head_check(&h, &limits, &v);
        ck_assert_msg(v.status == heads[i].status, "head %zu: %d", i, v.status);
    }
}
END_TEST

START_TEST(head_verdicts)
{
    struct head_verdict v = judge("Host: x\r\nContent-Length: 1048576\r\nExpect: 100-Continue\r\n", 1);
    ck_assert(v.status == 0 && v.length == 1 << 20 && v.ask_continue && !v.chunked);
    ck_assert_int_eq(judge("Host: x\r\nContent-Length: 1048577\r\n", 1).status, 413);
    ck_assert_int_eq(judge("Host: x\r\nContent-Length: 000000000000000000000000000005\r\n", 1).length, 5);
    ck_assert_int_eq(judge("Host: x\r\nContent-Length: 99999999999999999999999999999999\r\n", 1).status, 400);
    v = judge("Host: x\r\ntransfer-encoding: Chunked\r\n", 1);
    ck_assert(v.status == 0 && v.chunked);
    ck_assert_int_eq(judge("", 0).status, 0);
    ck_assert_int_eq(judge("", 1).status, 400);
    ck_assert_int_eq(judge("Host: x\r\nContent-Length: 9999999\r\nContent-Length: 1\r\n", 1).status, 400);
}
END_TEST

START_TEST(error_bodies)
{
    struct buf b = {0}, nasty = {0};
    for (int i = 1; i < 2000; i++) buf_chr(&nasty, (char)(i * 7 + 1));
    nasty.data[500] = 1;
    reply_error_json(&b, 400, "invalid_request_error", "\xff\xfe", nasty.data);
    cJSON *j;
    struct err e = {0};
    ck_assert_msg(!json_parse(b.data, b.len, JSON_LIMITS_REQUEST, &j, &e), "%s", e.msg);
    ck_assert(utf8_valid(b.data, b.len) && b.len < 4096);
    ck_assert_int_eq((int)json_get(json_get(j, "error"), "code")->valuedouble, 400);
    ck_assert_ptr_null(json_get(json_get(j, "error"), "param"));
    cJSON_Delete(j);
    buf_free(&b);
    buf_free(&nasty);
}
END_TEST

START_TEST(keys)
{
    struct auth *a;
    struct err e = {0};
    ck_assert(!auth_open("", NULL, &a, &e) && !a);
    ck_assert(auth_open(" , ,", NULL, &a, &e) && !a);
    ck_assert(!auth_open("one, two words ,three", "", &a, &e) && a);
    static const char *const good[] = {"one", "two words", "three"},
                             *const bad[] = {"", "on", "onee", "ONE", " one", "two", "one, two words ,three"};
    for (int i = 0; i < 3; i++) ck_assert_msg(auth_check(a, good[i], strlen(good[i])), "%s", good[i]);
    for (int i = 0; i < 7; i++) ck_assert_msg(!auth_check(a, bad[i], strlen(bad[i])), "%s", bad[i]);
    ck_assert(!auth_check(a, "one\0", 4));
    auth_free(a);
}
END_TEST

static struct api_env env(void)
{
    const struct model *m = fake_model();
    return (struct api_env){.tok = m->tok, .name = "fake", .vocab = 512, .max_model_len = 100, .gen = m->gen};
}

static int parse(const char *text, const struct api_env *v, struct api_request *r, struct err *e)
{
    cJSON *j;
    ck_assert(!json_parse(text, strlen(text), JSON_LIMITS_REQUEST, &j, e));
    int status = api_parse(API_COMPLETION, j, v, r, e);
    cJSON_Delete(j);
    return status;
}

START_TEST(defaults)
{
    struct api_env v = env();
    struct api_request r;
    struct err e = {0};
    ck_assert(!parse("{\"prompt\":\"x\"}", &v, &r, &e));
    ck_assert(r.gen.temperature == 1 && r.gen.top_p == 1 && r.gen.max_tokens == 16 && r.gen.logprobs == -1 &&
              r.n == 1);
    uint64_t seed = r.gen.seed;
    api_request_free(&r);
    ck_assert(!parse("{\"prompt\":\"x\"}", &v, &r, &e));
    ck_assert_msg(r.gen.seed != seed, "two requests without a seed got the same");
    api_request_free(&r);
    v.gen = (struct gen_defaults){.temperature = 0.5f,
                                  .top_p = 0.9f,
                                  .min_p = 0.1f,
                                  .repetition_penalty = 1.1f,
                                  .top_k = 7,
                                  .max_new_tokens = -1};
    v.seed = 5;
    ck_assert(!parse("{\"prompt\":\"x\",\"top_p\":0.3}", &v, &r, &e));
    ck_assert(r.gen.temperature == 0.5f && r.gen.top_p == 0.3f && r.gen.top_k == 7 && r.gen.min_p == 0.1f &&
              r.gen.seed == 5);
    api_request_free(&r);
}
END_TEST

START_TEST(details)
{
    struct api_env v = env();
    struct api_request r, other;
    struct err e = {0};
    ck_assert(
        !parse("{\"prompt\":[\"a\\u0000b\",[1,2]],\"stop\":[\"x\\u0000y\"],\"logit_bias\":{\"9\":1,\"3\":-2,"
               "\"100\":0},\"cache_salt\":\"s\",\"echo\":true,\"max_tokens\":0,\"logprobs\":2}",
               &v, &r, &e));
    ck_assert_int_eq(r.n_prompt, 2);
    ck_assert(r.prompt[0].ids.n == 4 && r.prompt[0].ids.v[2] == 0);
    ck_assert(r.prompt[0].text.len == 3 && !memcmp(r.prompt[0].text.data, "a\0b", 3));
    ck_assert(r.gen.n_stop == 1 && r.gen.stop_len[0] == 3 && !memcmp(r.gen.stop[0], "x\0y", 3));
    ck_assert(r.gen.n_bias == 3 && r.gen.bias[0].token == 3 && r.gen.bias[1].token == 9 &&
              r.gen.bias[2].token == 100);
    ck_assert(r.no_answer && r.gen.max_tokens == 1 && r.gen.prompt_logprobs == 2 && !r.prompt_logprobs);
    ck_assert(!parse("{\"prompt\":\"x\",\"cache_salt\":\"t\"}", &v, &other, &e));
    ck_assert(r.gen.cache_salt && other.gen.cache_salt && r.gen.cache_salt != other.gen.cache_salt);
    api_request_free(&r);
    api_request_free(&other);
    struct buf b = {0};
    for (int n = 98; n <= 99; n++) { /* the prompt has n + 1 tokens; 100 leave no room */
        buf_clear(&b);
        buf_str(&b, "{\"prompt\":\"");
        for (int i = 0; i < n; i++) buf_chr(&b, 'a');
        buf_str(&b, "\"}");
        ck_assert_int_eq(parse(b.data, &v, &r, &e), n == 98 ? 0 : ERR_TOO_LONG);
        api_request_free(&r);
    }
    buf_free(&b);
}
END_TEST

/* A stream's chunks put together are the whole answer. */
START_TEST(chunks_add_up)
{
    struct api_env v = env();
    struct api_request r;
    struct err e = {0};
    ck_assert(
        !parse("{\"prompt\":\"p\",\"stream\":true,\"logprobs\":1,\"return_token_ids\":true}", &v, &r, &e));
    struct choice c = {0};
    struct answer_view view = {
        .req = &r, .tok = v.tok, .head = {.id = "cmpl-1", .model = "fake"}, .choice = &c, .n = 1};
    struct token_logprob top[] = {{'a', -1}, {'b', -INFINITY}, {'c', NAN}};
    struct out_token tok[] = {{'a', -1, 1, 1, 0}, {'b', -INFINITY, 2, 1, 1}, {'c', NAN, 3, 1, 2}};
    struct buf out = {0};
    for (int i = 0; i < 3; i++) {
        struct out_batch b = {.text = &"abc"[i],
                              .n_text = 1,
                              .tok = &tok[i],
                              .n_tok = 1,
                              .top = top,
                              .done = i == 2,
                              .finish = i == 2 ? FINISH_STOP : FINISH_NONE,
                              .stop_token = -1};
        b.usage.completion_tokens = i + 1;
        choice_digest(&view, &c, &b);
        buf_clear(&out);
        out_chunk(&view, &c, &out);
        ck_assert(!c.unwritten && !strncmp(out.data, "data: ", 6) && !strcmp(out.data + out.len - 2, "\n\n"));
        cJSON *j;
        ck_assert_msg(!json_parse(out.data + 6, out.len - 8, JSON_LIMITS_REQUEST, &j, &e), "%s: %s", e.msg,
                      out.data);
        const cJSON *choice = json_get(j, "choices")->child, *lp = json_get(choice, "logprobs");
        char want[2] = {"abc"[i], 0};
        ck_assert_str_eq(json_get_cstr(choice, "text"), want);
        ck_assert_int_eq((int)json_get(lp, "text_offset")->child->valuedouble, i);
        ck_assert_int_eq((int)json_get(choice, "token_ids")->child->valuedouble, want[0]);
        ck_assert(json_get(lp, "token_logprobs")->child->valuedouble == (i ? -9999 : -1));
        ck_assert((json_get(choice, "finish_reason") != NULL) == (i == 2));
        ck_assert((json_get(choice, "prompt_token_ids") != NULL) == (i == 0));
        cJSON_Delete(j);
    }
    choice_free(&c);
    api_request_free(&r);
    buf_free(&out);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("server");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 20);
    tcase_add_test(t, head_in_pieces);
    tcase_add_test(t, head_verdicts);
    tcase_add_test(t, head_of_others);
    tcase_add_test(t, error_bodies);
    tcase_add_test(t, keys);
    tcase_add_test(t, defaults);
    tcase_add_test(t, details);
    tcase_add_test(t, chunks_add_up);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
