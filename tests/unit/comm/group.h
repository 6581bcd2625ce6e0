/* Runs one function on every rank of a group of threads. */
#pragma once
#include "comm.h"

struct rank_job;
typedef void rank_fn(struct rank_job *job);
struct rank_job {
    struct comm *comm;
    int rank, size, arg; /* arg: the same for all */
    struct err err;      /* the function's result, as it likes */
    int status;
};

/* Opens a group, runs fn in size threads, closes all and fills job[size] with what each left. */
void run_group(int size, rank_fn *fn, int arg, struct rank_job *job);

/* What rank r brings as element i: sums of it depend on the order of adding. */
float sample(int r, size_t i);
/* The sum over ranks, in their order. */
float sample_sum(int size, size_t i);

/* Every call at many lengths, with the results checked. Returns 0, or -1 and says in e what was wrong. */
int check_all_calls(struct comm *c, const size_t *lengths, int n, struct err *e);
