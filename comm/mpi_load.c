#include <stdlib.h>
#include "comm.h"
#include "module.h"
#include "mpi/table.h"

static bool more_than_one(const char *variable)
{
    const char *value = getenv(variable);
    return value && strtol(value, NULL, 10) > 1;
}

/* Open MPI's mpirun; launchers that speak PMI; Slurm's srun with PMIx, which says the size in a variable of
 * its own, also where its processes do not use MPI. */
bool comm_mpi_started(void)
{
    return more_than_one("OMPI_COMM_WORLD_SIZE") || more_than_one("PMI_SIZE") ||
           ((getenv("PMIX_RANK") || getenv("PMI_RANK")) &&
            (more_than_one("SLURM_STEP_NUM_TASKS") || more_than_one("SLURM_NTASKS")));
}

int comm_mpi_open(struct comm **out, struct err *e)
{
    const void *table;
    *out = NULL;
    int status = module_open("inferd_mpi", COMM_MPI_SYMBOL, COMM_MPI_ABI, &table, e);
    return status ? status : ((const struct comm_mpi *)table)->open(out, e);
}
