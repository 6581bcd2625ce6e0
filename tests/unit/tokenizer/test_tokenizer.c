#include <stdlib.h>
#include <string.h>
#include "file.h"
#include "tok_test.h"
#include "utf8.h"

cJSON *load_json(const char *dir, const char *name)
{
    struct buf path = {0};
    struct err e = {0};
    cJSON *out = NULL;
    buf_fmt(&path, "%s/%s", dir, name);
    ck_assert_msg(!json_load(path.data, 64 << 20, &out, &e), "%s", e.msg);
    buf_free(&path);
    return out;
}

struct tokenizer *load_tokenizer(const char *dir, const char *name)
{
    struct buf path = {0}, json = {0};
    struct err e = {0};
    struct tokenizer *t = NULL;
    buf_fmt(&path, "%s/%s", dir, name);
    ck_assert_msg(!file_read(path.data, 64 << 20, &json, &e), "%s", e.msg);
    ck_assert_msg(!tok_parse_hf(json.data, json.len, NULL, 0, &t, &e), "%s: %s", name, e.msg);
    buf_free(&path);
    buf_free(&json);
    return t;
}

void check_encode(const struct tokenizer *t, const char *label, const cJSON *text, unsigned flags,
                  const cJSON *ids)
{
    struct buf s = {0};
    struct vec_i32 got = {0};
    struct err e = {0};
    json_str(text, &s);
    ck_assert_msg(!tok_encode(t, s.data ? s.data : "", s.len, flags, &got, &e), "%s: %s", label, e.msg);
    int n = cJSON_GetArraySize(ids), i = 0;
    const cJSON *id;
    ck_assert_msg(got.n == n, "%s: \"%s\" gives %d ids, not %d", label, s.data, got.n, n);
    cJSON_ArrayForEach(id, ids)
    {
        ck_assert_msg(got.v[i] == id->valueint, "%s: \"%s\", id %d is %d, not %d", label, s.data, i, got.v[i],
                      id->valueint);
        i++;
    }
    buf_free(&s);
    vec_i32_free(&got);
}

/* Pushes the ids one by one; what comes out must be tok_decode's text once the faults are replaced. */
static void check_stream(const struct tokenizer *t, const char *label, const struct vec_i32 *ids, bool skip,
                         const struct buf *whole)
{
    struct tok_stream st = {0};
    struct buf raw = {0}, clean = {0};
    for (int i = 0; i < ids->n; i++) tok_stream_push(t, &st, ids->v[i], skip, &raw);
    if (raw.len) utf8_clean(&clean, raw.data, raw.len);
    ck_assert_msg(clean.len == whole->len && (!clean.len || !memcmp(clean.data, whole->data, clean.len)),
                  "%s: streamed \"%s\", whole \"%s\"", label, clean.data, whole->data);
    buf_free(&raw);
    buf_free(&clean);
}

void check_decode(const struct tokenizer *t, const char *label, const cJSON *list, bool skip,
                  const cJSON *text)
{
    struct buf want = {0}, got = {0};
    struct vec_i32 ids = {0};
    const cJSON *id;
    cJSON_ArrayForEach(id, list) vec_i32_push(&ids, id->valueint);
    json_str(text, &want);
    ck_assert_int_eq(tok_decode(t, ids.v, ids.n, skip, &got), 0);
    ck_assert_msg(got.len == want.len && (!got.len || !memcmp(got.data, want.data, got.len)),
                  "%s: decoded \"%s\", not \"%s\"", label, got.data, want.data);
    check_stream(t, label, &ids, skip, &got);
    buf_free(&want);
    buf_free(&got);
    vec_i32_free(&ids);
}

int main(void)
{
    SRunner *r = srunner_create(suite_cases());
    srunner_add_suite(r, suite_parts());
    srunner_add_suite(r, suite_hostile());
    srunner_add_suite(r, suite_gguf());
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
