/* Ranks that are processes: mpirun starts mpi_ranks, which reports what happened to it. test_mpi RANKS
 * MODULES, with the paths of mpi_ranks and of the folder of the module. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *ranks;
static char folder[64];

struct report {
    bool there;
    int status;
    long long ns;
    double cpu;
    char message[400];
};

/* Which way MPI goes: shared memory, or TCP as between hosts. */
static const char *const ways[] = {"self,vader", "self,tcp"};
enum { MEMORY, TCP, N_WAYS };

/* Returns mpirun's exit status, and what each rank wrote. */
static int run(const char *what, int n, int way, struct report *report)
{
    char number[8], path[96];
    snprintf(number, sizeof number, "%d", n);
    snprintf(path, sizeof path, "%s/out", folder);
    for (int r = 0; r < n; r++) {
        char old[96];
        snprintf(old, sizeof old, "%s/%d", folder, r);
        unlink(old); /* of a run before */
    }
    pid_t pid = fork();
    if (pid == 0) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        execl(MPIRUN, "mpirun", "-n", number, "--oversubscribe", "--bind-to", "none", "--mca", "plm",
              "isolated", "--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo", "--mca",
              "btl", ways[way], ranks, what, folder, (char *)NULL);
        _exit(126);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    memset(report, 0, (size_t)n * sizeof *report);
    for (int r = 0; r < n; r++) {
        snprintf(path, sizeof path, "%s/%d", folder, r);
        FILE *f = fopen(path, "r");
        if (!f) continue;
        struct report *p = &report[r];
        p->there = fscanf(f, "%d %lld %lf %399[^\n]", &p->status, &p->ns, &p->cpu, p->message) >= 3;
        fclose(f);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* What mpirun and the ranks printed, for a test that failed. */
static const char *output(void)
{
    static char text[4096];
    char path[96];
    snprintf(path, sizeof path, "%s/out", folder);
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(fd);
    return text;
}

/* How many processes of this test's groups still run. */
static int n_running(void)
{
    int n = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *d; (d = readdir(proc));) {
        char path[300], line[1000] = "";
        snprintf(path, sizeof path, "/proc/%s/cmdline", d->d_name);
        int fd = open(path, O_RDONLY);
        ssize_t len = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
        if (fd >= 0) close(fd);
        if (len > 0 && atol(d->d_name) != getpid() && memmem(line, (size_t)len, folder, strlen(folder))) n++;
    }
    closedir(proc);
    return n;
}

static int n_shared(void)
{
    int n = 0;
    DIR *shm = opendir("/dev/shm");
    if (!shm) return 0;
    for (struct dirent *d; (d = readdir(shm));) n += !!strstr(d->d_name, "vader");
    closedir(shm);
    return n;
}

static void setup(void)
{
    snprintf(folder, sizeof folder, "/tmp/inferd-mpi-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void teardown(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
    for (int i = 0; i < 50 && n_running(); i++) usleep(100000);
    ck_assert_int_eq(n_running(), 0);
}

START_TEST(results_are_right)
{
    static const struct {
        int n, way;
    } cases[] = {{2, MEMORY}, {4, MEMORY}, {2, TCP}, {3, TCP}};
    struct report r[4];
    int n = cases[_i].n, status = run("calls", n, cases[_i].way, r);
    for (int i = 0; i < n; i++)
        ck_assert_msg(r[i].there && !r[i].status, "rank %d: %s\n%s", i, r[i].message, output());
    ck_assert_msg(status == 0, "mpirun: %d\n%s", status, output());
}
END_TEST

/* A follower's 1.75 s of waiting, and what it hears then. */
START_TEST(idle_ranks_sleep)
{
    struct report r[3];
    ck_assert_msg(run("idle", 3, _i, r) == 0, "%s", output());
    for (int i = 1; i < 3; i++) {
        ck_assert(r[i].there);
        ck_assert_double_lt(r[i].cpu, 0.05);
        ck_assert_int_lt(atoll(r[i].message), 200000000);
    }
}
END_TEST

/* Every rank but the odd one has the error, and nothing is left behind. */
static void fails(const char *what, int n, int way, int odd, const char *message)
{
    struct report r[4];
    int shared = n_shared();
    ck_assert_int_ne(run(what, n, way, r), 0);
    for (int i = 0; i < n; i++) {
        if (i == odd || (i > 0 && odd >= 0 && way == TCP && !r[i].there))
            continue; /* MPI may end a follower */
        ck_assert_msg(r[i].there, "%s: rank %d has said nothing\n%s", what, i, output());
        ck_assert_msg(r[i].status && strstr(r[i].message, message), "%s: rank %d: %s", what, i, r[i].message);
        if (odd >= 0) ck_assert_int_lt(r[i].ns - r[odd].ns, 1000000000);
    }
    ck_assert_int_eq(n_shared(), shared);
}

START_TEST(errors_reach_every_rank)
{
    fails("abort", 4, _i, -1, "rank 3 gave up: out of paper");
    fails("abort-first", 3, _i, -1, "rank 0 gave up: out of paper");
    if (_i == TCP) return;
    fails("differ", 3, _i, -1, "the ranks disagree: rank ");
    fails("close-early", 3, _i, 2, "rank 2 was closed");
}
END_TEST

/* Two ranks over TCP are the hard case: the connection of MPI itself closes with the life line. */
START_TEST(a_killed_rank_is_noticed)
{
    if (_i == TCP) fails("kill-last", 2, _i, 1, "rank 1 has died: its connection closed");
    fails("kill-last", 4, _i, 3, "rank 3 has died: its connection closed");
    fails("kill-first", 3, _i, 0, "rank 0 has died: its connection closed");
}
END_TEST

int main(int argc, char **argv)
{
    if (!*MPIRUN) {
        printf("skipped: no MPI on this machine\n");
        return 77;
    }
    if (argc != 3) return 2;
    ranks = argv[1];
    setenv("INFERD_MODULES", argv[2], 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* MPI's own */
    Suite *s = suite_create("mpi");
    TCase *t = tcase_create("mpi");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, results_are_right, 0, 4);
    tcase_add_loop_test(t, idle_ranks_sleep, 0, N_WAYS);
    tcase_add_loop_test(t, errors_reach_every_rank, 0, N_WAYS);
    tcase_add_loop_test(t, a_killed_rank_is_noticed, 0, N_WAYS);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
