/* Thousands of random serving days through sim.c. */
#include <check.h>
#include "mem.h"
#include "sched_test.h"
#include "sim.h"

START_TEST(random_days)
{
    struct sim_result sum = {0};
    uint8_t data[600];
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        uint64_t x = seed * 0x9e3779b97f4a7c15u;
        for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(x = mem_mix(x + 1));
        ck_assert_msg(sim_run(data, sizeof data, &sum) == 0, "seed %llu", (unsigned long long)seed);
    }
    /* Else the run said nothing about these. */
    ck_assert_uint_gt(sum.steps, 100000);
    ck_assert_uint_gt(sum.hit_tokens, 100000);
    ck_assert_uint_gt(sum.evictions, 10000);
    ck_assert_uint_gt(sum.preemptions, 800);
    ck_assert_uint_gt(sum.stuck, 1000);
    ck_assert_uint_gt(sum.finished, 20000);
}
END_TEST

TCase *sim_tests(void)
{
    TCase *t = tcase_create("random");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, random_days);
    return t;
}
