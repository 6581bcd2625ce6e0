#include "bench_ops.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "bench_case.h"
#include "bench_roofline.h"
#include "clock.h"
#include "file.h"

bool bench_wants(const struct bench *b, const char *op) { return !b->op || !strcmp(b->op, op); }

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of a call, after one that does not count. */
static double time_calls(double seconds, void (*fn)(void *), void *arg)
{
    enum { MIN = 5, MAX = 2000 };
    double t[MAX], end = clock_s() + seconds;
    int n = 0;
    fn(arg);
    while (n < MIN || (n < MAX && clock_s() < end)) {
        double start = clock_s();
        fn(arg);
        t[n++] = clock_s() - start;
    }
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 2];
}

static const char *const kinds[PEAK_COUNT] = {"fma", "bf16", "int8"};

void bench_line(struct bench *b, const struct result *r, void (*fn)(void *), void *arg)
{
    double t = time_calls(b->seconds, fn, arg), peak = b->limits.peak[r->kind];
    /* The least time: reading at the memory's rate, or computing at the peak rate, whichever is longer. */
    double read = b->limits.read > 0 ? r->bytes / b->limits.read : 0, work = peak > 0 ? r->work / peak : 0;
    double share = (read > work ? read : work) / t;
    const char *bound = read > work ? "memory" : kinds[r->kind];
    bool ok = r->err <= r->max_err;
    b->failed += !ok;
    if (b->json) {
        printf("%s\n  {\"op\": \"%s\", \"shape\": \"%s\", \"type\": \"%s\", \"rows\": %d, \"isa\": \"%s\", "
               "\"us\": %.2f, "
               "\"gb_per_s\": %.2f, \"gop_per_s\": %.1f, \"bound\": \"%s\", \"share\": %.3f, \"nmse\": %.2e, "
               "\"ok\": %s}",
               b->lines ? "," : "", r->op, r->shape, r->type, r->rows, b->be->isa, t * 1e6,
               r->bytes / t / 1e9, r->work / t / 1e9, bound, share, r->err, ok ? "true" : "false");
    } else {
        if (!b->lines)
            printf("%-10s %-26s %-5s %5s %-7s %10s %8s %8s %-7s %6s  %s\n", "op", "shape", "type", "rows",
                   "isa", "us", "GB/s", "Gop/s", "bound", "share", "nmse");
        printf("%-10s %-26s %-5s %5d %-7s %10.1f %8.2f %8.1f %-7s %6.3f  %.1e%s\n", r->op, r->shape, r->type,
               r->rows, b->be->isa, t * 1e6, r->bytes / t / 1e9, r->work / t / 1e9, bound, share, r->err,
               ok ? "" : "  WRONG");
    }
    struct roof_dot *dot = b->plot ? realloc(b->dot, ((size_t)b->lines + 1) * sizeof *dot) : NULL;
    if (dot) {
        dot[b->lines] = (struct roof_dot){*r, t};
        b->dot = dot;
    } else {
        b->plot = NULL; /* none is wanted, or there is no memory for it */
    }
    b->lines++;
    fflush(stdout);
}

static const char usage[] =
    "usage: inferd bench ops [options]\n"
    "  --op NAME      only linear, glu, attn, add_norm, qkv_prep, rope_angles or scale_cap\n"
    "  --rows LIST    numbers of rows, such as 1,8,512 (default 1,8,32,512)\n"
    "  --isa NAME     auto, scalar, avx2, avx512, vnni, bf16 (default auto)\n"
    "  --threads N    worker threads (default: all usable processors)\n"
    "  --seconds X    time for each line (default 0.3)\n"
    "  --json         machine-readable output\n"
    "  --plot FILE    draw the roofline as SVG\n"
    "`share` is the least time that this machine's memory or arithmetic allows, over the time taken.\n";

static bool parse_number(const char *s, double min, double max, double *out)
{
    char *end;
    *out = strtod(s, &end);
    return *s && !*end && *out >= min && *out <= max;
}

static bool parse_rows(const char *s, struct bench *b)
{
    b->n_rows = 0;
    while (b->n_rows < (int)(sizeof b->rows / sizeof *b->rows)) {
        char *end;
        long v = strtol(s, &end, 10);
        if (end == s || v < 1 || v > 4096) return false;
        b->rows[b->n_rows++] = (int)v;
        if (!*end) return true;
        if (*end != ',') return false;
        s = end + 1;
    }
    return false;
}

/* 0, or the exit code; -1 to go on. */
static int parse_options(int argc, char **argv, struct bench *b, enum cpu_isa *isa, int *threads)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        double v = 0;
        bool ok = true;
        if (!strcmp(name, "--help") || !strcmp(name, "-h")) {
            fputs(usage, stdout);
            return 0;
        }
        if (!strcmp(name, "--json")) {
            b->json = true;
            continue;
        }
        i++;
        if (!strcmp(name, "--op")) {
            b->op = value;
            ok = *value;
        } else if (!strcmp(name, "--rows")) {
            ok = parse_rows(value, b);
        } else if (!strcmp(name, "--isa")) {
            ok = !cpu_isa_parse(value, isa);
        } else if (!strcmp(name, "--plot")) {
            b->plot = value;
            ok = *value;
        } else if (!strcmp(name, "--threads")) {
            ok = parse_number(value, 1, 256, &v);
            *threads = (int)v;
        } else if (!strcmp(name, "--seconds")) {
            ok = parse_number(value, 0.001, 60, &b->seconds);
        } else {
            fprintf(stderr, "error: %.40s: unknown option\n%s", name, usage);
            return 2;
        }
        if (!ok) {
            fprintf(stderr, "error: %s: bad value \"%.40s\"\n", name, value);
            return 2;
        }
    }
    return -1;
}

static void print_limits(const struct bench *b)
{
    const struct limits *l = &b->limits;
    if (b->json)
        printf("{\"threads\": %d, \"best_isa\": \"%s\", \"read_gb_per_s\": %.1f, \"fma_gflop_per_s\": %.1f, "
               "\"bf16_gflop_per_s\": %.1f, \"int8_gop_per_s\": %.1f, \"ops\": [",
               pool_size(b->pool), cpu_isa_name(cpu_isa_detect()), l->read / 1e9, l->peak[PEAK_FLOAT] / 1e9,
               l->peak[PEAK_BF16] / 1e9, l->peak[PEAK_INT8] / 1e9);
    else
        printf("limits with %d threads at level %s: read %.1f GB/s, fma %.1f GFLOP/s, bf16 %.1f GFLOP/s, "
               "int8 %.1f GOP/s\n",
               pool_size(b->pool), cpu_isa_name(cpu_isa_detect()), l->read / 1e9, l->peak[PEAK_FLOAT] / 1e9,
               l->peak[PEAK_BF16] / 1e9, l->peak[PEAK_INT8] / 1e9);
}

static int save_plot(const struct bench *b, struct err *e)
{
    char title[80];
    struct buf svg = {0};
    snprintf(title, sizeof title, "%d threads, level %s", pool_size(b->pool), b->be->isa);
    bench_roofline(&svg, &b->limits, title, b->dot, b->lines);
    int status = file_write(b->plot, &svg, false, e);
    buf_free(&svg);
    return status;
}

int bench_ops_main(int argc, char **argv)
{
    struct bench b = {.rows = {1, 8, 32, 512}, .n_rows = 4, .seconds = 0.3};
    struct err e = {0};
    enum cpu_isa isa = cpu_isa_detect();
    int threads = 0, code = parse_options(argc, argv, &b, &isa, &threads);
    if (code >= 0) return code;
    code = 1;
    int status = pool_open(threads, &b.pool, &e);
    if (!status) status = cpu_backend_open(b.pool, isa, &b.be, &e);
    if (status) goto out;
    b.limits = limits_measure(b.pool, cpu_isa_detect());
    print_limits(&b);
    status = bench_cases(&b, &e);
    if (b.json) printf("\n]}\n");
    if (!status && !b.lines) {
        status = err_set(&e, ERR_INVALID, "--op %.40s: no such op", b.op);
        code = 2;
    }
    if (!status && b.plot) status = save_plot(&b, &e);
    if (!status) code = b.failed ? 1 : 0;
    if (b.failed)
        fprintf(stderr, "error: %d of %d lines differ too much from the reference\n", b.failed, b.lines);
out:
    free(b.dot);
    if (status) fprintf(stderr, "error: %s\n", e.msg);
    backend_close(b.be);
    pool_close(b.pool);
    return code;
}
