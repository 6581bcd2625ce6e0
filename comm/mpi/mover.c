/* The thread that calls MPI, which knows only to look again. */
#include <sched.h>
#include <string.h>
#include "clock.h"
#include "mpi_own.h"

/* From the beginning of a wait, or from the last bell: looks without a pause as long as waits within a step
 * last, then lets other threads have the core, then sleeps longer and longer. A follower between requests
 * sleeps until the bell; it looks once in a while all the same. */
enum { US = 1000, MS = 1000 * US };
enum { SPIN = 200 * US, YIELD = 2 * MS, IDLE = 100 * MS };
enum { SHORTEST = 50 * US, LONGEST = 1 * MS, IDLE_SLEEP = 500 * MS };
/* How long the last messages of a rank that has closed may take. */
enum { LAST_WORDS = 300 * MS };
static int explain(const struct mpi *m, int n, int mpi_status, struct err *e)
{
    for (int i = 0; mpi_status == MPI_ERR_IN_STATUS && i < n; i++) {
        int one = m->status[i].MPI_ERROR;
        if (one != MPI_SUCCESS && one != MPI_ERR_PENDING) mpi_status = one;
    }
    return mpi_failed(mpi_status, "a message", e);
}

static int wait_for(struct mpi *m, int n, MPI_Request *request, struct err *e)
{
    _Atomic uint32_t *bell = lifeline_bell(m->life);
    int64_t since = clock_ns(), sleep = SHORTEST;
    uint32_t heard = *bell;
    for (;;) {
        uint32_t seen = *bell;
        int done, status;
        if ((status = lifeline_check(m->life, e))) return status;
        if ((status = MPI_Testall(n, request, &done, m->status))) return explain(m, n, status, e);
        if (done) return 0;
        int64_t now = clock_ns();
        if (seen != heard) {
            heard = seen;
            since = now;
            sleep = SHORTEST;
        }
        if (now - since > LAST_WORDS && lifeline_leaver(m->life) >= 0)
            return err_set(e, ERR_CLOSED, "rank %d was closed", lifeline_leaver(m->life));
        if (now - since < SPIN) {
            comm_relax();
        } else if (now - since < YIELD) {
            sched_yield();
        } else {
            comm_sleep(bell, seen, m->idle && now - since > IDLE ? IDLE_SLEEP : sleep);
            sleep = sleep * 2 < LONGEST ? sleep * 2 : LONGEST;
        }
    }
}

static int move(struct mpi *m, struct err *e)
{
    MPI_Request request[2 * COMM_MAX_RANKS];
    int n = 0, status = 0;
    for (int i = 0; !status && i < m->n_in; i++)
        status = MPI_Irecv(&m->in[m->in_peer[i]], sizeof *m->in, MPI_BYTE, m->in_peer[i], 0, m->world,
                           &request[n++]);
    for (int i = 0; !status && i < m->n_out; i++) {
        const struct packet *p = m->out_packet[i];
        status =
            MPI_Isend(p, (int)(PACKET_HEAD + p->n), MPI_BYTE, m->out_peer[i], 0, m->world, &request[n++]);
    }
    return status ? mpi_failed(status, "a message", e) : wait_for(m, n, request, e);
}

/* Until the count has passed `seen`, but not for long. */
static void spin(_Atomic uint32_t *count, uint32_t seen)
{
    for (int64_t end = clock_ns() + SPIN; clock_ns() < end && atomic_load(count) == seen;) sched_yield();
}

static void *mover_main(void *arg)
{
    struct mpi *m = arg;
    _Atomic uint32_t *bell = lifeline_bell(m->life);
    for (uint32_t n = 0;; n++) {
        spin(&m->asked, n);
        while (atomic_load(&m->asked) == n) comm_sleep(&m->asked, n, -1);
        if (m->quit) return NULL;
        m->result = move(m, &m->failure);
        atomic_store(&m->done, n + 1);
        /* The caller sleeps on the bell, so that the end of the group wakes it as well. */
        atomic_fetch_add(bell, 1);
        comm_wake(bell);
    }
}

int mover_start(struct mpi *m, struct err *e)
{
    int status = pthread_create(&m->mover, NULL, mover_main, m);
    return status ? err_set(e, ERR_IO, "cannot start the thread for MPI: %s", strerror(status)) : 0;
}

void mover_stop(struct mpi *m)
{
    m->quit = true;
    atomic_fetch_add(&m->asked, 1);
    comm_wake(&m->asked);
    pthread_join(m->mover, NULL);
}

int mover_run(struct mpi *m, struct err *e)
{
    _Atomic uint32_t *bell = lifeline_bell(m->life);
    uint32_t seen = atomic_load(&m->done);
    atomic_fetch_add(&m->asked, 1);
    comm_wake(&m->asked);
    spin(&m->done, seen);
    for (;;) {
        uint32_t heard = *bell;
        int status = lifeline_check(m->life, e);
        if (status) return status;
        if (atomic_load(&m->done) != seen) break;
        comm_sleep(bell, heard, -1);
    }
    if (m->result) *e = m->failure;
    return m->result;
}
