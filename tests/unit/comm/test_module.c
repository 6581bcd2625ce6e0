/* Modules are found where they should be, and only those that fit are used. Run from its build folder's path:
 * test_module BUILD_FOLDER, which holds the modules of module.c. */
#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "module.h"

static const char *build;

struct table {
    int abi;
    const char *word;
};

START_TEST(opens_what_fits)
{
    const void *table, *again;
    struct err e;
    setenv("INFERD_MODULES", build, 1);
    ck_assert_msg(!module_open("module_3", "test_entry", 3, &table, &e), "%s", e.msg);
    ck_assert_str_eq(((const struct table *)table)->word, "hello");
    ck_assert_int_eq(module_open("module_3", "test_entry", 3, &again, &e), 0);
    ck_assert_ptr_eq(table, again);
}
END_TEST

START_TEST(says_what_is_wrong)
{
    const void *table;
    struct err e;
    char want[PATH_MAX + 100];
    setenv("INFERD_MODULES", build, 1);
    ck_assert_int_eq(module_open("module_3", "test_entry", 4, &table, &e), ERR_UNSUPPORTED);
    snprintf(want, sizeof want, "%s/module_3.so is of another build: its interface is 3, not 4", build);
    ck_assert_str_eq(e.msg, want);
    ck_assert_ptr_null(table);
    ck_assert_int_eq(module_open("module_3", "other_entry", 3, &table, &e), ERR_UNSUPPORTED);
    snprintf(want, sizeof want, "%s/module_3.so is no module of inferd: it has no other_entry", build);
    ck_assert_str_eq(e.msg, want);
    ck_assert_int_eq(module_open("module_x", "test_entry", 3, &table, &e), ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(e.msg, "undefined symbol: nowhere_to_be_found"));
    ck_assert_int_eq(module_open("module_none", "test_entry", 3, &table, &e), ERR_NOTFOUND);
    snprintf(want, sizeof want, "module_none.so is not in %s", build);
    ck_assert_str_eq(e.msg, want);
    ck_assert_int_eq(module_open("../module_3", "test_entry", 3, &table, &e), ERR_INVALID);
    ck_assert_int_eq(module_open("", "test_entry", 3, &table, &e), ERR_INVALID);
    ck_assert_int_eq(module_open("module_none", "test_entry", 3, &table, NULL), ERR_NOTFOUND);
}
END_TEST

/* Without the variable: beside the binary, or in ../lib/inferd. This test's binary is in the build folder. */
START_TEST(looks_in_its_own_places)
{
    const void *table;
    struct err e;
    unsetenv("INFERD_MODULES");
    ck_assert_msg(!module_open("module_3", "test_entry", 3, &table, &e), "%s", e.msg);
    ck_assert_int_eq(module_open("module_none", "test_entry", 3, &table, &e), ERR_NOTFOUND);
    char want[2 * PATH_MAX];
    int up = (int)(strrchr(build, '/') - build);
    snprintf(want, sizeof want, "module_none.so is neither in %s nor in %.*s/lib/inferd", build, up, build);
    ck_assert_str_eq(e.msg, want);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    build = realpath(argv[1], NULL);
    if (!build) return 2;
    Suite *s = suite_create("module");
    TCase *t = tcase_create("module");
    tcase_add_test(t, opens_what_fits);
    tcase_add_test(t, says_what_is_wrong);
    tcase_add_test(t, looks_in_its_own_places);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
