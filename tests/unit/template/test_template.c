/* Templates against what Python's Jinja gives for them (tools/make_template_cases.py writes the cases), then
 * templates that mean harm. With TEMPLATE_CASES=FILE in the environment that file's cases are run too. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "file.h"
#include "template.h"
#include "utf8.h"

enum { NOW = 1732147200 }; /* 2024-11-21 00:00:00 UTC */

static int render(const char *src, size_t n, const cJSON *vars, struct buf *out, struct err *e)
{
    struct template *t = NULL;
    int status = template_compile(src, n, &t, e);
    if (!status) status = template_render(t, vars, NOW, TEMPLATE_BUDGET, out, e);
    template_free(t);
    return status;
}

/* Does the case come out as Python has it? Prints it if not. */
static bool case_ok(const cJSON *c, const cJSON *shared, const char *dir)
{
    struct buf src = {0}, want = {0}, out = {0};
    struct err e = {0};
    const cJSON *vars = json_get(c, "vars"), *expect = json_get(c, "expect");
    const char *file = json_get_cstr(c, "file");
    if (file) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, file);
        ck_assert_int_eq(file_read(path, 1 << 20, &src, &e), 0);
    } else {
        json_str(json_get(c, "template"), &src);
    }
    if (expect) json_str(expect, &want);
    int status = render(src.data ? src.data : "", src.len, vars ? vars : shared, &out, &e);
    bool ok = expect ? !status && out.len == want.len &&
                           !memcmp(out.data ? out.data : "", want.data ? want.data : "", want.len)
                     : status != 0;
    if (!ok) {
        fprintf(stderr, "case %s: %s\n  want: %s\n  got:  %s%s\n", json_get_cstr(c, "name"),
                src.data ? src.data : "", expect ? (want.data ? want.data : "") : "(an error)",
                status ? "error: " : "",
                status     ? e.msg
                : out.data ? out.data
                           : "");
    }
    buf_free(&src);
    buf_free(&want);
    buf_free(&out);
    return ok;
}

static void run_file(const char *path, const char *dir, int at_least)
{
    cJSON *j = NULL;
    struct err e = {0};
    int n = 0, bad = 0;
    ck_assert_msg(json_load(path, 64u << 20, &j, &e) == 0, "%s", e.msg);
    const cJSON *c, *shared = json_get(j, "vars");
    cJSON_ArrayForEach(c, json_get(j, "cases"))
    {
        n++;
        bad += !case_ok(c, shared, dir);
    }
    cJSON_Delete(j);
    ck_assert_msg(bad == 0, "%s: %d of %d cases differ", path, bad, n);
    ck_assert_int_ge(n, at_least);
}

START_TEST(language) { run_file(DATA_DIR "/language.json", DATA_DIR, 200); }
END_TEST
START_TEST(chat) { run_file(DATA_DIR "/chat.json", DATA_DIR, 100); }
END_TEST
START_TEST(random_templates)
{
    run_file(DATA_DIR "/random.json", DATA_DIR, 100);
    const char *more = getenv("TEMPLATE_CASES");
    if (more) run_file(more, DATA_DIR, 1);
}
END_TEST

/* ---- hostile input ---- */

static void repeat(struct buf *b, const char *s, int times)
{
    for (int i = 0; i < times; i++) buf_str(b, s);
}

/* Is refused for its form or by a budget, in seconds even under sanitizers, and leaves the output alone. */
static void expect_refused(const char *what, const char *src, size_t n)
{
    struct buf out = {0};
    struct err e = {0};
    buf_str(&out, "before");
    cJSON *vars = cJSON_Parse("{\"s\":\"aaaaaaaaaaaaaaaaaaaa\",\"l\":[3,1,2]}");
    clock_t start = clock(); /* processor time: the machine may be busy */
    int status = render(src, n, vars, &out, &e);
    ck_assert_msg(status == ERR_BUDGET || status == ERR_FORMAT || status == ERR_UNSUPPORTED,
                  "%.60s: status %d %s", what, status, e.msg);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    ck_assert_msg(seconds < 5, "%.60s: took %.1f s", what, seconds);
    ck_assert_str_eq(out.data, "before");
    ck_assert_str_ne(e.msg, "");
    cJSON_Delete(vars);
    buf_free(&out);
}

START_TEST(hostile)
{
    static const char *const t[] = {
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% for i in [1] %}{{ f() }}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{{ range(1000000000) }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ '' * 9223372036854775807 }}{{ [[]] * 9223372036854775807 }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(1000) %}{% set ns.s = ns.s ~ ns.s %}{% "
        "endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(1000) %}{% set ns.s = ns.s|replace('a', "
        "'aa') %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(1000) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(10000) %}{% set ns.l = [ns.l, ns.l] %}{% endfor "
        "%}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(10000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ "
        "ns.l|tojson }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(10000) %}{% set ns.l = (ns.l, ) %}{% endfor %}{{ "
        "{ns.l: 1} }}",
        "{% set ns = namespace(a=[], b=[]) %}{% for i in range(30) %}{% set ns.a = [ns.a, ns.a] %}{% set "
        "ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
        "{% set x = [] %}{{ x.append(x) }}{{ x }}",
        "{% for i in range(100000) %}{{ range(100000)|sort|length }}{% endfor %}",
        "{% for i in range(100000) %}{{ s|replace('', s)|replace('', s)|replace('', s)|length }}{% endfor %}",
        "{{ s|center(1) }}",
        "{{ s.center(9000000000) }}",
        "{{ s|indent(9000000000) }}",
        "{{ '%999999999d' % 5 }}",
        "{{ '%.999999999f' % 5 }}",
        "{{ 9 ** 99999999999 }}",
        "{{ 9223372036854775807 + 1 }}",
        "{{ -9223372036854775807 - 2 }}",
        "{{ 99999999999999999999 }}",
        "{{ l|batch(0)|list }}",
        "{{ l|slice(9000000000)|list }}",
        "{{ l|batch(9000000000, 1)|list }}",
        "{{ [1]|map('map', 'map')|list }}",
        "{{ s|tojson(indent=' ' * 10000000)|length * s.zz.a }}",
        "{{ l[0:9:0] }}",
        "{% for x in l %}{{ l.append(x) }}{{ l|tojson(indent=2) ~ l|sort ~ l|unique|list ~ (l * 1000)|join "
        "}}{% if l|length < 90000 %}{{ raise }}{% endif %}{% endfor %}{{ nope() }}",
        "{% set ns = namespace(t='a' * 1000000) %}{% for i in range(1000) %}{{ ns.t.rfind('a' * 50000 ~ 'b' "
        "~ 'a' * 50000) }}{% endfor %}",
        "{% for i in range(100000) %}{{ ('a' * 10000 ~ 'b').rsplit('b' ~ 'a' * 100) }}{% endfor %}",
        "{{ '\\ud800' }}",
        "{{ '\\U00110000' }}",
        "{{ '\\x4' }}",
        "\xff",
        "{{ '\xc0\x80' }}",
        "{% set ns = namespace(s='') %}{% for i in range(100000) %}{% for j in range(1000) %}{% set ns.s = "
        "ns.s ~ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' %}{% endfor %}{% endfor %}",
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) expect_refused(t[i], t[i], strlen(t[i]));
}
END_TEST

START_TEST(deep)
{
    static const struct {
        const char *open, *middle, *close;
        int n;
    } t[] = {
        {"(", "1", ")", 150},
        {"(", "1", ")", 100000},
        {"[", "", "]", 5000},
        {"{'a':", "1", "}", 5000},
        {"not ", "1", "", 5000},
        {"-", "1", "", 5000},
        {"1 if 1 else ", "1", "", 5000},
        {"f(", "", ")", 5000},
        {"a[", "0", "]", 5000},
        {"1 + ", "1", "", 5000},
        {"1 and ", "1", "", 5000},
        {"", "a", ".b", 5000},
        {"", "a", "|upper", 5000},
        {"", "a", "()", 5000},
        {"(1, ", "1", ")", 3000},
        {"((", "1", "))", 3000},
        {"a == (", "1", ")", 3000},
        {"2 ** ", "1", "", 5000},
        {"", "1", " is odd", 5000},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct buf b = {0};
        buf_str(&b, "{{ ");
        repeat(&b, t[i].open, t[i].n);
        buf_str(&b, t[i].middle);
        repeat(&b, t[i].close, t[i].n);
        buf_str(&b, " }}");
        expect_refused(b.data, b.data, b.len);
        buf_free(&b);
    }
    static const char *const block[][2] = {{"{% if 1 %}", "{% endif %}"},
                                           {"{% for i in l %}", "{% endfor %}"},
                                           {"{% set x %}", "{% endset %}"},
                                           {"{% macro f() %}", "{% endmacro %}"},
                                           {"{% filter upper %}", "{% endfilter %}"},
                                           {"{% call f() %}", "{% endcall %}"}};
    for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
        struct buf b = {0};
        repeat(&b, block[i][0], 5000);
        repeat(&b, block[i][1], 5000);
        expect_refused(b.data, b.data, b.len);
        b.len = 20000;
        expect_refused(b.data, b.data, b.len);
        buf_free(&b);
    }
}
END_TEST

START_TEST(too_long)
{
    struct buf b = {0};
    repeat(&b, "0123456789abcdef", 1 << 17);
    expect_refused("a long template", b.data, b.len);
    buf_free(&b);
    struct template *t = NULL;
    struct buf out = {0};
    struct err e = {0};
    const char *src = "{% for i in range(100) %}0123456789{% endfor %}";
    ck_assert_int_eq(template_compile(src, strlen(src), &t, &e), 0);
    ck_assert_int_eq(template_render(t, NULL, NOW, (struct template_budget){1000000, 64, 999}, &out, &e),
                     ERR_BUDGET);
    ck_assert_int_eq(template_render(t, NULL, NOW, (struct template_budget){1000000, 64, 1000}, &out, &e), 0);
    ck_assert_uint_eq(out.len, 1000);
    ck_assert_int_eq(template_render(t, NULL, NOW, (struct template_budget){200, 64, 1000}, &out, &e),
                     ERR_BUDGET);
    template_free(t);
    buf_free(&out);
}
END_TEST

/* Very many variables, and looking at them again and again. */
START_TEST(many_names)
{
    struct buf b = {0};
    for (int i = 0; i < 5000; i++) buf_fmt(&b, "{%% set v%d = %d %%}", i, i);
    expect_refused("5000 variables", b.data, b.len);
    buf_clear(&b);
    for (int i = 0; i < 4000; i++) buf_fmt(&b, "{%% set v%d = %d %%}", i, i);
    buf_str(&b, "{% for i in range(100000) %}{% for i in range(100000) %}{{ v0 }}{{ v3999 }}{{ w }}{% endfor "
                "%}{% endfor %}");
    expect_refused("4000 variables", b.data, b.len);
    buf_free(&b);
}
END_TEST

/* ---- the border ---- */

START_TEST(raise)
{
    struct buf out = {0};
    struct err e = {0};
    const char *src = "{{ 'x' }}{{ raise_exception('Roles must alternate') }}";
    ck_assert_int_eq(render(src, strlen(src), NULL, &out, &e), ERR_INVALID);
    ck_assert_str_eq(e.msg, "Roles must alternate");
    ck_assert_uint_eq(out.len, 0);
    src = "\n\n{{ nosuch.x }}";
    ck_assert_int_eq(render(src, strlen(src), NULL, &out, &e), ERR_FORMAT);
    ck_assert_msg(strstr(e.msg, "line 3") && strstr(e.msg, "nosuch"), "%s", e.msg);
    src = "{{ raise_exception('\\u00e9' * 400) }}";
    ck_assert_int_eq(render(src, strlen(src), NULL, &out, &e), ERR_INVALID);
    ck_assert(strlen(e.msg) == 64 && utf8_valid(e.msg, strlen(e.msg)));
    src = "{{ "
          "m['"
          "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac"
          "\xe2\x82\xac\xe2\x82\xac"
          "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac'].x }}";
    cJSON *vars = cJSON_Parse("{\"m\":{}}");
    ck_assert_int_eq(render(src, strlen(src), vars, &out, &e), ERR_FORMAT);
    ck_assert(utf8_valid(e.msg, strlen(e.msg)));
    cJSON_Delete(vars);
    buf_free(&out);
}
END_TEST

/* The template's own words go out whole, text from the messages up to 64 bytes. */
START_TEST(raise_quotes_little)
{
    static const char *const quoting[] = {"{{ raise_exception(m) }}", "{{ raise_exception('no: ' ~ m) }}",
                                          "{{ raise_exception(m[1:]) }}",
                                          "{% set x %}{{ m }}{% endset %}{{ raise_exception(x) }}"};
    static const char own[] = "{{ raise_exception('After the optional system message, conversation roles "
                              "must alternate user/assistant/user/assistant/...') }}";
    struct buf out = {0};
    struct err e = {0};
    cJSON *vars = cJSON_CreateObject();
    char m[1001];
    memset(m, 'm', sizeof m - 1);
    m[sizeof m - 1] = 0;
    cJSON_AddStringToObject(vars, "m", m);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(render(quoting[i], strlen(quoting[i]), vars, &out, &e), ERR_INVALID);
        ck_assert_msg(strlen(e.msg) == 64 && strstr(e.msg, "mmmm"), "%s", e.msg);
    }
    ck_assert_int_eq(render(own, sizeof own - 1, vars, &out, &e), ERR_INVALID);
    ck_assert_msg(strstr(e.msg, "assistant/..."), "%s", e.msg);
    cJSON_Delete(vars);
    buf_free(&out);
}
END_TEST

/* NUL characters of the JSON (C0 80 in cJSON's strings) come out as NUL bytes. */
START_TEST(nul)
{
    cJSON *vars = NULL;
    struct err e = {0};
    struct buf out = {0};
    const char *json = "{\"s\":\"a\\u0000b\",\"d\":{\"k\\u0000\":1}}",
               *src = "{{ s }}{{ s|length }}{{ s|tojson }}{{ d }}";
    ck_assert_int_eq(json_parse(json, strlen(json), JSON_LIMITS_REQUEST, &vars, &e), 0);
    ck_assert_int_eq(render(src, strlen(src), vars, &out, &e), 0);
    static const char want[] = "a\0b3\"a\\u0000b\"{'k\\x00': 1}";
    ck_assert_uint_eq(out.len, sizeof want - 1);
    ck_assert_int_eq(memcmp(out.data, want, sizeof want), 0);
    cJSON_Delete(vars);
    buf_free(&out);
}
END_TEST

/* Building an answer piece by piece costs linear time and memory. */
START_TEST(append_is_linear)
{
    struct buf out = {0};
    struct err e = {0};
    const char *src = "{% set ns = namespace(s='') %}{% for i in range(20000) %}{% set ns.s = ns.s + 'some "
                      "words of a message ' %}{% endfor %}{{ ns.s }}";
    ck_assert_msg(render(src, strlen(src), NULL, &out, &e) == 0, "%s", e.msg);
    ck_assert_uint_eq(out.len, 20000 * 24);
    buf_free(&out);
}
END_TEST

/* A string that was continued in place must not change for whoever still holds the shorter one. */
START_TEST(append_keeps_old)
{
    struct buf out = {0};
    struct err e = {0};
    const char *src = "{% set a = 'x' ~ 1 %}{% set b = a ~ 'y' %}{% set c = a ~ 'z' %}{{ a }} {{ b }} {{ c "
                      "}} {{ b ~ c ~ a }}";
    ck_assert_int_eq(render(src, strlen(src), NULL, &out, &e), 0);
    ck_assert_str_eq(out.data, "x1 x1y x1z x1yx1zx1");
    buf_free(&out);
}
END_TEST

/* List and dict methods that Jinja's sandbox forbids, but templates written for other servers use. */
START_TEST(mutation)
{
    struct buf out = {0};
    struct err e = {0};
    const char *src = "{% set l = [1] %}{{ l.append(2) }}{{ l.extend([3, 4]) }}{{ l.insert(0, 'a') }}{{ "
                      "l.pop() }}{{ l.pop(1) }}{{ l }}"
                      "{% set d = {'a': 1} %}{{ d.update(b=2) }}{{ d.update({'c': 3}) }}{{ d.pop('a') }}{{ "
                      "d.setdefault('z', 9) }}{{ d }}";
    ck_assert_msg(render(src, strlen(src), NULL, &out, &e) == 0, "%s", e.msg);
    ck_assert_str_eq(out.data, "NoneNoneNone41['a', 2, 3]NoneNone19{'b': 2, 'c': 3, 'z': 9}");
    buf_free(&out);
}
END_TEST

int main(void)
{
    setenv("TZ", "UTC", 1);
    Suite *s = suite_create("template");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_test(t, language);
    tcase_add_test(t, chat);
    tcase_add_test(t, random_templates);
    tcase_add_test(t, hostile);
    tcase_add_test(t, deep);
    tcase_add_test(t, too_long);
    tcase_add_test(t, many_names);
    tcase_add_test(t, raise);
    tcase_add_test(t, raise_quotes_little);
    tcase_add_test(t, nul);
    tcase_add_test(t, append_is_linear);
    tcase_add_test(t, append_keeps_old);
    tcase_add_test(t, mutation);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
