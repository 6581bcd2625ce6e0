/* The same vocabularies through GGUF's keys: byte-level families must give the ids of their tokenizer.json,
 * and a small SentencePiece vocabulary the ids worked out by hand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "gguf.h"
#include "gguf_pre.h"
#include "tok_test.h"

/* A GGUF file in memory. The number of keys is patched in at the end. */
struct writer {
    struct buf b;
    uint64_t n_kv;
};

static void put(struct writer *w, const void *p, size_t n) { buf_add(&w->b, p, n); }
static void put_u32(struct writer *w, uint32_t v) { put(w, &v, 4); }
static void put_u64(struct writer *w, uint64_t v) { put(w, &v, 8); }
static void put_str(struct writer *w, const char *s, size_t n)
{
    put_u64(w, n);
    put(w, s, n);
}
static void key(struct writer *w, const char *name, enum gguf_type type)
{
    char full[64];
    int n = snprintf(full, sizeof full, "tokenizer.ggml.%s", name);
    put_str(w, full, (size_t)n);
    put_u32(w, type);
    w->n_kv++;
}
static void begin(struct writer *w)
{
    *w = (struct writer){0};
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, 0);
    put_u64(w, 0);
}
static void add_string(struct writer *w, const char *name, const char *s)
{
    key(w, name, GGUF_STRING);
    put_str(w, s, strlen(s));
}
static void add_bool(struct writer *w, const char *name, bool v)
{
    key(w, name, GGUF_BOOL);
    put(w, &(char){v}, 1);
}
static void add_u32(struct writer *w, const char *name, uint32_t v)
{
    key(w, name, GGUF_U32);
    put_u32(w, v);
}
static void add_array(struct writer *w, const char *name, enum gguf_type elem, uint64_t n)
{
    key(w, name, GGUF_ARRAY);
    put_u32(w, elem);
    put_u64(w, n);
}

/* Loads what was written; *out is NULL and e set if it was refused. */
static void finish(struct writer *w, struct tokenizer **out, struct err *e)
{
    struct gguf *g = NULL;
    memcpy(w->b.data + 16, &w->n_kv, 8);
    ck_assert_msg(!gguf_parse(w->b.data, w->b.len, &g, e), "%s", e->msg);
    tok_load_gguf(g, out, e);
    gguf_close(g);
    buf_free(&w->b);
}

static void add_tokens_of(struct writer *w, const cJSON *root, int n)
{
    const char **name = calloc((size_t)n, sizeof *name);
    int32_t *type = calloc((size_t)n, sizeof *type);
    const cJSON *v;
    cJSON_ArrayForEach(v, json_get(json_get(root, "model"), "vocab"))
    {
        name[v->valueint] = v->string;
        type[v->valueint] = 1;
    }
    cJSON_ArrayForEach(v, json_get(root, "added_tokens"))
    {
        int id = json_get(v, "id")->valueint;
        name[id] = json_get_cstr(v, "content");
        type[id] = cJSON_IsTrue(json_get(v, "special")) ? 3 : 4;
    }
    add_array(w, "tokens", GGUF_STRING, (uint64_t)n);
    for (int i = 0; i < n; i++) put_str(w, name[i], strlen(name[i]));
    add_array(w, "token_type", GGUF_I32, (uint64_t)n);
    for (int i = 0; i < n; i++) put(w, &type[i], 4);
    free(name);
    free(type);
}

static struct tokenizer *as_gguf(const cJSON *root, const char *pre, int n)
{
    struct writer w;
    struct tokenizer *t = NULL;
    struct err e = {0};
    const cJSON *merges = json_get(json_get(root, "model"), "merges"), *v;
    begin(&w);
    add_string(&w, "model", "gpt2");
    add_string(&w, "pre", pre);
    add_tokens_of(&w, root, n);
    add_array(&w, "merges", GGUF_STRING, (uint64_t)cJSON_GetArraySize(merges));
    cJSON_ArrayForEach(v, merges)
    {
        struct buf s = {0};
        buf_fmt(&s, "%s %s", cJSON_GetArrayItem(v, 0)->valuestring, cJSON_GetArrayItem(v, 1)->valuestring);
        put_str(&w, s.data, s.len);
        buf_free(&s);
    }
    finish(&w, &t, &e);
    ck_assert_msg(t, "%s: %s", pre, e.msg);
    return t;
}

static const struct {
    const char *family, *pre;
} pairs[] = {
    {"gpt2", "gpt-2"},    {"llama3", "llama-bpe"}, {"qwen2", "qwen2"},       {"deepseek3", "deepseek-v3"},
    {"tekken", "tekken"}, {"gpt4o", "gpt-4o"},     {"granite", "starcoder"}, {"falcon", "falcon"},
    {"bloom", "bloom"}};

START_TEST(same_as_json)
{
    struct buf file = {0};
    buf_fmt(&file, "%s.tokenizer.json", pairs[_i].family);
    cJSON *root = load_json(DATA, file.data);
    struct tokenizer *hf = load_tokenizer(DATA, file.data), *t = as_gguf(root, pairs[_i].pre, tok_vocab(hf));
    buf_clear(&file);
    buf_fmt(&file, "%s.cases.json", pairs[_i].family);
    cJSON *c = load_json(DATA, file.data);
    const cJSON *p;
    cJSON_ArrayForEach(p, json_get(c, "encode"))
    {
        unsigned flags = (unsigned)cJSON_GetArrayItem(p, 1)->valueint;
        if (flags & TOK_ADD_SPECIAL) continue; /* GGUF names BOS by id, this file has none */
        check_encode(t, pairs[_i].pre, cJSON_GetArrayItem(p, 0), flags, cJSON_GetArrayItem(p, 2));
    }
    cJSON_ArrayForEach(p, json_get(c, "decode"))
        check_decode(t, pairs[_i].pre, cJSON_GetArrayItem(p, 0), cJSON_IsTrue(cJSON_GetArrayItem(p, 1)),
                     cJSON_GetArrayItem(p, 2));
    cJSON_Delete(c);
    cJSON_Delete(root);
    tok_free(hf);
    tok_free(t);
    buf_free(&file);
}
END_TEST

/* id, piece, score, type. Spaces of 200.. are user-defined runs as Gemma has them. */
static const struct {
    const char *piece;
    float score;
    int32_t type;
} spm[] = {
    {"<unk>", 0, 2},   {"<s>", 0, 3},      {"</s>", 0, 3},      {"▁", -1, 1},       {"a", -2, 1},
    {"b", -3, 1},      {"ab", -5, 1},      {"ba", -4, 1},       {"▁a", -7, 1},      {"aba", -6, 1},
    {"<0x63>", 0, 6},  {"<0xC3>", 0, 6},   {"<0xA9>", 0, 6},    {"\n\n", -1000, 4}, {"  ", -1000, 4},
    {"   ", -1000, 4}, {"    ", -1000, 4}, {"<tag>", -1000, 4},
};
enum { N_SPM = sizeof spm / sizeof *spm };

static struct tokenizer *load_spm(bool space_prefix, const char *arch)
{
    struct writer w;
    struct tokenizer *t = NULL;
    struct err e = {0};
    begin(&w);
    add_string(&w, "model", "llama");
    add_array(&w, "tokens", GGUF_STRING, N_SPM);
    for (int i = 0; i < N_SPM; i++) put_str(&w, spm[i].piece, strlen(spm[i].piece));
    add_array(&w, "scores", GGUF_F32, N_SPM);
    for (int i = 0; i < N_SPM; i++) put(&w, &spm[i].score, 4);
    add_array(&w, "token_type", GGUF_I32, N_SPM);
    for (int i = 0; i < N_SPM; i++) put(&w, &spm[i].type, 4);
    add_u32(&w, "bos_token_id", 1);
    add_u32(&w, "eos_token_id", 2);
    add_bool(&w, "add_space_prefix", space_prefix);
    put_str(&w, "general.architecture", 20);
    put_u32(&w, GGUF_STRING);
    put_str(&w, arch, strlen(arch));
    w.n_kv++;
    finish(&w, &t, &e);
    ck_assert_msg(t, "%s", e.msg);
    return t;
}

static void check_ids(const struct tokenizer *t, const char *text, unsigned flags, int n, const int32_t *want)
{
    struct vec_i32 ids = {0};
    struct err e;
    ck_assert_int_eq(tok_encode(t, text, strlen(text), flags, &ids, &e), 0);
    ck_assert_msg(ids.n == n, "\"%s\" gives %d ids, not %d", text, ids.n, n);
    for (int i = 0; i < n; i++)
        ck_assert_msg(ids.v[i] == want[i], "\"%s\": id %d is %d, not %d", text, i, ids.v[i], want[i]);
    vec_i32_free(&ids);
}
#define CHECK_IDS(t, text, flags, ...)                                                                       \
    check_ids(t, text, flags, (int)(sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t)),                       \
              (int32_t[]){__VA_ARGS__})

START_TEST(sentencepiece)
{
    struct tokenizer *t = load_spm(true, "llama");
    CHECK_IDS(t, "aba", 0, 3, 9);                 /* ▁ a b a: "ba" is best, then a+ba */
    CHECK_IDS(t, "ab", TOK_ADD_SPECIAL, 1, 3, 6); /* "ab" before "▁a" */
    CHECK_IDS(t, "a", 0, 8);
    CHECK_IDS(t, "cé", 0, 3, 10, 11, 12); /* bytes */
    CHECK_IDS(t, "d", 0, 3);              /* no byte token, no unknown id: dropped */
    CHECK_IDS(t, "<tag>a", 0, 17, 8); /* user-defined even without TOK_PARSE_SPECIAL; a new ▁ behind it */
    CHECK_IDS(t, "</s>b", TOK_PARSE_SPECIAL, 2, 3, 5);
    struct buf out = {0};
    ck_assert_int_eq(tok_decode(t, (int32_t[]){1, 8, 3, 6, 11, 12, 17, 13}, 8, true, &out), 0);
    ck_assert_str_eq(out.data, "a abé<tag>\n\n");
    ck_assert_int_eq(tok_bos(t), 1);
    ck_assert_int_eq(tok_eos(t), 2);
    buf_free(&out);
    tok_free(t);
}
END_TEST

START_TEST(gemma_spaces)
{
    struct tokenizer *t = load_spm(false, "gemma3");
    CHECK_IDS(t, "    b", 0, 16, 5);
    CHECK_IDS(t, "     b", 0, 14, 15, 5); /* five spaces merge as 2+2+1, then 2+3: not 4+1 */
    CHECK_IDS(t, "a\n\n a", 0, 4, 13, 8);
    struct buf out = {0};
    ck_assert_int_eq(tok_decode(t, (int32_t[]){14, 5}, 2, true, &out), 0);
    ck_assert_str_eq(out.data, "  b");
    buf_free(&out);
    tok_free(t);
}
END_TEST

static void begin_with_tokens(struct writer *w, const char *model)
{
    begin(w);
    add_string(w, "model", model);
    add_array(w, "tokens", GGUF_STRING, 2);
    put_str(w, "a", 1);
    put_str(w, "b", 1);
}

/* Every name of the table loads, that is: its patterns compile. */
START_TEST(all_pre_names)
{
    const char *s;
    for (int i = 0; (s = gguf_pre_known(i)); i++) {
        char name[64];
        size_t n = strcspn(s, " ");
        struct writer w;
        struct tokenizer *t = NULL;
        struct err e = {0};
        snprintf(name, sizeof name, "%.*s", (int)n, s);
        const char *last = strrchr(s, ' ') ? strrchr(s, ' ') + 1 : s;
        ck_assert_ptr_eq(gguf_pre_find(name, n), gguf_pre_find(last, strlen(last)));
        begin_with_tokens(&w, "gpt2");
        add_array(&w, "merges", GGUF_STRING, 0);
        add_string(&w, "pre", name);
        finish(&w, &t, &e);
        ck_assert_msg(t, "%s: %s", name, e.msg);
        CHECK_IDS(t, "ab", 0, 0, 1);
        tok_free(t);
    }
    ck_assert_ptr_null(gguf_pre_find("llama", 5));
    ck_assert_ptr_null(gguf_pre_find("", 0));
}
END_TEST

START_TEST(phi3_markers)
{
    struct tokenizer *t = load_spm(true, "phi3");
    CHECK_IDS(t, "</s> \n a", TOK_PARSE_SPECIAL, 2, 8); /* white space behind a marker belongs to it */
    CHECK_IDS(t, "<s> a", TOK_PARSE_SPECIAL, 1, 14, 4);
    tok_free(t);
}
END_TEST

static void check_refused(struct writer *w, int code, const char *says)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    finish(w, &t, &e);
    ck_assert_ptr_null(t);
    ck_assert_msg(e.code == code && strstr(e.msg, says), "%d %s", e.code, e.msg);
}

START_TEST(refused)
{
    struct writer w;
    begin(&w);
    check_refused(&w, ERR_FORMAT, "tokenizer.ggml.model");
    begin_with_tokens(&w, "t5");
    check_refused(&w, ERR_UNSUPPORTED, "llama and gpt2");
    begin(&w);
    add_string(&w, "model", "gpt2");
    check_refused(&w, ERR_FORMAT, "tokenizer.ggml.tokens");
    begin_with_tokens(&w, "llama");
    check_refused(&w, ERR_FORMAT, "tokenizer.ggml.scores");
    begin_with_tokens(&w, "gpt2");
    check_refused(&w, ERR_FORMAT, "tokenizer.ggml.merges");
    begin_with_tokens(&w, "gpt2");
    add_array(&w, "merges", GGUF_STRING, 0);
    add_string(&w, "pre", "no-such");
    check_refused(&w, ERR_UNSUPPORTED, "llama-bpe");
    begin_with_tokens(&w, "gpt2");
    add_array(&w, "merges", GGUF_STRING, 1);
    put_str(&w, "x y", 3);
    check_refused(&w, ERR_FORMAT, "tokenizer.ggml.merges");
    begin_with_tokens(&w, "gpt2");
    add_array(&w, "merges", GGUF_STRING, 0);
    add_u32(&w, "eos_token_id", 2);
    check_refused(&w, ERR_FORMAT, "eos_token_id");
    begin_with_tokens(&w, "gpt2");
    add_array(&w, "merges", GGUF_STRING, 0);
    add_array(&w, "token_type", GGUF_I32, 1);
    put_u32(&w, 1);
    check_refused(&w, ERR_FORMAT, "token_type");
}
END_TEST

Suite *suite_gguf(void)
{
    Suite *s = suite_create("gguf");
    TCase *c = tcase_create("gguf");
    tcase_set_timeout(c, 30);
    tcase_add_loop_test(c, same_as_json, 0, sizeof pairs / sizeof *pairs);
    tcase_add_test(c, sentencepiece);
    tcase_add_test(c, gemma_spaces);
    tcase_add_test(c, phi3_markers);
    tcase_add_test(c, all_pre_names);
    tcase_add_test(c, refused);
    suite_add_tcase(s, c);
    return s;
}
