/* Recorded steps: CUDA graphs, one for each number of rows. A launch costs the host some microseconds, a step
 * makes hundreds of them; a graph is launched once. It is valid from step to step because every launch's
 * shape follows from the number of rows, and everything else is read from device memory at addresses that
 * follow from it too (step.cu). */
#include "device.cuh"
#include <stdlib.h>

enum { GRAPHS_AT_FIRST = 16 };

struct graph {
    int n; /* rows */
    cudaGraphExec_t exec;
};
struct cu_record {
    struct graph *graph; /* [n] */
    int n, cap;
};

void cu_record_close(struct cuda *c)
{
    struct cu_record *r = c->record;
    for (int i = 0; r && i < r->n; i++) cudaGraphExecDestroy(r->graph[i].exec);
    if (r) free(r->graph);
    free(r);
    c->record = NULL;
}

static struct graph *find(const struct cuda *c, int n)
{
    const struct cu_record *r = c->record;
    for (int i = 0; r && i < r->n; i++)
        if (r->graph[i].n == n) return &r->graph[i];
    return NULL;
}

/* The place of n rows, without a graph; NULL when out of memory. */
static struct graph *place(struct cuda *c, int n)
{
    struct graph *g = find(c, n);
    if (g) {
        cudaGraphExecDestroy(g->exec);
        g->exec = NULL;
        return g;
    }
    if (!c->record && !(c->record = (struct cu_record *)calloc(1, sizeof *c->record))) return NULL;
    struct cu_record *r = c->record;
    if (r->n == r->cap) {
        int cap = r->cap ? 2 * r->cap : GRAPHS_AT_FIRST;
        struct graph *more = (struct graph *)realloc(r->graph, (size_t)cap * sizeof *more);
        if (!more) return NULL;
        r->graph = more;
        r->cap = cap;
    }
    r->graph[r->n] = {n, NULL};
    return &r->graph[r->n++];
}

static int failed(cudaError_t s, struct err *e)
{
    cudaGetLastError();
    return s ? err_set(e, ERR_IO, "cuda: a step cannot be recorded: %s", cudaGetErrorString(s)) : 0;
}

int cu_record(struct backend *be, struct err *e)
{
    return failed(cudaStreamBeginCapture(cuda_of(be)->stream, cudaStreamCaptureModeThreadLocal), e);
}

int cu_record_end(struct backend *be, int n, struct err *e)
{
    struct cuda *c = cuda_of(be);
    cudaGraph_t graph = NULL;
    cudaError_t s = cudaStreamEndCapture(c->stream, &graph);
    struct graph *g = s ? NULL : place(c, n);
    if (g) s = cudaGraphInstantiate(&g->exec, graph, 0);
    if (s && g) { /* the last place, or one that had a graph before: n rows have none now */
        *g = c->record->graph[--c->record->n];
    }
    if (graph) cudaGraphDestroy(graph);
    if (!s && !g) return err_set(e, ERR_NOMEM, "out of memory");
    return failed(s, e);
}

bool cu_replay(struct backend *be, const struct batch *b)
{
    struct cuda *c = cuda_of(be);
    struct graph *g = find(c, b->n);
    if (g) CU(c, cudaGraphLaunch(g->exec, c->stream));
    return g != NULL;
}
