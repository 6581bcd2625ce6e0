/* Broken and unsupported tokenizer files: a clear error that names the key, never a crash; and options that
 * are read from tokenizer_config.json. */
#include <string.h>
#include "tok_test.h"

#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static const struct {
    const char *json, *says;
    int code;
} cases[] = {
    {"", "JSON", ERR_FORMAT},
    {"[]", "model", ERR_FORMAT},
    {"{}", "model", ERR_FORMAT},
    {"{\"model\":7}", "model", ERR_FORMAT},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram", ERR_UNSUPPORTED},
    {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece", ERR_UNSUPPORTED},
    {"{\"model\":{\"type\":\"BPE\",\"merges\":[]}}", "model.vocab", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "model.vocab", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "model.vocab", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4194304},\"merges\":[]}}", "model.vocab", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}}", "model.vocab", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", "model.vocab", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "twice", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "model.merges", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "model.merges", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", "model.merges",
     ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "model.merges", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "model.merges", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}}", "model.merges", ERR_FORMAT},
    {"{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}}", "dropout",
     ERR_UNSUPPORTED},
    {"{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":{\"a\":0},\"merges\":[]}}",
     "end_of_word_suffix", ERR_UNSUPPORTED},
    {"{" MODEL ",\"added_tokens\":{}}", "added_tokens", ERR_FORMAT},
    {"{" MODEL ",\"added_tokens\":[{\"id\":3}]}", "added_tokens", ERR_FORMAT},
    {"{" MODEL ",\"added_tokens\":[{\"content\":\"x\"}]}", "added_tokens", ERR_FORMAT},
    {"{" MODEL ",\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]}", "added_tokens", ERR_FORMAT},
    {"{" MODEL ",\"added_tokens\":[{\"id\":3,\"content\":\"b\"}]}", "added_tokens", ERR_FORMAT},
    {"{" MODEL ",\"added_tokens\":[{\"id\":3,\"content\":\"x\"},{\"id\":4,\"content\":\"x\"}]}",
     "added_tokens", ERR_FORMAT},
    {"{" MODEL ",\"added_tokens\":[{\"id\":4000000000,\"content\":\"x\"}]}", "added_tokens", ERR_FORMAT},
    {"{" MODEL ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"\"}}", "Precompiled",
     ERR_UNSUPPORTED},
    {"{" MODEL ",\"normalizer\":{}}", "normalizer", ERR_FORMAT},
    {"{" MODEL ",\"normalizer\":{\"type\":\"Sequence\"}}", "normalizer", ERR_FORMAT},
    {"{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}}",
     "normalizer.pattern", ERR_FORMAT},
    {"{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}}",
     "normalizer.pattern", ERR_UNSUPPORTED},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", "UnicodeScripts", ERR_UNSUPPORTED},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[[:alpha:]]\"},\"behavior\":"
     "\"Isolated\"}}",
     "pre_tokenizer.pattern", ERR_UNSUPPORTED},
    {"{" MODEL
     ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":\"Sideways\"}}",
     "behavior", ERR_FORMAT},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}}", "replacement",
     ERR_FORMAT},
    {"{" MODEL
     ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}}",
     "prepend_scheme", ERR_FORMAT},
    {"{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", "WordPiece", ERR_UNSUPPORTED},
    {"{" MODEL
     ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteLevel\"}]}}",
     "Fuse", ERR_UNSUPPORTED},
    {"{" MODEL ",\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1000}}", "Strip", ERR_FORMAT},
    {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
     "\"x\"}}],\"special_tokens\":{}}}",
     "special_tokens", ERR_FORMAT},
    {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}}}",
     "text", ERR_FORMAT},
    {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}"
     "},{\"SpecialToken\":{\"id\":\"x\"}}],"
     "\"special_tokens\":{\"x\":{\"ids\":[99]}}}}",
     "vocabulary", ERR_FORMAT},
    {"{" MODEL ",\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\"],\"sep\":[\"b\",1]}}",
     "cls", ERR_FORMAT},
};

START_TEST(refused)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    int status = tok_parse_hf(cases[_i].json, strlen(cases[_i].json), NULL, 0, &t, &e);
    ck_assert_msg(status == cases[_i].code && e.code == status, "%s: status %d, %s", cases[_i].json, status,
                  e.msg);
    ck_assert_msg(strstr(e.msg, cases[_i].says), "%s: %s", cases[_i].json, e.msg);
    ck_assert_ptr_null(t);
    ck_assert_int_ne(tok_parse_hf(cases[_i].json, strlen(cases[_i].json), NULL, 0, &t, NULL), 0);
}
END_TEST

START_TEST(nested_steps)
{
    struct buf json = {0};
    struct tokenizer *t;
    struct err e = {0};
    buf_str(&json, "{" MODEL ",\"normalizer\":");
    for (int i = 0; i < 20; i++) buf_str(&json, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 20; i++) buf_str(&json, "]}");
    buf_chr(&json, '}');
    ck_assert_int_eq(tok_parse_hf(json.data, json.len, NULL, 0, &t, &e), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(e.msg, "nested"));
    buf_clear(&json);
    buf_str(&json, "{" MODEL ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}");
    for (int i = 0; i < 100; i++) buf_str(&json, ",{\"type\":\"NFC\"}");
    buf_str(&json, "]}}");
    ck_assert_int_eq(tok_parse_hf(json.data, json.len, NULL, 0, &t, &e), ERR_UNSUPPORTED);
    buf_free(&json);
}
END_TEST

/* Every prefix of a real file is refused, every single changed byte is refused or gives a working tokenizer.
 */
START_TEST(damaged)
{
    static const char file[] =
        "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true,\"normalized\":true}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Prepend\","
        "\"prepend\":\"_\"}]},"
        "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[^\\\\s]{1,3}|\\\\s+\"},\"behavior\":"
        "\"Isolated\",\"invert\":false},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}}],"
        "\"special_tokens\":{\"<s>\":{\"ids\":[3]}}},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"_"
        "\"},\"content\":\" \"},{\"type\":\"Fuse\"},"
        "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}," MODEL "}";
    size_t n = sizeof file - 1;
    struct tokenizer *t;
    struct err e = {0};
    ck_assert_msg(!tok_parse_hf(file, n, NULL, 0, &t, &e), "%s", e.msg);
    tok_free(t);
    for (size_t i = 0; i < n; i++) ck_assert_int_ne(tok_parse_hf(file, i, NULL, 0, &t, NULL), 0);
    static const char byte[] = {'0', '"', '[', '}', ',', 'a', (char)0xff, 0};
    char copy[sizeof file];
    for (size_t i = 0; i < n * sizeof byte; i++) {
        memcpy(copy, file, sizeof file);
        copy[i / sizeof byte] = byte[i % sizeof byte];
        if (tok_parse_hf(copy, n, NULL, 0, &t, NULL)) continue;
        struct vec_i32 ids = {0};
        struct buf out = {0};
        tok_encode(t, "a ab<s> b", 9, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL, &ids, NULL);
        tok_decode(t, ids.v, ids.n, false, &out);
        vec_i32_free(&ids);
        buf_free(&out);
        tok_free(t);
    }
}
END_TEST

static struct tokenizer *with_config(const char *config)
{
    static const char json[] =
        "{" MODEL ",\"added_tokens\":[{\"id\":7,\"content\":\"<s>\",\"special\":true},"
        "{\"id\":5,\"content\":\"</"
        "s>\",\"special\":true},{\"id\":6,\"content\":\"<|im_end|>\",\"special\":true}]}";
    struct tokenizer *t = NULL;
    struct err e = {0};
    ck_assert_msg(!tok_parse_hf(json, sizeof json - 1, config, strlen(config), &t, &e), "%s", e.msg);
    return t;
}

static int encoded_length(const struct tokenizer *t, unsigned flags)
{
    struct vec_i32 ids = {0};
    ck_assert_int_eq(tok_encode(t, "ab", 2, flags, &ids, NULL), 0);
    int n = ids.n;
    vec_i32_free(&ids);
    return n;
}

START_TEST(config)
{
    struct tokenizer *t =
        with_config("{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"</s>\",\"add_bos_token\":true}");
    int32_t eog[4];
    size_t n;
    ck_assert_int_eq(tok_bos(t), 7);
    ck_assert_int_eq(tok_eos(t), 5);
    ck_assert_int_eq(tok_eog(t, eog, 4), 2);
    ck_assert_int_eq(tok_vocab(t), 8);
    ck_assert_ptr_null(tok_token(t, 4, &n));                 /* a hole */
    ck_assert_int_eq(encoded_length(t, TOK_ADD_SPECIAL), 1); /* the post-processor alone decides ... */
    tok_free(t);
    t = with_config("{\"tokenizer_class\":\"LlamaTokenizerFast\",\"bos_token\":\"<s>\",\"eos_token\":\"</"
                    "s>\",\"add_bos_token\":true,"
                    "\"add_eos_token\":true}");
    ck_assert_int_eq(encoded_length(t, TOK_ADD_SPECIAL), 3); /* ... but not for these classes */
    ck_assert_int_eq(encoded_length(t, 0), 1);
    tok_free(t);
    struct err e = {0};
    ck_assert_int_eq(tok_parse_hf("{" MODEL "}", strlen("{" MODEL "}"), "{\"bos_token\":", 13, &t, &e),
                     ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(e.msg, "tokenizer_config.json"));
}
END_TEST

START_TEST(missing_folder)
{
    struct tokenizer *t;
    struct err e = {0};
    ck_assert_int_eq(tok_load_hf("/nonexistent", &t, &e), ERR_IO);
    ck_assert_ptr_nonnull(strstr(e.msg, "/nonexistent/tokenizer.json"));
}
END_TEST

Suite *suite_hostile(void)
{
    Suite *s = suite_create("hostile");
    TCase *c = tcase_create("hostile");
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, refused, 0, sizeof cases / sizeof *cases);
    tcase_add_test(c, nested_steps);
    tcase_add_test(c, damaged);
    tcase_add_test(c, config);
    tcase_add_test(c, missing_folder);
    suite_add_tcase(s, c);
    return s;
}
