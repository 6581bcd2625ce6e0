/* Life lines between threads that play processes: what is said on one end is known at all, and so is an end
 * that goes without a word. Strangers at the door change nothing. */
#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include "clock.h"
#include "comm_ops.h"
#include "lifeline.h"
#include "lifeline_own.h"

enum { SIZE = 4 };
struct joiner {
    struct lifeline_home home;
    int rank, status, timeout_ms;
    struct lifeline *l;
    struct err err;
};

static void *join(void *arg)
{
    struct joiner *j = arg;
    j->status = lifeline_join(j->rank, SIZE, &j->home, j->timeout_ms, &j->l, &j->err);
    return NULL;
}

static void open_all(struct lifeline *l[SIZE], bool one_host)
{
    struct joiner j[SIZE];
    pthread_t thread[SIZE];
    struct err e;
    ck_assert_msg(!lifeline_listen(SIZE, one_host, &j[0].home, &l[0], &e), "%s", e.msg);
    for (int r = SIZE - 1; r > 0; r--) {
        j[r] = (struct joiner){.home = j[0].home, .rank = r, .timeout_ms = 5000};
        pthread_create(&thread[r], NULL, join, &j[r]);
    }
    ck_assert_msg(!lifeline_accept(l[0], 5000, &e), "%s", e.msg);
    for (int r = 1; r < SIZE; r++) {
        pthread_join(thread[r], NULL);
        ck_assert_msg(!j[r].status, "%s", j[r].err.msg);
        l[r] = j[r].l;
    }
}

static void close_all(struct lifeline *l[SIZE])
{
    for (int r = 0; r < SIZE; r++) lifeline_close(l[r]);
}

/* Waits for what must come at once; 1 s is the promise. */
static void ck_assert_over(struct lifeline *l, const char *why)
{
    struct err e = {0};
    for (int i = 0; i < 1000 && !lifeline_check(l, &e); i++) usleep(1000);
    ck_assert_str_eq(e.msg, why);
}

START_TEST(an_abort_reaches_all)
{
    struct lifeline *l[SIZE];
    struct err why, e;
    open_all(l, true);
    for (int r = 0; r < SIZE; r++) ck_assert_int_eq(lifeline_check(l[r], &e), 0);
    err_param(&why, ERR_NOMEM, "kv", "rank %d has no room", _i);
    lifeline_abort(l[_i], &why);
    for (int r = 0; r < SIZE; r++) {
        ck_assert_over(l[r], why.msg);
        ck_assert_int_eq(lifeline_check(l[r], &e), ERR_NOMEM);
        ck_assert_str_eq(e.param, "kv");
        lifeline_abort(l[r], &(struct err){.code = ERR_IO, .msg = "something later"});
        ck_assert_over(l[r], why.msg);
        ck_assert(!lifeline_leave(l[r], 5000)); /* at once */
    }
    close_all(l);
}
END_TEST

START_TEST(a_silent_end_reaches_all)
{
    struct lifeline *l[SIZE];
    char why[64];
    open_all(l, true);
    snprintf(why, sizeof why, "rank %d has died: its connection closed", _i);
    lifeline_close(l[_i]);
    l[_i] = NULL;
    for (int r = 0; r < SIZE; r++)
        if (l[r]) ck_assert_over(l[r], why);
    close_all(l);
}
END_TEST

START_TEST(rank_0_rings)
{
    struct lifeline *l[SIZE];
    open_all(l, true);
    for (int i = 0; i < 100; i++) {
        uint32_t seen[SIZE];
        for (int r = 1; r < SIZE; r++) seen[r] = *lifeline_bell(l[r]);
        lifeline_ring(l[0]);
        for (int r = 1; r < SIZE; r++) {
            int64_t start = clock_ns();
            while (*lifeline_bell(l[r]) == seen[r]) comm_sleep(lifeline_bell(l[r]), seen[r], 5000000000);
            ck_assert_int_lt(clock_ns() - start, 1000000000);
        }
    }
    close_all(l);
}
END_TEST

static void *leave(void *l) { return lifeline_leave(l, 5000) ? l : NULL; }

START_TEST(leaving_together)
{
    struct lifeline *l[SIZE];
    pthread_t thread[SIZE];
    struct err e;
    open_all(l, true);
    ck_assert_int_eq(lifeline_leaver(l[2]), -1);
    ck_assert(!lifeline_leave(l[1], 0));
    for (int i = 0; i < 1000 && lifeline_leaver(l[2]) < 0; i++) usleep(1000);
    ck_assert_int_eq(lifeline_leaver(l[2]), 1);
    ck_assert_int_eq(lifeline_leaver(l[0]), 1);
    ck_assert_int_eq(lifeline_leaver(l[1]), -1);
    for (int r = 0; r < SIZE; r++)
        if (r != 1) pthread_create(&thread[r], NULL, leave, l[r]);
    for (int r = 0; r < SIZE; r++) {
        void *left = NULL;
        if (r != 1) pthread_join(thread[r], &left);
        ck_assert(r == 1 || left == l[r]);
    }
    lifeline_close(l[0]);
    usleep(10000);
    for (int r = 1; r < SIZE; r++) {
        ck_assert_int_eq(lifeline_check(l[r], &e), 0); /* an end after everybody's farewell is no death */
        lifeline_close(l[r]);
    }
}
END_TEST

static int call(const struct lifeline_home *home)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = home->address[0].sin6_port};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

START_TEST(strangers_are_not_let_in)
{
    struct lifeline *l[SIZE] = {0};
    struct joiner j[SIZE];
    pthread_t thread[SIZE];
    struct err e;
    char hello[HOME_HALF + 1], answer;
    ck_assert_int_eq(lifeline_listen(SIZE, true, &j[0].home, &l[0], &e), 0);
    int silent = call(&j[0].home), wrong = call(&j[0].home), outside = call(&j[0].home);
    memcpy(hello, j[0].home.secret, HOME_HALF);
    hello[HOME_HALF] = SIZE; /* no such rank */
    ck_assert_int_eq(send(outside, hello, sizeof hello, 0), sizeof hello);
    hello[0] ^= 1;
    hello[HOME_HALF] = 1;
    ck_assert_int_eq(send(wrong, hello, sizeof hello, 0), sizeof hello);
    for (int r = 1; r < SIZE; r++) {
        j[r] = (struct joiner){.home = j[0].home, .rank = r, .timeout_ms = 5000};
        pthread_create(&thread[r], NULL, join, &j[r]);
    }
    ck_assert_msg(!lifeline_accept(l[0], 5000, &e), "%s", e.msg);
    for (int r = 1; r < SIZE; r++) {
        pthread_join(thread[r], NULL);
        ck_assert_msg(!j[r].status, "%s", j[r].err.msg);
        l[r] = j[r].l;
    }
    ck_assert_int_eq(recv(wrong, &answer, 1, 0), 0);
    ck_assert_int_eq(recv(outside, &answer, 1, 0), 0);
    close(silent);
    close(wrong);
    close(outside);
    close_all(l);
}
END_TEST

START_TEST(a_rank_that_does_not_come)
{
    struct joiner j[SIZE];
    pthread_t thread;
    struct lifeline *l;
    struct err e;
    ck_assert_int_eq(lifeline_listen(SIZE, true, &j[0].home, &l, &e), 0);
    j[1] = (struct joiner){.home = j[0].home, .rank = 1, .timeout_ms = 5000};
    pthread_create(&thread, NULL, join, &j[1]);
    ck_assert_int_eq(lifeline_accept(l, 300, &e), ERR_IO);
    ck_assert_str_eq(e.msg, "rank 2 could not reach rank 0 over TCP");
    lifeline_close(l);
    pthread_join(thread, NULL);
    ck_assert_int_eq(j[1].status, ERR_IO);
    /* and nobody at home */
    j[1].timeout_ms = 100;
    join(&j[1]);
    ck_assert_str_eq(j[1].err.msg, "rank 1 could not reach rank 0 over TCP");
}
END_TEST

/* A rank of another version, or a broken one, says anything at all to rank 0. */
START_TEST(any_bytes_do_no_harm)
{
    struct lifeline *l[SIZE];
    struct err e;
    open_all(l, true);
    unsigned seed = (unsigned)_i;
    for (int n = 0; n < 200; n++) {
        char bytes[700];
        size_t len = 1 + (size_t)rand_r(&seed) % sizeof bytes;
        for (size_t i = 0; i < len; i++)
            bytes[i] = (char)(rand_r(&seed) % 8 ? "rlea"[rand_r(&seed) % 4] : rand_r(&seed));
        if (send(l[1]->peer[0].fd, bytes, len, MSG_NOSIGNAL) < 0) break;
    }
    lifeline_abort(l[2], &(struct err){.code = ERR_IO, .msg = "rank 2 gave up"});
    for (int i = 0; i < 1000 && !lifeline_check(l[3], &e); i++) usleep(1000);
    ck_assert_int_lt(lifeline_check(l[3], &e), 0);
    ck_assert(memchr(e.msg, 0, sizeof e.msg) && memchr(e.param, 0, sizeof e.param));
    close_all(l);
}
END_TEST

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

START_TEST(watching_costs_nothing)
{
    struct lifeline *l[SIZE];
    open_all(l, true);
    double before = cpu_seconds();
    usleep(300000);
    ck_assert_double_lt(cpu_seconds() - before, 0.01);
    close_all(l);
}
END_TEST

/* The same over this host's network addresses, if it has any. */
START_TEST(several_hosts)
{
    struct lifeline *l[SIZE];
    struct lifeline_home home;
    struct err e;
    if (lifeline_listen(SIZE, false, &home, &l[0], &e)) {
        ck_assert_str_eq(e.msg, "this host has no network address for the other ranks");
        return;
    }
    lifeline_close(l[0]);
    open_all(l, false);
    lifeline_close(l[3]);
    l[3] = NULL;
    ck_assert_over(l[1], "rank 3 has died: its connection closed");
    close_all(l);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("lifeline");
    TCase *t = tcase_create("lifeline");
    tcase_add_loop_test(t, an_abort_reaches_all, 0, SIZE);
    tcase_add_loop_test(t, a_silent_end_reaches_all, 0, SIZE);
    tcase_add_test(t, rank_0_rings);
    tcase_add_test(t, leaving_together);
    tcase_add_test(t, strangers_are_not_let_in);
    tcase_add_test(t, a_rank_that_does_not_come);
    tcase_add_loop_test(t, any_bytes_do_no_harm, 0, 10);
    tcase_add_test(t, watching_costs_nothing);
    tcase_add_test(t, several_hosts);
    tcase_set_timeout(t, 30);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
