/* Ids and texts that Hugging Face's tokenizers gave: the golden models', and those of the small tokenizers in
 * data/ (tests/tools/make_tokenizer_cases.py writes them). */
#include <dirent.h>
#include <pthread.h>
#include <string.h>
#include "clock.h"
#include "tok_test.h"

static const char *const golden[] = {"llama2", "llama3", "qwen2", "qwen3", "mistral",
                                     "gemma2", "gemma3", "phi3",  "olmo2", "granite"};

START_TEST(golden_model)
{
    struct buf dir = {0};
    struct tokenizer *t = NULL;
    struct err e = {0};
    buf_fmt(&dir, "%s/%s", GOLDEN, golden[_i]);
    ck_assert_msg(!tok_load_hf(dir.data, &t, &e), "%s", e.msg);
    cJSON *g = load_json(dir.data, "golden.json");
    const cJSON *p;
    cJSON_ArrayForEach(p, json_get(g, "prompts"))
    {
        check_encode(t, golden[_i], json_get(p, "text"), TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL,
                     json_get(p, "ids"));
        check_encode(t, golden[_i], json_get(p, "text"), TOK_PARSE_SPECIAL, json_get(p, "ids_plain"));
    }
    cJSON_ArrayForEach(p, json_get(g, "tokenizer"))
    {
        check_encode(t, golden[_i], json_get(p, "text"), TOK_PARSE_SPECIAL, json_get(p, "ids"));
        check_decode(t, golden[_i], json_get(p, "ids"), false, json_get(p, "decoded"));
    }
    cJSON_Delete(g);
    tok_free(t);
    buf_free(&dir);
}
END_TEST

static void check_family(const char *name)
{
    struct buf file = {0};
    buf_fmt(&file, "%s.tokenizer.json", name);
    struct tokenizer *t = load_tokenizer(DATA, file.data);
    buf_clear(&file);
    buf_fmt(&file, "%s.cases.json", name);
    cJSON *c = load_json(DATA, file.data);
    const cJSON *p;
    ck_assert_int_gt(cJSON_GetArraySize(json_get(c, "encode")), 10);
    cJSON_ArrayForEach(p, json_get(c, "encode"))
        check_encode(t, name, cJSON_GetArrayItem(p, 0), (unsigned)cJSON_GetArrayItem(p, 1)->valueint,
                     cJSON_GetArrayItem(p, 2));
    cJSON_ArrayForEach(p, json_get(c, "decode")) check_decode(
        t, name, cJSON_GetArrayItem(p, 0), cJSON_IsTrue(cJSON_GetArrayItem(p, 1)), cJSON_GetArrayItem(p, 2));
    cJSON_Delete(c);
    tok_free(t);
    buf_free(&file);
}

START_TEST(families)
{
    static const char tail[] = ".tokenizer.json";
    DIR *d = opendir(DATA);
    ck_assert_ptr_nonnull(d);
    int seen = 0;
    for (struct dirent *f; (f = readdir(d));) {
        size_t n = strlen(f->d_name);
        if (n <= strlen(tail) || strcmp(f->d_name + n - strlen(tail), tail)) continue;
        f->d_name[n - strlen(tail)] = 0;
        check_family(f->d_name);
        seen++;
    }
    closedir(d);
    ck_assert_int_ge(seen, 30);
}
END_TEST

/* One tokenizer, many threads: nothing in it may change. */
static void *encode_often(void *arg)
{
    const struct tokenizer *t = arg;
    static const char text[] = "Ünïcode 🐉 and  1234 words <|im_end|>\n\n";
    struct vec_i32 first = {0};
    struct err e;
    if (tok_encode(t, text, sizeof text - 1, TOK_PARSE_SPECIAL, &first, &e)) return arg;
    void *status = NULL;
    for (int i = 0; i < 200 && !status; i++) {
        struct vec_i32 ids = {0};
        struct buf out = {0};
        if (tok_encode(t, text, sizeof text - 1, TOK_PARSE_SPECIAL, &ids, &e) || ids.n != first.n ||
            memcmp(ids.v, first.v, (size_t)ids.n * sizeof *ids.v) ||
            tok_decode(t, ids.v, ids.n, false, &out) || out.len != sizeof text - 1)
            status = arg;
        vec_i32_free(&ids);
        buf_free(&out);
    }
    vec_i32_free(&first);
    return status;
}

START_TEST(threads)
{
    struct tokenizer *t = load_tokenizer(GOLDEN "/qwen2", "tokenizer.json");
    pthread_t thread[4];
    void *status;
    for (int i = 0; i < 4; i++) ck_assert_int_eq(pthread_create(&thread[i], NULL, encode_often, t), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], &status);
        ck_assert_ptr_null(status);
    }
    tok_free(t);
}
END_TEST

/* A megabyte of anything takes a fraction of a second; the limit leaves room for sanitizers and slow
 * machines, but not for quadratic time. */
START_TEST(linear_time)
{
    static const char *const piece[] = {
        "a", " ", "\n", "🤦🏽\xe2\x80\x8d", "\xff\x80", "ab", "\xcc\x81\xcc\x96", "<", "' ", "1", "x \n"};
    static const char *const model[] = {GOLDEN "/qwen2", GOLDEN "/llama2", DATA, DATA};
    static const char *const file[] = {"tokenizer.json", "tokenizer.json", "metaspace.tokenizer.json",
                                       "lower.tokenizer.json"};
    struct tokenizer *t = load_tokenizer(model[_i], file[_i]);
    for (size_t k = 0; k < sizeof piece / sizeof *piece; k++) {
        struct buf text = {0};
        struct vec_i32 ids = {0};
        struct err e = {0};
        while (text.len < 1 << 20) buf_str(&text, piece[k]);
        int64_t start = clock_ns();
        ck_assert_msg(!tok_encode(t, text.data, text.len, TOK_PARSE_SPECIAL, &ids, &e), "%s", e.msg);
        double s = (double)(clock_ns() - start) * 1e-9;
        ck_assert_msg(s < 20, "%s: 1 MB of \"%s\" took %.1f s", model[_i], piece[k], s);
        buf_free(&text);
        vec_i32_free(&ids);
    }
    tok_free(t);
}
END_TEST

Suite *suite_cases(void)
{
    Suite *s = suite_create("cases");
    TCase *c = tcase_create("cases");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, golden_model, 0, sizeof golden / sizeof *golden);
    tcase_add_test(c, families);
    tcase_add_test(c, threads);
    tcase_add_loop_test(c, linear_time, 0, 4);
    suite_add_tcase(s, c);
    return s;
}
