/* The worker pool: every task of each job runs once, whether the workers spin or sleep, or are kept from
 * running. */
#include <check.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include "clock.h"
#include "cpus.h"
#include "pool.h"

enum { TASKS = 37 };
struct counts {
    atomic_int task[TASKS], bad;
    int workers;
};

static void count(void *arg, int task, int worker)
{
    struct counts *c = arg;
    atomic_fetch_add(&c->task[task], 1);
    if (worker < 0 || worker >= c->workers) c->bad = 1;
}

START_TEST(runs_every_task_once)
{
    struct pool *p;
    struct counts c = {.workers = _i};
    int expected[TASKS] = {0};
    ck_assert_int_eq(pool_open(_i, &p, NULL), 0);
    ck_assert_int_eq(pool_size(p), _i);
    for (int job = 1; job <= 2000; job++) {
        int n = job % (TASKS + 1);
        pool_run(p, n, count, &c);
        for (int i = 0; i < TASKS; i++) ck_assert_int_eq(c.task[i], expected[i] += i < n);
        if (job % 500 == 0) nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL); /* let them sleep */
    }
    ck_assert_int_eq(c.bad, 0);
    pool_close(p);
}
END_TEST

/* More threads than the machine has CPUs: some of them do not run, and are not waited for. */
START_TEST(absent_workers_are_not_waited_for)
{
    struct pool *p;
    struct counts c = {.workers = 64};
    ck_assert_int_eq(pool_open(64, &p, NULL), 0);
    for (int job = 0; job < 300; job++) pool_run(p, TASKS, count, &c);
    for (int i = 0; i < TASKS; i++) ck_assert_int_eq(c.task[i], 300);
    pool_close(p);
}
END_TEST

START_TEST(sleeps_when_idle)
{
    struct pool *p;
    ck_assert_int_eq(pool_open(2, &p, NULL), 0);
    struct counts c = {.workers = 2};
    pool_run(p, TASKS, count, &c);
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

static void put(const char *folder, const char *file, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    ck_assert_int_eq(fclose(f), 0);
}

/* A tree of cgroups as the kernel shows it: the least quota on the way to the root counts. */
START_TEST(quotas_bind_what_is_below_them)
{
    char root[] = "/tmp/inferd-cgroup-XXXXXX", sub[64], leaf[64], self[64], v1[64];
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(sub, sizeof sub, "%s/a", root);
    snprintf(leaf, sizeof leaf, "%s/a/b", root);
    snprintf(v1, sizeof v1, "%s/cpu", root);
    snprintf(self, sizeof self, "%s/self", root);
    ck_assert(!mkdir(sub, 0700) && !mkdir(leaf, 0700) && !mkdir(v1, 0700));
    ck_assert_int_gt(cpus_quota(root, self), 1000); /* no such file */
    put(root, "self", "1:name=systemd:/x\n0::/a/b\n");
    ck_assert_int_gt(cpus_quota(root, self), 1000);
    put(leaf, "cpu.max", "max 100000\n");
    ck_assert_int_gt(cpus_quota(root, self), 1000);
    put(sub, "cpu.max", "250000 100000\n");
    ck_assert_int_eq(cpus_quota(root, self), 3);
    put(leaf, "cpu.max", "50000 100000\n");
    ck_assert_int_eq(cpus_quota(root, self), 1);
    put(leaf, "cpu.max", "nonsense");
    ck_assert_int_eq(cpus_quota(root, self), 3);
    put(root, "self", "0::/not/visible/here\n");
    put(root, "cpu.max", "400000 100000\n"); /* a container sees its own cgroup as the root */
    ck_assert_int_eq(cpus_quota(root, self), 4);
    put(root, "self", "4:cpu,cpuacct:/docker/abc\n");
    put(v1, "cpu.cfs_quota_us", "-1\n");
    put(v1, "cpu.cfs_period_us", "100000\n");
    ck_assert_int_eq(cpus_quota(root, self), 4);
    put(v1, "cpu.cfs_quota_us", "150000\n");
    ck_assert_int_eq(cpus_quota(root, self), 2);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pool");
    TCase *t = tcase_create("pool");
    tcase_add_loop_test(t, runs_every_task_once, 1, 5);
    tcase_add_test(t, absent_workers_are_not_waited_for);
    tcase_add_test(t, sleeps_when_idle);
    tcase_add_test(t, refuses_bad_sizes);
    tcase_add_test(t, quotas_bind_what_is_below_them);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
