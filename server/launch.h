/* From options to a running engine, step by step, for the commands of main.c. One thread; the struct owns
 * everything that it opened, and launch_close frees it in the right order whatever was reached. */
#pragma once
#include "backend.h"
#include "engine.h"
#include "options.h"

struct launch {
    struct options opt;
    char *path; /* of the model */
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
int launch_backend(struct launch *l, struct err *e);
/* cancel: see model_options. metadata_only loads no weights. */
int launch_model(struct launch *l, bool metadata_only, const volatile int *cancel, struct err *e);
/* The template of --chat-template, else the model's. A model's template that does not compile is no reason
 * not to serve: a warning says so, completions go on. */
int launch_template(struct launch *l, struct err *e);
int launch_engine_config(const struct launch *l, struct engine_config *c, struct err *e);
int launch_engine(struct launch *l, struct err *e);
void launch_close(struct launch *l);
void launch_budget(const struct engine_info *info, struct buf *out); /* several lines */
