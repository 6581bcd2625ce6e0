#include <stdlib.h>
#include <string.h>
#include "mpi_own.h"
#include "table.h"

enum { START_MS = 30000, LEAVE_MS = 30000 };

int mpi_failed(int mpi_status, const char *what, struct err *e)
{
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (MPI_Error_string(mpi_status, text, &n)) n = 0;
    return err_set(e, ERR_IO, "MPI: %s failed: %.*s", what, n, text);
}

static void mpi_abort(struct comm *c, const struct err *why) { lifeline_abort(((struct mpi *)c)->life, why); }

/* Without everybody's farewell MPI_Finalize could wait for ever, and the mover may be lost in MPI: then all
 * stays as it is until the process ends. */
static void mpi_close(struct comm *c)
{
    struct mpi *m = (struct mpi *)c;
    if (!lifeline_leave(m->life, LEAVE_MS)) {
        struct err why;
        err_set(&why, ERR_CLOSED, "rank %d was closed", c->rank);
        lifeline_abort(m->life, &why);
        return;
    }
    mover_stop(m);
    lifeline_close(m->life);
    MPI_Comm_free(&m->world);
    MPI_Finalize();
    free(m->in);
    m->in = m->out = NULL;
    m->life = NULL;
}

static int open_packets(struct mpi *m, struct err *e)
{
    size_t bytes = (size_t)m->comm.size * 2 * sizeof *m->in;
    m->in = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!m->in) return err_set(e, ERR_NOMEM, "out of memory");
    m->out = m->in + m->comm.size;
    return 0;
}

static int open_lifelines(struct mpi *m, struct err *e)
{
    enum { HOST = 64 };
    int rank = m->comm.rank, size = m->comm.size;
    char own[HOST], host[COMM_MAX_RANKS][HOST];
    lifeline_host(own);
    int status = MPI_Allgather(own, HOST, MPI_BYTE, host, HOST, MPI_BYTE, m->world);
    if (status) return mpi_failed(status, "MPI_Allgather", e);
    bool one_host = true;
    for (int r = 1; r < size; r++) one_host = one_host && !memcmp(host[r], host[0], HOST);

    struct lifeline_home home = {0}; /* without addresses: rank 0 could not listen */
    int listening = rank == 0 ? lifeline_listen(size, one_host, &home, &m->life, e) : 0;
    status = MPI_Bcast(&home, sizeof home, MPI_BYTE, 0, m->world);
    if (listening) return listening;
    if (status) return mpi_failed(status, "MPI_Bcast", e);
    if (rank == 0) return lifeline_accept(m->life, START_MS, e);
    if (!home.n || home.n > HOME_ADDRESSES) return err_set(e, ERR_IO, "rank 0 could not start");
    return lifeline_join(rank, size, &home, START_MS, &m->life, e);
}

static int open_mpi(struct comm **out, struct err *e)
{
    static const struct comm_ops ops = {mpi_run, mpi_abort, mpi_close};
    static struct mpi mpi; /* MPI itself can be started only once */
    struct mpi *m = &mpi;
    int level, status;
    if (m->comm.ops) return err_set(e, ERR_INVALID, "MPI can be opened only once");
    m->comm.ops = &ops;
    /* Opened and closed by the caller, used by the mover: one at a time. */
    if ((status = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level)))
        return mpi_failed(status, "MPI_Init_thread", e);
    if (level < MPI_THREAD_SERIALIZED)
        return err_set(e, ERR_UNSUPPORTED, "this MPI does not allow calls from more than one thread");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if ((status = MPI_Comm_dup(MPI_COMM_WORLD, &m->world))) return mpi_failed(status, "MPI_Comm_dup", e);
    MPI_Comm_set_errhandler(m->world, MPI_ERRORS_RETURN);
    MPI_Comm_rank(m->world, &m->comm.rank);
    MPI_Comm_size(m->world, &m->comm.size);
    if (m->comm.size > COMM_MAX_RANKS)
        return err_set(e, ERR_INVALID, "%d processes: at most %d can be ranks", m->comm.size, COMM_MAX_RANKS);
    if ((status = open_packets(m, e)) || (status = open_lifelines(m, e)) || (status = mover_start(m, e))) {
        lifeline_close(m->life);
        return status;
    }
    *out = &m->comm;
    return 0;
}

__attribute__((visibility("default"))) const void *inferd_mpi(void);
const void *inferd_mpi(void)
{
    static const struct comm_mpi table = {COMM_MPI_ABI, open_mpi};
    return &table;
}
