/* A listening TCP socket. */
#pragma once
#include "err.h"

/* Tries every address of host. port 0: any free one; *bound says which. ERR_IO names the option at fault. */
int listen_open(const char *host, int port, int *fd, int *bound, struct err *e);
