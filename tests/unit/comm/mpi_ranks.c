/* One process of a group, started by test_mpi through mpirun: mpi_ranks WHAT FOLDER. Writes what became of it
 * to FOLDER/RANK: status, time in ns at which it was known, CPU seconds, message. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "clock.h"
#include "group.h"

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static int calls(struct comm *c, struct err *e)
{
    static const size_t lengths[] = {0, 1, 2, 17, 4097, 8192, 8193, 65536, 65537, 600001};
    int status = check_all_calls(c, lengths, sizeof lengths / sizeof *lengths, e);
    for (int i = 0; !status && i < 3000; i++) {
        float x[64];
        int size = comm_size(c);
        for (int k = 0; k < 64; k++) x[k] = (float)(i + comm_rank(c));
        status = comm_all_reduce(c, x, 64, e);
        if (!status && x[63] != (float)(i * size + size * (size - 1) / 2))
            status = err_set(e, -1, "round %d is wrong", i);
    }
    return status;
}

static void report(const char *folder, int rank, int status, double cpu, const char *message)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%d", folder, rank);
    FILE *f = fopen(path, "w");
    if (!f) return;
    fprintf(f, "%d %lld %f %s\n", status, (long long)clock_ns(), cpu, message);
    fclose(f);
}

/* The victim, if there is one, is killed in the middle of it. */
static int reduce_for_ever(struct comm *c, int victim, const char *folder, struct err *e)
{
    static float x[20000];
    for (int i = 0, status;; i++) {
        if (i == 500 && comm_rank(c) == victim) {
            report(folder, victim, 0, 0, "killed");
            kill(getpid(), SIGKILL);
        }
        if ((status = comm_all_reduce(c, x, 20000, e))) return status;
    }
}

static void *give_up(void *comm)
{
    usleep(200000);
    comm_abort(comm, &(struct err){.code = ERR_NOMEM, .msg = "out of paper"});
    return NULL;
}

/* A thread of the last rank, or of the first, gives up while that rank makes no call and all others wait for
 * it. */
static int wait_and_give_up(struct comm *c, bool first, struct err *e)
{
    pthread_t thread;
    int word = 0;
    if (comm_rank(c) == (first ? 0 : comm_size(c) - 1)) {
        pthread_create(&thread, NULL, give_up, c);
        pthread_join(thread, NULL);
    }
    return first ? comm_broadcast(c, &word, sizeof word, 0, e) : comm_barrier(c, e);
}

/* Followers sleep until rank 0 speaks: the CPU time until then, and how late they hear it. */
static int idle(struct comm *c, double *cpu, struct err *e)
{
    int64_t said = 0;
    if (comm_barrier(c, e)) return e->code;
    if (comm_rank(c) == 0) {
        usleep(1750000);
        said = clock_ns();
    }
    double before = cpu_seconds();
    int status = comm_broadcast(c, &said, sizeof said, 0, e);
    *cpu = comm_rank(c) ? cpu_seconds() - before : 0;
    if (!status) err_set(e, 0, "%lld", (long long)(clock_ns() - said));
    if (comm_rank(c) == 0) usleep(600000); /* so that nothing else wakes them */
    return status;
}

int main(int argc, char **argv)
{
    struct comm *c;
    struct err e = {0};
    double cpu = 0;
    int status = 0;
    if (argc != 3 || !comm_mpi_started()) return 2;
    const char *what = argv[1], *folder = argv[2];
    /* mpirun sends SIGTERM when a rank has ended; a server drains then. */
    signal(SIGTERM, SIG_IGN);
    if (comm_mpi_open(&c, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 3;
    }
    int rank = comm_rank(c), last = comm_size(c) - 1;
    if (!strcmp(what, "calls")) status = calls(c, &e);
    if (!strcmp(what, "idle")) status = idle(c, &cpu, &e);
    if (!strncmp(what, "abort", 5)) status = wait_and_give_up(c, what[5], &e);
    if (!strcmp(what, "kill-last")) status = reduce_for_ever(c, last, folder, &e);
    if (!strcmp(what, "kill-first")) status = reduce_for_ever(c, 0, folder, &e);
    if (!strcmp(what, "differ"))
        status = rank == last ? comm_barrier(c, &e) : comm_all_reduce(c, (float[2]){0}, 2, &e);
    if (!strcmp(what, "close-early") && rank != last) status = reduce_for_ever(c, -1, folder, &e);
    report(folder, rank, status, cpu, e.msg);
    comm_close(c);
    return status ? EXIT_FAILURE : EXIT_SUCCESS;
}
