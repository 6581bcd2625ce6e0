/* Ranks that are threads: the results, and that no rank ever hangs, whatever the others do. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "clock.h"
#include "group.h"

static const int sizes[] = {1, 2, 3, 4, 8};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static void all_calls(struct rank_job *j)
{
    static const size_t lengths[] = {0, 1, 2, 15, 16, 17, 100, 511, 512, 513, 4097, 100003};
    j->status = check_all_calls(j->comm, lengths, sizeof lengths / sizeof *lengths, &j->err);
}

START_TEST(results_are_right)
{
    struct rank_job job[COMM_MAX_RANKS];
    run_group(sizes[_i], all_calls, 0, job);
    for (int r = 0; r < sizes[_i]; r++) ck_assert_msg(!job[r].status, "rank %d: %s", r, job[r].err.msg);
}
END_TEST

/* (2^24 + 1) + -2^24 is 0 in floats, 2^24 + -2^24 + 1 is 1. */
static void big_then_small(struct rank_job *j)
{
    static const float terms[2][3] = {{0x1p24f, 1, -0x1p24f}, {0x1p24f, -0x1p24f, 1}};
    for (int n = 1; n < 200; n++) {
        float x[200];
        for (int i = 0; i < n; i++) x[i] = terms[i % 2][j->rank];
        j->status |= comm_all_reduce(j->comm, x, (size_t)n, &j->err);
        for (int i = 0; i < n; i++) j->status |= x[i] != (float)(i % 2);
    }
}

START_TEST(adds_in_the_order_of_ranks)
{
    struct rank_job job[3];
    run_group(3, big_then_small, 0, job);
    for (int r = 0; r < 3; r++) ck_assert_int_eq(job[r].status, 0);
}
END_TEST

/* Many short calls, and pauses in which the others fall asleep. */
static void rounds(struct rank_job *j)
{
    for (int i = 0; i < 2000 && !j->status; i++) {
        float x[8];
        for (int k = 0; k < 8; k++) x[k] = (float)(i + k + j->rank);
        j->status = comm_all_reduce(j->comm, x, 1 + i % 8, &j->err);
        if (!j->status && x[0] != (float)(i * j->size + j->size * (j->size - 1) / 2)) j->status = -1;
        int word = j->rank == i % j->size ? i : -1;
        if (!j->status) j->status = comm_broadcast(j->comm, &word, sizeof word, i % j->size, &j->err);
        if (!j->status && word != i) j->status = -1;
        if (!j->status && i % 3 == 0) j->status = comm_barrier(j->comm, &j->err);
        if (i % 500 == j->rank * 100 % 500) usleep(10000);
    }
}

START_TEST(many_rounds)
{
    struct rank_job job[COMM_MAX_RANKS];
    run_group(sizes[_i], rounds, 0, job);
    for (int r = 0; r < sizes[_i]; r++) ck_assert_msg(!job[r].status, "rank %d: %s", r, job[r].err.msg);
}
END_TEST

/* What rank 1 does while the others make one more all_reduce of 4. */
enum { OTHER_LENGTH, OTHER_CALL, OTHER_ROOT, NULL_BUFFER, BAD_ROOT, HUGE, GIVES_UP, N_WAYS };

static void go_wrong(struct rank_job *j)
{
    float x[8] = {0}, all[64];
    struct err e = {0}, why = {.code = ERR_NOMEM, .msg = "out of paper"};
    bool odd = j->rank == 1;
    if (comm_all_reduce(j->comm, x, 4, &e)) abort();
    if (odd) usleep(20000);
    switch (odd ? j->arg : j->arg == OTHER_ROOT ? N_WAYS + 1 : N_WAYS) {
    case OTHER_LENGTH: comm_all_reduce(j->comm, x, 5, &e); break;
    case OTHER_CALL: comm_all_gather(j->comm, x, 4 * sizeof *x, all, &e); break;
    case OTHER_ROOT: comm_broadcast(j->comm, x, 4, 1, &e); break;
    case NULL_BUFFER: comm_all_reduce(j->comm, NULL, 4, &e); break;
    case BAD_ROOT: comm_broadcast(j->comm, x, 4, j->size, &e); break;
    case HUGE: comm_all_to_all(j->comm, x, all, SIZE_MAX / 2, &e); break;
    case GIVES_UP: comm_abort(j->comm, &why); break;
    case N_WAYS: comm_all_reduce(j->comm, x, 4, &e); break;
    default: comm_broadcast(j->comm, x, 4, 0, &e); break;
    }
    if (!odd && !e.code) j->status = -1;
    j->err = e;
    struct err later = {0};
    if (!comm_barrier(j->comm, &later)) j->status = -1;
    if (!odd && strcmp(later.msg, e.msg)) j->status = -1;
}

START_TEST(errors_reach_every_rank)
{
    static const char *const says[] = {
        "the ranks disagree: rank 0 calls all_reduce of 16 bytes (root 0), rank 1 all_reduce of 20 (root 0)",
        "the ranks disagree: rank 0 calls all_reduce of 16 bytes (root 0), rank 1 all_gather of 16 (root 0)",
        "the ranks disagree: rank 0 calls broadcast of 4 bytes (root 0), rank 1 broadcast of 4 (root 1)",
        "rank 1 gave up: all_reduce: x is NULL",
        "rank 1 gave up: broadcast: root is no rank",
        "rank 1 gave up: all_to_all: bytes_each is too large",
        "rank 1 gave up: out of paper",
    };
    struct rank_job job[4];
    int64_t start = clock_ns();
    run_group(4, go_wrong, _i, job);
    ck_assert_int_lt(clock_ns() - start, 1000000000);
    for (int r = 0; r < 4; r++) {
        ck_assert_msg(!job[r].status, "rank %d missed the error", r);
        if (r != 1) ck_assert_str_eq(job[r].err.msg, says[_i]);
        if (_i == GIVES_UP && r != 1) ck_assert_int_eq(job[r].err.code, ERR_NOMEM);
    }
}
END_TEST

static void *wait_for_zero(void *arg)
{
    int word = 0;
    struct err *e = malloc(sizeof *e);
    *e = (struct err){0};
    comm_broadcast(arg, &word, sizeof word, 0, e);
    return e;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Ranks that wait cost nothing; a close or an abort from a thread outside the group wakes them. */
START_TEST(idle_ranks_sleep)
{
    struct comm *comm[3];
    pthread_t thread[3];
    ck_assert_int_eq(comm_local_open(3, comm, NULL), 0);
    for (int r = 1; r < 3; r++) pthread_create(&thread[r], NULL, wait_for_zero, comm[r]);
    usleep(50000);
    double before = cpu_seconds();
    usleep(400000);
    ck_assert_double_lt(cpu_seconds() - before, 0.02);
    struct err why = {.code = ERR_IO, .msg = "the lamp went out"};
    if (_i) {
        comm_abort(comm[0], &why);
    } else {
        comm_close(comm[0]);
    }
    for (int r = 1; r < 3; r++) {
        struct err *e;
        pthread_join(thread[r], (void **)&e);
        ck_assert_str_eq(e->msg, _i ? "rank 0 gave up: the lamp went out" : "rank 0 was closed");
        free(e);
    }
    for (int r = !_i; r < 3; r++) comm_close(comm[r]);
}
END_TEST

/* Once a call has failed, nobody touches its buffers any more. */
static void reduce_until_over(struct rank_job *j)
{
    enum { N = 1 << 17 };
    float *x = malloc(N * sizeof *x);
    while (!j->err.code) {
        for (size_t i = 0; i < N; i++) x[i] = 1;
        comm_all_reduce(j->comm, x, N, &j->err);
    }
    memset(x, 0x5a, N * sizeof *x);
    usleep(3000);
    for (size_t i = 0; i < N * sizeof *x; i++) j->status |= ((char *)x)[i] != 0x5a;
    free(x);
}

struct late_abort {
    struct comm *comm;
    useconds_t us;
};

static void *abort_late(void *arg)
{
    struct late_abort *a = arg;
    usleep(a->us);
    comm_abort(a->comm, &(struct err){.code = ERR_IO, .msg = "enough"});
    return NULL;
}

static void reduce_and_abort(struct rank_job *j)
{
    pthread_t thread;
    struct late_abort a = {j->comm, (useconds_t)(2000 + j->arg * 97)};
    if (j->rank == 0) pthread_create(&thread, NULL, abort_late, &a);
    reduce_until_over(j);
    if (j->rank == 0) pthread_join(thread, NULL);
}

START_TEST(buffers_are_free_after_an_error)
{
    struct rank_job job[4];
    run_group(4, reduce_and_abort, _i, job);
    for (int r = 0; r < 4; r++) {
        ck_assert_str_eq(job[r].err.msg, "rank 0 gave up: enough");
        ck_assert_int_eq(job[r].status, 0);
    }
}
END_TEST

START_TEST(refuses_bad_sizes)
{
    struct comm *comm[COMM_MAX_RANKS];
    struct err e;
    ck_assert_int_eq(comm_local_open(0, comm, &e), ERR_INVALID);
    ck_assert_int_eq(comm_local_open(COMM_MAX_RANKS + 1, comm, &e), ERR_INVALID);
    ck_assert_int_eq(comm_local_open(COMM_MAX_RANKS, comm, &e), 0);
    for (int r = 0; r < COMM_MAX_RANKS; r++) {
        ck_assert_int_eq(comm_rank(comm[r]), r);
        ck_assert_int_eq(comm_size(comm[r]), COMM_MAX_RANKS);
        comm_close(comm[r]);
    }
    comm_close(NULL);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("comm");
    TCase *t = tcase_create("local");
    tcase_add_loop_test(t, results_are_right, 0, N_SIZES);
    tcase_add_test(t, adds_in_the_order_of_ranks);
    tcase_add_loop_test(t, many_rounds, 0, N_SIZES);
    tcase_add_loop_test(t, errors_reach_every_rank, 0, N_WAYS);
    tcase_add_loop_test(t, idle_ranks_sleep, 0, 2);
    tcase_add_loop_test(t, buffers_are_free_after_an_error, 0, 15);
    tcase_add_test(t, refuses_bad_sizes);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
