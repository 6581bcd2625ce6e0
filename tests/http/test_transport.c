/* Malformed, slow and hostile bytes below the level of JSON. Every case ends with a living, unchanged server.
 */
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

/* An answer must have one of the statuses (0 = closed without any). A refusal must not leave the connection
 * open. */
static const struct {
    const char *name, *bytes;
    size_t n;
    int status[4];
} cases[] = {
#define C(name, text, ...)                                                                                   \
    {                                                                                                        \
        name, text, sizeof text - 1, { __VA_ARGS__ }                                                         \
    }
    C("H01 binary", "\0GARBAGE\r\n\r\n", 400),
    C("H01 binary later", "GET / HTTP/1.1\r\nHost: x\r\n\xff\xfe\xfd\x00\r\n\r\n", 400),
    C("H02 version 9.9", "GET /health HTTP/9.9\r\nHost: x\r\n\r\n", 505),
    C("H02 version 1.2", "GET /health HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    C("H02 no version", "GET /health\r\nHost: x\r\n\r\n", 400),
    C("H02 bad version", "GET /health HTTP/1.x\r\nHost: x\r\n\r\n", 400),
    C("H03 no host", "GET /health HTTP/1.1\r\n\r\n", 400),
    C("H03 HTTP/1.0 needs none", "GET /health HTTP/1.0\r\n\r\n", 200),
    C("H04 two hosts", "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    C("H04 host with space", "GET /health HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    C("H08 NUL in header", "GET /health HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
    C("H08 control in header", "GET /health HTTP/1.1\r\nHost: x\r\nA: b\x01\r\n\r\n", 400),
    C("H08 DEL in header", "GET /health HTTP/1.1\r\nHost: x\r\nA: b\x7f\r\n\r\n", 400),
    C("H08 control in target", "GET /hea\x01lth HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    C("H08 space in name", "GET /health HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n", 400),
    C("H08 no colon", "GET /health HTTP/1.1\r\nHost: x\r\nabc\r\n\r\n", 400),
    C("H08 empty name", "GET /health HTTP/1.1\r\nHost: x\r\n: abc\r\n\r\n", 400),
    C("H09 space before colon", POST "Content-Length : 5\r\n\r\n" JSON5, 400),
    C("H09 tab before colon", POST "Content-Length\t: 5\r\n\r\n" JSON5, 400),
    C("H10 obs-fold", POST "X: a\r\n b\r\nContent-Length: 5\r\n\r\n" JSON5, 400),
    C("H10 folded first", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    C("H11 TE and CL", POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    C("H11 CL and TE", POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    C("H12 two lengths", POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" JSON5, 400),
    C("H12 same length twice", POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n" JSON5, 400),
    C("H13 -1", POST "Content-Length: -1\r\n\r\n" JSON5, 400),
    C("H13 +5", POST "Content-Length: +5\r\n\r\n" JSON5, 400),
    C("H13 5abc", POST "Content-Length: 5abc\r\n\r\n" JSON5, 400),
    C("H13 0x10", POST "Content-Length: 0x10\r\n\r\n" JSON5, 400),
    C("H13 1e3", POST "Content-Length: 1e3\r\n\r\n" JSON5, 400),
    C("H13 list", POST "Content-Length: 5, 6\r\n\r\n" JSON5, 400),
    C("H13 empty", POST "Content-Length: \r\n\r\n" JSON5, 400),
    C("H14 10^20-1", POST "Content-Length: 99999999999999999999\r\n\r\n" JSON5, 400, 413),
    C("H14 2^63", POST "Content-Length: 9223372036854775808\r\n\r\n" JSON5, 400, 413),
    C("H14 2^64+5", POST "Content-Length: 18446744073709551621\r\n\r\n" JSON5, 400, 413),
    C("H15 large, asks to continue", POST "Content-Length: 67108864\r\nExpect: 100-continue\r\n\r\n", 413),
    C("H15 unknown expectation", POST "Content-Length: 5\r\nExpect: miracles\r\n\r\n" JSON5, 417),
    C("H16 xchunked", POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, 501),
    C("H16 gzip, chunked", POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, 501),
    C("H16 chunked, identity", POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, 501),
    C("H16 VT chunked",
      POST "Transfer-Encoding: \x0b"
           "chunked\r\n\r\n0\r\n\r\n",
      400, 501),
    C("H16 twice", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    C("H16 in 1.0", "POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    C("H17 17 f", POST "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400, 413,
      0),
    C("H17 -1", POST "Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n", 400, 0),
    C("H17 empty size", POST "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", 400, 0),
    C("H17 no CRLF after chunk", POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\n", 400, 0),
    C("H20 bare LF", "GET /health HTTP/1.1\nHost: x\n\n", 400),
    C("H20 one bare LF", "GET /health HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    C("H20 bare CR", "GET /health HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400),
    C("H21 hidden request",
      POST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /version HTTP/1.1\r\nHost: "
           "x\r\n\r\n",
      400),
    C("H22 TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0),
    C("H23 HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505),
    C("H24 websocket",
      "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "
      "x\r\n\r\n",
      200, 400, 426),
    C("H30 unknown method", "BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", 405, 501),
    C("H30 lower-case method", "get /health HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    C("H32 dots", "GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    C("H32 escaped dots", "GET /v1/%2e%2e%2fmodels HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    C("H32 double slash", "POST /v1//chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404),
    C("H32 upper case", "GET /V1/MODELS HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    C("H32 escaped letter", "GET /%68ealth HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    C("H33 %00", "GET /health%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404, 400),
    C("H33 %zz", "GET /v1/models/%zz HTTP/1.1\r\nHost: x\r\n\r\n", 404, 400),
    C("H33 model %00", "GET /v1/models/fake%00 HTTP/1.1\r\nHost: x\r\n\r\n", 404, 400),
    C("H33 cut escape", "GET /v1/models/fake%6 HTTP/1.1\r\nHost: x\r\n\r\n", 404, 400),
#undef C
};

static void run_case(const char *name, const char *bytes, size_t n, const int status[4])
{
    struct answer a;
    int fd = client_connect(rig.port);
    client_send(fd, bytes, n);
    client_recv(fd, 5, &a);
    bool fine = false;
    for (int i = 0; i < 4 && !fine; i++)
        fine = a.status == status[i] && (status[i] || i == 0 || status[i - 1]);
    ck_assert_msg(fine && a.status >= 0, "%s: %d: %s", name, a.status, a.body.data ? a.body.data : "");
    if (a.status == 400 || a.status == 413 || a.status == 417 || a.status == 431 || a.status == 505)
        ck_assert_msg(client_is_closed(fd, 2), "%s: the connection stays open", name);
    answer_free(&a);
    close(fd);
    rig_check_alive();
}

START_TEST(malformed)
{
    run_case(cases[_i].name, cases[_i].bytes, cases[_i].n, cases[_i].status);
    ck_assert_int_eq(fake_submitted(rig.engine), 1); /* the control */
}
END_TEST

static void fill(struct buf *b, char c, size_t n)
{
    for (size_t i = 0; i < n; i++) buf_chr(b, c);
}

/* H05, H06, H07, H18, H42: things too long to write down. */
START_TEST(oversized)
{
    static const char *const names[] = {"H05", "H06", "H07", "H07 101", "H18"};
    static const int want[][4] = {
        {414}, {431}, {431}, {431}, {400, 413, 431, 500}}; /* H18: the library's own 500 */
    struct buf b = {0};
    switch (_i) {
    case 0:
        buf_str(&b, "GET /");
        fill(&b, 'a', 65536);
        buf_str(&b, " HTTP/1.1\r\nHost: x\r\n\r\n");
        break;
    case 1:
        buf_str(&b, "GET /health HTTP/1.1\r\nHost: x\r\nA: ");
        fill(&b, 'a', 65536);
        buf_str(&b, "\r\n\r\n");
        break;
    case 2:
    case 3:
        buf_str(&b, "GET /health HTTP/1.1\r\nHost: x\r\n");
        for (int i = 0; i < (_i == 2 ? 10000 : 100); i++) buf_fmt(&b, "A%d: 1\r\n", i);
        buf_str(&b, "\r\n");
        break;
    default:
        buf_str(&b, POST "Transfer-Encoding: chunked\r\n\r\n5;");
        fill(&b, 'x', 65536);
        buf_str(&b, "\r\nabcde\r\n0\r\n\r\n");
    }
    run_case(names[_i], b.data, b.len, want[_i]);
    buf_free(&b);
}
END_TEST

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

/* H19: a body in 1-byte chunks, and one beyond the limit. */
START_TEST(tiny_chunks)
{
    struct buf b = {0};
    struct answer a;
    size_t pad = 100000;
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
    tcase_add_loop_test(t, malformed, 0, (int)(sizeof cases / sizeof cases[0]));
    tcase_add_loop_test(t, oversized, 0, 5);
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
