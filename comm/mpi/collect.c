/* The collective calls, made of exchanges between pairs. Direct, without trees: a group is a few hosts, and
 * every further hop would cost a decode step the network's latency. MPI's own reductions are of no use, since
 * their order of summation is up to them. */
#include <string.h>
#include "mpi_own.h"

/* Up to here every rank sends its whole x to all, in one round; beyond, each adds up its share, in two
 * rounds, which moves less. Two ranks send the same amount either way. */
enum { ONE_ROUND = 32 << 10 };

static void fill(struct mpi *m, int peer, const void *data, size_t n)
{
    m->out[peer].n = n;
    if (n) memcpy(m->out[peer].data, data, n);
}

static void receive(struct mpi *m, int peer) { m->in_peer[m->n_in++] = peer; }

/* The packet filled for `slot` goes to peer. */
static void send_to(struct mpi *m, const struct comm_call *call, int slot, int peer)
{
    struct packet *p = &m->out[slot];
    p->call = *call;
    p->exchange = m->exchange;
    m->out_peer[m->n_out] = peer;
    m->out_packet[m->n_out++] = p;
}

/* Whether what came from a peer belongs to this exchange. */
static int inspect(const struct mpi *m, const struct comm_call *call, int peer, const MPI_Status *status,
                   struct err *e)
{
    const struct packet *p = &m->in[peer];
    int n;
    if (MPI_Get_count(status, MPI_BYTE, &n) || n < (int)PACKET_HEAD || p->n != (size_t)n - PACKET_HEAD)
        return err_set(e, ERR_FORMAT, "rank %d sent something strange: is it of another version?", peer);
    if (memcmp(&p->call, call, sizeof *call)) return comm_differ(m->comm.rank, call, peer, &p->call, e);
    if (p->exchange != m->exchange)
        return err_set(e, ERR_INVALID, "the ranks disagree: rank %d is at exchange %llu, rank %d at %llu",
                       m->comm.rank, (unsigned long long)m->exchange, peer, (unsigned long long)p->exchange);
    return 0;
}

/* Does the exchange that receive and send_to have set up. */
static int run(struct mpi *m, const struct comm_call *call, struct err *e)
{
    m->idle = call->op == COMM_BROADCAST && call->root == 0 && m->comm.rank;
    int status = mover_run(m, e);
    if (status) return status;
    for (int i = 0; !status && i < m->n_in; i++) status = inspect(m, call, m->in_peer[i], &m->status[i], e);
    m->exchange++;
    m->n_in = m->n_out = 0;
    return status;
}

/* Every rank sends a packet to every other. one: out[0] to all; otherwise out[peer]. */
static int exchange(struct mpi *m, const struct comm_call *call, bool one, struct err *e)
{
    /* Begin with the next rank, so that not all send to rank 0 at first. */
    for (int i = 1; i < m->comm.size; i++) {
        int peer = (m->comm.rank + i) % m->comm.size;
        receive(m, peer);
        send_to(m, call, one ? 0 : peer, peer);
    }
    return run(m, call, e);
}

static size_t at_most(size_t n, size_t max) { return n < max ? n : max; }

static int all_gather(struct mpi *m, const struct comm_call *call, const char *part, char *all, struct err *e)
{
    size_t bytes = call->bytes, at = 0, n;
    do {
        n = at_most(bytes - at, PACKET_DATA);
        fill(m, 0, part + at, n);
        int status = exchange(m, call, true, e);
        if (status) return status;
        for (int r = 0; r < m->comm.size; r++)
            if (r != m->comm.rank && n) memcpy(all + bytes * r + at, m->in[r].data, n);
    } while ((at += n) < bytes);
    char *own = all + bytes * m->comm.rank;
    if (bytes && own != part) memcpy(own, part, bytes);
    return 0;
}

static int all_to_all(struct mpi *m, const struct comm_call *call, const char *out, char *in, struct err *e)
{
    size_t bytes = call->bytes, at = 0, n;
    int size = m->comm.size, rank = m->comm.rank;
    do {
        n = at_most(bytes - at, PACKET_DATA);
        for (int r = 0; r < size; r++) fill(m, r, out + bytes * r + at, n);
        int status = exchange(m, call, false, e);
        if (status) return status;
        for (int r = 0; r < size; r++)
            if (n) memcpy(in + bytes * r + at, (r == rank ? m->out : m->in)[r].data, n);
    } while ((at += n) < bytes);
    return 0;
}

static int broadcast(struct mpi *m, const struct comm_call *call, char *data, struct err *e)
{
    size_t at = 0, n;
    int root = call->root;
    bool is_root = m->comm.rank == root;
    do {
        n = at_most(call->bytes - at, PACKET_DATA);
        if (is_root) {
            fill(m, 0, data + at, n);
            for (int r = 0; r < m->comm.size; r++)
                if (r != root) send_to(m, call, 0, r);
            if (root == 0) lifeline_ring(m->life);
        } else {
            receive(m, root);
        }
        int status = run(m, call, e);
        if (status) return status;
        if (!is_root && n) memcpy(data + at, m->in[root].data, n);
    } while ((at += n) < call->bytes);
    return 0;
}

/* Adds what each rank sent, and the own x in its place. */
static void add_up(struct mpi *m, const float *own, size_t n, float *sum)
{
    const float *in[COMM_MAX_RANKS] = {0};
    for (int r = 0; r < m->comm.size; r++)
        in[r] = r == m->comm.rank ? own : (const float *)(const void *)m->in[r].data;
    comm_sum(in, m->comm.size, n, sum);
}

static int reduce_in_one(struct mpi *m, const struct comm_call *call, float *x, size_t n, struct err *e)
{
    fill(m, 0, x, n * sizeof *x);
    int status = exchange(m, call, true, e);
    if (!status) add_up(m, x, n, x);
    return status;
}

/* share: how many elements a rank adds up; the last ranks' may be short or empty. */
static int reduce_in_two(struct mpi *m, const struct comm_call *call, float *x, size_t n, size_t share,
                         struct err *e)
{
    size_t begin[COMM_MAX_RANKS + 1];
    int size = m->comm.size, rank = m->comm.rank;
    for (int r = 0; r <= size; r++) begin[r] = at_most(share * r, n);
    for (int r = 0; r < size; r++) fill(m, r, x + begin[r], (begin[r + 1] - begin[r]) * sizeof *x);
    int status = exchange(m, call, false, e);
    if (status) return status;
    float *own = x + begin[rank];
    size_t n_own = begin[rank + 1] - begin[rank];
    add_up(m, own, n_own, own);
    fill(m, 0, own, n_own * sizeof *x);
    if ((status = exchange(m, call, true, e))) return status;
    for (int r = 0; r < size; r++)
        if (r != rank) memcpy(x + begin[r], m->in[r].data, (begin[r + 1] - begin[r]) * sizeof *x);
    return 0;
}

static int all_reduce(struct mpi *m, const struct comm_call *call, float *x, struct err *e)
{
    enum { PACKET_N = PACKET_DATA / sizeof(float) };
    size_t n_all = call->bytes / sizeof *x, at = 0, n, size = (size_t)m->comm.size;
    bool one = size <= 2 || call->bytes <= ONE_ROUND;
    do {
        n = at_most(n_all - at, one ? PACKET_N : PACKET_N * size);
        int status = one ? reduce_in_one(m, call, x + at, n, e)
                         : reduce_in_two(m, call, x + at, n, (n + size - 1) / size, e);
        if (status) return status;
    } while ((at += n) < n_all);
    return 0;
}

static int barrier(struct mpi *m, const struct comm_call *call, struct err *e)
{
    fill(m, 0, NULL, 0);
    return exchange(m, call, true, e);
}

int mpi_run(struct comm *c, const struct comm_call *call, const void *in, void *out, struct err *e)
{
    struct mpi *m = (struct mpi *)c;
    int status = lifeline_check(m->life, e);
    if (status) return status;
    switch (call->op) {
    case COMM_ALL_REDUCE: return all_reduce(m, call, out, e);
    case COMM_ALL_GATHER: return all_gather(m, call, in, out, e);
    case COMM_ALL_TO_ALL: return all_to_all(m, call, in, out, e);
    case COMM_BROADCAST: return broadcast(m, call, out, e);
    default: return barrier(m, call, e);
    }
}
