#include "profile.h"
#include <stdlib.h>
#include <string.h>
#include "backend.h"
#include "clock.h"

enum { LINES = 64 };
struct line { /* one op at one shape */
    const char *op;
    int n_out, n_in; /* of its matrices, those of a call stacked; 0 = none */
    long calls;
    double seconds, bytes; /* bytes: of the matrices */
};
struct section {
    long steps, rows;
    double seconds; /* from begin to the end of the last op */
    double gap;     /* from the step before to begin */
    long gaps;      /* steps whose gap is known */
    struct line line[LINES];
    int n;
};
enum { DECODE, PROMPT, SECTIONS };
struct profile {
    struct backend base; /* first, so that a struct backend * can be cast */
    struct backend *be;
    struct ops ops;
    struct section section[SECTIONS];
    struct section *now; /* of the running step, NULL before the first */
    double begun, last;  /* the running step, its last op's end */
    int rows;            /* of the running step */
};

static struct profile *of(struct backend *be) { return (struct profile *)(void *)be; }
static struct backend *inner(struct backend *be) { return of(be)->be; }

/* Books an op that began at `start` and ends now. */
static void book(struct backend *be, const char *op, double start, int n_out, int n_in, double bytes)
{
    struct profile *p = of(be);
    struct section *s = p->now;
    double now = clock_s();
    if (!s) return;
    s->seconds += now - p->last;
    p->last = now;
    int i = 0;
    while (i < s->n && (strcmp(s->line[i].op, op) || s->line[i].n_out != n_out || s->line[i].n_in != n_in))
        i++;
    if (i == LINES) return; /* it stays among "between ops" */
    if (i == s->n) s->line[s->n++] = (struct line){.op = op, .n_out = n_out, .n_in = n_in};
    s->line[i].calls++;
    s->line[i].seconds += now - start;
    s->line[i].bytes += bytes;
}

static void begin(struct backend *be, const struct batch *b)
{
    struct profile *p = of(be);
    double now = clock_s();
    bool decode = b->n_list > 0 && b->list[0].n_item == b->n;
    struct section *s = &p->section[decode ? DECODE : PROMPT];
    /* Another number of rows may come after a pause without work. */
    if (p->now == s && p->rows == b->n) s->gap += now - p->last, s->gaps++;
    s->steps++;
    s->rows += b->n;
    p->now = s;
    p->rows = b->n;
    p->last = now;
    inner(be)->ops->begin(inner(be), b);
    book(be, "begin", now, 0, 0, 0);
}

static void linear(struct backend *be, const void *x, int n, const struct linear_out *out, int n_out)
{
    double start = clock_s(), bytes = 0;
    int rows = 0, n_in = 0;
    inner(be)->ops->linear(inner(be), x, n, out, n_out);
    for (int i = 0; i < n_out; i++) {
        struct weight_info w = inner(be)->ops->weight_info(out[i].w);
        rows += w.n_out, n_in = w.n_in, bytes += (double)w.bytes;
    }
    book(be, "linear", start, rows, n_in, bytes);
}

static void linear_glu(struct backend *be, const void *x, int n, const struct weight *gate,
                       const struct weight *up, enum act act, void *y)
{
    double start = clock_s();
    inner(be)->ops->linear_glu(inner(be), x, n, gate, up, act, y);
    struct weight_info g = inner(be)->ops->weight_info(gate), u = inner(be)->ops->weight_info(up);
    book(be, "linear_glu", start, g.n_out + u.n_out, g.n_in, (double)(g.bytes + u.bytes));
}

/* An op that returns nothing and has no matrix. */
#define TIMED(name, params, ...)                                                                             \
    static void name params                                                                                  \
    {                                                                                                        \
        double start = clock_s();                                                                            \
        inner(be)->ops->name(inner(be), __VA_ARGS__);                                                        \
        book(be, #name, start, 0, 0, 0);                                                                     \
    }
TIMED(embed, (struct backend * be, const struct weight *w, const struct batch *b, float scale, float *y), w,
      b, scale, y)
TIMED(gather, (struct backend * be, const struct batch *b, const void *x, size_t row_bytes, void *y), b, x,
      row_bytes, y)
TIMED(add_norm, (struct backend * be, const struct norm_args *a), a)
TIMED(row_norm, (struct backend * be, float *x, int n, int dim, int stride, const float *w, float eps), x, n,
      dim, stride, w, eps)
TIMED(rope_angles,
      (struct backend * be, const struct batch *b, const float *inv_freq, int half, float mscale, float *cs),
      b, inv_freq, half, mscale, cs)
TIMED(qkv_prep, (struct backend * be, const struct qkv_args *a), a)
TIMED(attn, (struct backend * be, const struct attn_args *a), a)
TIMED(scale_cap, (struct backend * be, float *x, int64_t n, float scale, float cap), x, n, scale, cap)
TIMED(mem_write, (struct backend * be, void *dst, const void *src, size_t bytes), dst, src, bytes)
TIMED(mem_read, (struct backend * be, void *dst, const void *src, size_t bytes), dst, src, bytes)

/* The rest is only passed on. */
static int mem_alloc(struct backend *be, size_t bytes, void **out, struct err *e)
{
    return inner(be)->ops->mem_alloc(inner(be), bytes, out, e);
}
static void mem_free(struct backend *be, void *p) { inner(be)->ops->mem_free(inner(be), p); }
static size_t mem_available(struct backend *be) { return inner(be)->ops->mem_available(inner(be)); }
static int weight_pack(struct backend *be, enum dtype t, int n_out, int n_in, const void *src,
                       struct weight **out, struct err *e)
{
    return inner(be)->ops->weight_pack(inner(be), t, n_out, n_in, src, out, e);
}
static void weight_free(struct backend *be, struct weight *w) { inner(be)->ops->weight_free(inner(be), w); }
static int kv_alloc(struct backend *be, const struct kv_geom *g, struct kv_store **out, struct err *e)
{
    return inner(be)->ops->kv_alloc(inner(be), g, out, e);
}
static void kv_free(struct backend *be, struct kv_store *kv) { inner(be)->ops->kv_free(inner(be), kv); }
static int reserve(struct backend *be, const struct step_limits *l, struct err *e)
{
    return inner(be)->ops->reserve(inner(be), l, e);
}
static int sync(struct backend *be, struct err *e) { return inner(be)->ops->sync(inner(be), e); }
static void close_profile(struct backend *be)
{
    backend_close(inner(be));
    free(of(be));
}

int profile_open(struct backend *be, struct backend **out, struct err *e)
{
    static const struct ops timed = {.mem_alloc = mem_alloc,
                                     .mem_free = mem_free,
                                     .mem_write = mem_write,
                                     .mem_read = mem_read,
                                     .mem_available = mem_available,
                                     .weight_pack = weight_pack,
                                     .weight_free = weight_free,
                                     .kv_alloc = kv_alloc,
                                     .kv_free = kv_free,
                                     .reserve = reserve,
                                     .begin = begin,
                                     .embed = embed,
                                     .gather = gather,
                                     .linear = linear,
                                     .linear_glu = linear_glu,
                                     .add_norm = add_norm,
                                     .row_norm = row_norm,
                                     .rope_angles = rope_angles,
                                     .qkv_prep = qkv_prep,
                                     .attn = attn,
                                     .scale_cap = scale_cap,
                                     .sync = sync,
                                     .close = close_profile};
    if (!be->host)
        return err_param(e, ERR_UNSUPPORTED, "profile", "--profile: ops are timed on the CPU only");
    struct profile *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NOMEM, "out of memory");
    p->be = be;
    p->base = *be;
    p->ops = timed;
    p->ops.weight_info = be->ops->weight_info;
    p->base.ops = &p->ops;
    *out = &p->base;
    return 0;
}

void profile_reset(struct backend *be)
{
    memset(of(be)->section, 0, sizeof of(be)->section);
    of(be)->now = NULL;
}

static int by_seconds(const void *a, const void *b)
{
    double x = ((const struct line *)a)->seconds, y = ((const struct line *)b)->seconds;
    return (x < y) - (x > y);
}

static void print_section(const struct section *in, const char *what, FILE *f)
{
    struct section s = *in;
    if (!s.steps) return;
    double steps = (double)s.steps, ops = 0;
    qsort(s.line, (size_t)s.n, sizeof *s.line, by_seconds);
    fprintf(f, "\n%ld %s steps of %.1f rows, %.3f ms each\n", s.steps, what, (double)s.rows / steps,
            s.seconds / steps * 1e3);
    fprintf(f, "%-11s %15s %6s %10s %10s %7s %6s\n", "op", "matrix", "calls", "us a call", "us a step",
            "share", "GB/s");
    for (int i = 0; i < s.n; i++) {
        const struct line *l = &s.line[i];
        char shape[32] = "", rate[16] = "";
        ops += l->seconds;
        if (l->n_in) {
            snprintf(shape, sizeof shape, "%d x %d", l->n_out, l->n_in);
            snprintf(rate, sizeof rate, "%.1f", l->bytes / l->seconds / 1e9);
        }
        fprintf(f, "%-11s %15s %6.0f %10.1f %10.1f %6.1f%% %6s\n", l->op, shape, (double)l->calls / steps,
                l->seconds / (double)l->calls * 1e6, l->seconds / steps * 1e6, 100 * l->seconds / s.seconds,
                rate);
    }
    double between = s.seconds - ops;
    fprintf(f, "%-11s %44.1f %6.1f%%\n", "between ops", between / steps * 1e6, 100 * between / s.seconds);
    if (s.gaps)
        fprintf(f, "%-11s %44.1f   (drawing, delivering, planning)\n", "then", s.gap / (double)s.gaps * 1e6);
}

void profile_print(const struct backend *be, FILE *f)
{
    const struct profile *p = (const struct profile *)(const void *)be;
    print_section(&p->section[DECODE], "decode", f);
    print_section(&p->section[PROMPT], "prompt", f);
}
