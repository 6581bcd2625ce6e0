/* From options to a running engine, step by step, for the commands of main.c. One thread; the struct owns
 * everything that it opened, and launch_close frees it in the right order whatever was reached. */
#pragma once
#include "backend.h"
#include "engine.h"
#include "options.h"

struct workers; /* launch_ranks.c */
struct launch {
    struct options opt;
    char *path;                 /* of the model */
    struct comm *comm;          /* the way to the model's other ranks, or NULL */
    struct workers *workers;    /* ranks that are threads of this process, or NULL */
    int sharers;                /* ranks that compute on the same cores, this one counted */
    int local;                  /* ranks below this one on its host: the number of its device */
    const volatile int *cancel; /* of a worker's loading */
    struct pool *pool;
    struct backend *backend;
    struct model *model;
    struct metrics *metrics;
    struct template *tmpl; /* NULL = none */
    struct engine *engine;
};

/* Options of a command, logging, and the checks that need no file. */
int launch_options(struct launch *l, char command, int argc, char **argv, struct err *e);
/* The model's path: what was given, if it exists, else a name under the model cache. */
int launch_find(struct launch *l, struct err *e);
/* Makes this process one rank of several where the options or mpirun say so: l->comm is there then, and only
 * rank 0 goes on as if it were alone; the others call launch_work. processes: whether the command can do that
 * at all. Before launch_backend; ranks that are threads begin in launch_model. */
int launch_ranks(struct launch *l, bool processes, struct err *e);
/* The life of a rank that is not 0, until rank 0 ends or fails. */
int launch_work(struct launch *l, const volatile int *cancel, struct err *e);
int launch_backend(struct launch *l, struct err *e);
/* cancel: see model_options. metadata_only loads no weights. */
int launch_model(struct launch *l, bool metadata_only, const volatile int *cancel, struct err *e);
/* The template of --chat-template, else the model's. A model's template that does not compile is no reason
 * not to serve: a warning says so, completions go on. */
int launch_template(struct launch *l, struct err *e);
int launch_engine_config(const struct launch *l, struct engine_config *c, struct err *e);
int launch_engine(struct launch *l, struct err *e);
void launch_close(struct launch *l);
/* Between launch.c and launch_ranks.c. */
void launch_close_rank(struct launch *l); /* all but what is shared with other ranks */
int launch_workers(struct launch *l, struct err *e);
void launch_close_workers(struct launch *l); /* after launch_close_rank of rank 0 has told them to stop */
void launch_budget(const struct engine_info *info, struct buf *out); /* several lines */
