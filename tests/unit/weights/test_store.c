/* The store: checked access, row ranges, shards and their index, leftovers. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "backend.h"
#include "buf.h"
#include "store.h"
#include "weights_tests.h"

static char dir[] = "/tmp/inferd-store-XXXXXX";

static void write_file(const char *name, const void *data, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert(fwrite(data, n, 1, f) == 1 && !fclose(f));
}

/* A file of one F32 matrix [rows][2], values counting from `first`. */
static void write_shard(const char *file, const char *tensor, int rows, float first)
{
    char header[256];
    int n = snprintf(header, sizeof header,
                     "{\"%s\":{\"dtype\":\"F32\",\"shape\":[%d,2],\"data_offsets\":[0,%d]}}", tensor, rows,
                     rows * 8);
    uint64_t len = (uint64_t)n;
    struct buf b = {0};
    buf_add(&b, &len, 8);
    buf_add(&b, header, (size_t)n);
    for (int i = 0; i < rows * 2; i++, first += 1) buf_add(&b, &first, 4);
    write_file(file, b.data, b.len);
    buf_free(&b);
}

static void setup(void)
{
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
    static const char *const files[] = {"model.safetensors", "model.safetensors.index.json", "s1.safetensors",
                                        "s2.safetensors"};
    char path[256];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void write_index(const char *json) { write_file("model.safetensors.index.json", json, strlen(json)); }

START_TEST(test_rows)
{
    struct backend *be = ref_backend();
    struct store *s;
    struct weight *w;
    struct err e = {0};
    float y[2];
    write_shard("model.safetensors", "m", 4, 1);
    ck_assert_msg(!store_open_folder(dir, &s, &e), "%s", e.msg);
    for (int pass = 0; pass < 2; pass++) { /* as it is, and converted */
        struct matrix_spec m = {"m", 4, 2, 1, 2, pass ? DT_BF16 : DT_COUNT, 0, 0};
        ck_assert_msg(!store_matrix(s, be, &m, &w, &e), "%s", e.msg);
        ck_assert_int_eq(be->ops->weight_info(w).n_out, 2);
        ck_assert_int_eq(be->ops->weight_info(w).type, pass ? DT_BF16 : DT_F32);
        be->ops->embed(be, w, &(struct batch){.n = 1, .ids = (int32_t[]){1}}, 1, y);
        ck_assert(y[0] == 5 && y[1] == 6);
        be->ops->weight_free(be, w);
    }
    ck_assert_int_eq(store_used_bytes(s), 32);
    ck_assert_int_eq(store_total_bytes(s), 32);
    store_close(s);
}
END_TEST

START_TEST(test_checked)
{
    struct store *s;
    struct weight *w;
    struct err e = {0};
    float *v;
    write_shard("model.safetensors", "m", 4, 1);
    ck_assert_int_eq(store_open_folder(dir, &s, &e), 0);
    ck_assert_int_ne(store_check_leftover(s, NULL, NULL, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.msg, "tensor m"));
    ck_assert_int_ne(store_matrix(s, NULL, &(struct matrix_spec){"m", 2, 4, 0, 2, DT_COUNT, 0, 0}, &w, &e),
                     0);
    ck_assert_msg(strstr(e.msg, "[4, 2], not [2, 4]"), "%s", e.msg);
    ck_assert_int_ne(store_matrix(s, NULL, &(struct matrix_spec){"n", 4, 2, 0, 4, DT_COUNT, 0, 0}, &w, &e),
                     0);
    ck_assert_ptr_nonnull(strstr(e.msg, "n is missing"));
    ck_assert_int_ne(store_vector(s, "m", 8, 0, true, &v, &e), 0);
    ck_assert_int_eq(store_matrix(s, NULL, &(struct matrix_spec){"m", 4, 2, 0, 4, DT_COUNT, 0, 0}, &w, &e),
                     0);
    ck_assert_int_eq(store_check_leftover(s, NULL, NULL, &e), 0);
    store_close(s);
}
END_TEST

START_TEST(test_shards)
{
    struct store *s;
    struct err e = {0};
    write_shard("s1.safetensors", "a", 1, 0);
    write_shard("s2.safetensors", "b", 1, 10);
    write_index("{\"metadata\":{},\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
    ck_assert_msg(!store_open_folder(dir, &s, &e), "%s", e.msg);
    ck_assert_ptr_nonnull(store_find(s, "a"));
    ck_assert_float_eq(*(const float *)store_find(s, "b")->data, 10);
    store_close(s);
}
END_TEST

static const struct {
    const char *json, *message;
} bad_index[] = {{"{\"weight_map\":{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\"}}", "a is not in s2"},
                 {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"s1.safetensors\"}}", "c is not in"},
                 {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s3.safetensors\"}}", "s3.safetensors"},
                 {"{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", "not the name of a shard"},
                 {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "not the name of a shard"},
                 {"{\"weight_map\":{\"a\":7}}", "not the name of a shard"},
                 {"{\"weight_map\":{}}", "no weight_map"},
                 {"{}", "no weight_map"},
                 {"[]", "no weight_map"},
                 {"{\"weight_map\":", "index.json"}};

START_TEST(test_bad_index)
{
    struct store *s;
    struct err e = {0};
    write_shard("s1.safetensors", "a", 1, 0);
    write_shard("s2.safetensors", "b", 1, 10);
    write_index(bad_index[_i].json);
    ck_assert_int_ne(store_open_folder(dir, &s, &e), 0);
    ck_assert_ptr_null(s);
    ck_assert_msg(strstr(e.msg, bad_index[_i].message) && strstr(e.msg, dir), "'%s' does not say '%s'", e.msg,
                  bad_index[_i].message);
}
END_TEST

START_TEST(test_twice)
{
    struct store *s;
    struct err e = {0};
    write_shard("s1.safetensors", "a", 1, 0);
    write_shard("s2.safetensors", "a", 1, 10);
    write_index("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
    ck_assert_int_ne(store_open_folder(dir, &s, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.msg, "two files"));
}
END_TEST

START_TEST(test_nothing)
{
    struct store *s;
    struct err e = {0};
    ck_assert_int_eq(store_open_folder(dir, &s, &e), ERR_NOTFOUND);
    ck_assert_ptr_nonnull(strstr(e.msg, "model.safetensors"));
}
END_TEST

/* Values of a dummy matrix's rows and columns, which are parts of [40][22]. */
static void dummy_part(struct pool *pool, int row, int n_row, int col, int n_col, float *y)
{
    struct backend *be = ref_backend();
    struct store *s;
    struct weight *w;
    struct err e = {0};
    struct matrix_spec m = {"m", 40, 22, row, n_row, DT_COUNT, col, n_col};
    ck_assert_int_eq(store_open_dummy(7, DT_F32, &s, &e), 0);
    store_use_pool(s, pool);
    ck_assert_msg(!store_matrix(s, be, &m, &w, &e), "%s", e.msg);
    for (int32_t i = 0; i < n_row; i++)
        be->ops->embed(be, w, &(struct batch){.n = 1, .ids = &i}, 1, y + i * n_col);
    be->ops->weight_free(be, w);
    store_close(s);
}

START_TEST(test_dummy)
{
    float all[40 * 22], same[40 * 22], part[9 * 5], sum = 0;
    struct pool *pool;
    struct err e = {0};
    ck_assert_msg(!pool_open(3, &pool, &e), "%s", e.msg);
    dummy_part(NULL, 0, 40, 0, 22, all);
    dummy_part(pool, 0, 40, 0, 22, same);
    ck_assert_mem_eq(all, same, sizeof all);
    dummy_part(pool, 30, 9, 17, 5, part);
    for (int i = 0; i < 9; i++) ck_assert_mem_eq(part + 5 * i, all + 22 * (30 + i) + 17, 5 * sizeof *part);
    for (int i = 0; i < 40 * 22; i++) sum += all[i] * all[i];
    ck_assert_float_gt(sum / 40, 0.8f); /* of a row, 1 is expected */
    ck_assert_float_lt(sum / 40, 1.2f);
    ck_assert(memcmp(all, all + 22, 22 * sizeof *all) && all[0] != all[1] && all[1] != all[2]);
    pool_close(pool);
}
END_TEST

TCase *store_tests(void)
{
    TCase *t = tcase_create("store");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_rows);
    tcase_add_test(t, test_checked);
    tcase_add_test(t, test_shards);
    tcase_add_loop_test(t, test_bad_index, 0, (int)(sizeof bad_index / sizeof *bad_index));
    tcase_add_test(t, test_twice);
    tcase_add_test(t, test_nothing);
    tcase_add_test(t, test_dummy);
    return t;
}
