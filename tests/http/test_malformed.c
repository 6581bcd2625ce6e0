/* Malformed requests: each file of tests/corpus/http, as the first and as the second request of a connection,
 * and heads too long to be files. Every case ends with a living, unchanged server. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "corpus.h"
#include "rig.h"
#include "suites.h"

static bool listed(const char *list, int status)
{
    for (char *end;; list = end + 1) {
        if (strtol(list, &end, 10) == status) return true;
        if (*end != '-') return false;
    }
}

/* Nothing may come after the answer, least of all another one. */
static void check_ended(int fd, const char *name)
{
    struct answer more;
    client_recv(fd, 2, &more);
    ck_assert_msg(more.status == 0, "%s: after the answer: %d", name, more.status);
    answer_free(&more);
}

/* The answer must have one of the statuses of the name's ending, as "400-413" (0 = closed without any). A
 * refusal has the contract's shape, unless the library found a malformed chunk (H17, H18) and answers in its
 * own words, and must not leave the connection open. */
static void run_case(const char *name, const char *bytes, size_t n)
{
    struct answer a;
    int fd = client_connect(rig.port);
    client_send(fd, bytes, n);
    client_recv(fd, 5, &a);
    ck_assert_msg(listed(strrchr(name, '.') + 1, a.status), "%s: %d: %s", name, a.status,
                  a.body.data ? a.body.data : "");
    if (a.status >= 400 && strncmp(name, "H17", 3) && strncmp(name, "H18", 3)) rig_check_error(&a, a.status);
    if (a.status == 400 || a.status == 413 || a.status == 414 || a.status == 417 || a.status == 431 ||
        a.status == 500 || a.status == 505)
        check_ended(fd, name);
    answer_free(&a);
    close(fd);
    rig_check_alive();
}

/* The requests that the engine sees: the one of rig_check_alive, and a POST that is fine. */
static int submits(const char *name) { return strcmp(name, "H18-short-extension.200") ? 1 : 2; }

START_TEST(malformed)
{
    struct buf b = {0};
    const char *name = corpus_name("http", _i);
    ck_assert(name && !corpus_read("http", name, &b));
    run_case(name, b.data, b.len);
    buf_free(&b);
    ck_assert_int_eq(fake_submitted(rig.engine), submits(name)); /* with the control */
}
END_TEST

/* The same as second requests: the library parses these before we see them. It takes a bare LF for the end of
 * a line, joins folded lines, cuts values at a NUL, drops empty names, calls a length too large that is none,
 * waits for the rest of binary noise, and words its own refusals. */
START_TEST(malformed_later)
{
    static const char *const lenient[] = {"H01-binary.400",   "H08-NUL-in-header.400", "H08-empty-name.400",
                                          "H10-obs-fold.400", "H14-2-63.400",          "H14-2-64-plus-5.400",
                                          "H14-20-nines.400", "H20-bare-LF.400",       "H20-one-bare-LF.400",
                                          "H22-TLS.0"};
    struct buf b = {0};
    struct answer a;
    const char *name = corpus_name("http", _i);
    ck_assert(name && !corpus_read("http", name, &b));
    for (size_t i = 0; i < sizeof lenient / sizeof lenient[0]; i++)
        if (!strcmp(name, lenient[i])) goto out;
    int fd = client_connect(rig.port);
    client_puts(fd, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    client_recv(fd, 3, &a);
    ck_assert(a.status == 200 && !a.closed);
    answer_free(&a);
    client_send(fd, b.data, b.len);
    client_recv(fd, 5, &a);
    ck_assert_msg(listed(strrchr(name, '.') + 1, a.status), "%s: %d: %s", name, a.status,
                  a.body.data ? a.body.data : "");
    bool ends = a.status == 400 || a.status == 413 || a.status == 417 || a.status == 505;
    answer_free(&a);
    if (ends) check_ended(fd, name);
    close(fd);
    rig_check_alive();
    ck_assert_int_eq(fake_submitted(rig.engine), submits(name));
out:
    buf_free(&b);
}
END_TEST

static void fill(struct buf *b, char c, size_t n)
{
    for (size_t i = 0; i < n; i++) buf_chr(b, c);
}

/* H05, H06, H07, H18, H42: things too long to write down. */
START_TEST(oversized)
{
    static const char *const names[] = {"H05.414", "H06.431", "H07 10000.431", "H07 101.431",
                                        "H18.400-413-431-500"};
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
        buf_str(&b, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;");
        fill(&b, 'x', 65536);
        buf_str(&b, "\r\nabcde\r\n0\r\n\r\n");
    }
    rig_check_alive();
    long before = rig_peak_kib();
    run_case(names[_i], b.data, b.len);
    ck_assert_msg(rig_peak_kib() - before <= 1024, "%ld KiB more", rig_peak_kib() - before);
    buf_free(&b);
}
END_TEST

static void plain_start(void)
{
    rig_init();
    rig_start();
}

Suite *suite_malformed(void)
{
    Suite *s = suite_create("malformed");
    TCase *t = tcase_create("plain");
    tcase_add_checked_fixture(t, plain_start, rig_stop);
    tcase_set_timeout(t, 20);
    tcase_add_loop_test(t, malformed, 0, corpus_count("http"));
    tcase_add_loop_test(t, malformed_later, 0, corpus_count("http"));
    tcase_add_loop_test(t, oversized, 0, 5);
    suite_add_tcase(s, t);
    return s;
}
