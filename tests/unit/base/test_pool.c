/* The worker pool: every thread runs each job once, whether the workers spin or sleep. */
#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include "clock.h"
#include "pool.h"

static void count(void *arg, int i, int n)
{
    atomic_int *c = arg;
    atomic_fetch_add(&c[i], 1);
    ck_assert_int_lt(i, n);
}

START_TEST(runs_every_thread_once)
{
    struct pool *p;
    atomic_int c[8] = {0};
    ck_assert_int_eq(pool_open(_i, &p, NULL), 0);
    ck_assert_int_eq(pool_size(p), _i);
    for (int job = 1; job <= 2000; job++) {
        pool_run(p, count, c);
        for (int i = 0; i < _i; i++) ck_assert_int_eq(c[i], job);
        if (job % 500 == 0) nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL); /* let them sleep */
    }
    pool_close(p);
}
END_TEST

START_TEST(sleeps_when_idle)
{
    struct pool *p;
    ck_assert_int_eq(pool_open(2, &p, NULL), 0);
    atomic_int c[2] = {0};
    pool_run(p, count, c);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    ck_assert_double_lt(
        (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9, 0.02);
    pool_close(p);
}
END_TEST

START_TEST(refuses_bad_sizes)
{
    struct pool *p;
    ck_assert_int_eq(pool_open(-1, &p, NULL), ERR_INVALID);
    ck_assert_int_eq(pool_open(100000, &p, NULL), ERR_INVALID);
    ck_assert_int_ge(pool_cpus(), 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pool");
    TCase *t = tcase_create("pool");
    tcase_add_loop_test(t, runs_every_thread_once, 1, 5);
    tcase_add_test(t, sleeps_when_idle);
    tcase_add_test(t, refuses_bad_sizes);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
