/* Bytes below the level of JSON: chunks, large and slow requests, silence, keep-alive. Every case ends with a
 * living, unchanged server. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "rig.h"
#include "suites.h"

#define POST  "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
#define JSON5 "{} \n\n"

START_TEST(hundred_headers_are_fine)
{
    struct buf b = {0};
    struct answer a;
    buf_str(&b, "GET /health HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 99; i++) buf_fmt(&b, "A%d: 1\r\n", i);
    buf_str(&b, "\r\n");
    client_raw(rig.port, b.data, b.len, 5, &a);
    ck_assert_int_eq(a.status, 200);
    answer_free(&a);
    buf_free(&b);
}
END_TEST

/* H19: 3 MB in 1-byte chunks, and a body beyond the limit. */
START_TEST(tiny_chunks)
{
    struct buf b = {0};
    struct answer a;
    size_t pad = 3000000;
    buf_str(&b, POST "Transfer-Encoding: chunked\r\n\r\n");
    static const char body[] = "{\"prompt\":\"x\",\"max_tokens\":1}";
    for (size_t i = 0; i < sizeof body - 1; i++) buf_fmt(&b, "1\r\n%c\r\n", body[i]);
    for (size_t i = 0; i < pad; i++) buf_str(&b, "1\r\n \r\n");
    buf_str(&b, "0\r\n\r\n");
    client_raw(rig.port, b.data, b.len, 10, &a);
    ck_assert_msg(a.status == 200, "%d %s", a.status, a.body.data);
    answer_free(&a);
    buf_free(&b);
    rig_check_alive();
}
END_TEST

START_TEST(chunked_body_beyond_the_limit)
{
    struct answer a;
    int fd = client_connect(rig.port);
    char *block = malloc(1 << 20);
    memset(block, ' ', 1 << 20);
    client_puts(fd, POST "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 34; i++) {
        client_puts(fd, "100000\r\n");
        client_send(fd, block, 1 << 20);
        client_puts(fd, "\r\n");
    }
    client_recv(fd, 5, &a);
    rig_check_error(&a, 413);
    answer_free(&a);
    close(fd);
    free(block);
    rig_check_alive();
}
END_TEST

/* H50: said before the body is read, and readable although the client keeps sending. */
START_TEST(large_body_is_refused_before_it_is_read)
{
    struct answer a;
    double start = now_s();
    int fd = client_connect(rig.port);
    client_puts(fd, POST "Content-Length: 34603008\r\n\r\n");
    if (_i) {
        char *block = calloc(1, 1 << 20);
        for (int i = 0; i < 33; i++) client_send(fd, block, 1 << 20);
        free(block);
    }
    client_recv(fd, 5, &a);
    ck_assert_msg(now_s() - start < 2, "took %.2f s", now_s() - start);
    rig_check_error(&a, 413);
    answer_free(&a);
    ck_assert(client_is_closed(fd, 3));
    close(fd);
    rig_check_alive();
}
END_TEST

START_TEST(expect_continue)
{
    struct buf all = {0};
    static const char body[] = "{\"prompt\":\"x\",\"max_tokens\":1}";
    int fd = client_connect(rig.port);
    char head[256];
    snprintf(head, sizeof head, POST "Content-Length: %zu\r\nExpect: 100-continue\r\n\r\n", sizeof body - 1);
    client_puts(fd, head);
    ck_assert(client_recv_until(fd, "HTTP/1.1 100 Continue\r\n\r\n", 3, &all));
    client_puts(fd, body);
    ck_assert(client_recv_until(fd, "HTTP/1.1 200 OK", 3, &all));
    buf_free(&all);
    close(fd);
}
END_TEST

static int drip(const char *text, size_t prefix, double every_s, double max_s)
{
    struct answer a;
    int fd = client_connect(rig.port);
    client_send(fd, text, prefix);
    double start = now_s();
    for (const char *c = text + prefix; *c && now_s() - start < max_s; c++) {
        sleep_s(every_s);
        client_send(fd, c, 1);
    }
    client_recv(fd, 1, &a);
    bool closed = a.closed || a.status == 0 || client_is_closed(fd, 0.5);
    int status = a.status;
    answer_free(&a);
    close(fd);
    ck_assert_msg(closed, "the connection is still open after %.1f s: %d", now_s() - start, status);
    return status;
}

/* H25, H26: with deadlines of 0.6 and 0.8 s, drips every 50 ms. */
START_TEST(drips)
{
    static const char head[] =
        "GET /health HTTP/1.1\r\nHost: x\r\nAccept: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n";
    static const char body[] =
        POST "Content-Length: 100\r\n\r\n{\"prompt\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    int status = _i ? drip(body, sizeof body - 50, 0.05, 2) : drip(head, 3, 0.05, 2);
    ck_assert_msg(status == 408 || status == 0, "%d", status);
    rig_check_alive();
    ck_assert_int_eq(fake_submitted(rig.engine), 1);
}
END_TEST

/* H27 */
START_TEST(cut_body_admits_nothing)
{
    struct answer a;
    int fd = client_connect(rig.port);
    client_puts(fd, POST "Content-Length: 100\r\n\r\n{\"prompt\":");
    shutdown(fd, SHUT_WR);
    client_recv(fd, 2, &a);
    ck_assert_msg(a.status == 0 || a.status == 400, "%d", a.status);
    answer_free(&a);
    close(fd);
    rig_check_alive();
    ck_assert_int_eq(fake_submitted(rig.engine), 1);
}
END_TEST

/* H28: a silent connection, and one that is silent after an answer. */
START_TEST(silent_connections_end)
{
    struct answer a;
    int fd = client_connect(rig.port);
    if (_i) {
        client_puts(fd, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        client_recv(fd, 2, &a);
        ck_assert_int_eq(a.status, 200);
        answer_free(&a);
        client_puts(fd, "GET /hea"); /* the second head never ends */
    }
    ck_assert(client_is_closed(fd, 2));
    close(fd);
    rig_check_alive();
}
END_TEST

/* H29 */
START_TEST(idle_connections_cost_nothing)
{
    int fd[500];
    for (int i = 0; i < 500; i++) fd[i] = client_connect(rig.port);
    for (int i = 0; i < 5; i++) rig_check_alive();
    for (int i = 0; i < 500; i++) close(fd[i]);
    rig_check_alive();
}
END_TEST

START_TEST(too_many_connections)
{
    int fd[16];
    struct answer a;
    for (int i = 0; i < 16; i++) fd[i] = client_connect(rig.port);
    sleep_s(0.1);
    client_get(rig.port, "/health", "", &a);
    ck_assert_int_eq(a.status, 503);
    answer_free(&a);
    for (int i = 0; i < 16; i++) close(fd[i]);
    sleep_s(0.1);
    rig_check_alive();
}
END_TEST

START_TEST(keep_alive_and_pipelining)
{
    struct answer a;
    int fd = client_connect(rig.port);
    for (int i = 0; i < 100; i++) {
        client_puts(fd, i % 3 ? "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
                              : POST "Content-Length: 29\r\n\r\n{\"prompt\":\"x\",\"max_tokens\":1}");
        client_recv(fd, 3, &a);
        ck_assert_msg(a.status == 200 && !a.closed && !a.cut, "%d: %d %d %d", i, a.status, a.closed, a.cut);
        answer_free(&a);
    }
    struct buf all = {0};
    client_puts(fd, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n");
    ck_assert(client_recv_until(fd, "{\"version\"", 3, &all));
    ck_assert(memmem(all.data, all.len, "{\"status\":\"ok\"}", 15) != NULL);
    buf_free(&all);
    /* a bad second request */
    client_puts(fd, POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n" JSON5);
    client_recv(fd, 3, &a);
    ck_assert_int_eq(a.status, 400);
    answer_free(&a);
    ck_assert(client_is_closed(fd, 2));
    close(fd);
}
END_TEST

START_TEST(head_request)
{
    struct buf all = {0};
    int fd = client_connect(rig.port);
    client_puts(fd, "HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    ck_assert(!client_recv_until(fd, "never", 2, &all));
    ck_assert_msg(!strncmp(all.data, "HTTP/1.1 200", 12) && !strstr(all.data, "{"), "%s", all.data);
    buf_free(&all);
    close(fd);
}
END_TEST

static void quick_start(void)
{
    rig_init();
    rig.c.header_timeout_s = 0.6;
    rig.c.body_timeout_s = 0.8;
    rig.c.idle_timeout_s = 0.7;
    rig_start();
}

static void small_start(void)
{
    rig_init();
    rig.c.max_connections = 16;
    rig_start();
}

static void plain_start(void)
{
    rig_init();
    rig_start();
}

Suite *suite_transport(void)
{
    Suite *s = suite_create("transport");
    TCase *t = tcase_create("plain");
    tcase_add_checked_fixture(t, plain_start, rig_stop);
    tcase_set_timeout(t, 20);
    tcase_add_test(t, hundred_headers_are_fine);
    tcase_add_test(t, tiny_chunks);
    tcase_add_test(t, chunked_body_beyond_the_limit);
    tcase_add_loop_test(t, large_body_is_refused_before_it_is_read, 0, 2);
    tcase_add_test(t, expect_continue);
    tcase_add_test(t, cut_body_admits_nothing);
    tcase_add_test(t, idle_connections_cost_nothing);
    tcase_add_test(t, keep_alive_and_pipelining);
    tcase_add_test(t, head_request);
    suite_add_tcase(s, t);
    t = tcase_create("deadlines");
    tcase_add_checked_fixture(t, quick_start, rig_stop);
    tcase_set_timeout(t, 20);
    tcase_add_loop_test(t, drips, 0, 2);
    tcase_add_loop_test(t, silent_connections_end, 0, 2);
    suite_add_tcase(s, t);
    t = tcase_create("limit");
    tcase_add_checked_fixture(t, small_start, rig_stop);
    tcase_add_test(t, too_many_connections);
    suite_add_tcase(s, t);
    return s;
}
