/* One table, four sources: defaults, file, environment, command line, in that order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "options.h"
#include "suites.h"

static int load(struct options *o, char command, struct err *e, ...)
{
    char *argv[16];
    int argc = 0;
    va_list ap;
    va_start(ap, e);
    for (char *a; (a = va_arg(ap, char *));) argv[argc++] = a;
    va_end(ap);
    *e = (struct err){0};
    return options_load(o, command, argc, argv, e);
}

START_TEST(sources_in_order)
{
    struct options o;
    struct err e;
    char path[] = "/tmp/inferd-options-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] =
        "# comment\nport: 9000\nhost: \"::1\"  \nmax-queue: 5 # five\nenable-prefix-caching: false\n\n";
    ck_assert_int_eq(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    setenv("INFERD_MAX_QUEUE", "6", 1);
    setenv("INFERD_SEED", "4", 1);
    ck_assert_int_eq(
        load(&o, 'S', &e, "--config", path, "m.gguf", "--seed=5", "--kv-cache-memory-bytes", "1.5GiB", NULL),
        0);
    ck_assert_int_eq(o.port, 9000);
    ck_assert_str_eq(o.host, "::1");
    ck_assert_int_eq(o.max_queue, 6);
    ck_assert_int_eq(o.seed, 5);
    ck_assert(!o.enable_prefix_caching);
    ck_assert_int_eq(o.kv_cache_memory_bytes, 3LL << 29);
    ck_assert_int_eq(o.n_arg, 1);
    ck_assert_str_eq(o.arg[0], "m.gguf");
    options_free(&o);
    unsetenv("INFERD_MAX_QUEUE");
    unsetenv("INFERD_SEED");
    unlink(path);
}
END_TEST

START_TEST(wrong_usage_is_named)
{
    struct options o;
    struct err e;
    ck_assert_int_eq(load(&o, 'S', &e, "--prot", "1", NULL), ERR_INVALID);
    options_free(&o);
    ck_assert_int_eq(load(&o, 'S', &e, "--max-num-seq", "1", NULL), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(e.msg, "did you mean --max-num-seqs"));
    options_free(&o);
    ck_assert_int_eq(load(&o, 'S', &e, "--port", "http", NULL), ERR_INVALID);
    ck_assert_str_eq(e.param, "port");
    options_free(&o);
    ck_assert_int_eq(load(&o, 'S', &e, "--port", NULL), ERR_INVALID);
    options_free(&o);
    ck_assert_int_eq(load(&o, 'C', &e, "--port", "1", NULL), ERR_INVALID);
    options_free(&o);
    ck_assert_int_eq(load(&o, 'S', &e, "--no-port", NULL), ERR_INVALID);
    options_free(&o);
}
END_TEST

START_TEST(aliases_and_bools)
{
    struct options o;
    struct err e;
    ck_assert_int_eq(load(&o, 'S', &e, "--no-enable-prefix-caching", "--num-gpu-blocks-override", "7",
                          "--max_model_len", "32k", "--", "--odd", NULL),
                     0);
    ck_assert(!o.enable_prefix_caching);
    ck_assert_int_eq(o.num_kv_blocks, 7);
    ck_assert_int_eq(o.max_model_len, 32000);
    ck_assert_str_eq(o.arg[0], "--odd");
    options_free(&o);
}
END_TEST

START_TEST(sizes)
{
    int64_t v;
    ck_assert(!options_parse_size("32KiB", &v) && v == 32768);
    ck_assert(!options_parse_size("0", &v) && v == 0);
    ck_assert(options_parse_size("-1", &v) && options_parse_size("", &v) && options_parse_size("1x", &v) &&
              options_parse_size("nan", &v) && options_parse_size("1e300", &v) &&
              options_parse_size("0.3", &v));
}
END_TEST

TCase *options_case(void)
{
    TCase *t = tcase_create("options");
    tcase_add_test(t, sources_in_order);
    tcase_add_test(t, wrong_usage_is_named);
    tcase_add_test(t, aliases_and_bools);
    tcase_add_test(t, sizes);
    return t;
}
