/* The border between inferd and its CUDA module: plain C, one exported function. The module is opened at run
 * time, so that inferd itself needs nothing of CUDA. */
#pragma once
#include "ops.h"

#define CUDA_MODULE_ABI    2
#define CUDA_MODULE_SYMBOL "inferd_cuda_module"

struct pool;

enum cuda_attention {
    CUDA_ATTENTION_MMA,
    CUDA_ATTENTION_PLAIN
};                                                   /* tensor cores and split keys; a loop over keys */
enum cuda_norm { CUDA_NORM_BLOCK, CUDA_NORM_PLAIN }; /* a row in registers; a row read again */

struct cuda_options {
    int device;         /* ordinal */
    bool deterministic; /* batch invariance, bit for bit */
    bool fp8;           /* plain matrices are packed as E4M3 with a scale for each output */
    enum cuda_attention attention;
    enum cuda_norm norm;
    /* What packs matrices: pool_run and its pool, borrowed (or NULL). The module starts no threads. */
    void (*run)(struct pool *, int n_task, void (*fn)(void *arg, int task, int worker), void *arg);
    struct pool *pool;
};
struct cuda_module {
    int abi; /* CUDA_MODULE_ABI */
    /* Devices that can be used; 0 with the reason in e. */
    int (*count)(struct err *e);
    int (*open)(const struct cuda_options *o, struct backend **out, struct err *e);
};
