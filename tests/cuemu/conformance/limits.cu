/* What a card can do at most, measured: bytes copied and read a second, and what a launch costs on a stream,
 * in a graph, and in a graph whose kernels start early. A JSON object a line. `limits MIB` walks that many
 * MiB. One thread. */
#include "ptx.cuh"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { THREADS = 512, UNROLL = 8, TRIES = 7, LAUNCHES = 500 };

/* Each block walks parts of THREADS * UNROLL words of 16 bytes, with UNROLL loads of a thread in flight. */
template <bool WRITE> static __global__ void walk(const uint4 *from, uint4 *to, size_t parts)
{
    unsigned sum = 0;
    for (size_t p = blockIdx.x; p < parts; p += gridDim.x) {
        uint4 v[UNROLL];
        const uint4 *at = from + p * THREADS * UNROLL + threadIdx.x;
        for (int i = 0; i < UNROLL; i++) v[i] = at[i * THREADS];
        for (int i = 0; i < UNROLL; i++) {
            if (WRITE)
                to[p * THREADS * UNROLL + i * THREADS + threadIdx.x] = v[i];
            else
                sum += v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
        }
    }
    if (!WRITE && sum == 0x12345678u)
        to[0] = from[0]; /* so that the loads stay; memory holds one byte over and over */
}
static __global__ void nothing(unsigned *p)
{
    pdl_wait();
    pdl_launch();
    if (p[0] == 1) p[1] = threadIdx.x;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static void ok(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    fprintf(stderr, "limits: %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

/* Median seconds of work(arg, stream). */
static double median(void (*work)(void *, cudaStream_t), void *arg, cudaStream_t s)
{
    double t[TRIES];
    for (int i = -2; i < TRIES; i++) {
        ok(cudaStreamSynchronize(s), "wait");
        double start = now();
        work(arg, s);
        ok(cudaGetLastError(), "launch");
        ok(cudaStreamSynchronize(s), "wait");
        if (i >= 0) t[i] = now() - start;
    }
    qsort(t, TRIES, sizeof *t, ascending);
    return t[TRIES / 2];
}
static void say(const char *name, double value, const char *unit)
{
    printf("{\"kind\": \"limit\", \"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"}\n", name, value, unit);
    fflush(stdout);
}

struct memory {
    uint4 *a, *b;
    size_t bytes;
    int blocks, repeat;
};
template <bool WRITE> static void walk_memory(void *arg, cudaStream_t s)
{
    struct memory *m = (struct memory *)arg;
    size_t parts = m->bytes / sizeof(uint4) / THREADS / UNROLL;
    for (int i = 0; i < m->repeat; i++)
        LAUNCH((walk<WRITE>), dim3(m->blocks), dim3(THREADS), 0, s, m->a, m->b, parts);
}
static void copy_memory(void *arg, cudaStream_t s)
{
    struct memory *m = (struct memory *)arg;
    for (int i = 0; i < m->repeat; i++)
        ok(cudaMemcpyAsync(m->b, m->a, m->bytes, cudaMemcpyDeviceToDevice, s), "copy");
}

struct launches {
    unsigned *p;
    int n;
    cudaGraphExec_t graph;
};
static void launch_plain(void *arg, cudaStream_t s)
{
    struct launches *l = (struct launches *)arg;
    for (int i = 0; i < l->n; i++) LAUNCH(nothing, dim3(1), dim3(32), 0, s, l->p);
}
static void launch_early(void *arg, cudaStream_t s)
{
    struct launches *l = (struct launches *)arg;
    for (int i = 0; i < l->n; i++) LAUNCH_PDL(nothing, dim3(1), dim3(32), 0, s, l->p);
}
static void launch_graph(void *arg, cudaStream_t s)
{
    ok(cudaGraphLaunch(((struct launches *)arg)->graph, s), "graph");
}

static void capture(struct launches *l, void (*work)(void *, cudaStream_t), cudaStream_t s)
{
    cudaGraph_t g;
    ok(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), "capture");
    work(l, s);
    ok(cudaStreamEndCapture(s, &g), "capture");
    ok(cudaGraphInstantiate(&l->graph, g, 0), "graph");
}

int main(int argc, char **argv)
{
    int sms = 0, mib = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 2048;
    cudaStream_t s;
    struct memory m = {NULL, NULL, (size_t)mib << 20, 0, mib < 64 ? 1 : 4};
    struct launches l = {NULL, mib < 64 ? 10 : LAUNCHES, NULL};
    ok(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0), "device");
    ok(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "stream");
    ok(cudaMalloc((void **)&m.a, m.bytes), "memory");
    ok(cudaMalloc((void **)&m.b, m.bytes), "memory");
    ok(cudaMalloc((void **)&l.p, 64), "memory");
    ok(cudaMemset(m.a, 0x5a, m.bytes), "memory");
    ok(cudaMemset(m.b, 0, m.bytes), "memory");
    ok(cudaMemset(l.p, 0, 64), "memory");
    ok(cudaDeviceSynchronize(), "memory");
    double bytes = (double)m.bytes * m.repeat, best[2] = {0, 0};
    for (int per_sm = 1; per_sm <= 4; per_sm *= 2) { /* whichever fills the card */
        m.blocks = mib < 64 ? 2 : sms * per_sm;
        double rate[2] = {2 * bytes / median(walk_memory<true>, &m, s),
                          bytes / median(walk_memory<false>, &m, s)};
        for (int i = 0; i < 2; i++) best[i] = rate[i] > best[i] ? rate[i] : best[i];
    }
    say("copy, by a kernel (read + written)", best[0], "B/s");
    say("copy, by the driver (read + written)", 2 * bytes / median(copy_memory, &m, s), "B/s");
    say("read", best[1], "B/s");
    say("launch on a stream", median(launch_plain, &l, s) / l.n, "s");
    capture(&l, launch_plain, s);
    say("launch in a graph", median(launch_graph, &l, s) / l.n, "s");
    capture(&l, launch_early, s);
    say("launch in a graph, dependent (PDL)", median(launch_graph, &l, s) / l.n, "s");
    return 0;
}
