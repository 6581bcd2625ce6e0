/* The back end that takes times: the same results, and each op in the table of its kind of step. */
#include "ops_test.h"
#include "profile.h"

enum { IN = 64, OUT = 96, ROWS = 3 };

/* A step of n rows, of which each is an item of its own if it decodes: two products and a norm. */
static void run_step(struct backend *be, const struct weight *w, int n, bool decode, float *x, float *y)
{
    int32_t table[1] = {0}, ids[ROWS] = {0};
    struct attn_item item[ROWS] = {{0, decode ? 1 : n, 0, table}, {1, 1, 0, table}, {2, 1, 0, table}};
    struct batch b = {.n = n, .ids = ids, .n_list = 1, .list = {{item, decode ? n : 1, 0}}};
    struct linear_out out = {w, NULL, y, OUT};
    struct norm_args norm = {.n = n, .dim = IN, .x = x, .delta = NULL, .scale = 1, .y = x, .eps = 1e-6f};
    be->ops->begin(be, &b);
    be->ops->linear(be, x, n, &out, 1);
    be->ops->linear(be, x, n, &out, 1);
    be->ops->add_norm(be, &norm);
}

static int count(const char *s, const char *what)
{
    int n = 0;
    while ((s = strstr(s, what))) n++, s += strlen(what);
    return n;
}

START_TEST(times_are_booked_by_op_and_kind_of_step)
{
    struct device dev;
    struct err e;
    struct weight *w;
    struct backend *profile;
    float x[ROWS * IN], plain[ROWS * OUT], timed[ROWS * OUT], *weights = floats(OUT * IN);
    char *text = NULL;
    size_t size = 0;
    fill(x, ROWS * IN);
    fill(weights, OUT * IN);
    ck_assert(device_open(&dev, (int)cpu_isa_detect(), 2));
    struct step_limits l = {.max_rows = ROWS, .max_ctx = 8, .max_in = IN, .n_head = 1, .head_dim = 8};
    ck_assert_int_eq(dev.be->ops->reserve(dev.be, &l, &e), 0);
    ck_assert_int_eq(dev.be->ops->weight_pack(dev.be, DT_F32, OUT, IN, weights, &w, &e), 0);
    run_step(dev.be, w, ROWS, false, x, plain);

    ck_assert_int_eq(profile_open(dev.be, &profile, &e), 0);
    dev.be = profile;
    ck_assert_str_eq(profile->isa, cpu_isa_name(cpu_isa_detect()));
    run_step(profile, w, ROWS, false, x, timed);
    profile_reset(profile);
    run_step(profile, w, ROWS, false, x, timed);
    ck_assert_mem_eq(plain, timed, sizeof plain);
    for (int i = 0; i < 5; i++) run_step(profile, w, 2, true, x, timed);
    ck_assert_mem_eq(plain, timed, 2 * OUT * sizeof *plain);

    FILE *f = open_memstream(&text, &size);
    profile_print(profile, f);
    fclose(f);
    ck_assert_msg(strstr(text, "5 decode steps of 2.0 rows") != NULL, "%s", text);
    ck_assert_msg(strstr(text, "1 prompt steps of 3.0 rows") != NULL, "%s", text);
    ck_assert_int_eq(count(text, "linear              96 x 64      2 "), 2);
    ck_assert_int_eq(count(text, "add_norm                         1 "), 2);
    ck_assert_int_eq(count(text, "attn"), 0);
    free(text);
    profile->ops->weight_free(profile, w);
    device_close(&dev);
    free(weights);
}
END_TEST

/* Times of ops that may return before their work is done would say nothing. */
START_TEST(devices_are_refused)
{
    struct backend far = {.name = "cuda", .host = false, .size = 1}, *profile = NULL;
    struct err e;
    ck_assert_int_eq(profile_open(&far, &profile, &e), ERR_UNSUPPORTED);
    ck_assert_ptr_null(profile);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("profile");
    TCase *t = tcase_create("profile");
    tcase_add_test(t, times_are_booked_by_op_and_kind_of_step);
    tcase_add_test(t, devices_are_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
