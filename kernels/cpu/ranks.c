/* The ops between ranks, and what became of them. */
#include <stdlib.h>
#include <string.h>
#include "comm.h"
#include "cpu.h"

/* Floats that all_gather receives at a time. Larger rows come one by one, straight to their places. */
#define GATHER ((size_t)1 << 18)

int cpu_join(struct backend *base, struct comm *comm, struct err *e)
{
    struct cpu_backend *be = cpu_of(base);
    if (!(be->gathered = malloc(GATHER * sizeof *be->gathered)))
        return err_set(e, ERR_NOMEM, "out of memory");
    be->comm = comm;
    base->rank = comm_rank(comm);
    base->size = comm_size(comm);
    return 0;
}

/* After a first failure the group is over: nothing more is tried, and sync says why. */
void cpu_all_reduce(struct backend *base, float *x, size_t n)
{
    struct cpu_backend *be = cpu_of(base);
    if (!be->failed.code) comm_all_reduce(be->comm, x, n, &be->failed);
}

/* The ranks' rows come as [size][n][len]; their place is [n][size][len]. */
void cpu_all_gather(struct backend *base, const float *part, int n, int len, float *all)
{
    struct cpu_backend *be = cpu_of(base);
    size_t row = (size_t)base->size * (size_t)len, bytes = (size_t)len * sizeof *part;
    int max = row * 2 <= GATHER ? (int)(GATHER / row) : 1;
    for (int i = 0, m; i < n && !be->failed.code; i += m) {
        m = n - i < max ? n - i : max;
        const float *from = part + (size_t)i * (size_t)len;
        float *to = all + (size_t)i * row;
        if (comm_all_gather(be->comm, from, (size_t)m * bytes, m == 1 ? to : be->gathered, &be->failed))
            return;
        for (int r = 0; r < base->size && m > 1; r++)
            for (int k = 0; k < m; k++)
                memcpy(to + (size_t)k * row + (size_t)r * (size_t)len,
                       be->gathered + ((size_t)r * (size_t)m + (size_t)k) * (size_t)len, bytes);
    }
}

/* Ops are done when they return; only those between ranks can fail. */
int cpu_sync(struct backend *base, struct err *e)
{
    const struct cpu_backend *be = cpu_of(base);
    if (be->failed.code && e) *e = be->failed;
    return be->failed.code;
}
