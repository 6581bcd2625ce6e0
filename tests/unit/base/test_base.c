/* buf, utf8, err, metrics: small pieces that everything else stands on. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "buf.h"
#include "err.h"
#include "metrics.h"
#include "suites.h"
#include "utf8.h"

START_TEST(buf_escapes_json)
{
    struct buf b = {0};
    buf_json(&b, "a\"\\\n\x01\0z\xc3\xa9", 9);
    ck_assert_str_eq(b.data, "\"a\\\"\\\\\\n\\u0001\\u0000z\xc3\xa9\"");
    buf_clear(&b);
    buf_json_f(&b, -INFINITY);
    buf_chr(&b, ' ');
    buf_json_f(&b, 0.5);
    ck_assert_str_eq(b.data, "-9999 0.5");
    buf_free(&b);
}
END_TEST

START_TEST(buf_refuses_overflow)
{
    struct buf b = {0};
    buf_str(&b, "x");
    ck_assert_int_ne(buf_reserve(&b, SIZE_MAX - 8), 0);
    buf_str(&b, "y");
    ck_assert(b.failed);
    ck_assert_uint_eq(b.len, 1);
    buf_free(&b);
}
END_TEST

/* Every code point survives a round trip; everything else is invalid. */
START_TEST(utf8_all_code_points)
{
    for (uint32_t cp = 0; cp < 0x110100; cp++) {
        char s[4];
        uint32_t back = 0;
        int n = utf8_put(s, cp);
        bool scalar = cp < 0xd800 || (cp > 0xdfff && cp < 0x110000);
        bool good = (n > 0) == scalar;
        if (good && scalar)
            good = utf8_next(s, 4, &back) == n && back == cp && utf8_whole(s, (size_t)n) == (size_t)n;
        for (int cut = 1; good && cut < n; cut++)
            good = utf8_next(s, (size_t)cut, &back) == -1 && utf8_whole(s, (size_t)cut) == 0;
        if (!good) ck_abort_msg("U+%X", cp); /* an assertion for each would take seconds */
    }
}
END_TEST

START_TEST(utf8_bad_bytes)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong */
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* surrogate */
        {"\xf5\x80", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"a\xe2\x82", "a\xef\xbf\xbd"}, /* cut short: one replacement */
        {"\xf0\x9f\x98z", "\xef\xbf\xbdz"},
        {"\x80ok", "\xef\xbf\xbdok"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf b = {0};
        ck_assert(!utf8_valid(cases[i].in, strlen(cases[i].in)));
        utf8_clean(&b, cases[i].in, strlen(cases[i].in));
        ck_assert_str_eq(b.data, cases[i].out);
        buf_free(&b);
    }
}
END_TEST

START_TEST(err_formats_and_prefixes)
{
    struct err e = {0};
    ck_assert_int_eq(err_param(&e, ERR_INVALID, "n", "must be %d", 3), ERR_INVALID);
    ck_assert_int_eq(err_prefix(&e, "%s: ", "file"), ERR_INVALID);
    ck_assert_str_eq(e.msg, "file: must be 3");
    ck_assert_str_eq(e.param, "n");
    ck_assert_int_eq(err_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
}
END_TEST

START_TEST(metrics_render_prometheus)
{
    static const double edges[] = {0.1, 1};
    struct metrics *m = metrics_new();
    struct buf out = {0};
    struct metric *h = metrics_histogram(m, "h", "help", edges, 2);
    metric_add(metrics_counter(m, "c", "help", "code", "4\"0"), 2);
    metric_set(metrics_gauge(m, "g", "help"), 0.25);
    metrics_info(m, "i", "help", "a=\"b\"");
    metric_observe(h, 0.1); /* an edge belongs to its bucket */
    metric_observe(h, 0.5);
    metric_observe(h, 7);
    metric_add(NULL, 1);
    metrics_render(m, "model", &out);
    ck_assert_str_eq(
        out.data,
        "# HELP h help\n# TYPE h histogram\n"
        "h_bucket{model_name=\"model\",le=\"0.1\"} 1\nh_bucket{model_name=\"model\",le=\"1\"} 2\n"
        "h_bucket{model_name=\"model\",le=\"+Inf\"} 3\nh_sum{model_name=\"model\"} 7.5999999999999996\n"
        "h_count{model_name=\"model\"} 3\n"
        "# HELP c help\n# TYPE c counter\nc{model_name=\"model\",code=\"4\\\"0\"} 2\n"
        "# HELP g help\n# TYPE g gauge\ng{model_name=\"model\"} 0.25\n"
        "# HELP i help\n# TYPE i gauge\ni{model_name=\"model\",a=\"b\"} 1\n");
    ck_assert(metric_value(h) == 3);
    buf_free(&out);
    metrics_free(m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base");
    TCase *t = tcase_create("pieces");
    tcase_add_test(t, buf_escapes_json);
    tcase_add_test(t, buf_refuses_overflow);
    tcase_add_test(t, utf8_all_code_points);
    tcase_add_test(t, utf8_bad_bytes);
    tcase_add_test(t, err_formats_and_prefixes);
    tcase_add_test(t, metrics_render_prometheus);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    suite_add_tcase(s, json_case());
    suite_add_tcase(s, options_case());
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
