#include "comm.h"
#include "comm_ops.h"

int comm_rank(const struct comm *c) { return c->rank; }
int comm_size(const struct comm *c) { return c->size; }

void comm_abort(struct comm *c, const struct err *why)
{
    struct err told;
    err_param(&told, why->code ? why->code : ERR_CLOSED, why->param, "rank %d gave up: %s", c->rank,
              why->msg);
    c->ops->abort(c, &told);
}

void comm_close(struct comm *c)
{
    if (c) c->ops->close(c);
}

/* The other ranks must not wait for one whose call failed. Where the group is over already, this changes
 * nothing. */
static int run(struct comm *c, struct comm_call call, const void *in, void *out, struct err *e)
{
    struct err why = {0};
    int status = c->ops->run(c, &call, in, out, &why);
    if (!status) return 0;
    c->ops->abort(c, &why);
    if (e) *e = why;
    return status;
}

static int refuse(struct comm *c, const char *call, const char *what, struct err *e)
{
    struct err why;
    err_set(&why, ERR_INVALID, "%s: %s", call, what);
    comm_abort(c, &why);
    if (e) *e = why;
    return why.code;
}

int comm_all_reduce(struct comm *c, float *x, size_t n, struct err *e)
{
    if (n && !x) return refuse(c, "all_reduce", "x is NULL", e);
    if (n > SIZE_MAX / sizeof *x) return refuse(c, "all_reduce", "n is too large", e);
    return run(c, (struct comm_call){COMM_ALL_REDUCE, 0, n * sizeof *x}, x, x, e);
}

int comm_all_gather(struct comm *c, const void *part, size_t bytes, void *all, struct err *e)
{
    if (bytes && (!part || !all)) return refuse(c, "all_gather", "a buffer is NULL", e);
    if (bytes > SIZE_MAX / (size_t)c->size) return refuse(c, "all_gather", "bytes is too large", e);
    return run(c, (struct comm_call){COMM_ALL_GATHER, 0, bytes}, part, all, e);
}

int comm_all_to_all(struct comm *c, const void *send, void *recv, size_t bytes_each, struct err *e)
{
    if (bytes_each && (!send || !recv)) return refuse(c, "all_to_all", "a buffer is NULL", e);
    if (bytes_each > SIZE_MAX / (size_t)c->size) return refuse(c, "all_to_all", "bytes_each is too large", e);
    return run(c, (struct comm_call){COMM_ALL_TO_ALL, 0, bytes_each}, send, recv, e);
}

int comm_broadcast(struct comm *c, void *data, size_t bytes, int root, struct err *e)
{
    if (bytes && !data) return refuse(c, "broadcast", "data is NULL", e);
    if (root < 0 || root >= c->size) return refuse(c, "broadcast", "root is no rank", e);
    return run(c, (struct comm_call){COMM_BROADCAST, root, bytes}, data, data, e);
}

int comm_barrier(struct comm *c, struct err *e)
{
    return run(c, (struct comm_call){COMM_BARRIER, 0, 0}, NULL, NULL, e);
}
