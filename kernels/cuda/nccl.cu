/* Ten functions of NCCL 2. */
#include <dlfcn.h>
#include <stdlib.h>
#include "nccl.cuh"

enum { NCCL_OK = 0, NCCL_IN_PROGRESS = 7, NCCL_FLOAT = 7, NCCL_SUM = 0 };
enum { GROUP_MAX = 64 }; /* collectives of a group */
typedef struct nccl_comm *comm_handle;

#define FUNCTIONS(X)                                                                                         \
    X(int, GetUniqueId, struct nccl_id *)                                                                    \
    X(int, CommInitRank, comm_handle *, int, struct nccl_id, int)                                            \
    X(int, CommDestroy, comm_handle)                                                                         \
    X(int, CommAbort, comm_handle)                                                                           \
    X(int, CommGetAsyncError, comm_handle, int *)                                                            \
    X(int, AllReduce, const void *, void *, size_t, int, int, comm_handle, cudaStream_t)                     \
    X(int, AllGather, const void *, void *, size_t, int, comm_handle, cudaStream_t)                          \
    X(int, GroupStart, void)                                                                                 \
    X(int, GroupEnd, void)                                                                                   \
    X(const char *, GetErrorString, int)

#ifdef CUEMU
#define X(type, name, ...) extern "C" type nccl##name(__VA_ARGS__);
FUNCTIONS(X)
#undef X
#endif

struct nccl {
    void *lib;
    comm_handle comm;
    int size;
#define X(type, name, ...) type (*name)(__VA_ARGS__);
    FUNCTIONS(X)
#undef X
};

static bool load(struct nccl *n, struct err *e)
{
#ifdef CUEMU
#define X(type, name, ...) n->name = nccl##name;
    FUNCTIONS(X)
#undef X
#else
    n->lib = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!n->lib) {
        err_set(e, ERR_NOTFOUND, "NCCL cannot be opened: %s", dlerror());
        return false;
    }
#define X(type, name, ...)                                                                                   \
    n->name = (type(*)(__VA_ARGS__))dlsym(n->lib, "nccl" #name);                                             \
    if (!n->name) {                                                                                          \
        err_set(e, ERR_UNSUPPORTED, "libnccl.so.2 has no nccl" #name);                                       \
        return false;                                                                                        \
    }
    FUNCTIONS(X)
#undef X
#endif
    return true;
}

struct nccl *nccl_open(struct err *e)
{
    struct nccl *n = (struct nccl *)calloc(1, sizeof *n);
    if (!n)
        err_set(e, ERR_NOMEM, "out of memory");
    else if (!load(n, e)) {
        nccl_close(n, false);
        n = NULL;
    }
    return n;
}

/* The library stays: it has threads of its own. */
void nccl_close(struct nccl *n, bool over)
{
    if (!n) return;
    if (n->comm && over)
        n->CommAbort(n->comm);
    else if (n->comm)
        n->CommDestroy(n->comm);
    free(n);
}

static const char *why(const struct nccl *n, int result)
{
    return result == NCCL_OK ? NULL : n->GetErrorString(result);
}

int nccl_make_id(struct nccl *n, struct nccl_id *id, struct err *e)
{
    const char *s = why(n, n->GetUniqueId(id));
    return s ? err_set(e, ERR_IO, "NCCL: %s", s) : 0;
}

int nccl_join(struct nccl *n, int size, const struct nccl_id *id, int rank, struct err *e)
{
    n->size = size;
    const char *s = why(n, n->CommInitRank(&n->comm, size, *id, rank));
    if (!s) return 0;
    n->comm = NULL;
    return err_set(e, ERR_IO, "NCCL: rank %d of %d cannot join: %s", rank, size, s);
}

const char *nccl_sum(struct nccl *n, float *x, size_t count, cudaStream_t s)
{
    return why(n, n->AllReduce(x, x, count, NCCL_FLOAT, NCCL_SUM, n->comm, s));
}

const char *nccl_gather(struct nccl *n, const float *part, size_t count, float *all, cudaStream_t s)
{
    return why(n, n->AllGather(part, all, count, NCCL_FLOAT, n->comm, s));
}

const char *nccl_gather_rows(struct nccl *n, const float *part, int rows, int len, float *all, cudaStream_t s)
{
    const char *bad = NULL;
    for (int i = 0; i < rows && !bad; i += GROUP_MAX) {
        int end = i + GROUP_MAX < rows ? i + GROUP_MAX : rows;
        bad = why(n, n->GroupStart());
        for (int r = i; r < end && !bad; r++)
            bad = nccl_gather(n, part + (size_t)r * len, (size_t)len, all + (size_t)r * n->size * len, s);
        const char *ended = why(n, n->GroupEnd());
        if (!bad) bad = ended;
    }
    return bad;
}

bool nccl_is_broken(struct nccl *n)
{
    int state = NCCL_OK;
    int result = n->CommGetAsyncError(n->comm, &state);
    return result != NCCL_OK || (state != NCCL_OK && state != NCCL_IN_PROGRESS);
}
