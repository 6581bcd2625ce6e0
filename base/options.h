/* The options of all commands, from one table (options.def): defaults, then the config file, then the
 * environment (INFERD_NAME), then the command line. Read at start by one thread; plain data afterwards. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"

typedef char *option_STR;
typedef int option_INT;
typedef double option_NUM;
typedef int64_t option_SIZE; /* bytes or tokens: 4096, 32k, 1.5GiB */
typedef bool option_BOOL;

struct options {
#define X(field, type, flag, metavar, def, commands, help) option_##type field;
#include "options.def"
#undef X
    char **arg; /* positional arguments, into argv */
    int n_arg;
};

void options_free(struct options *o);
/* Fills o for a command ('S', 'R', 'C', 'B'): every source in its order. argv holds what follows the
 * command's name. ERR_INVALID names the option. o must be freed whatever is returned. */
int options_load(struct options *o, char command, int argc, char **argv, struct err *e);
void options_help(char command, struct buf *out); /* the OPTIONS part of `inferd COMMAND --help` */
void options_markdown(struct buf *out);           /* the table of docs/api.md */
int options_parse_size(const char *text,
                       int64_t *out); /* "4096", "32k" (1000), "32KiB", "1.5GiB"; ERR_INVALID */
