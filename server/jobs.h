/* A few threads for work that would keep the HTTP thread from answering others: large bodies. Jobs run in the
 * order they came; the job's memory is its owner's. */
#pragma once
#include "err.h"

struct job {
    void (*run)(struct job *j);
    struct job *next;
};
struct jobs;
int jobs_open(int n_thread, struct jobs **out, struct err *e);
void jobs_add(struct jobs *js, struct job *j); /* any thread */
void jobs_close(struct jobs *js);              /* finishes what was added, joins; NULL is fine */
