/* Products with the matrices of a model's layer and with its head, in each type of weights. As in a model,
 * each matrix is read once a step: so many copies that they exceed the caches. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ops.h"

struct kind {
    const char *name;
    enum dtype type;
    bool fp8, own; /* own: without cublasLt */
    double bytes;  /* of a weight */
};
static const struct kind kinds[] = {{"BF16", DT_BF16, false, false, 2},
                                    {"FP8", DT_BF16, true, false, 1},
                                    {"Q4", DT_Q4_0, false, false, 0.5625},
                                    {"BF16 own", DT_BF16, false, true, 2}};
enum { KINDS = sizeof kinds / sizeof *kinds };

struct product {
    const char *name;
    int n_out[3], n_mat, n_in; /* matrices that share x; of a pair (glu), gate and up */
    bool glu;
};
struct copies {
    struct backend *be;
    const struct product *p;
    struct weight *w[SETS][3];
    int n, rows;
    void *x, *y;
};

static void multiply(void *arg, int i)
{
    struct copies *c = arg;
    struct weight **w = c->w[i % c->n];
    if (c->p->glu) {
        c->be->ops->linear_glu(c->be, c->x, c->rows, w[0], w[1], ACT_SILU, c->y);
        return;
    }
    struct linear_out out[3];
    float *y = c->y;
    for (int m = 0; m < c->p->n_mat; m++) {
        out[m] = (struct linear_out){w[m], NULL, y, c->p->n_out[m]};
        y += (size_t)c->rows * c->p->n_out[m];
    }
    c->be->ops->linear(c->be, c->x, c->rows, out, c->p->n_mat);
}

/* n rows of type t: the noise over and over. NULL: no memory. */
static unsigned char *random_rows(struct gpu_bench *b, enum dtype t, int n, int n_in)
{
    size_t tile = dtype_row_bytes(t, NOISE), all = dtype_row_bytes(t, n_in) * n;
    unsigned char *noise = malloc(tile), *src = malloc(all);
    if (noise && src) {
        dtype_from_f32(t, b->noise, noise, NOISE);
        for (size_t i = 0; i < all; i += tile) memcpy(src + i, noise, all - i < tile ? all - i : tile);
    }
    free(noise);
    return src;
}

static int pack(struct gpu_bench *b, struct copies *c, const struct kind *k, struct err *e)
{
    const struct product *p = c->p;
    int most = 0, rows = 0;
    for (int m = 0; m < p->n_mat; m++) {
        rows += p->n_out[m];
        if (most < p->n_out[m]) most = p->n_out[m];
    }
    size_t copy = (size_t)((double)rows * p->n_in * k->bytes);
    c->n = b->spread / copy + 2 < SETS ? (int)(b->spread / copy) + 2 : SETS;
    unsigned char *src = random_rows(b, k->type, most, p->n_in);
    int status = src ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; !status && i < c->n; i++)
        for (int m = 0; !status && m < p->n_mat; m++)
            status = c->be->ops->weight_pack(c->be, k->type, p->n_out[m], p->n_in, src, &c->w[i][m], e);
    free(src);
    return status;
}

static void time_product(struct gpu_bench *b, const struct shape *s, struct backend *be,
                         const struct product *p, const struct kind *k)
{
    struct copies *c = calloc(1, sizeof *c);
    struct err e = {0};
    double weights = 0, max_rows = b->rows[b->n_rows - 1];
    if (!c) return;
    *c = (struct copies){.be = be, .p = p};
    for (int m = 0; m < p->n_mat; m++) weights += (double)p->n_out[m] * p->n_in;
    if (weights > 1e8 && max_rows > 256) max_rows = 256; /* the head sees no more rows */
    c->x = gpu_random(b, be, (size_t)(max_rows * p->n_in), true);
    c->y = c->x ? gpu_random(b, be, (size_t)(max_rows * weights / p->n_in), false) : NULL;
    bool ready = c->y && gpu_check(b, pack(b, c, k, &e), &e);
    for (int i = 0; ready && i < b->n_rows && b->rows[i] <= max_rows; i++) {
        c->rows = b->rows[i];
        double outs = weights / p->n_in, y = p->glu ? outs / 2 * 2 : outs * 4;
        struct line l = {.op = p->name,
                         .type = k->name,
                         .model = s->name,
                         .rows = c->rows,
                         .bytes = weights * k->bytes + c->rows * (2.0 * p->n_in + y),
                         .flops = 2 * weights * c->rows};
        snprintf(l.shape, sizeof l.shape, "%.0fx%d", outs, p->n_in);
        gpu_line(b, be, &l, multiply, c);
    }
    for (int i = 0; i < SETS; i++)
        for (int m = 0; m < 3; m++)
            if (c->w[i][m]) be->ops->weight_free(be, c->w[i][m]);
    if (c->x) be->ops->mem_free(be, c->x);
    if (c->y) be->ops->mem_free(be, c->y);
    free(c);
}

void gpu_matrices(struct gpu_bench *b, const struct shape *s)
{
    int q = s->n_head * s->head_dim, kv = s->n_kv_head * s->head_dim;
    const struct product products[] = {{"linear qkv", {q, kv, kv}, 3, s->hidden, false},
                                       {"linear o", {s->hidden}, 1, q, false},
                                       {"linear_glu", {s->inter, s->inter}, 2, s->hidden, true},
                                       {"linear down", {s->hidden}, 1, s->inter, false},
                                       {"linear head", {s->vocab}, 1, s->hidden, false}};
    int rows = b->rows[b->n_rows - 1], widest = s->inter > q ? s->inter : q;
    if (!gpu_wants(b, "linear")) return;
    for (int k = 0; k < KINDS; k++) {
        struct backend *be =
            gpu_open(b, (struct cuda_options){.fp8 = kinds[k].fp8, .deterministic = kinds[k].own});
        if (!be) return;
        int n = k ? 4 : 5; /* the head in BF16 only */
        if (gpu_reserve(b, be, s, rows, 1, 64, widest))
            for (int i = 0; i < n; i++) time_product(b, s, be, &products[i], &kinds[k]);
        be->ops->close(be);
    }
}
