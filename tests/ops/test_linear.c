/* The matrix ops of the CPU back end as a whole: against a product in double, and bit for bit against
 * themselves for every number of rows, place, thread count and company of other matrices. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include "cpu.h"
#include "random_weights.h"

/* NMSE of int8 activations against exact ones; plain weights only round (with bfloat16 dot products, to
 * BF16). */
#define NMSE_QUANT 2e-4
#define NMSE_PLAIN 1e-10
#define NMSE_BF16  2e-5

#define MAX_N 513
static const int row_counts[] = {1, 2, 3, 5, 8, 16, 33, 64, MAX_N};
static const struct {
    int n_out, n_in;
} shapes[] = {{160, 64}, {1024, 160}, {33, 256}, {70, 512}, {1, 768}, {65, 37}, {32, 1}};
#define N_SHAPE ((int)(sizeof shapes / sizeof *shapes))

static void *take(size_t n)
{
    void *p = malloc(n);
    ck_assert_ptr_nonnull(p);
    return p;
}

static void open_backend(struct cpu_backend *be, enum cpu_isa isa, int threads)
{
    struct err e = {0};
    *be = (struct cpu_backend){.isa = isa};
    ck_assert_msg(!pool_open(threads, &be->pool, &e) && !cpu_linear_open(be, &e), "%s", e.msg);
}

static void close_backend(struct cpu_backend *be)
{
    cpu_linear_close(be);
    cpu_weight_close(be);
    pool_close(be->pool);
}

struct matrix {
    enum dtype type;
    int n_out, n_in;
    uint8_t *src;
    float *f; /* [n_out][n_in], dequantised */
};

/* NULL if n_in is not a whole number of blocks */
static struct matrix *matrix_new(enum dtype t, int n_out, int n_in)
{
    size_t row = dtype_row_bytes(t, n_in), n = (size_t)n_out * (size_t)n_in;
    if (!row) return NULL;
    struct matrix *m = take(sizeof *m);
    *m = (struct matrix){t, n_out, n_in, take(row * (size_t)n_out), take(n * sizeof(float))};
    random_weights(t, m->src, n);
    dtype_to_f32(t, m->src, m->f, (int64_t)n);
    return m;
}

static void matrix_free(struct matrix *m)
{
    free(m->src);
    free(m->f);
    free(m);
}

static struct weight *pack(struct cpu_backend *be, const struct matrix *m)
{
    struct err e = {0};
    struct weight *w = NULL;
    int rc = cpu_weight_pack(&be->base, m->type, m->n_out, m->n_in, m->src, &w, &e);
    ck_assert_msg(rc == 0, "%s", e.msg);
    return w;
}

static double nmse(const struct matrix *m, const float *x, const float *y, int n)
{
    double err = 0, size = 0;
    for (int r = 0; r < n; r++)
        for (int o = 0; o < m->n_out; o++) {
            double sum = 0;
            for (int k = 0; k < m->n_in; k++)
                sum += (double)x[r * m->n_in + k] * (double)m->f[o * m->n_in + k];
            double d = sum - (double)y[r * m->n_out + o];
            err += d * d;
            size += sum * sum;
        }
    return err / size;
}

static void check_rows_equal(const char *what, const struct matrix *m, const float *a, const float *b, int n)
{
    ck_assert_msg(!memcmp(a, b, sizeof *a * (size_t)n * (size_t)m->n_out), "%s: %s %d x %d differs in bits",
                  what, dtype_info(m->type)->name, m->n_out, m->n_in);
}

/* All of the first rows are checked, and a prime step of the many others reaches every place in a block. */
static int row_step(int r) { return r < 100 ? 1 : 7; }

/* One shape, all row counts: right, and each row the same as alone. */
static void check_matrix(struct cpu_backend *be, const struct matrix *m, const float *x)
{
    struct weight *w = pack(be, m);
    size_t row = (size_t)m->n_out;
    float *alone = take(MAX_N * row * sizeof *alone), *y = take(MAX_N * row * sizeof *y);
    for (int r = 0; r < MAX_N; r += row_step(r)) {
        struct linear_out o = {w, NULL, alone + row * (size_t)r, m->n_out};
        cpu_linear(&be->base, x + r * m->n_in, 1, &o, 1);
    }
    double limit = dtype_is_quant(m->type)                            ? NMSE_QUANT
                   : m->type == DT_BF16 && be->isa == ISA_AVX512_BF16 ? NMSE_BF16
                                                                      : NMSE_PLAIN;
    double got = nmse(m, x, alone, 64);
    ck_assert_msg(got <= limit, "%s %d x %d: NMSE %g", dtype_info(m->type)->name, m->n_out, m->n_in, got);
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++) {
        int n = row_counts[i], from = n < 64 ? 17 : 0; /* also not at the beginning of x */
        struct linear_out o = {w, NULL, y, m->n_out};
        cpu_linear(&be->base, x + from * m->n_in, n, &o, 1);
        for (int r = 0; r < n; r += row_step(r + from))
            check_rows_equal("together and alone", m, y + row * (size_t)r, alone + row * (size_t)(r + from),
                             1);
    }
    cpu_weight_free(&be->base, w);
    free(alone);
    free(y);
}

static void check_all(enum cpu_isa isa, int threads, int reserve)
{
    struct cpu_backend be;
    open_backend(&be, isa, threads);
    struct err e = {0};
    if (reserve) ck_assert_int_eq(cpu_linear_reserve(&be, reserve, 768, &e), 0);
    float *x = take(sizeof *x * MAX_N * 768);
    random_floats(x, MAX_N * 768);
    for (int i = 0; i < DT_I8 * N_SHAPE; i++) {
        struct matrix *m =
            matrix_new((enum dtype)(i / N_SHAPE), shapes[i % N_SHAPE].n_out, shapes[i % N_SHAPE].n_in);
        if (!m) continue;
        check_matrix(&be, m, x);
        matrix_free(m);
    }
    free(x);
    close_backend(&be);
}

/* Loop index: instruction level * 2 + (threads - 1). The scalar level is for one thread; it is slow. */
START_TEST(rows_do_not_depend_on_company)
{
    enum cpu_isa isa = (enum cpu_isa)(_i / 2);
    if (isa > cpu_isa_detect()) return;
#ifdef EMULATED /* the levels below run elsewhere, for real */
    if (isa < cpu_isa_detect()) return;
#endif
    check_all(isa, 1 + _i % 2, _i % 2 ? 600 : 0);
}
END_TEST

START_TEST(threads_and_levels_do_not_change_quantised_results)
{
    struct cpu_backend a, b;
    open_backend(&a, ISA_SCALAR, 1);
    open_backend(&b, cpu_isa_detect(), 3);
    float *x = take(sizeof *x * 40 * 512);
    random_floats(x, 40 * 512);
    for (enum dtype t = DT_Q8_0; t <= DT_Q6_K; t++) {
        struct matrix *m = matrix_new(t, 200, 512);
        struct weight *wa = pack(&a, m), *wb = pack(&b, m);
        float ya[40 * 200], yb[40 * 200];
        cpu_linear(&a.base, x, 40, &(struct linear_out){wa, NULL, ya, 200}, 1);
        cpu_linear(&b.base, x, 40, &(struct linear_out){wb, NULL, yb, 200}, 1);
        check_rows_equal("scalar, one thread and best level, three threads", m, ya, yb, 40);
        cpu_weight_free(&a.base, wa);
        cpu_weight_free(&b.base, wb);
        matrix_free(m);
    }
    free(x);
    close_backend(&a);
    close_backend(&b);
}
END_TEST

/* Query, key and value projections of different types and sizes, with bias and strides, in one call. */
START_TEST(several_outs_equal_single_ones)
{
    struct cpu_backend be;
    open_backend(&be, cpu_isa_detect(), 2);
    enum dtype types[] = {DT_Q5_0, DT_BF16, DT_Q8_0, DT_Q6_K, DT_F32};
    int outs[] = {100, 32, 65, 1, 40};
    float *x = take(sizeof *x * 70 * 256), bias[100];
    random_floats(x, 70 * 256);
    random_floats(bias, 100);
    struct matrix *m[5];
    struct linear_out o[5];
    static float together[5][70 * 128], single[70 * 128];
    for (int i = 0; i < 5; i++) {
        m[i] = matrix_new(types[i], outs[i], 256);
        o[i] = (struct linear_out){pack(&be, m[i]), i % 2 ? NULL : bias, together[i], 128};
    }
    for (int n = 1; n <= 70; n += 23) {
        memset(together, 0, sizeof together);
        cpu_linear(&be.base, x, n, o, 5);
        for (int i = 0; i < 5; i++) {
            memset(single, 0, sizeof single);
            struct linear_out s = o[i];
            s.y = single;
            s.bias = NULL;
            cpu_linear(&be.base, x, n, &s, 1);
            for (int r = 0; r < n && o[i].bias; r++)
                for (int c = 0; c < outs[i]; c++) single[128 * r + c] += bias[c];
            ck_assert_mem_eq(together[i], single,
                             sizeof single); /* so nothing beyond n_out was written either */
        }
    }
    for (int i = 0; i < 5; i++) {
        cpu_weight_free(&be.base, (struct weight *)o[i].w);
        matrix_free(m[i]);
    }
    free(x);
    close_backend(&be);
}
END_TEST

START_TEST(glu_equals_its_parts)
{
    struct cpu_backend be;
    open_backend(&be, cpu_isa_detect(), 2);
    enum dtype types[][2] = {{DT_Q5_0, DT_Q5_0}, {DT_BF16, DT_BF16}, {DT_Q4_K, DT_F16}};
    static float x[300 * 256], gate[300 * 100], up[300 * 100], y[300 * 100];
    random_floats(x, 300 * 256);
    for (int i = 0; i < 3; i++) {
        struct matrix *g = matrix_new(types[i][0], 100, 256), *u = matrix_new(types[i][1], 100, 256);
        struct weight *wg = pack(&be, g), *wu = pack(&be, u);
        for (int n = 1; n <= 300; n += 13) {
            struct linear_out o[2] = {{wg, NULL, gate, 100}, {wu, NULL, up, 100}};
            cpu_linear(&be.base, x, n, o, 2);
            cpu_linear_glu(&be.base, x, n, wg, wu, ACT_RELU, y);
            for (int k = 0; k < n * 100; k++) ck_assert(y[k] == (gate[k] > 0 ? gate[k] : 0) * up[k]);
            cpu_linear_glu(&be.base, x, n, wg, wu, ACT_SILU, y);
            for (int k = 0; k < n * 100; k++) {
                double s = (double)gate[k] / (1 + exp(-(double)gate[k])) * (double)up[k];
                ck_assert_double_eq_tol(y[k], s, 1e-6 * (fabs(s) + 1e-3));
            }
        }
        cpu_weight_free(&be.base, wg);
        cpu_weight_free(&be.base, wu);
        matrix_free(g);
        matrix_free(u);
    }
    close_backend(&be);
}
END_TEST

START_TEST(embedding_rows_are_exact)
{
    struct cpu_backend be;
    open_backend(&be, ISA_SCALAR, 2);
    int32_t ids[] = {0, 69, 31, 32, 31};
    static float y[5 * 512];
    for (enum dtype t = 0; t < DT_I8; t++) {
        struct matrix *m = matrix_new(t, 70, 512);
        struct weight *w = pack(&be, m);
        cpu_embed(&be.base, w, &(struct batch){.n = 5, .ids = ids}, 3.0f, y);
        for (int i = 0; i < 5; i++)
            for (int k = 0; k < 512; k++) ck_assert(y[512 * i + k] == 3.0f * m->f[512 * ids[i] + k]);
        struct weight_info info = cpu_weight_info(w);
        ck_assert(info.type == t && info.n_out == 70 && info.n_in == 512);
        ck_assert_uint_ge(info.bytes, 96 * dtype_row_bytes(t, 512)); /* padded to whole panels ... */
        ck_assert_uint_le(info.bytes,
                          96 * dtype_row_bytes(t, 512) * 5 / 4); /* ... and otherwise about as compact */
        cpu_weight_free(&be.base, w);
        matrix_free(m);
    }
    close_backend(&be);
}
END_TEST

/* Rows 3, 4 and 5 are spoilt; the others must not notice, not even through the padding of an odd width. */
START_TEST(non_finite_rows_stay_by_themselves)
{
    struct cpu_backend be;
    open_backend(&be, cpu_isa_detect(), 1);
    static const enum dtype types[] = {DT_Q4_K, DT_BF16, DT_F16};
    static float x[8 * 256], y[8 * 64], clean[8 * 64];
    for (int i = 0; i < 3; i++) {
        int n_in = i ? 37 : 256;
        struct matrix *m = matrix_new(types[i], 64, n_in);
        struct weight *w = pack(&be, m);
        random_floats(x, 8 * 256);
        cpu_linear(&be.base, x, 8, &(struct linear_out){w, NULL, clean, 64}, 1);
        x[3 * n_in + 7] = NAN;
        x[5 * n_in + 30] = INFINITY;
        for (int k = 0; k < n_in; k++) x[4 * n_in + k] = INFINITY;
        cpu_linear(&be.base, x, 8, &(struct linear_out){w, NULL, y, 64}, 1);
        for (int k = 0; k < 8 * 64; k++) {
            bool spoilt = k / 64 >= 3 && k / 64 <= 5;
            ck_assert(spoilt ? !isfinite(y[k]) : y[k] == clean[k]);
        }
        cpu_weight_free(&be.base, w);
        matrix_free(m);
    }
    close_backend(&be);
}
END_TEST

START_TEST(absurd_sizes_are_refused)
{
    struct cpu_backend be;
    open_backend(&be, ISA_SCALAR, 1);
    struct weight *w = NULL;
    struct err e = {0};
    const char nothing[1] = {0};
    ck_assert_int_eq(cpu_weight_pack(&be.base, DT_Q4_K, 32, 255, nothing, &w, &e), ERR_INVALID);
    ck_assert_int_eq(cpu_weight_pack(&be.base, DT_Q8_0, 0, 32, nothing, &w, &e), ERR_INVALID);
    ck_assert_int_eq(cpu_weight_pack(&be.base, DT_Q8_0, -5, 32, nothing, &w, &e), ERR_INVALID);
    ck_assert_int_eq(cpu_weight_pack(&be.base, DT_F32, 5, -1, nothing, &w, &e), ERR_INVALID);
    ck_assert_int_eq(cpu_weight_pack(&be.base, DT_I8, 32, 32, nothing, &w, &e), ERR_UNSUPPORTED);
    ck_assert_int_eq(cpu_weight_pack(&be.base, (enum dtype)99, 32, 32, nothing, &w, &e), ERR_UNSUPPORTED);
    ck_assert_int_eq(cpu_weight_pack(&be.base, (enum dtype) - 1, 32, 32, nothing, &w, &e), ERR_UNSUPPORTED);
    for (enum dtype t = 0; t < DT_I8; t++) {
        ck_assert_int_eq(cpu_weight_pack(&be.base, t, INT32_MAX, INT32_MAX / 256 * 256, nothing, &w, &e),
                         ERR_INVALID);
        ck_assert_int_eq(cpu_weight_pack(&be.base, t, INT32_MAX, 1 << 24, nothing, &w, &e), ERR_NOMEM);
    }
    ck_assert_ptr_null(w);
    ck_assert_str_ne(e.msg, "");
    close_backend(&be);
}
END_TEST

/* Memory of many matrices, freed in another order, also after the back end. */
START_TEST(weights_can_be_freed_in_any_order)
{
    struct cpu_backend be;
    open_backend(&be, cpu_isa_detect(), 2);
    struct matrix *m = matrix_new(DT_Q8_0, 4096, 1024); /* 4.4 MiB: 40 of them need several slabs */
    struct weight *w[40];
    static float first[4096], y[4096], x[1024];
    random_floats(x, 1024);
    for (int i = 0; i < 40; i++) w[i] = pack(&be, m);
    cpu_linear(&be.base, x, 1, &(struct linear_out){w[0], NULL, first, 4096}, 1);
    for (int i = 0; i < 40; i += 2) cpu_weight_free(&be.base, w[i]);
    for (int i = 1; i < 40; i += 2) {
        cpu_linear(&be.base, x, 1, &(struct linear_out){w[i], NULL, y, 4096}, 1);
        ck_assert_mem_eq(y, first, sizeof y);
    }
    close_backend(&be);
    for (int i = 39; i > 0; i -= 2) cpu_weight_free(&be.base, w[i]);
    matrix_free(m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("linear");
    TCase *t = tcase_create("linear");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, rows_do_not_depend_on_company, 2 * ISA_AVX2, 2 * ISA_COUNT);
    tcase_add_test(t, threads_and_levels_do_not_change_quantised_results);
    tcase_add_test(t, several_outs_equal_single_ones);
    tcase_add_test(t, glu_equals_its_parts);
    tcase_add_test(t, embedding_rows_are_exact);
    tcase_add_test(t, non_finite_rows_stay_by_themselves);
    tcase_add_test(t, absurd_sizes_are_refused);
    tcase_add_test(t, weights_can_be_freed_in_any_order);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
