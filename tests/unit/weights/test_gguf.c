/* The GGUF reader: a valid file reads back as written; each malformed one is refused with a message that
 * names the fault; random damage never crashes (run under sanitizers, it proves more). */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "corpus.h"
#include "gguf.h"
#include "gguf_write.h"
#include "weights_tests.h"

static void put(struct buf *b, uint64_t v, int bytes) { buf_add(b, &v, (size_t)bytes); }

static void str(struct buf *b, const char *s, uint64_t n)
{
    put(b, n, 8);
    buf_str(b, s);
}

/* Files of tests/corpus/gguf, and what the message must say. */
static const struct {
    const char *file, *message;
} bad[] = {{"G01-empty", "ends"},
           {"G02-3-bytes", "ends"},
           {"G03-magic", "magic"},
           {"G04-big-endian", "big-endian"},
           {"G05-0", "version"},
           {"G05-1", "version 1"},
           {"G05-2-31", "version"},
           {"G05-4", "version 4"},
           {"G06-2-63", "more tensors"},
           {"G06-minus-1", "more tensors"},
           {"G07-2-63-keys", "more keys"},
           {"G08-ends-in-key", "ends"},
           {"G09-2-64", "key of"},
           {"G09-beyond", "ends"},
           {"G10-empty-key", "key of 0"},
           {"G11-duplicate-key", "duplicate key same"},
           {"G12-NUL", "control"},
           {"G12-bad-UTF-8", "UTF-8"},
           {"G13-13", "type 13 (key k)"},
           {"G13-255", "type 255"},
           {"G14-array-of-arrays", "array of arrays"},
           {"G15-2-61-values", "beyond"},
           {"G16-billion-strings", "more strings"},
           {"G16-cut", "strings"},
           {"G17-array", "bool"},
           {"G17-bool-7", "bool"},
           {"G18-0", "alignment"},
           {"G18-2-31", "alignment"},
           {"G18-3", "alignment"},
           {"G18-string", "alignment"},
           {"T-2-62-values", "beyond"},
           {"T-5-dimensions", "dimensions"},
           {"T-beyond-the-end", "beyond"},
           {"T-dimension-0", "out of range"},
           {"T-dimension-2-62", "out of range"},
           {"T-duplicate", "duplicate tensor first"},
           {"T-half-a-block", "blocks"},
           {"T-misaligned", "aligned"},
           {"T-no-dimensions", "dimensions"},
           {"T-no-name", "tensor name of 0"},
           {"T-offset-2-64", "beyond"},
           {"T-overlap", "overlaps"},
           {"T-removed-type", "type 4"},
           {"T-unsupported-type", "type 19"}};

START_TEST(test_bad)
{
    struct buf b = {0};
    struct err e = {0};
    struct gguf *g;
    ck_assert_int_eq(corpus_read("gguf", bad[_i].file, &b), 0);
    ck_assert_int_ne(gguf_parse(b.data, b.len, &g, &e), 0);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(e.msg, bad[_i].message), "%s: '%s' does not say '%s'", bad[_i].file, e.msg,
                  bad[_i].message);
    buf_free(&b);
}
END_TEST

static void valid(struct buf *b)
{
    struct gguf_writer w = {0};
    float v[64];
    for (int i = 0; i < 64; i++) v[i] = (float)i;
    gw_str(&w, "general.architecture", "llama");
    gw_u32(&w, "llama.block_count", 12);
    gw_f32(&w, "llama.scale", 0.5);
    str(&w.kv, "list", 4); /* two strings */
    put(&w.kv, 9, 4), put(&w.kv, 8, 4), put(&w.kv, 2, 8);
    str(&w.kv, "one", 3), str(&w.kv, "", 0);
    str(&w.kv, "numbers", 7); /* three int16 */
    put(&w.kv, 9, 4), put(&w.kv, 3, 4), put(&w.kv, 3, 8);
    put(&w.kv, 7, 2), put(&w.kv, 0xffff, 2), put(&w.kv, 9, 2);
    w.n_kv += 2;
    gw_tensor(&w, "m", DT_Q8_0, (int64_t[]){2, 32}, v);
    gw_tensor(&w, "v", DT_F32, (int64_t[]){7, 0}, v);
    gw_bytes(&w, b);
}

START_TEST(test_valid)
{
    struct buf b = {0};
    struct err e = {0};
    struct gguf *g;
    struct gguf_str s;
    int64_t i;
    double d;
    valid(&b);
    ck_assert_msg(!gguf_parse(b.data, b.len, &g, &e), "%s", e.msg);
    ck_assert_int_eq(gguf_n_kv(g), 5);
    ck_assert_int_eq(gguf_n_tensor(g), 2);
    ck_assert(gguf_string(g, "general.architecture", &s) && s.n == 5 && !memcmp(s.s, "llama", 5));
    ck_assert(gguf_int(g, "llama.block_count", &i) && i == 12);
    ck_assert(gguf_num(g, "llama.scale", &d) && d == 0.5);
    ck_assert(!gguf_int(g, "llama.scale", &i));
    ck_assert(!gguf_int(g, "absent", &i));
    const struct gguf_kv *list = gguf_find(g, "list"), *numbers = gguf_find(g, "numbers");
    ck_assert_int_eq(list->n, 2);
    ck_assert_int_eq(gguf_array_str(list, 0).n, 3);
    ck_assert_int_eq(gguf_array_str(list, 1).n, 0);
    ck_assert_int_eq(gguf_array_int(numbers, 1), -1);
    ck_assert_double_eq(gguf_array_num(numbers, 2), 9);
    const struct gguf_tensor *m = gguf_tensor(g, "m"), *v = gguf_tensor(g, "v");
    ck_assert(m->type == DT_Q8_0 && m->dim[0] == 32 && m->dim[1] == 2 && m->bytes == 68);
    ck_assert_int_eq((uintptr_t)((const char *)v->data - b.data) % 32, 0);
    float x;
    memcpy(&x, (const char *)v->data + 24, 4);
    ck_assert_float_eq(x, 6);
    gguf_close(g);
    buf_free(&b);
}
END_TEST

/* Every cut, and random bytes: refused or read, but never out of bounds. */
START_TEST(test_damage)
{
    struct buf b = {0};
    struct gguf *g;
    unsigned rng = 1;
    valid(&b);
    for (size_t n = 0; n < b.len - 4;
         n++) { /* the last 4 are padding; exact copies, so that a sanitizer sees each overrun */
        char *copy = malloc(n ? n : 1);
        memcpy(copy, b.data, n);
        ck_assert_int_ne(gguf_parse(copy, n, &g, NULL), 0);
        free(copy);
    }
    for (int round = 0; round < 3000; round++) {
        char *copy = malloc(b.len);
        memcpy(copy, b.data, b.len);
        for (int k = 0; k < 1 + round % 2; k++) {
            rng = rng * 1664525u + 1013904223u;
            copy[(rng >> 8) % b.len] = (char)(rng >> 3);
        }
        if (!gguf_parse(copy, b.len, &g, NULL))
            for (int i = 0; i < gguf_n_tensor(g); i++)
                ck_assert((const char *)gguf_tensor_at(g, i)->data + gguf_tensor_at(g, i)->bytes <=
                          copy + b.len);
        gguf_close(g);
        free(copy);
    }
    buf_free(&b);
}
END_TEST

START_TEST(test_file)
{
    struct err e = {0};
    struct gguf *g;
    ck_assert_int_ne(gguf_open("/nonexistent.gguf", &g, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.msg, "/nonexistent.gguf"));
    ck_assert_int_ne(gguf_open("/dev/null", &g, &e), 0);
}
END_TEST

TCase *gguf_tests(void)
{
    TCase *t = tcase_create("gguf");
    tcase_add_loop_test(t, test_bad, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(t, test_valid);
    tcase_add_test(t, test_damage);
    tcase_add_test(t, test_file);
    return t;
}
