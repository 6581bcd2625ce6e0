/* Between the op benchmark of a device (ops.c) and its cases (ops_matrix.c, ops_attn.c, ops_rows.c). It takes
 * the CUDA module as the tests do and writes one JSON object a line; bench/gpu_report.py knows the card's
 * limits and makes fractions of them. One thread. */
#pragma once
#include "backend.h"
#include "cuda/module.h"

struct shape { /* of a model */
    const char *name;
    int hidden, inter, n_head, n_kv_head, head_dim, vocab;
};
struct gpu_bench {
    const struct cuda_module *module;
    struct pool *pool; /* packs matrices */
    struct shape shape[2];
    int n_shape;
    int rows[8], n_rows;
    double seconds,
        end; /* to spend on a line; when to start no more lines (clock_s), so that the last ones are whole */
    size_t spread; /* bytes to walk before any is read again, so that caches hold none of it */
    bool tiny, failed;
    const char *op; /* only this one, or NULL */
    void *noise;    /* [NOISE] random floats in [-1, 1) */
};
enum { NOISE = 1 << 20, SETS = 64, KV_BLOCK = 16 };

/* Opens the device; NULL after saying why not. */
struct backend *gpu_open(struct gpu_bench *b, struct cuda_options o);
/* Room for steps of a model of that shape, with one attention list. */
bool gpu_reserve(struct gpu_bench *b, struct backend *be, const struct shape *s, int rows, int seqs, int ctx,
                 int max_in);
/* Device memory with random floats, or (mat) with random values of a matrix input's type. */
void *gpu_random(struct gpu_bench *b, struct backend *be, size_t n, bool mat);
bool gpu_wants(const struct gpu_bench *b, const char *op);
bool gpu_check(struct gpu_bench *b, int status, const struct err *e); /* false after saying e */

struct line {
    const char *op, *type, *model;
    char shape[64];
    int rows;
    double bytes, flops; /* that must move, that must be computed */
    bool eager;          /* not to be recorded */
};
/* Times call(arg, i), i counting calls so that it can change its data, and prints the line: microseconds of a
 * call. The calls are recorded, as those of a decode step are, so that launches do not count. */
void gpu_line(struct gpu_bench *b, struct backend *be, const struct line *l, void (*call)(void *arg, int i),
              void *arg);

void gpu_matrices(struct gpu_bench *b, const struct shape *s);
void gpu_attention(struct gpu_bench *b, const struct shape *s);
void gpu_rows(struct gpu_bench *b, const struct shape *s);
