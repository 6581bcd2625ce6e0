/* Modules: parts of inferd that need libraries which not every machine has (CUDA, MPI) are shared objects
 * that the binary opens when it wants them. A module exports one function, `const void *SYMBOL(void)`, whose
 * table begins with `int abi`. A module stays loaded until the process ends, as such libraries dislike being
 * unloaded; opening it again gives the same table. Any thread. */
#pragma once
#include "err.h"

/* Finds NAME.so in $INFERD_MODULES (nowhere else if that is set), beside the running binary, or in
 * ../lib/inferd relative to it; loads it and gives its table. A name is a plain file name, without a path.
 * ERR_NOTFOUND: no such file. ERR_UNSUPPORTED: the file is there but cannot be used; says why. */
int module_open(const char *name, const char *symbol, int abi, const void **table, struct err *e);
