/* The subcommands. Each gets what follows its name and returns the exit code: 0 done, 1 failed, 2 wrong
 * usage. */
#pragma once
#include "err.h"

int command_serve(int argc, char **argv);
int command_run(int argc, char **argv);
int command_check(int argc, char **argv);
int command_bench(int argc, char **argv);

/* Prints `error: ...` and returns code. */
int command_fail(const struct err *e, int code);
