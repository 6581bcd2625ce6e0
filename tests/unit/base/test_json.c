/* The strict scan: what RFC 8259 allows is accepted, everything else is refused before cJSON sees it. */
#include <stdlib.h>
#include <string.h>
#include "json.h"
#include "suites.h"

static const struct json_limits lim = {64, 1000};

static const char *const good[] = {"null",
                                   " [ ] ",
                                   "{}",
                                   "\"\"",
                                   "0",
                                   "-0",
                                   "-1.5e+10",
                                   "1E5",
                                   "[1,2,[3]]",
                                   "{\"a\":{\"b\":[true,false,null]},\"c\":1}",
                                   "\"\\u0041\\ud83d\\ude00\\n\\/\"",
                                   "{\"a\":1,\"A\":2}",
                                   "\"\xf0\x9f\x98\x80\"",
                                   "[[],{}]",
                                   "\"\\u0000\""};
static const char *const bad[] = {"",
                                  " ",
                                  "{}x",
                                  "{}{}",
                                  "[1,]",
                                  "[,1]",
                                  "{\"a\":1,}",
                                  "{a:1}",
                                  "{'a':1}",
                                  "[1 2]",
                                  "{\"a\" 1}",
                                  "{\"a\":}",
                                  "\"",
                                  "\"\\",
                                  "\"\\x\"",
                                  "\"\\u12\"",
                                  "\"\\uZZZZ\"",
                                  "\"\\ud800\"",
                                  "\"\\udc00\"",
                                  "\"\\ud800\\u0041\"",
                                  "\"\t\"",
                                  "\"\xc0\x80\"",
                                  "\"\xed\xa0\x80\"",
                                  "\"\xe2\x82\"",
                                  "01",
                                  "+1",
                                  "1.",
                                  ".5",
                                  "0x10",
                                  "1e",
                                  "--1",
                                  "NaN",
                                  "Infinity",
                                  "1e999",
                                  "tru",
                                  "nul",
                                  "[",
                                  "{",
                                  "]",
                                  "{\"a\":1,\"a\":2}",
                                  "{\"a\":1,\"\\u0061\":2}",
                                  "[1}",
                                  "{\"a\":1]",
                                  "\xef\xbb\xbf{}",
                                  "1234567890123456789012345678901234567890123456789012345678901234567890"};

START_TEST(json_accepts) { ck_assert_int_eq(json_scan(good[_i], strlen(good[_i]), lim, NULL), 0); }
END_TEST

START_TEST(json_refuses)
{
    struct err e = {0};
    cJSON *v = NULL;
    ck_assert_int_eq(json_parse(bad[_i], strlen(bad[_i]), lim, &v, &e), ERR_FORMAT);
    ck_assert_ptr_null(v);
    ck_assert(e.msg[0]);
}
END_TEST

START_TEST(json_limits)
{
    char deep[200];
    memset(deep, '[', 65);
    memset(deep + 65, ']', 65);
    ck_assert_int_ne(json_scan(deep, 130, lim, NULL), 0);
    ck_assert_int_eq(json_scan(deep + 1, 128, lim, NULL), 0);
    char wide[2100] = "[";
    for (int i = 0; i < 1000; i++) memcpy(wide + 1 + 2 * i, "1,", 3);
    strcpy(wide + 2000, "]");
    ck_assert_int_ne(json_scan(wide, strlen(wide), lim, NULL), 0); /* 1,000 numbers and their array */
    ck_assert_int_eq(json_scan(wide + 2, 0, lim, NULL), ERR_FORMAT);
}
END_TEST

START_TEST(json_keeps_nul)
{
    static const char text[] = "{\"s\":\"a\\u0000b\\\\u0000\"}";
    cJSON *v = NULL;
    struct buf b = {0};
    ck_assert_int_eq(json_parse(text, sizeof text - 1, lim, &v, NULL), 0);
    json_str(json_get(v, "s"), &b);
    ck_assert_uint_eq(b.len, 9);
    ck_assert_mem_eq(b.data, "a\0b\\u0000", 9);
    ck_assert_ptr_null(json_get(v, "S"));
    buf_free(&b);
    cJSON_Delete(v);
}
END_TEST

START_TEST(json_typed)
{
    cJSON *v = NULL;
    struct err e = {0};
    int64_t i = 7;
    double d = 0;
    bool b = false;
    static const char text[] = "{\"i\":3,\"f\":2.5,\"b\":true,\"s\":\"x\",\"n\":null}";
    ck_assert_int_eq(json_parse(text, sizeof text - 1, lim, &v, &e), 0);
    ck_assert(json_get_int(v, "i", 0, 10, &i, &e) && i == 3);
    ck_assert(!json_get_int(v, "missing", 0, 10, &i, &e) && i == 3 && !e.code);
    ck_assert(!json_get_int(v, "n", 0, 10, &i, &e) && !e.code);
    ck_assert(!json_get_int(v, "i", 4, 10, &i, &e) && e.code == ERR_INVALID);
    e.code = 0;
    ck_assert(!json_get_int(v, "f", 0, 10, &i, &e) && e.code == ERR_INVALID);
    ck_assert(json_get_num(v, "f", 0, 10, &d, &e) && d == 2.5);
    ck_assert(json_get_bool(v, "b", &b, &e) && b);
    ck_assert_str_eq(json_get_cstr(v, "s"), "x");
    ck_assert_ptr_null(json_get_cstr(v, "i"));
    cJSON_Delete(v);
}
END_TEST

TCase *json_case(void)
{
    TCase *t = tcase_create("json");
    tcase_add_loop_test(t, json_accepts, 0, sizeof good / sizeof good[0]);
    tcase_add_loop_test(t, json_refuses, 0, sizeof bad / sizeof bad[0]);
    tcase_add_test(t, json_limits);
    tcase_add_test(t, json_keeps_nul);
    tcase_add_test(t, json_typed);
    return t;
}
