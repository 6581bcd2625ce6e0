/* `bench serve` from its command line to its result file, against a server in this process. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "bench.h"
#include "fake_server.h"
#include "json.h"
#include "log.h"
#include "suites.h"

static char dir[] = "/tmp/bench-test-XXXXXX";

/* Runs with the port, --save-result and a result file in a new folder; returns the exit code and the result.
 */
static int run(struct fake_server *f, cJSON **result, int n_extra, const char **extra)
{
    char port[12], path[64];
    const char *argv[48] = {
        "serve",  "--port",        port, "--save-result", "--result-dir", dir, "--result-filename",
        "r.json", "--disable-tqdm"};
    int argc = 9;
    for (int i = 0; i < n_extra; i++) argv[argc++] = extra[i];
    snprintf(dir, sizeof dir, "/tmp/bench-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/r.json", dir);
    fake_start(f);
    snprintf(port, sizeof port, "%d", f->port);
    log_setup(LOG_ERROR, LOG_TEXT);
    ck_assert_ptr_nonnull(freopen("/dev/null", "w", stdout));
    int code = bench_serve_main(argc, (char **)argv);
    fake_stop(f);
    *result = NULL;
    json_load(path, 1 << 20, result, NULL);
    unlink(path);
    rmdir(dir);
    return code;
}
#define RUN(f, result, ...)                                                                                  \
    run(f, result, (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)), (const char *[]){__VA_ARGS__})

static int number(const cJSON *j, const char *key) { return (int)json_get(j, key)->valuedouble; }

START_TEST(completions)
{
    struct fake_server f = {.tokens = 4};
    cJSON *j, *body = NULL;
    setenv("OPENAI_API_KEY", "secret", 1);
    ck_assert_int_eq(RUN(&f, &j, "--num-prompts", "20", "--random-input-len", "6", "--random-output-len", "4",
                         "--max-concurrency", "3", "--num-warmups", "2", "--ready-check-timeout-sec", "5",
                         "--temperature", "0", "--save-detailed", "--extra-body",
                         "{\"max_tokens\":9,\"user\":\"u\"}", "--header", "X-Me=1", "--request-id-prefix",
                         "id-"),
                     0);
    ck_assert(number(j, "completed") == 20 && number(j, "failed") == 0);
    ck_assert(number(j, "total_input_tokens") == 120 && number(j, "total_output_tokens") == 80);
    ck_assert(number(j, "max_concurrent_requests") <= 3);
    ck_assert_str_eq(json_get_cstr(j, "model_id"), "org/fake");
    ck_assert_str_eq(cJSON_GetArrayItem(json_get(j, "generated_texts"), 19)->valuestring, "xxxx");
    ck_assert_int_eq(cJSON_GetArraySize(json_get(j, "itls")->child), 3);
    ck_assert_int_eq(f.completions, 23);
    ck_assert_int_le(f.accepted, 3);                                  /* connections are used again */
    ck_assert_ptr_nonnull(strstr(f.last_head, "x-request-id: id-1")); /* 17, 18 or 19: three run at once */
    ck_assert_ptr_nonnull(strstr(f.last_head, "X-Me: 1\r\n"));
    ck_assert_ptr_nonnull(strstr(f.last_head, "Authorization: Bearer secret\r\n"));
    ck_assert_int_eq(json_parse(f.last_body, strlen(f.last_body), JSON_LIMITS_REQUEST, &body, NULL), 0);
    ck_assert_str_eq(json_get_cstr(body, "model"), "fake");
    ck_assert(cJSON_GetArraySize(json_get(body, "prompt")) == 6 && number(body, "max_tokens") == 9);
    for (const cJSON *id = json_get(body, "prompt")->child; id; id = id->next)
        ck_assert(id->valuedouble >= 1000 && id->valuedouble <= 9000); /* what /tokenize made safe */
    ck_assert(cJSON_IsTrue(json_get(body, "ignore_eos")) && cJSON_IsTrue(json_get(body, "stream")));
    ck_assert(json_get(body, "temperature") && !json_get(body, "top_p") && json_get(body, "user"));
    cJSON_Delete(body);
    cJSON_Delete(j);
}
END_TEST

START_TEST(chat_at_a_rate)
{
    struct fake_server f = {.tokens = 2};
    cJSON *j, *body = NULL;
    ck_assert_int_eq(RUN(&f, &j, "--backend", "openai-chat", "--num-prompts", "10", "--random-input-len", "5",
                         "--random-output-len", "2", "--request-rate", "40", "--burstiness", "inf", "--model",
                         "m", "--dataset-name", "prefix_repetition", "--prefix-repetition-num-prefixes", "2"),
                     0);
    ck_assert_int_eq(number(j, "completed"), 10);
    double duration = json_get(j, "duration")->valuedouble;
    ck_assert(duration >= 0.249 && duration < 5); /* ten requests, the last after 10 / 40 s */
    ck_assert_int_eq(json_parse(f.last_body, strlen(f.last_body), JSON_LIMITS_REQUEST, &body, NULL), 0);
    ck_assert(cJSON_IsArray(json_get(body, "messages")) && json_get(body, "max_completion_tokens"));
    ck_assert_ptr_null(json_get(body, "ignore_eos"));
    cJSON_Delete(body);
    cJSON_Delete(j);
}
END_TEST

static const struct {
    const char *mode, *error;
} failures[] = {{"503", "HTTP 503: full"},
                {"error", "broke"},
                {"cut", "within its answer"},
                {"garbage", "malformed"},
                {"silent", "silent"}};

START_TEST(failures_are_counted)
{
    struct fake_server f = {.tokens = 4, .mode = failures[_i].mode, .fail_every = 3};
    cJSON *j;
    ck_assert_int_eq(RUN(&f, &j, "--num-prompts", "9", "--input-len", "6", "--output-len", "4",
                         "--max-concurrency", "2", "--save-detailed", "--silence-timeout-sec", "1"),
                     0);
    ck_assert(number(j, "completed") == 6 && number(j, "failed") == 3);
    int told = 0;
    for (const cJSON *e = json_get(j, "errors")->child; e; e = e->next)
        told += strstr(e->valuestring, failures[_i].error) != NULL;
    ck_assert_int_eq(told, 3);
    cJSON_Delete(j);
}
END_TEST

START_TEST(closing_server)
{
    struct fake_server f = {.tokens = 4, .mode = "close"}; /* closes after each answer, without a word */
    cJSON *j;
    ck_assert_int_eq(
        RUN(&f, &j, "--num-prompts", "12", "--input-len", "6", "--output-len", "4", "--max-concurrency", "2"),
        0);
    ck_assert_int_eq(number(j, "completed"), 12);
    cJSON_Delete(j);
}
END_TEST

START_TEST(nothing_succeeds)
{
    struct fake_server f = {.tokens = 4, .mode = "503"};
    cJSON *j;
    ck_assert_int_eq(RUN(&f, &j, "--num-prompts", "3", "--input-len", "6"), 1);
    ck_assert_int_eq(number(j, "failed"), 3);
    cJSON_Delete(j);
    char port[12]; /* nobody listens there any more */
    snprintf(port, sizeof port, "%d", f.port);
    ck_assert_int_eq(bench_serve_main(5, (char *[]){"serve", "--port", port, "--num-prompts", "1"}), 1);
    ck_assert_int_eq(bench_serve_main(2, (char *[]){"serve", "--nonsense"}), 2);
    ck_assert_int_eq(bench_serve_main(3, (char *[]){"serve", "--extra-body", "[1]"}), 2);
    ck_assert_int_eq(bench_serve_main(2, (char *[]){"serve", "--help"}), 0);
}
END_TEST

START_TEST(sharegpt_file)
{
    char file[] = "/tmp/bench-sharegpt-XXXXXX";
    const char *json = "[{\"conversations\":[{\"value\":\"first question\"},{\"value\":\"answer\"}]},"
                       "{\"conversations\":[{\"value\":\"lonely\"}]}, {\"id\": 1}, 7]";
    int fd = mkstemp(file);
    ck_assert(fd >= 0 && write(fd, json, strlen(json)) == (ssize_t)strlen(json));
    close(fd);
    struct fake_server f = {.tokens = 3};
    cJSON *j;
    ck_assert_int_eq(RUN(&f, &j, "--num-prompts", "4", "--dataset-name", "sharegpt", "--dataset-path", file),
                     0);
    unlink(file);
    ck_assert_int_eq(number(j, "completed"), 4);
    ck_assert_ptr_nonnull(strstr(f.last_body, "\"first question\""));
    ck_assert_ptr_nonnull(strstr(f.last_body, "\"max_tokens\": 5"));
    cJSON_Delete(j);
}
END_TEST

TCase *load_case(void)
{
    TCase *t = tcase_create("load");
    tcase_add_test(t, completions);
    tcase_add_test(t, chat_at_a_rate);
    tcase_add_loop_test(t, failures_are_counted, 0, (int)(sizeof failures / sizeof *failures));
    tcase_add_test(t, closing_server);
    tcase_add_test(t, nothing_succeeds);
    tcase_add_test(t, sharegpt_file);
    tcase_set_timeout(t, 30);
    return t;
}
