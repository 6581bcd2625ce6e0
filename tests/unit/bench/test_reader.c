/* Responses and event streams cut into pieces at every place. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "http_reader.h"
#include "outcome.h"
#include "sse.h"
#include "suites.h"

static int read_pieces(const char *text, size_t n, size_t cut, size_t piece, bool close,
                       struct http_reader *r, struct buf *body)
{
    struct err e = {0};
    int status = 0;
    *r = (struct http_reader){0};
    http_reader_reset(r);
    buf_clear(body);
    for (size_t at = 0; !status && at < n;) {
        size_t take = at < cut ? cut - at : piece;
        if (take > n - at) take = n - at;
        status = http_reader_feed(r, text + at, take, body, &e);
        at += take;
    }
    if (!status && close) status = http_reader_eof(r, &e);
    ck_assert(status == e.code);
    return status;
}

/* The same body and end, whether it comes whole, byte by byte or in two parts cut anywhere. */
static void expect(const char *text, int status, const char *want, bool close, bool keep_alive)
{
    size_t n = strlen(text);
    struct buf body = {0};
    for (size_t cut = 0; cut <= n; cut++) {
        struct http_reader r;
        ck_assert_int_eq(read_pieces(text, n, cut, cut ? n : 1, close, &r, &body), 0);
        ck_assert_int_eq(r.state, HTTP_DONE);
        ck_assert_int_eq(r.status, status);
        ck_assert_int_eq(r.keep_alive, keep_alive);
        ck_assert_str_eq(body.data ? body.data : "", want);
        http_reader_free(&r);
    }
    buf_free(&body);
}

static void refuse(const char *text, bool close)
{
    struct buf body = {0};
    for (size_t piece = 1; piece <= strlen(text); piece += strlen(text) - 1) {
        struct http_reader r;
        ck_assert_msg(read_pieces(text, strlen(text), 0, piece, close, &r, &body) != 0, "accepted: %s", text);
        http_reader_free(&r);
    }
    buf_free(&body);
}

START_TEST(http_bodies)
{
    expect("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false, true);
    expect("HTTP/1.1 200 OK\ncontent-length:5 \n\nhello", 200, "hello", false, true);
    expect("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 404, "", false, false);
    expect("HTTP/1.1 204\r\n\r\n", 204, "", false, true);
    expect("HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "until the end", true, false);
    expect("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false,
           true);
    expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokextra", 200, "ok", false, false);
}
END_TEST

START_TEST(http_chunks)
{
    const char *head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    char text[256];
    snprintf(text, sizeof text, "%s5\r\nhello\r\n00A;x=1\r\n, world...\r\n0\r\nTrailer: 1\r\n\r\n", head);
    expect(text, 200, "hello, world...", false, true);
    snprintf(text, sizeof text, "%s1\nx\n0\n\n", head);
    expect(text, 200, "x", false, true);
    snprintf(text, sizeof text, "%s3\r\nhello\r\n0\r\n\r\n", head);
    refuse(text, false);
    snprintf(text, sizeof text, "%sfffffffff\r\nhello", head);
    refuse(text, false);
    snprintf(text, sizeof text, "%s-1\r\nhello", head);
    refuse(text, false);
    snprintf(text, sizeof text, "%s5\r\nhel", head);
    refuse(text, true);
    snprintf(text, sizeof text, "%s5\r\nhello\r\n", head);
    refuse(text, true);
}
END_TEST

START_TEST(http_nonsense)
{
    refuse("SSH-2.0-OpenSSH_9.2\r\n", false);
    refuse("HTTP/1.1 2x0 OK\r\n\r\n", false);
    refuse("HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n", false);
    refuse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", false);
    refuse("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", false);
    refuse("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", false);
    refuse("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", false);
    refuse("HTTP/1.1 200 OK\r\n folded: line\r\n\r\n", false);
    refuse("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", true);
    refuse("HTTP/1.1 200 OK\r\n", true);
    struct buf long_line = {0};
    buf_str(&long_line, "HTTP/1.1 200 OK\r\nX: ");
    for (int i = 0; i < 20000; i++) buf_chr(&long_line, 'x');
    refuse(long_line.data, false);
    buf_free(&long_line);
}
END_TEST

static int collect(void *ctx, const char *data, size_t n, struct err *e)
{
    struct buf *out = ctx;
    buf_chr(out, '[');
    buf_add(out, data, n);
    buf_chr(out, ']');
    return n == 4 && !memcmp(data, "stop", 4) ? err_set(e, ERR_FORMAT, "stopped") : 0;
}

static void expect_events(const char *text, const char *want)
{
    size_t n = strlen(text);
    for (size_t cut = 0; cut <= n; cut++) {
        struct sse s = {0};
        struct buf out = {0};
        struct err e = {0};
        for (size_t at = 0; at < n;) {
            size_t take = !cut ? 1 : at < cut ? cut - at : n - at;
            ck_assert_int_eq(sse_feed(&s, text + at, take, collect, &out, &e), 0);
            at += take;
        }
        ck_assert_int_eq(sse_end(&s, collect, &out, &e), 0);
        ck_assert_str_eq(out.data ? out.data : "", want);
        buf_free(&out);
        sse_free(&s);
    }
}

START_TEST(sse_lines)
{
    expect_events("data: a\n\ndata:b\n\n", "[a][b]");
    expect_events("data: a\r\n\r\ndata: b\r\n\r\n", "[a][b]");
    expect_events("data: a\r\rdata: b\r\r", "[a][b]");
    expect_events(": ping\n\n: ping\ndata: a\n: ping\n\n", "[a]");
    expect_events("event: message\nid: 7\nretry: 10\ndata: a\n\n", "[a]");
    expect_events("data: a\ndata: b\n\n", "[a\nb]");
    expect_events("data:  two spaces\n\n", "[ two spaces]");
    expect_events("data\n\ndatax: no\n\n\n\n", "");
    expect_events("data: a\n\ndata: cut off", "[a][cut off]");
    struct sse s = {0};
    struct buf out = {0};
    struct err e = {0};
    ck_assert_int_eq(sse_feed(&s, "data: stop\n\ndata: never\n\n", 25, collect, &out, &e), ERR_FORMAT);
    ck_assert_str_eq(out.data, "[stop]");
    buf_free(&out);
    sse_free(&s);
}
END_TEST

static int feed(struct outcome *o, const char *event, double now)
{
    return outcome_event(o, event, strlen(event), now, NULL);
}

START_TEST(outcome_rules)
{
    struct outcome o = {.start = 10, .keep_text = true, .prompt_len = 3};
    ck_assert_int_eq(feed(&o, "{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}", 10.5),
                     0);
    ck_assert_int_eq(feed(&o, "{\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}", 11), 0);
    ck_assert_int_eq(feed(&o, "{\"choices\":[{\"text\":\"b\"}]}", 13), 0);
    ck_assert_int_eq(feed(&o, "{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}", 20),
                     0);
    ck_assert_int_eq(feed(&o, "[DONE]", 21), 0);
    outcome_end(&o);
    ck_assert(o.success && o.n_itl == 2 && o.prompt_len == 7 && o.output_tokens == 5);
    ck_assert_double_eq(o.ttft, 0.5);
    ck_assert_double_eq(o.itl[0], 0.5);
    ck_assert_double_eq(o.itl[1], 2);
    ck_assert_double_eq(o.latency, 3); /* neither usage nor [DONE] lengthens it */
    ck_assert_str_eq(o.text.data, "ab");
    outcome_free(&o);

    struct outcome uncounted = {0}; /* no usage: chunks are tokens; no [DONE]: fine */
    ck_assert_int_eq(feed(&uncounted, "{\"choices\":[{\"text\":\"b\"}]}", 1), 0);
    ck_assert_int_eq(feed(&uncounted, "{\"choices\":[{\"text\":\"b\"}]}", 2), 0);
    outcome_end(&uncounted);
    ck_assert(uncounted.success && uncounted.output_tokens == 2);
    outcome_free(&uncounted);
}
END_TEST

START_TEST(outcome_failures)
{
    struct outcome o = {0};
    struct err e = {0};
    const char *event = "{\"error\":{\"message\":\"no room\",\"code\":500}}";
    ck_assert_int_eq(outcome_event(&o, event, strlen(event), 1, &e), ERR_IO);
    ck_assert_ptr_nonnull(strstr(e.msg, "no room"));
    ck_assert(feed(&o, "{\"choices\":[", 1) != 0);
    ck_assert(feed(&o, "", 1) != 0);
    ck_assert_int_eq(feed(&o, "[1, 2]", 1), 0); /* says nothing */
    ck_assert_int_eq(feed(&o, "{\"choices\":{\"a\":1},\"usage\":{\"completion_tokens\":-4}}", 1), 0);
    outcome_end(&o);
    ck_assert(!o.success && *o.error);
    outcome_free(&o);
}
END_TEST

TCase *reader_case(void)
{
    TCase *t = tcase_create("reader");
    tcase_add_test(t, http_bodies);
    tcase_add_test(t, http_chunks);
    tcase_add_test(t, http_nonsense);
    tcase_add_test(t, sse_lines);
    tcase_add_test(t, outcome_rules);
    tcase_add_test(t, outcome_failures);
    tcase_set_timeout(t, 30);
    return t;
}
