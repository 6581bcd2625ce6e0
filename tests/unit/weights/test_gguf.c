/* The GGUF reader: a valid file reads back as written; each malformed one is refused with a message that
 * names the fault; random damage never crashes (run under sanitizers, it proves more). */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "gguf.h"
#include "gguf_write.h"
#include "weights_tests.h"

static void put(struct buf *b, uint64_t v, int bytes) { buf_add(b, &v, (size_t)bytes); }

static void str(struct buf *b, const char *s, uint64_t n)
{
    put(b, n, 8);
    buf_str(b, s);
}

static void head(struct buf *b, uint32_t version, uint64_t n_tensor, uint64_t n_kv)
{
    buf_str(b, "GGUF");
    put(b, version, 4);
    put(b, n_tensor, 8);
    put(b, n_kv, 8);
}

static void pad(struct buf *b, size_t n)
{
    while (n--) buf_chr(b, 0);
}

static void kv_u32(struct buf *b, const char *key, uint32_t v)
{
    str(b, key, strlen(key));
    put(b, 4, 4);
    put(b, v, 4);
}

static void tensor(struct buf *b, const char *name, int n_dim, const uint64_t *dim, uint32_t type,
                   uint64_t off)
{
    str(b, name, strlen(name));
    put(b, (uint64_t)n_dim, 4);
    for (int i = 0; i < n_dim; i++) put(b, dim[i], 8);
    put(b, type, 4);
    put(b, off, 8);
}

static void one_kv(struct buf *b, const char *key, size_t n)
{
    head(b, 3, 0, 1), str(b, key, n), put(b, 4, 4), put(b, 1, 4);
}
static void one_tensor(struct buf *b, const char *name, int n_dim, uint64_t d0, uint64_t d1, uint32_t type,
                       uint64_t off)
{
    head(b, 3, 1, 0);
    tensor(b, name, n_dim, (uint64_t[5]){d0, d1, 1, 1, 1}, type, off);
    while (b->len % 32) buf_chr(b, 0);
    pad(b, 256);
}

static void array(struct buf *b, uint32_t elem, uint64_t n, size_t bytes)
{
    head(b, 3, 0, 1);
    str(b, "a", 1);
    put(b, 9, 4);
    put(b, elem, 4);
    put(b, n, 8);
    pad(b, bytes);
}

#define CASE(name, body)                                                                                     \
    static void name(struct buf *b) { body; }
CASE(g01, (void)b)
CASE(g02, buf_str(b, "GGU"))
CASE(g03, buf_str(b, "GGML"); pad(b, 64))
CASE(g04, head(b, 0x03000000, 0, 0))
CASE(g05a, head(b, 0, 0, 0))
CASE(g05b, head(b, 1, 0, 0); pad(b, 32))
CASE(g05c, head(b, 4, 0, 0))
CASE(g05d, head(b, 1u << 31, 0, 0))
CASE(g06a, head(b, 3, UINT64_C(1) << 63, 0); pad(b, 99))
CASE(g06b, head(b, 3, UINT64_MAX, 0); pad(b, 99))
CASE(g07, head(b, 3, 0, UINT64_C(1) << 63); pad(b, 99))
CASE(g08, head(b, 3, 0, 1); str(b, "general.arch", 40))
CASE(g09a, head(b, 3, 0, 1); str(b, "k", UINT64_MAX); pad(b, 32))
CASE(g09b, head(b, 3, 0, 1); str(b, "k", 60000); pad(b, 32))
CASE(g10, one_kv(b, "", 0))
CASE(g11, head(b, 3, 0, 2); kv_u32(b, "same", 1); kv_u32(b, "same", 2))
CASE(g12a, head(b, 3, 0, 1); put(b, 3, 8); buf_add(b, "a\0b", 3); put(b, 4, 4); put(b, 1, 4))
CASE(g12b, one_kv(b, "a\xff", 2))
CASE(g13a, head(b, 3, 0, 1); str(b, "k", 1); put(b, 13, 4); pad(b, 32))
CASE(g13b, head(b, 3, 0, 1); str(b, "k", 1); put(b, 255, 4); pad(b, 32))
CASE(g14, array(b, 9, 1, 64))
CASE(g15, array(b, 10, UINT64_C(1) << 61, 64))
CASE(g16, array(b, 8, 1000000000, 64))
CASE(g16b, array(b, 8, 3, 20))
CASE(g17a, head(b, 3, 0, 1); str(b, "flag", 4); put(b, 7, 4); put(b, 7, 1))
CASE(g17b, array(b, 7, 4, 4); b->data[b->len - 1] = 2)
CASE(g18a, head(b, 3, 0, 1); kv_u32(b, "general.alignment", 0))
CASE(g18b, head(b, 3, 0, 1); kv_u32(b, "general.alignment", 3))
CASE(g18c, head(b, 3, 0, 1); kv_u32(b, "general.alignment", 1u << 31))
CASE(g18d, head(b, 3, 0, 1); str(b, "general.alignment", 17); put(b, 8, 4); str(b, "32", 2))
CASE(t_dims0, one_tensor(b, "t", 0, 8, 4, 0, 0))
CASE(t_dims5, one_tensor(b, "t", 5, 8, 4, 0, 0))
CASE(t_zero, one_tensor(b, "t", 2, 0, 4, 0, 0))
CASE(t_huge, one_tensor(b, "t", 2, UINT64_C(1) << 62, 4, 0, 0))
CASE(t_product, one_tensor(b, "t", 2, INT32_MAX, INT32_MAX, 0, 0))
CASE(t_type, one_tensor(b, "t", 2, 8, 4, 4, 0))
CASE(t_iq, one_tensor(b, "t", 2, 256, 1, 19, 0))
CASE(t_block, one_tensor(b, "t", 2, 33, 1, 8, 0))
CASE(t_misaligned, one_tensor(b, "t", 2, 8, 4, 0, 4))
CASE(t_beyond, one_tensor(b, "t", 2, 8, 9, 0, 0))
CASE(t_offset, one_tensor(b, "t", 2, 8, 4, 0, UINT64_MAX & ~UINT64_C(31)))
CASE(t_name, one_tensor(b, "", 2, 8, 4, 0, 0))
static void two_tensors(struct buf *b, const char *second, uint64_t off)
{
    head(b, 3, 2, 0);
    tensor(b, "first", 1, (uint64_t[]){16}, 0, 0);
    tensor(b, second, 1, (uint64_t[]){16}, 0, off);
    while (b->len % 32) buf_chr(b, 0);
    pad(b, 128);
}
CASE(t_overlap, two_tensors(b, "second", 32))
CASE(t_duplicate, two_tensors(b, "first", 64))

static const struct {
    const char *name;
    void (*make)(struct buf *);
    const char *message;
} bad[] = {{"G01", g01, "ends"},
           {"G02", g02, "ends"},
           {"G03", g03, "magic"},
           {"G04", g04, "big-endian"},
           {"G05 0", g05a, "version"},
           {"G05 1", g05b, "version 1"},
           {"G05 4", g05c, "version 4"},
           {"G05 2^31", g05d, "version"},
           {"G06 2^63", g06a, "more tensors"},
           {"G06 -1", g06b, "more tensors"},
           {"G07", g07, "more keys"},
           {"G08", g08, "ends"},
           {"G09 2^64-1", g09a, "key of"},
           {"G09 beyond", g09b, "ends"},
           {"G10", g10, "key of 0"},
           {"G11", g11, "duplicate key same"},
           {"G12 NUL", g12a, "control"},
           {"G12 UTF-8", g12b, "UTF-8"},
           {"G13 13", g13a, "type 13 (key k)"},
           {"G13 255", g13b, "type 255"},
           {"G14", g14, "array of arrays"},
           {"G15", g15, "beyond"},
           {"G16", g16, "more strings"},
           {"G16 cut", g16b, "strings"},
           {"G17", g17a, "bool"},
           {"G17 array", g17b, "bool"},
           {"G18 0", g18a, "alignment"},
           {"G18 3", g18b, "alignment"},
           {"G18 2^31", g18c, "alignment"},
           {"G18 string", g18d, "alignment"},
           {"no dimensions", t_dims0, "dimensions"},
           {"5 dimensions", t_dims5, "dimensions"},
           {"dimension 0", t_zero, "out of range"},
           {"dimension 2^62", t_huge, "out of range"},
           {"2^62 values", t_product, "beyond"},
           {"removed type", t_type, "type 4"},
           {"unsupported type", t_iq, "type 19"},
           {"half a block", t_block, "blocks"},
           {"misaligned", t_misaligned, "aligned"},
           {"beyond the end", t_beyond, "beyond"},
           {"offset 2^64-32", t_offset, "beyond"},
           {"no name", t_name, "tensor name of 0"},
           {"overlap", t_overlap, "overlaps"},
           {"duplicate", t_duplicate, "duplicate tensor first"}};

START_TEST(test_bad)
{
    struct buf b = {0};
    struct err e = {0};
    struct gguf *g;
    bad[_i].make(&b);
    ck_assert_int_ne(gguf_parse(b.data, b.len, &g, &e), 0);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(e.msg, bad[_i].message), "%s: '%s' does not say '%s'", bad[_i].name, e.msg,
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
