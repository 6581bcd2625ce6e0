/* Matrices. As in a model, each is read once a step: so many copies that they exceed the caches. */
#include "bench_case.h"
#include <stdlib.h>
#include <string.h>
#include "ref.h"

enum { K = 1024, N = 3072, COPIES = 96, CHECK_OUT = 64, CHECK_ROWS = 8 };
#define BEYOND_CACHES ((size_t)128 << 20)
struct matrices {
    struct backend *be;
    struct weight *w[COPIES];
    int n, copies, rows, at;
    float *x, *y;
};

static void run_linear(void *arg)
{
    struct matrices *m = arg;
    struct linear_out out = {m->w[m->at], NULL, m->y, N};
    m->at = (m->at + 1) % m->copies;
    m->be->ops->linear(m->be, m->x, m->rows, &out, 1);
}

static void run_glu(void *arg)
{
    struct matrices *m = arg;
    m->be->ops->linear_glu(m->be, m->x, m->rows, m->w[m->at], m->w[(m->at + 1) % m->copies], ACT_SILU, m->y);
    m->at = (m->at + 2) % m->copies;
}

/* N rows of any type. In quantised ones each byte lacks two bits, so that every f16 that a type has in some
 * place is finite and below 1/8. */
static unsigned char *random_rows(enum dtype t)
{
    size_t row = dtype_row_bytes(t, K);
    unsigned char *src = malloc(row * N);
    float *x = bench_floats(K);
    uint64_t seed = 7;
    for (size_t r = 0; src && x && r < N; r++) {
        for (size_t i = 0; i < K; i++) x[i] = bench_uniform(&seed);
        if (t == DT_F32)
            memcpy(src + r * row, x, row);
        else if (!dtype_is_quant(t))
            dtype_from_f32(t, x, src + r * row, K);
        else
            for (size_t i = 0; i < row; i++)
                src[r * row + i] = (unsigned char)((int)(bench_uniform(&seed) * 128) & 0xaf);
    }
    free(x);
    return src;
}

/* The first rows and outputs against the reference's. */
static int check_matrix(const struct matrices *m, const unsigned char *src, enum dtype t, bool glu,
                        double *err, struct err *e)
{
    struct backend *ref = ref_backend();
    int rows = m->rows < CHECK_ROWS ? m->rows : CHECK_ROWS;
    float want[CHECK_ROWS * CHECK_OUT], got[CHECK_ROWS * CHECK_OUT];
    struct weight *w;
    int rc = ref->ops->weight_pack(ref, t, CHECK_OUT, K, src, &w, e);
    if (rc) return rc;
    if (glu)
        ref->ops->linear_glu(ref, m->x, rows, w, w, ACT_SILU, want);
    else
        ref->ops->linear(ref, m->x, rows, &(struct linear_out){w, NULL, want, CHECK_OUT}, 1);
    ref->ops->weight_free(ref, w);
    for (int r = 0; r < rows; r++) memcpy(got + r * CHECK_OUT, m->y + (size_t)r * N, CHECK_OUT * sizeof *got);
    *err = bench_nmse(got, want, (size_t)rows * CHECK_OUT);
    return 0;
}

static int bench_matrix(struct bench *b, struct matrices *m, const unsigned char *src, enum dtype t, bool glu,
                        struct err *e)
{
    int per_call = glu ? 2 : 1;
    for (int i = 0; i < b->n_rows; i++) {
        struct result r = {.op = glu ? "glu" : "linear",
                           .type = dtype_info(t)->name,
                           .rows = b->rows[i],
                           .kind = dtype_is_quant(t) ? PEAK_INT8
                                   : t == DT_BF16    ? PEAK_BF16
                                                     : PEAK_FLOAT,
                           .max_err = dtype_is_quant(t) ? 5e-4
                                      : t == DT_BF16    ? 1e-4
                                                        : 1e-9};
        snprintf(r.shape, sizeof r.shape, "%d x %d%s", N, K, glu ? " x 2" : "");
        m->rows = b->rows[i];
        r.bytes = per_call * (double)b->be->ops->weight_info(m->w[0]).bytes;
        r.work = 2.0 * per_call * K * N * m->rows;
        if (glu)
            run_glu(m);
        else
            run_linear(m);
        int rc = check_matrix(m, src, t, glu, &r.err, e);
        if (rc) return rc;
        bench_line(b, &r, glu ? run_glu : run_linear, m);
    }
    return 0;
}

int bench_matrices(struct bench *b, bool glu, struct err *e)
{
    static const enum dtype types[] = {DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_K, DT_Q5_K, DT_Q6_K};
    int max = 1, rc = 0;
    for (int i = 0; i < b->n_rows; i++) max = b->rows[i] > max ? b->rows[i] : max;
    struct matrices m = {
        .be = b->be, .x = bench_floats((size_t)max * K), .y = calloc((size_t)max * N, sizeof(float))};
    if (!m.x || !m.y)
        rc = bench_no_memory(e);
    else
        rc = b->be->ops->reserve(
            b->be,
            &(struct step_limits){.max_rows = max, .max_in = K, .n_head = 16, .head_dim = 128, .max_ctx = 64},
            e);
    for (size_t i = 0; !rc && i < sizeof types / sizeof *types; i++) {
        unsigned char *src = random_rows(types[i]);
        if (!src) rc = bench_no_memory(e);
        size_t bytes = 0;
        for (m.copies = 0; !rc && m.copies < COPIES && bytes < BEYOND_CACHES; m.copies += !rc) {
            rc = b->be->ops->weight_pack(b->be, types[i], N, K, src, &m.w[m.copies], e);
            if (!rc) bytes += b->be->ops->weight_info(m.w[m.copies]).bytes;
        }
        if (!rc) rc = bench_matrix(b, &m, src, types[i], glu, e);
        while (m.copies) b->be->ops->weight_free(b->be, m.w[--m.copies]);
        free(src);
    }
    free(m.x);
    free(m.y);
    return rc;
}
