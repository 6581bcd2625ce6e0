#include <check.h>
#include <string.h>
#include "stop.h"
#include "suites.h"
#include "fake.h"

struct fixture {
    struct stop_text t;
    struct stop_scratch s;
    struct gen_params p;
    char mem[4096];
};

static void open_fixture(struct fixture *f, const char *const *stop, int n_stop)
{
    gen_params_init(&f->p);
    f->p.n_stop = n_stop;
    for (int i = 0; i < n_stop; i++) {
        f->p.stop[i] = (char *)stop[i];
        f->p.stop_len[i] = (int)strlen(stop[i]);
    }
    stop_text_init(&f->t, f->mem, sizeof f->mem);
    ck_assert_int_eq(stop_scratch_init(&f->s, 64, NULL), 0);
}

/* Pushes text as the fake tokenizer's byte tokens; what is visible never shrinks or changes. True if it
 * stopped. */
static bool push(struct fixture *f, const char *text, size_t n)
{
    struct tokenizer *tok = fake_model()->tok;
    for (size_t i = 0; i < n; i++) {
        char before[4096];
        size_t visible = f->t.visible;
        memcpy(before, f->t.text, visible);
        bool stopped = stop_text_push(&f->t, &f->p, tok, (unsigned char)text[i], true, &f->s);
        ck_assert_uint_ge(f->t.visible, visible);
        ck_assert_mem_eq(before, f->t.text, visible);
        if (stopped) return true;
    }
    return false;
}

static void expect(const struct fixture *f, const char *text)
{
    ck_assert_uint_eq(f->t.visible, strlen(text));
    ck_assert_mem_eq(f->t.text, text, strlen(text));
}

START_TEST(finds_the_first_to_end_and_longest)
{
    static const struct {
        const char *text, *stop[4], *want;
        int match;
    } row[] = {
        {"hello STOP world", {"STOP"}, "hello ", 0},
        {"aaab", {"aab"}, "a", 0},
        {"xabcd", {"abcd", "bc"}, "xa", 1}, /* bc ends first */
        {"xabc", {"bc", "abc"}, "x", 1},    /* same end: the longer */
        {"no stop here", {"stopx", "zzz"}, "no stop here", -1},
        {"aabaabaaX", {"aabaaX"}, "aab", 0},
        {"", {"x"}, "", -1},
        {"x", {"x"}, "", 0},
        {"ends with ST", {"STOP"}, "ends with ST", -1}, /* held, then released */
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct fixture f;
        int n = 0;
        while (n < 4 && row[i].stop[n]) n++;
        open_fixture(&f, row[i].stop, n);
        bool stopped = push(&f, row[i].text, strlen(row[i].text));
        ck_assert_int_eq(stopped, row[i].match >= 0);
        if (!stopped) stop_text_finish(&f.t, &f.s);
        ck_assert_int_eq(f.t.match, row[i].match);
        expect(&f, row[i].want);
        stop_scratch_free(&f.s);
    }
}
END_TEST

/* The same characters as bytes, or as words of several characters: the same answer, wherever the borders
 * fall. */
START_TEST(token_borders_do_not_matter)
{
    static const int32_t cut[][4] = {
        {'s', 't', 'o', 'p'}, {264, 265, -1}, {259, -1}, {264, 'o', 'p', -1}, {'s', 't', 265, -1}};
    struct tokenizer *tok = fake_model()->tok;
    for (size_t c = 0; c < sizeof cut / sizeof *cut; c++) {
        for (int include = 0; include < 2; include++) {
            struct fixture f;
            open_fixture(&f, (const char *const[]){"to", "xyz"}, 2);
            f.p.include_stop = include;
            ck_assert(!push(&f, "axy", 3));
            bool stopped = false;
            for (int i = 0; i < 4 && cut[c][i] >= 0 && !stopped; i++)
                stopped = stop_text_push(&f.t, &f.p, tok, cut[c][i], true, &f.s);
            ck_assert(stopped);
            ck_assert_int_eq(f.t.match, 0);
            expect(&f, include ? "axysto" : "axys");
            stop_scratch_free(&f.s);
        }
    }
}
END_TEST

START_TEST(holds_back_only_what_could_become_a_stop)
{
    struct fixture f;
    open_fixture(&f, (const char *const[]){"abcabd"}, 1);
    push(&f, "xabcab", 6);
    expect(&f, "x");
    push(&f, "c", 1); /* abcabc: the last abc may begin it */
    expect(&f, "xabc");
    push(&f, "q", 1);
    expect(&f, "xabcabcq");
    stop_scratch_free(&f.s);
}
END_TEST

START_TEST(min_tokens_postpone_stop_strings)
{
    struct fixture f;
    struct tokenizer *tok = fake_model()->tok;
    open_fixture(&f, (const char *const[]){"ab"}, 1);
    ck_assert(!stop_text_push(&f.t, &f.p, tok, 'a', false, &f.s));
    ck_assert(
        !stop_text_push(&f.t, &f.p, tok, 'b', false, &f.s)); /* ended too early: no stop, not even later */
    ck_assert(!stop_text_push(&f.t, &f.p, tok, 'a', true, &f.s));
    expect(&f, "ab");
    ck_assert(stop_text_push(&f.t, &f.p, tok, 'b', true, &f.s));
    expect(&f, "ab");
    stop_scratch_free(&f.s);
}
END_TEST

START_TEST(code_points_come_whole)
{
    struct fixture f;
    open_fixture(&f, NULL, 0);
    push(&f, "a\xe2\x82", 3);
    expect(&f, "a");
    push(&f, "\xac\xf0\x9f\x98", 4);
    expect(&f, "a\xe2\x82\xac");
    push(&f, "\x80", 1);
    expect(&f, "a\xe2\x82\xac\xf0\x9f\x98\x80");
    push(&f, "\xff\xe2\x82!",
         4); /* nonsense becomes U+FFFD, once for each part that could not begin anything */
    expect(&f, "a\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd!");
    push(&f, "\xc3", 1);
    stop_text_finish(&f.t, &f.s);
    expect(&f, "a\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd!\xef\xbf\xbd");
    stop_scratch_free(&f.s);
}
END_TEST

START_TEST(a_full_buffer_is_noticed)
{
    struct fixture f;
    open_fixture(&f, NULL, 0);
    f.t.cap = 3;
    push(&f, "abcd", 4);
    ck_assert(f.t.overflow);
    expect(&f, "abc");
    stop_scratch_free(&f.s);
}
END_TEST

Suite *stop_suite(void)
{
    Suite *s = suite_create("stop");
    TCase *t = tcase_create("stop");
    tcase_add_test(t, finds_the_first_to_end_and_longest);
    tcase_add_test(t, token_borders_do_not_matter);
    tcase_add_test(t, holds_back_only_what_could_become_a_stop);
    tcase_add_test(t, min_tokens_postpone_stop_strings);
    tcase_add_test(t, code_points_come_whole);
    tcase_add_test(t, a_full_buffer_is_noticed);
    suite_add_tcase(s, t);
    return s;
}
