/* The safetensors reader: valid files, malformed ones, random damage. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "buf.h"
#include "corpus.h"
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

/* Files of tests/corpus/safetensors, and what the message must say. */
static const struct {
    const char *file, *message;
} bad[] = {{"NUL-in-name", "name"},
           {"S01-7-bytes", "too short"},
           {"S02-length-0", "header"},
           {"S02-length-1", "header"},
           {"S02-length-100", "header"},
           {"S02-length-100-MB", "header"},
           {"S02-length-2-63", "header"},
           {"S02-length-2-64", "header"},
           {"S02-length-3", "header"},
           {"S03-no-brace", "'{'"},
           {"S04-NUL-padding", "JSON"},
           {"S04-bad-JSON", "JSON"},
           {"S04-bad-UTF-8", "JSON"},
           {"S04-trailing", "JSON"},
           {"S05-duplicate", "duplicate"},
           {"S06-no-dtype", "no dtype (tensor a)"},
           {"S06-unknown", "unknown dtype (tensor a)"},
           {"S07-10000-dims", "too many"},
           {"S07-9-dims", "too many"},
           {"S07-float", "dimension"},
           {"S07-huge", "dimension"},
           {"S07-negative", "dimension"},
           {"S07-no-shape", "no shape"},
           {"S07-overflow", "overflows"},
           {"S07-string", "dimension"},
           {"S08-beyond", "beyond"},
           {"S08-end-below-begin", "data_offsets"},
           {"S08-gap", "gap"},
           {"S08-negative", "data_offsets"},
           {"S08-object", "data_offsets"},
           {"S08-one-offset", "data_offsets"},
           {"S08-overlap", "overlaps"},
           {"S08-size", "do not agree"},
           {"S08-tail", "after the last"},
           {"control", "control"},
           {"no-name", "name"},
           {"no-object", "no object"}};

START_TEST(test_bad)
{
    struct buf b = {0};
    struct err e = {0};
    struct safetensors *s;
    ck_assert_int_eq(corpus_read("safetensors", bad[_i].file, &b), 0);
    ck_assert_int_ne(safetensors_parse(b.data, b.len, &s, &e), 0);
    ck_assert_msg(strstr(e.msg, bad[_i].message), "%s: '%s' does not say '%s'", bad[_i].file, e.msg,
                  bad[_i].message);
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
    tcase_add_test(t, test_valid);
    tcase_add_test(t, test_damage);
    return t;
}
