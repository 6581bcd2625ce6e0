/* The pieces by themselves: tables, normal forms, patterns; look-ups and end tokens; streaming over every
 * cut. */
#include <stdio.h>
#include <string.h>
#include "dict.h"
#include "pattern.h"
#include "tok_test.h"
#include "unicode.h"
#include "utf8.h"

START_TEST(tables)
{
    struct dict d;
    struct pairs p;
    char s[16];
    size_t n;
    ck_assert_int_eq(dict_init(&d, 1000), 0);
    for (int i = 0; i < 1000; i += 2)
        ck_assert_int_eq(dict_put(&d, i, s, (size_t)snprintf(s, sizeof s, "t%d", i)), 0);
    ck_assert_int_eq(dict_put(&d, 0, "again", 5), ERR_INVALID);
    ck_assert_int_eq(dict_put(&d, 1000, "out", 3), ERR_INVALID);
    ck_assert_int_eq(dict_put(&d, 1, "t8", 2), ERR_FULL);
    ck_assert_int_eq(dict_name(&d, 3, "hidden", 6), 0);
    ck_assert_int_eq(dict_find(&d, "hidden", 6), -1);
    ck_assert_int_eq(dict_find(&d, "t8", 2), 8);
    ck_assert_int_eq(dict_find(&d, "", 0), -1);
    ck_assert_str_eq(dict_get(&d, 998, &n), "t998");
    ck_assert_ptr_null(dict_get(&d, 5, &n));
    dict_free(&d);
    ck_assert_int_eq(pairs_init(&p), 0);
    for (uint32_t i = 0; i < 5000; i++) ck_assert_int_eq(pairs_put(&p, i, i * i, i, (int32_t)i), 0);
    ck_assert_int_eq(pairs_put(&p, 7, 49, 1, 1), 0);
    ck_assert_int_eq(pairs_find(&p, 7, 49)->rank, 1);
    ck_assert_int_eq(pairs_find(&p, 4999, 4999 * 4999)->id, 4999);
    ck_assert_ptr_null(pairs_find(&p, 1, 2));
    pairs_free(&p);
}
END_TEST

static void check_form(enum uni_form form, const char *s, const char *want)
{
    struct buf b = {0};
    ck_assert_int_eq(uni_normalize(form, s, strlen(s), &b), 0);
    ck_assert_str_eq(b.data, want);
    buf_free(&b);
}

START_TEST(normal_forms)
{
    check_form(UNI_NFC, "xe\u0301y", "x\u00e9y");
    check_form(UNI_NFD, "\u00e9", "e\u0301");
    check_form(UNI_NFKC, "\ufb01 \u00bd", "fi 1\u20442");
    check_form(UNI_NFKD, "\u00c5", "A\u030a");
    check_form(UNI_NFC, "\u1100\u1161\u11a8", "\uac01");
    check_form(UNI_NFD, "a\u0301\u0316", "a\u0316\u0301"); /* marks in order of their class */
    struct buf many = {0}, out = {0};
    buf_chr(&many, 'a');
    for (int i = 0; i < 200000; i++) buf_str(&many, "\u0301\u0316"); /* quadratic if sorted by exchange */
    ck_assert_int_eq(uni_normalize(UNI_NFC, many.data, many.len, &out), 0);
    ck_assert_int_eq(memcmp(out.data, "\u00e1\u0316", 4), 0);
    ck_assert_uint_eq(out.len, 2 + 4 * 200000 - 2);
    buf_free(&many);
    buf_free(&out);
}
END_TEST

START_TEST(byte_alphabet)
{
    struct buf code = {0}, back = {0};
    char all[256];
    for (int i = 0; i < 256; i++) all[i] = (char)i;
    uni_bytes_encode(all, 256, &code);
    ck_assert(utf8_valid(code.data, code.len));
    ck_assert(uni_bytes_decode(code.data, code.len, &back));
    ck_assert_uint_eq(back.len, 256);
    ck_assert_int_eq(memcmp(back.data, all, 256), 0);
    buf_clear(&code);
    uni_bytes_encode(" \n\xad", 3, &code);
    ck_assert_str_eq(code.data, "ĠĊŃ");
    ck_assert(!uni_bytes_decode("a b", 3, &back));
    ck_assert_uint_eq(back.len, 256);
    buf_free(&code);
    buf_free(&back);
}
END_TEST

/* All matches of a pattern in a text, separated by '|'. */
static void check_matches(const char *onig, const char *text, const char *want)
{
    struct pattern p;
    struct pattern_scratch sc = {0};
    struct err e = {0};
    struct buf got = {0};
    struct match m = {0};
    ck_assert_msg(!pattern_regex(&p, onig, strlen(onig), &e), "%s: %s", onig, e.msg);
    while (pattern_next(&p, &sc, text, strlen(text), &m, &e) == 1) {
        if (got.len) buf_chr(&got, '|');
        buf_add(&got, text + m.start, m.end - m.start);
    }
    ck_assert_msg(!e.code, "%s", e.msg);
    ck_assert_msg(!strcmp(got.data ? got.data : "", want), "%s on \"%s\": \"%s\", not \"%s\"", onig, text,
                  got.data, want);
    buf_free(&got);
    pattern_free(&p);
    pattern_scratch_free(&sc);
}

START_TEST(patterns)
{
    check_matches("\\p{N}{1,3}+", "12345678 9", "12345678|9"); /* {}+ repeats, it is not possessive */
    check_matches("(?:ab){,2}c", "ababc c", "ababc|c");
    check_matches("\\h+", "xyzBEEF", "BEEF");
    check_matches("\\s", "a\u180e\u3000b", "\u3000"); /* U+180E is no white space */
    check_matches("\\w+", "nai\u0308ve \u00b2", "nai\u0308ve|\u00b2");
    check_matches("^x$", "x\ny\nx", "x|x");
    check_matches("(?m:a.b)", "a\nb a-b", "a\nb|a-b");
    check_matches("(?i:'s|'T)", "'S't'\u017f", "'S|'t|'\u017f");
    check_matches("\\p{Han}+|\\p{^L}", "漢字a1", "漢字|1");
    check_matches("\\u4e00\\x{4e8c}\\v?", "\u4e00\u4e8c", "\u4e00\u4e8c");
    check_matches("[^\\S\\n]+", "a \t\nb", " \t");
    check_matches("a++b|\\s++$", "aab  ", "aab|  ");
    check_matches("\\ba\\b", "a ba a", "a|a");
    check_matches("a{,x}", "a{,x}", "a{,x}");
}
END_TEST

START_TEST(refused_patterns)
{
    static const char *const bad[] = {
        "[[:alpha:]]", "[a-z&&[^b]]", "(?<n>a)", "(a)\\1", "a)",    "(a", "[a",    "\\",     "\\G",
        "a(?i)b",      "\\p{NoSuch}", "\\pL",    "[]a]",   "\\xff", "*a", "(?#c)", "\\k<n>", "a{9999999}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct pattern p = {0};
        struct err e = {0};
        ck_assert_msg(pattern_regex(&p, bad[i], strlen(bad[i]), &e), "%s is accepted", bad[i]);
        ck_assert_msg(strstr(e.msg, "byte"), "%s: %s", bad[i], e.msg);
        pattern_free(&p);
    }
}
END_TEST

START_TEST(runaway_pattern)
{
    struct pattern p;
    struct pattern_scratch sc = {0};
    struct err e = {0};
    struct match m = {0};
    struct buf text = {0};
    for (int i = 0; i < 64; i++) buf_chr(&text, 'a');
    buf_str(&text, "!b"); /* PCRE2 gives up at once if the last character never comes */
    ck_assert_int_eq(pattern_regex(&p, "(a|a)*b", 7, &e), 0);
    ck_assert_int_eq(pattern_next(&p, &sc, text.data, text.len, &m, &e), ERR_BUDGET);
    buf_free(&text);
    pattern_free(&p);
    pattern_scratch_free(&sc);
}
END_TEST

START_TEST(look_ups)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    ck_assert_int_eq(tok_load_hf(GOLDEN "/llama3", &t, &e), 0);
    int32_t eog[8];
    size_t n;
    ck_assert_int_eq(tok_vocab(t), 1019);
    ck_assert_int_eq(tok_bos(t), 1016);
    ck_assert_int_eq(tok_eos(t), 1017);
    ck_assert_int_eq(tok_eog(t, eog, 8), 2); /* <|eot_id|> and <|end_of_text|> */
    ck_assert_int_eq(tok_eog(t, eog, 1), 1);
    ck_assert_int_eq(eog[0], 1017);
    ck_assert(tok_is_special(t, 1018) && !tok_is_special(t, 0) && !tok_is_special(t, -1) &&
              !tok_is_special(t, 1019));
    ck_assert_int_eq(tok_find(t, "<|eot_id|>", 10), 1017);
    ck_assert_int_eq(tok_find(t, "!", 1), 0);
    ck_assert_int_eq(tok_find(t, "no such piece", 13), -1);
    ck_assert_str_eq(tok_token(t, 1016, &n), "<|begin_of_text|>");
    ck_assert_ptr_null(tok_token(t, 1019, &n));
    tok_free(t);
}
END_TEST

/* An answer behind a prompt: no space is dropped, and ids out of range add nothing. */
START_TEST(stream_continuing)
{
    struct tokenizer *t = load_tokenizer(GOLDEN "/llama2", "tokenizer.json");
    int32_t th = tok_find(t, "▁Th", 5), ids[3] = {th, -5, 1 << 30};
    ck_assert_int_ge(th, 0);
    struct buf out = {0};
    struct tok_stream st = {.continuing = 1}, fresh = {0};
    for (int i = 0; i < 3; i++) tok_stream_push(t, &st, ids[i], false, &out);
    ck_assert_str_eq(out.data, " Th");
    buf_clear(&out);
    tok_stream_push(t, &fresh, th, false, &out);
    tok_stream_push(t, &fresh, th, false, &out);
    ck_assert_str_eq(out.data, "Th Th");
    buf_clear(&out);
    ck_assert_int_eq(tok_decode(t, (int32_t[]){1, th, 2}, 3, true, &out), 0);
    ck_assert_str_eq(out.data, "Th");
    buf_free(&out);
    tok_free(t);
}
END_TEST

/* Byte tokens: whole sequences become characters, and each broken part becomes one U+FFFD. */
START_TEST(byte_tokens)
{
    struct tokenizer *t = load_tokenizer(GOLDEN "/llama2", "tokenizer.json");
    const char *name[] = {"<0xE4>", "<0xBD>", "<0xA0>", "<0xE4>", "<0xBD>", "<0x41>", "<0xFF>"};
    int32_t ids[7];
    for (int i = 0; i < 7; i++) ids[i] = tok_find(t, name[i], 6);
    struct buf out = {0};
    ck_assert_int_eq(tok_decode(t, ids, 7, false, &out), 0);
    ck_assert_str_eq(out.data, "你\ufffdA\ufffd");
    buf_free(&out);
    tok_free(t);
}
END_TEST

START_TEST(invalid_text)
{
    struct tokenizer *t = load_tokenizer(GOLDEN "/llama3", "tokenizer.json");
    struct vec_i32 ids = {0};
    struct buf out = {0};
    struct err e;
    ck_assert_int_eq(tok_encode(t, "a\xff\xe4\xbd z\0y", 8, 0, &ids, &e), 0);
    ck_assert_int_eq(tok_decode(t, ids.v, ids.n, false, &out), 0);
    ck_assert_uint_eq(out.len, 11);
    ck_assert_int_eq(memcmp(out.data, "a\ufffd\ufffd z\0y", 11), 0);
    buf_free(&out);
    vec_i32_free(&ids);
    tok_free(t);
}
END_TEST

START_TEST(least_ids)
{
    struct tokenizer *t = load_tokenizer(GOLDEN "/llama3", "tokenizer.json"),
                     *drops = load_tokenizer(DATA, "lower.tokenizer.json");
    struct vec_i32 ids = {0};
    struct buf text = {0};
    struct err e;
    for (int i = 0; i < 1000; i++) buf_str(&text, "                                ");
    ck_assert_int_eq(tok_encode(t, text.data, text.len, 0, &ids, &e), 0);
    ck_assert_uint_gt(tok_min_ids(t, text.len), 100);
    ck_assert_int_ge(ids.n, (int)tok_min_ids(t, text.len));
    ck_assert_uint_eq(tok_min_ids(drops, 1 << 30), 0); /* strips white space */
    buf_free(&text);
    vec_i32_free(&ids);
    tok_free(t);
    tok_free(drops);
}
END_TEST

/* Without TOK_PARSE_SPECIAL the names of special tokens are plain text. */
START_TEST(special_as_text)
{
    struct tokenizer *t = load_tokenizer(GOLDEN "/llama3", "tokenizer.json");
    struct vec_i32 ids = {0};
    struct err e;
    ck_assert_int_eq(tok_encode(t, "<|eot_id|>", 10, TOK_PARSE_SPECIAL, &ids, &e), 0);
    ck_assert_int_eq(ids.n, 1);
    ck_assert_int_eq(tok_encode(t, "<|eot_id|>", 10, 0, &ids, &e), 0);
    ck_assert_int_gt(ids.n, 2);
    for (int i = 1; i < ids.n; i++) ck_assert(!tok_is_special(t, ids.v[i]));
    vec_i32_free(&ids);
    tok_free(t);
}
END_TEST

Suite *suite_parts(void)
{
    Suite *s = suite_create("parts");
    TCase *c = tcase_create("parts");
    tcase_set_timeout(c, 30);
    tcase_add_test(c, tables);
    tcase_add_test(c, normal_forms);
    tcase_add_test(c, byte_alphabet);
    tcase_add_test(c, patterns);
    tcase_add_test(c, refused_patterns);
    tcase_add_test(c, runaway_pattern);
    tcase_add_test(c, look_ups);
    tcase_add_test(c, stream_continuing);
    tcase_add_test(c, byte_tokens);
    tcase_add_test(c, invalid_text);
    tcase_add_test(c, least_ids);
    tcase_add_test(c, special_as_text);
    suite_add_tcase(s, c);
    return s;
}
