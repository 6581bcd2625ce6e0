/* Routes, methods, keys, CORS, request ids, readiness, metrics. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "rig.h"
#include "suites.h"

static const struct {
    const char *path;
    bool post, open;
} routes[] = {
    {"/v1/completions", true, false},
    {"/v1/chat/completions", true, false},
    {"/tokenize", true, false},
    {"/detokenize", true, false},
    {"/v1/models", false, false},
    {"/v1/models/fake", false, false},
    {"/ping", false, false},
    {"/metrics", false, false},
    {"/version", false, false},
    {"/health", false, true},
    {"/livez", false, true},
    {"/readyz", false, true},
    {"/", false, true},
    {"/nothing", false, false},
    {"/v1/nothing", true, false},
};
#define N_ROUTES (int)(sizeof routes / sizeof routes[0])

static void request(const char *method, const char *path, const char *headers, struct answer *a)
{
    struct buf b = {0};
    buf_fmt(&b, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, path, headers);
    client_raw(rig.port, b.data, b.len, 5, a);
    buf_free(&b);
}

START_TEST(wrong_methods)
{
    static const char *const methods[] = {"GET", "PUT", "DELETE", "TRACE", "PATCH", "POST", "OPTIONS"};
    struct answer a;
    char allow[32];
    for (int i = 0; i < N_ROUTES - 2; i++)
        for (int k = 0; k < 7; k++) {
            bool right = !strcmp(methods[k], routes[i].post ? "POST" : "GET");
            if (right) continue;
            request(methods[k], routes[i].path, "", &a);
            ck_assert_msg(a.status == 405, "%s %s: %d", methods[k], routes[i].path, a.status);
            ck_assert_str_eq(answer_header(&a, "Allow", allow, sizeof allow),
                             routes[i].post ? "POST" : "GET, HEAD");
            rig_check_error(&a, 405);
            answer_free(&a);
        }
    request("GET", "/nothing", "", &a);
    rig_check_error(&a, 404);
    answer_free(&a);
    rig_check_alive();
}
END_TEST

/* H34 to H39: every route but the open ones is 401 without the key, before the body is read. */
START_TEST(keys)
{
    static const char *const wrong[] = {"",
                                        "Authorization: Basic c2VjcmV0\r\n",
                                        "Authorization: Bearer\r\n",
                                        "Authorization: Bearer \r\n",
                                        "Authorization: Bearer secre\r\n",
                                        "Authorization: Bearer secret1\r\n",
                                        "Authorization: secret\r\n",
                                        "Authorization: Bearer secret\r\nAuthorization: Bearer secret\r\n",
                                        "X-Api-Key: \r\n",
                                        "X-Api-Key: no\r\n",
                                        "Authorization: Bearer no\r\nX-Api-Key: secret\r\n",
                                        "Authorization: Bearer # comment\r\n"};
    static const char *const right[] = {"Authorization: Bearer secret\r\n",
                                        "authorization: bearer secret\r\n", "X-Api-Key: secret\r\n",
                                        "Authorization: Bearer second\r\n"};
    struct answer a;
    for (int i = 0; i < N_ROUTES; i++) {
        const char *method = routes[i].post ? "POST" : "GET";
        for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
            char headers[256];
            snprintf(headers, sizeof headers, "%s%s", wrong[k],
                     routes[i].post ? "Content-Length: 33554432\r\n" : "");
            double start = now_s();
            request(method, routes[i].path, headers, &a);
            ck_assert_msg(a.status == (routes[i].open ? 200 : 401), "%s with %s: %d", routes[i].path,
                          wrong[k], a.status);
            if (!routes[i].open) rig_check_error(&a, 401);
            ck_assert(now_s() - start < 1);
            answer_free(&a);
        }
        for (int k = 0; k < 4; k++) {
            request(method, routes[i].path, right[k], &a);
            ck_assert_msg(a.status != 401, "%s with %s", routes[i].path, right[k]);
            answer_free(&a);
        }
    }
    request("GET", "/v1/models?api_key=secret", "", &a);
    rig_check_error(&a, 401);
    answer_free(&a);
    struct buf b = {0};
    buf_str(&b, "Authorization: Bearer ");
    for (int i = 0; i < 30000; i++) buf_chr(&b, 'k');
    buf_str(&b, "\r\n");
    request("GET", "/v1/models", b.data, &a);
    rig_check_error(&a, 401);
    answer_free(&a);
    buf_free(&b);
    rig_check_alive();
}
END_TEST

START_TEST(keys_from_a_file)
{
    char path[] = "/tmp/inferd-test-keys-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] = "# keys\n\n  one \r\ntwo\n";
    ck_assert(write(fd, text, sizeof text - 1) == sizeof text - 1);
    close(fd);
    rig_init();
    rig.c.api_key_file = path;
    rig_start();
    static const struct {
        const char *header;
        int status;
    } tries[] = {{"X-Api-Key: one\r\n", 200},
                 {"X-Api-Key: two\r\n", 200},
                 {"X-Api-Key: three\r\n", 401},
                 {"X-Api-Key: # keys\r\n", 401},
                 {"", 401}};
    for (int i = 0; i < 5; i++) {
        struct answer a;
        client_get(rig.port, "/version", tries[i].header, &a);
        ck_assert_int_eq(a.status, tries[i].status);
        answer_free(&a);
    }
    rig_stop();
    struct server_config c;
    struct server *s;
    struct err e = {0};
    server_config_init(&c);
    c.port = 0;
    ck_assert_int_eq(truncate(path, 0), 0);
    c.api_key_file = path;
    ck_assert_msg(server_open(&c, &s, &e) != 0, "an empty key file must not open the server");
    unlink(path);
    ck_assert_msg(server_open(&c, &s, &e) != 0 && strstr(e.msg, path), "%s", e.msg);
}
END_TEST

START_TEST(cors_is_off)
{
    struct answer a;
    char v[64];
    request("OPTIONS", "/v1/models",
            "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n", &a);
    ck_assert_int_eq(a.status, 405);
    ck_assert_ptr_null(answer_header(&a, "Access-Control-Allow-Origin", v, sizeof v));
    answer_free(&a);
}
END_TEST

START_TEST(cors_by_list)
{
    struct answer a;
    char v[64];
    rig_init();
    rig.c.allowed_origins = "https://a.example, https://b.example";
    rig.c.api_key = "secret";
    rig_start();
    request("OPTIONS", "/v1/chat/completions",
            "Origin: https://b.example\r\nAccess-Control-Request-Method: POST\r\n", &a);
    ck_assert_int_eq(a.status, 204);
    ck_assert_str_eq(answer_header(&a, "Access-Control-Allow-Origin", v, sizeof v), "https://b.example");
    ck_assert_ptr_nonnull(
        strstr(answer_header(&a, "Access-Control-Allow-Headers", v, sizeof v), "Authorization"));
    answer_free(&a);
    client_get(rig.port, "/health", "Origin: https://a.example\r\n", &a);
    ck_assert_str_eq(answer_header(&a, "Access-Control-Allow-Origin", v, sizeof v), "https://a.example");
    answer_free(&a);
    static const char *const evil[] = {"https://a.example.evil",
                                       "https://a.exampl",
                                       "null",
                                       "https://a.example, https://b.example",
                                       "*",
                                       ""};
    for (int i = 0; i < 6; i++) {
        char h[128];
        snprintf(h, sizeof h, "Origin: %s\r\nAccess-Control-Request-Method: POST\r\n", evil[i]);
        request("OPTIONS", "/v1/models", h, &a);
        ck_assert_int_eq(a.status, 401);
        ck_assert_ptr_null(answer_header(&a, "Access-Control-Allow-Origin", v, sizeof v));
        answer_free(&a);
    }
    rig_stop();
}
END_TEST

/* H42 */
START_TEST(request_ids)
{
    static const char *const kept[] = {"abc", "A-1_2.3:4",
                                       "0123456789012345678901234567890123456789012345678901234567890ab"};
    static const char *const replaced[] = {
        "",         "a b",      "a%0d%0aX: y",
        "\xc3\xa4", "<script>", "0123456789012345678901234567890123456789012345678901234567890abc"};
    struct answer a;
    char h[128], got[128];
    for (int i = 0; i < 3; i++) {
        snprintf(h, sizeof h, "X-Request-Id: %s\r\n", kept[i]);
        client_get(rig.port, "/health", h, &a);
        ck_assert_str_eq(answer_header(&a, "X-Request-Id", got, sizeof got), kept[i]);
        answer_free(&a);
    }
    for (int i = 0; i < 6; i++) {
        snprintf(h, sizeof h, "X-Request-Id: %s\r\n", replaced[i]);
        client_get(rig.port, "/health", h, &a);
        ck_assert_uint_eq(strspn(answer_header(&a, "X-Request-Id", got, sizeof got), "0123456789abcdef"), 32);
        answer_free(&a);
    }
    struct buf b = {0};
    buf_fmt(&b, "X-Request-Id: %04096d\r\n", 7);
    client_get(rig.port, "/health", b.data, &a);
    ck_assert_uint_eq(strspn(answer_header(&a, "X-Request-Id", got, sizeof got), "0123456789abcdef"), 32);
    answer_free(&a);
    buf_free(&b);
}
END_TEST

/* H42: two requests at once with one id are two requests. */
START_TEST(one_id_twice)
{
    static const char body[] = "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":8}";
    struct answer a;
    char got[128];
    int fd[2];
    fake.hold = 1;
    for (int i = 0; i < 2; i++) {
        struct buf b = {0};
        buf_fmt(&b,
                "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: same\r\nContent-Length: "
                "%zu\r\n\r\n%s",
                sizeof body - 1, body);
        fd[i] = client_connect(rig.port);
        client_send(fd[i], b.data, b.len);
        buf_free(&b);
    }
    double until = now_s() + 5;
    while (fake_live(rig.engine) < 2 && now_s() < until) sleep_s(0.01);
    ck_assert_int_eq(fake_live(rig.engine), 2);
    fake.hold = 0;
    for (int i = 0; i < 2; i++) {
        client_recv(fd[i], 5, &a);
        ck_assert_int_eq(a.status, 200);
        ck_assert_str_eq(answer_header(&a, "X-Request-Id", got, sizeof got), "same");
        answer_free(&a);
        close(fd[i]);
    }
}
END_TEST

START_TEST(media_types)
{
    static const struct {
        const char *headers;
        int status;
    } tries[] = {
        {"Content-Type: application/json\r\n", 200},
        {"Content-Type: Application/JSON; charset=utf-8\r\n", 200},
        {"", 200},
        {"Content-Type: text/xml\r\n", 415},
        {"Content-Type: text/plain\r\n", 415},
        {"Content-Type: application/jsonx\r\n", 415},
        {"Content-Type: multipart/form-data; boundary=x\r\n", 415},
        {"Content-Type: application/x-www-form-urlencoded\r\n", 415},
        {"Content-Type: application/json\r\nContent-Type: text/plain\r\n", 415},
        {"Content-Encoding: gzip\r\n", 415},
        {"Content-Encoding: identity\r\n", 200},
    };
    static const char body[] = "{\"prompt\":\"x\",\"max_tokens\":1}";
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        struct answer a;
        struct buf b = {0};
        buf_fmt(&b, "POST /v1/completions HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s",
                tries[i].headers, sizeof body - 1, body);
        client_raw(rig.port, b.data, b.len, 5, &a);
        ck_assert_msg(a.status == tries[i].status, "%s: %d", tries[i].headers, a.status);
        if (a.status != 200) rig_check_error(&a, 415);
        answer_free(&a);
        buf_free(&b);
    }
}
END_TEST

/* The port answers before there is an engine, and after the drain has begun. */
START_TEST(states)
{
    struct answer a;
    struct err e = {0};
    char retry[16];
    rig_init();
    ck_assert_msg(!server_open(&rig.c, &rig.server, &e), "%s", e.msg);
    rig.port = server_port(rig.server);
    for (int state = 0; state < 3; state++) {
        if (state == 1) {
            rig.engine = fake_open(4096);
            ck_assert(!server_attach(rig.server, rig.engine, fake_model(), NULL, &e));
            fake.stalled = 1;
        } else if (state == 2) {
            fake.stalled = 0;
            rig_check_alive();
            server_drain(rig.server);
        }
        static const char *const live[] = {"/livez", "/version", "/metrics", "/"};
        for (int i = 0; i < 4; i++) {
            client_get(rig.port, live[i], "", &a);
            ck_assert_msg(a.status == 200, "%s: %d", live[i], a.status);
            answer_free(&a);
        }
        static const char *const down[] = {"/health", "/readyz", "/ping", "/v1/models", "/v1/models/fake"};
        for (int i = 0; i < 5; i++) {
            client_get(rig.port, down[i], "", &a);
            rig_check_error(&a, 503);
            ck_assert_ptr_nonnull(answer_header(&a, "Retry-After", retry, sizeof retry));
            answer_free(&a);
        }
        client_post(rig.port, "/v1/completions", "", "{\"prompt\":\"x\"}", &a);
        rig_check_error(&a, 503);
        answer_free(&a);
    }
    rig_stop();
}
END_TEST

START_TEST(port_in_use)
{
    struct server_config c = rig.c;
    struct server *s;
    struct err e = {0};
    c.port = rig.port;
    ck_assert_int_eq(server_open(&c, &s, &e), ERR_IO);
    ck_assert_msg(strstr(e.msg, "--port"), "%s", e.msg);
    c.host = "no.such.host.invalid";
    ck_assert_int_eq(server_open(&c, &s, &e), ERR_IO);
    ck_assert_msg(strstr(e.msg, "--host"), "%s", e.msg);
}
END_TEST

START_TEST(metrics_and_models)
{
    struct answer a;
    client_get(rig.port, "/nothing", "", &a);
    answer_free(&a);
    client_get(rig.port, "/metrics", "", &a);
    ck_assert_int_eq(a.status, 200);
    ck_assert_ptr_nonnull(strstr(a.body.data, "# TYPE inferd:http_responses_total counter"));
    const char *line = strstr(a.body.data, "code=\"404\"");
    ck_assert_msg(line && strstr(line, "} 1"), "%s", a.body.data);
    ck_assert_ptr_nonnull(strstr(a.body.data, "process_resident_memory_bytes "));
    ck_assert_ptr_nonnull(strstr(a.body.data, "process_cpu_seconds_total "));
    answer_free(&a);
    client_get(rig.port, "/v1/models", "", &a);
    cJSON *j = cJSON_Parse(a.body.data);
    const cJSON *m = json_get(j, "data")->child;
    ck_assert_str_eq(json_get_cstr(m, "id"), "fake");
    ck_assert_str_eq(json_get_cstr(m, "object"), "model");
    ck_assert_str_eq(json_get_cstr(m, "root"), "fake");
    ck_assert_int_eq((int)json_get(m, "max_model_len")->valuedouble, 4096);
    cJSON_Delete(j);
    answer_free(&a);
    static const struct {
        const char *path;
        int status;
    } ids[] = {{"/v1/models/fake", 200},  {"/v1/models/f%61ke", 200}, {"/v1/models/fak", 404},
               {"/v1/models/fakee", 404}, {"/v1/models/", 404},       {"/v1/models/fake?x=1", 200}};
    for (int i = 0; i < 6; i++) {
        client_get(rig.port, ids[i].path, "", &a);
        ck_assert_msg(a.status == ids[i].status, "%s: %d", ids[i].path, a.status);
        answer_free(&a);
    }
}
END_TEST

START_TEST(page)
{
    struct answer a;
    char v[256];
    client_get(rig.port, "/", "", &a);
    ck_assert_int_eq(a.status, 200);
    ck_assert_ptr_nonnull(strstr(a.body.data, "</html>"));
    ck_assert_msg(!strstr(a.body.data, "http://") && !strstr(a.body.data, "https://"),
                  "an external resource");
    ck_assert_ptr_nonnull(
        strstr(answer_header(&a, "Content-Security-Policy", v, sizeof v), "default-src 'none'"));
    answer_free(&a);
}
END_TEST

static void plain_start(void)
{
    rig_init();
    rig_start();
}

static void keyed_start(void)
{
    rig_init();
    rig.c.api_key = "first, secret ,second";
    rig_start();
}

Suite *suite_routes(void)
{
    Suite *s = suite_create("routes");
    TCase *t = tcase_create("plain");
    tcase_add_checked_fixture(t, plain_start, rig_stop);
    tcase_set_timeout(t, 20);
    tcase_add_test(t, wrong_methods);
    tcase_add_test(t, cors_is_off);
    tcase_add_test(t, request_ids);
    tcase_add_test(t, one_id_twice);
    tcase_add_test(t, media_types);
    tcase_add_test(t, port_in_use);
    tcase_add_test(t, metrics_and_models);
    tcase_add_test(t, page);
    suite_add_tcase(s, t);
    t = tcase_create("keyed");
    tcase_add_checked_fixture(t, keyed_start, rig_stop);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, keys);
    suite_add_tcase(s, t);
    t = tcase_create("own start");
    tcase_set_timeout(t, 20);
    tcase_add_test(t, keys_from_a_file);
    tcase_add_test(t, cors_by_list);
    tcase_add_test(t, states);
    suite_add_tcase(s, t);
    return s;
}
