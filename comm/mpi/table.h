/* What the module inferd_mpi.so gives the binary. */
#pragma once
#include "comm_ops.h"

#define COMM_MPI_SYMBOL "inferd_mpi"
enum { COMM_MPI_ABI = 1 }; /* also stands for struct comm, comm_ops, comm_call and err */

struct comm_mpi {
    int abi;
    int (*open)(struct comm **out, struct err *e);
};
