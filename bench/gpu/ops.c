#include "ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "half.h"
#include "module.h"
#include "rng.h"

static const char usage[] = "usage: gpu_ops [--tiny] [--op NAME] [--seconds S] [--limit S]\n\n"
                            "Times the ops of the module inferd_cuda (in $INFERD_MODULES or beside this "
                            "program): a JSON object a line.\n"
                            "  --tiny       shapes that the emulated module can run\n"
                            "  --op NAME    linear, attn, add_norm, qkv_prep or sample\n"
                            "  --seconds S  to spend on a line (0.02)\n"
                            "  --limit S    no line begins later (60)\n";

bool gpu_check(struct gpu_bench *b, int status, const struct err *e)
{
    if (!status) return true;
    fprintf(stderr, "gpu_ops: %s\n", e->msg);
    b->failed = true;
    return false;
}

struct backend *gpu_open(struct gpu_bench *b, struct cuda_options o)
{
    struct err e = {0};
    struct backend *be = NULL;
    o.run = pool_run;
    o.pool = b->pool;
    return gpu_check(b, b->module->open(&o, &be, &e), &e) ? be : NULL;
}

bool gpu_reserve(struct gpu_bench *b, struct backend *be, const struct shape *s, int rows, int seqs, int ctx,
                 int max_in)
{
    struct err e = {0};
    struct step_limits l = {.max_rows = rows,
                            .max_seqs = seqs,
                            .max_ctx = ctx,
                            .max_in = max_in,
                            .n_head = s->n_head,
                            .n_kv_head = s->n_kv_head,
                            .head_dim = s->head_dim,
                            .vocab = s->vocab,
                            .n_list = 1,
                            .block_size = KV_BLOCK};
    return gpu_check(b, be->ops->reserve(be, &l, &e), &e);
}

void *gpu_random(struct gpu_bench *b, struct backend *be, size_t n, bool mat)
{
    struct err e = {0};
    size_t size = mat ? sizeof(uint16_t) : sizeof(float);
    char *p;
    static uint16_t half[NOISE];
    if (!gpu_check(b, be->ops->mem_alloc(be, n * size, (void **)&p, &e), &e)) return NULL;
    if (mat) dtype_from_f32(DT_BF16, b->noise, half, NOISE);
    for (size_t i = 0; i < n; i += NOISE)
        be->ops->mem_write(be, p + i * size, mat ? (void *)half : b->noise,
                           (n - i < NOISE ? n - i : NOISE) * size);
    return p;
}

bool gpu_wants(const struct gpu_bench *b, const char *op) { return !b->op || !strcmp(b->op, op); }

/* What a line times: calls one by one, or as a recorded step holds them. */
struct timed {
    struct backend *be;
    void (*call)(void *, int);
    void *arg;
    int recorded; /* calls in the recorded step, 0: none */
};
static const struct batch as_recorded = {.n = 1 << 20}; /* no real step has so many rows */

static void record(struct gpu_bench *b, struct timed *t)
{
    const struct ops *ops = t->be->ops;
    struct err e = {0};
    int n = b->tiny ? 2 : SETS;
    if (!ops->record || ops->record(t->be, &e)) return;
    for (int i = 0; i < n; i++) t->call(t->arg, i);
    if (!ops->record_end(t->be, as_recorded.n, &e)) t->recorded = n;
}

/* Seconds of a call, of at least n; less than 0: failed. */
static double run(struct gpu_bench *b, const struct timed *t, int first, int n)
{
    const struct ops *ops = t->be->ops;
    struct err e = {0};
    int rounds = t->recorded ? (n + t->recorded - 1) / t->recorded : n,
        calls = t->recorded ? rounds * t->recorded : n;
    if (!gpu_check(b, ops->sync(t->be, &e), &e)) return -1;
    double start = clock_s();
    for (int i = 0; i < rounds; i++) {
        if (!t->recorded)
            t->call(t->arg, first + i);
        else
            ops->replay(t->be, &as_recorded);
    }
    if (!gpu_check(b, ops->sync(t->be, &e), &e)) return -1;
    return (clock_s() - start) / calls;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void gpu_line(struct gpu_bench *b, struct backend *be, const struct line *l, void (*call)(void *, int),
              void *arg)
{
    enum { TRIES = 5 };
    double t[TRIES];
    if (clock_s() > b->end) return;
    struct timed it = {be, call, arg, 0};
    double once = run(b, &it, 0, 2); /* the first calls may choose an algorithm */
    if (once >= 0 && !l->eager) record(b, &it);
    if (once >= 0) once = run(b, &it, 2, b->tiny ? 1 : 8);
    if (once < 0) return;
    int n = b->tiny ? 1 : (int)(b->seconds / TRIES / (once + 1e-7)) + 1;
    for (int i = 0; i < TRIES; i++)
        if ((t[i] = run(b, &it, i * n, n)) < 0) return;
    qsort(t, TRIES, sizeof *t, ascending);
    printf("{\"kind\": \"op\", \"op\": \"%s\", \"model\": \"%s\", \"type\": \"%s\", \"shape\": \"%s\", "
           "\"rows\": %d, "
           "\"us\": %.3f, \"us_min\": %.3f, \"us_max\": %.3f, \"bytes\": %.0f, \"flops\": %.0f, "
           "\"recorded\": %s}\n",
           l->op, l->model, l->type, l->shape, l->rows, t[TRIES / 2] * 1e6, t[0] * 1e6, t[TRIES - 1] * 1e6,
           l->bytes, l->flops, it.recorded ? "true" : "false");
    fflush(stdout);
}

static int options(struct gpu_bench *b, int argc, char **argv, double *limit)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--tiny")) {
            b->tiny = true;
            continue;
        }
        if (!value) return -1;
        if (!strcmp(argv[i], "--op"))
            b->op = value;
        else if (!strcmp(argv[i], "--seconds"))
            b->seconds = strtod(value, NULL);
        else if (!strcmp(argv[i], "--limit"))
            *limit = strtod(value, NULL);
        else
            return -1;
        i++;
    }
    return 0;
}

static void set_sizes(struct gpu_bench *b)
{
    static const struct shape real[] = {{"Qwen3-0.6B", 1024, 3072, 16, 8, 128, 151936},
                                        {"Qwen3-8B", 4096, 12288, 32, 8, 128, 151936}};
    static const struct shape tiny = {"tiny", 64, 96, 4, 2, 32, 256};
    static const int rows[] = {1, 4, 16, 64, 256, 2048};
    b->n_shape = b->tiny ? 1 : 2;
    b->n_rows = b->tiny ? 3 : 6;
    b->spread = b->tiny ? 0 : (size_t)256 << 20;
    memcpy(b->shape, b->tiny ? &tiny : real, (size_t)b->n_shape * sizeof *real);
    memcpy(b->rows, rows, sizeof rows);
}

int main(int argc, char **argv)
{
    struct gpu_bench b = {.seconds = 0.02};
    struct err e = {0};
    double limit = 60;
    if (options(&b, argc, argv, &limit)) return fputs(usage, stderr), 2;
    set_sizes(&b);
    b.end = clock_s() + limit;
    const void *table;
    if (!gpu_check(&b, module_open("inferd_cuda", CUDA_MODULE_SYMBOL, CUDA_MODULE_ABI, &table, &e), &e))
        return 1;
    b.module = table;
    if (!gpu_check(&b, pool_open(0, &b.pool, &e), &e)) return 1;
    float *noise = b.noise = malloc(NOISE * sizeof *noise);
    if (!noise) return fputs("gpu_ops: out of memory\n", stderr), 1;
    uint64_t random = 1;
    for (int i = 0; i < NOISE; i++) noise[i] = (float)(rng_next(&random) >> 40) * 0x1p-23f - 1;
    for (int i = 0; i < b.n_shape; i++) {
        gpu_rows(&b, &b.shape[i]);
        gpu_attention(&b, &b.shape[i]);
    }
    for (int i = 0; i < b.n_shape; i++) gpu_matrices(&b, &b.shape[i]);
    free(noise);
    pool_close(b.pool);
    return b.failed;
}
