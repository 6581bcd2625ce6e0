/* The safetensors reader: valid files, malformed ones, random damage. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "buf.h"
#include "safetensors.h"
#include "weights_tests.h"

static void file(struct buf *b, uint64_t len, const char *header, size_t n, size_t data)
{
    buf_add(b, &len, 8);
    buf_add(b, header, n);
    while (data--) buf_chr(b, (char)data);
}

#define T(name, dtype, shape, from, to)                                                                      \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static const struct {
    const char *name, *header;
    int data;
    const char *message;
} bad[] = {
    {"S03 no brace", "[" T("a", "F32", "[1]", 0, 4) "]", 4, "'{'"},
    {"S04 bad JSON", "{" T("a", "F32", "[1]", 0, 4), 4, "JSON"},
    {"S04 bad UTF-8", "{" T("a\xff", "F32", "[1]", 0, 4) "}", 4, "JSON"},
    {"S04 trailing", "{" T("a", "F32", "[1]", 0, 4) "}x", 4, "JSON"},
    {"S05 duplicate", "{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, "duplicate"},
    {"S06 no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype (tensor a)"},
    {"S06 unknown", "{" T("a", "F31", "[1]", 0, 4) "}", 4, "unknown dtype (tensor a)"},
    {"S07 negative", "{" T("a", "F32", "[-1]", 0, 4) "}", 4, "dimension"},
    {"S07 float", "{" T("a", "F32", "[1.5]", 0, 4) "}", 4, "dimension"},
    {"S07 string", "{" T("a", "F32", "[\"1\"]", 0, 4) "}", 4, "dimension"},
    {"S07 huge", "{" T("a", "F32", "[18446744073709551616]", 0, 4) "}", 4, "dimension"},
    {"S07 overflow", "{" T("a", "F32", "[2147483647,2147483647,2147483647]", 0, 4) "}", 4, "overflows"},
    {"S07 9 dims", "{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "too many"},
    {"S07 no shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "no shape"},
    {"S08 end < begin", "{" T("a", "F32", "[1]", 4, 0) "}", 4, "data_offsets"},
    {"S08 negative", "{" T("a", "F32", "[1]", -4, 0) "}", 4, "data_offsets"},
    {"S08 one offset", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "data_offsets"},
    {"S08 object", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"x\":0,\"y\":4}}}", 4,
     "data_offsets"},
    {"S08 overlap", "{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[1]", 4, 8) "}", 8, "overlaps"},
    {"S08 gap", "{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 8, 12) "}", 12, "gap"},
    {"S08 beyond", "{" T("a", "F32", "[2]", 0, 8) "}", 4, "beyond"},
    {"S08 tail", "{" T("a", "F32", "[1]", 0, 4) "}", 6, "after the last"},
    {"S08 size", "{" T("a", "F32", "[3]", 0, 4) "}", 4, "do not agree"},
    {"no object", "{\"a\":3}", 0, "no object"},
    {"no name", "{" T("", "F32", "[1]", 0, 4) "}", 4, "name"},
    {"control", "{" T("a\\u0001", "F32", "[1]", 0, 4) "}", 4, "control"},
    {"NUL in name", "{" T("a\\u0000b", "F32", "[1]", 0, 4) "}", 4, "name"}};

START_TEST(test_bad)
{
    struct buf b = {0};
    struct err e = {0};
    struct safetensors *s;
    file(&b, strlen(bad[_i].header), bad[_i].header, strlen(bad[_i].header), (size_t)bad[_i].data);
    ck_assert_int_ne(safetensors_parse(b.data, b.len, &s, &e), 0);
    ck_assert_msg(strstr(e.msg, bad[_i].message), "%s: '%s' does not say '%s'", bad[_i].name, e.msg,
                  bad[_i].message);
    buf_free(&b);
}
END_TEST

START_TEST(test_length)
{
    static const uint64_t len[] = {0, 1, 3, 100, 100000001, UINT64_C(1) << 63, UINT64_MAX};
    struct safetensors *s;
    struct err e = {0};
    for (size_t i = 0; i < sizeof len / sizeof *len; i++) {
        struct buf b = {0};
        file(&b, len[i], "{}", 2, 0);
        ck_assert_int_ne(safetensors_parse(b.data, b.len, &s, &e), 0);
        ck_assert_ptr_nonnull(strstr(e.msg, "header"));
        buf_free(&b);
    }
    ck_assert_int_ne(safetensors_parse("1234567", 7, &s, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.msg, "too short"));
    struct buf b = {0}; /* padding is spaces, not NULs */
    file(&b, 4, "{}\0\0", 4, 0);
    ck_assert_int_ne(safetensors_parse(b.data, b.len, &s, &e), 0);
    buf_free(&b);
}
END_TEST

static const char good[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("b.w", "BF16", "[2,3]", 8,
                                                                      20) "," T("a", "I64", "[]", 0, 8) "}  ";

START_TEST(test_valid)
{
    struct buf b = {0};
    struct err e = {0};
    struct safetensors *s;
    file(&b, sizeof good - 1, good, sizeof good - 1, 20);
    ck_assert_msg(!safetensors_parse(b.data, b.len, &s, &e), "%s", e.msg);
    ck_assert_int_eq(safetensors_count(s), 2);
    const struct safetensor *a = safetensors_at(s, 0), *w = safetensors_at(s, 1);
    ck_assert(!strcmp(a->name, "a") && !a->plain && a->bytes == 8 && !strcmp(a->type_name, "I64"));
    ck_assert(!strcmp(w->name, "b.w") && w->plain && w->type == DT_BF16 && w->n_dim == 2 && w->dim[1] == 3 &&
              w->bytes == 12);
    ck_assert_ptr_eq(w->data, b.data + b.len - 12);
    safetensors_close(s);
    buf_free(&b);
}
END_TEST

START_TEST(test_damage)
{
    struct buf b = {0};
    struct safetensors *s;
    unsigned rng = 1;
    file(&b, sizeof good - 1, good, sizeof good - 1, 20);
    for (int round = 0; round < 3000; round++) {
        char *copy = malloc(b.len);
        memcpy(copy, b.data, b.len);
        for (int k = 0; k < 1 + round % 2; k++) {
            rng = rng * 1664525u + 1013904223u;
            copy[(rng >> 8) % (b.len - 20)] = (char)(rng >> 3);
        }
        if (!safetensors_parse(copy, b.len, &s, NULL))
            for (int i = 0; i < safetensors_count(s); i++)
                ck_assert((const char *)safetensors_at(s, i)->data + safetensors_at(s, i)->bytes <=
                          copy + b.len);
        safetensors_close(s);
        free(copy);
    }
    buf_free(&b);
}
END_TEST

TCase *safetensors_tests(void)
{
    TCase *t = tcase_create("safetensors");
    tcase_add_loop_test(t, test_bad, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(t, test_length);
    tcase_add_test(t, test_valid);
    tcase_add_test(t, test_damage);
    return t;
}
