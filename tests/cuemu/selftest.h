/* The emulator's own test: small programs, each run in a child process. A clean one must pass under every
 * schedule, a planted bug must be reported. No state. */
#pragma once
#include "ptx.cuh"
#include <stdio.h>
#include <stdlib.h>

enum needs { ANY, ASAN, TSAN };
struct program {
    const char *name;
    int (*run)(void);    /* 0 = right */
    const char *expect;  /* what a bug's report contains; "wrong" = the result shows it */
    const char *setting; /* environment, NAME=VALUE */
    needs build;
};
extern const program clean_programs[], bug_programs[]; /* name 0 ends them */

#define CHECK(cond)                                                                                          \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            printf("wrong: %s, %s:%d\n", #cond, __FILE__, __LINE__);                                         \
            return 1;                                                                                        \
        }                                                                                                    \
    } while (0)

template <class T> static inline T *device_array(size_t n, const T *from = nullptr)
{
    T *p = nullptr;
    if (cudaMalloc((void **)&p, n * sizeof(T)) != cudaSuccess) abort();
    if (from && cudaMemcpy(p, from, n * sizeof(T), cudaMemcpyHostToDevice) != cudaSuccess) abort();
    return p;
}
/* Copies to the host and frees. */
template <class T> static inline void fetch(T *host, T *dev, size_t n)
{
    if (cudaMemcpy(host, dev, n * sizeof(T), cudaMemcpyDeviceToHost) != cudaSuccess) abort();
    cudaFree(dev);
}
