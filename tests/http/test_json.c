/* Request bodies: syntax, depth and size (H43 to H60). What is refused is 400 of the contract's shape. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "corpus.h"
#include "rig.h"
#include "suites.h"

static void post_bytes(const char *path, const char *body, size_t n, struct answer *a)
{
    struct buf b = {0};
    buf_fmt(&b,
            "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
            path, n);
    buf_add(&b, body, n);
    client_raw(rig.port, b.data, b.len, 10, a);
    buf_free(&b);
}

START_TEST(bad_syntax)
{
    static const char *const paths[] = {"/v1/completions", "/v1/chat/completions", "/tokenize",
                                        "/detokenize"};
    struct buf b = {0};
    const char *name = corpus_name("json", _i);
    ck_assert(name && !corpus_read("json", name, &b));
    for (int i = 0; i < 4; i++) {
        struct answer a;
        post_bytes(paths[i], b.data, b.len, &a);
        ck_assert_msg(a.status == 400, "%s %s: %d", paths[i], name, a.status);
        rig_check_error(&a, 400);
        answer_free(&a);
    }
    buf_free(&b);
    rig_check_alive();
    ck_assert_int_eq(fake_submitted(rig.engine), 1);
}
END_TEST

static void repeat(struct buf *b, const char *s, int n)
{
    for (int i = 0; i < n; i++) buf_str(b, s);
}

/* H47, H48, H49, H51 */
START_TEST(deep_and_many)
{
    struct buf b = {0};
    struct answer a;
    switch (_i) {
    case 0: repeat(&b, "[", 100000); break;
    case 1: repeat(&b, "{\"a\":", 100000); break;
    case 2:
        buf_str(&b, "{\"prompt\":\"x\",\"z\":");
        repeat(&b, "[", 64);
        repeat(&b, "]", 64);
        buf_str(&b, "}");
        break;
    default:
        buf_str(&b, "{\"prompt\":\"x\",\"z\":[1");
        repeat(&b, ",1", 1100000);
        buf_str(&b, "]}");
    }
    long before = rig_peak_kib();
    post_bytes("/v1/completions", b.data, b.len, &a);
    rig_check_error(&a, 400);
    ck_assert_msg(rig_peak_kib() - before < 32 << 10, "%ld KiB more", rig_peak_kib() - before);
    answer_free(&a);
    buf_free(&b);
    rig_check_alive();
}
END_TEST

START_TEST(depth_at_the_limit_is_fine)
{
    struct buf b = {0};
    buf_str(&b, "{\"prompt\":\"x\",\"max_tokens\":1,\"z\":");
    repeat(&b, "[", 63);
    repeat(&b, "]", 63);
    buf_str(&b, "}");
    cJSON_Delete(client_json(rig.port, "/v1/completions", b.data, 200));
    buf_free(&b);
}
END_TEST

/* H53, H57 */
START_TEST(keys_and_nul)
{
    cJSON *j = client_json(rig.port, "/v1/completions", "{\"prompt\":\"x\",\"MAX_TOKENS\":1}", 200);
    ck_assert_int_eq((int)json_get(json_get(j, "usage"), "completion_tokens")->valuedouble, 16);
    cJSON_Delete(j);
    j = client_json(rig.port, "/v1/completions", "{\"prompt\":\"a\\u0000b\",\"max_tokens\":1}", 200);
    ck_assert_int_eq((int)json_get(json_get(j, "usage"), "prompt_tokens")->valuedouble, 4);
    cJSON_Delete(j);
    j = client_json(rig.port, "/tokenize", "{\"prompt\":\"a\\u0000b\",\"add_special_tokens\":false}", 200);
    ck_assert_int_eq((int)json_get(j, "tokens")->child->next->valuedouble, 0);
    cJSON_Delete(j);
}
END_TEST

/* A large body is handled on a parse thread: the probes go on. */
START_TEST(large_bodies_do_not_block)
{
    struct buf b = {0};
    int fd[4];
    buf_str(&b, "{\"max_tokens\":1,\"z\":[1");
    repeat(&b, ",1", 900000);
    buf_str(&b, "],\"prompt\":\"");
    repeat(&b, "hello ", 400);
    buf_str(&b, "\"}");
    for (int i = 0; i < 4; i++) {
        char head[128];
        fd[i] = client_connect(rig.port);
        snprintf(head, sizeof head, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                 b.len);
        client_puts(fd[i], head);
        client_send(fd[i], b.data, b.len);
    }
    for (int i = 0; i < 10; i++) {
        struct answer a;
        double start = now_s();
        client_get(rig.port, "/health", "", &a);
        ck_assert_int_eq(a.status, 200);
        ck_assert_msg(now_s() - start < 0.25, "%.3f s", now_s() - start);
        answer_free(&a);
    }
    for (int i = 0; i < 4; i++) {
        struct answer a;
        client_recv(fd[i], 10, &a);
        ck_assert_msg(a.status == 200, "%d %s", a.status, a.body.data);
        answer_free(&a);
        client_is_closed(fd[i], 0);
    }
    buf_free(&b);
}
END_TEST

static void plain_start(void)
{
    rig_init();
    rig_start();
}

Suite *suite_json(void)
{
    Suite *s = suite_create("json");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, plain_start, rig_stop);
    tcase_set_timeout(t, 20);
    tcase_add_loop_test(t, bad_syntax, 0, corpus_count("json"));
    tcase_add_loop_test(t, deep_and_many, 0, 4);
    tcase_add_test(t, depth_at_the_limit_is_fine);
    tcase_add_test(t, keys_and_nul);
    tcase_add_test(t, large_bodies_do_not_block);
    suite_add_tcase(s, t);
    return s;
}
