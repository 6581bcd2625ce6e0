#include <check.h>
#include "pace.h"
#include "suites.h"

START_TEST(unknown_costs_limit_nothing)
{
    struct pace p = {.target_s = 0.05};
    ck_assert_int_eq(pace_prefill(&p, 512), 512);
    pace_note(&p, 4, 0, 0.01);
    ck_assert_int_eq(pace_prefill(&p, 512), 512);
}
END_TEST

START_TEST(no_target_limits_nothing)
{
    struct pace p = {0};
    pace_note(&p, 4, 512, 9);
    ck_assert_int_eq(pace_prefill(&p, 512), 512);
}
END_TEST

/* Decodes take 10 ms, a prompt token 0.2 ms: 40 ms are left for 200 of them. */
START_TEST(the_target_is_met_from_one_observation)
{
    struct pace p = {.target_s = 0.05};
    pace_note(&p, 4, 0, 0.01);
    pace_note(&p, 4, 512, 0.01 + 512 * 0.0002);
    ck_assert_int_ge(pace_prefill(&p, 512), 199);
    ck_assert_int_le(pace_prefill(&p, 512), 200);
    ck_assert_int_eq(pace_prefill(&p, 100), 100);
}
END_TEST

START_TEST(a_prefill_without_decodes_teaches_too)
{
    struct pace p = {.target_s = 0.05};
    pace_note(&p, 0, 500, 0.5);
    ck_assert_int_ge(pace_prefill(&p, 512), 49);
    ck_assert_int_le(pace_prefill(&p, 512), 50);
}
END_TEST

START_TEST(costs_that_change_are_followed)
{
    struct pace p = {.target_s = 0.05};
    pace_note(&p, 4, 0, 0.01);
    for (int i = 0; i < 30; i++) pace_note(&p, 4, 100, 0.01 + 100 * 0.0002);
    for (int i = 0; i < 30; i++) pace_note(&p, 4, 100, 0.01 + 100 * 0.0008);
    ck_assert_int_ge(pace_prefill(&p, 512), 49);
    ck_assert_int_le(pace_prefill(&p, 512), 51);
}
END_TEST

START_TEST(prefill_never_starves)
{
    struct pace p = {.target_s = 0.005};
    pace_note(&p, 4, 0, 0.01); /* decodes alone take longer than the target */
    pace_note(&p, 4, 64, 0.03);
    ck_assert_int_eq(pace_prefill(&p, 512), PACE_LEAST);
    struct pace q = {.target_s = 0.05};
    pace_note(&q, 4, 0, 0.01);
    pace_note(&q, 4, 512, 0.005); /* faster than decodes alone: still no price of zero */
    ck_assert(q.token_s > 0);
}
END_TEST

Suite *pace_suite(void)
{
    Suite *s = suite_create("pace");
    TCase *t = tcase_create("pace");
    tcase_add_test(t, unknown_costs_limit_nothing);
    tcase_add_test(t, no_target_limits_nothing);
    tcase_add_test(t, the_target_is_met_from_one_observation);
    tcase_add_test(t, a_prefill_without_decodes_teaches_too);
    tcase_add_test(t, costs_that_change_are_followed);
    tcase_add_test(t, prefill_never_starves);
    suite_add_tcase(s, t);
    return s;
}
