/* Norms, rotary angles, picked rows and the soft cap on the device, against kernels/ref; and the same bits
 * for a row alone, in a batch, and in another place. y of add_norm is BF16, so it carries that type's
 * rounding. */
#include "device.h"

enum { N = 70 };
static const int dims[] = {8, 20, 24, 33, 64, 1000, 4096, 5120, 9000};
enum { DIMS = sizeof dims / sizeof *dims };
static const enum cuda_norm norms[] = {CUDA_NORM_BLOCK, CUDA_NORM_PLAIN};

static struct backend *open_norm(enum cuda_norm norm)
{
    struct cuda_options o = {.norm = norm, .deterministic = true};
    return cuda_device(o);
}

struct norm_case {
    int dim, n;
    bool delta, post, pre;
    float *x, *d, *w; /* host: [n][dim] twice, [2][dim] */
    float *x2, *y;    /* results [n][dim] */
};

static void norm_on_device(struct backend *be, const struct norm_case *c, int first, int n)
{
    size_t at = (size_t)first * c->dim, len = (size_t)n * c->dim;
    float *x = up(be, c->x + at, len * sizeof *x), *d = up(be, c->d + at, len * sizeof *d),
          *w = up(be, c->w, (size_t)2 * c->dim * sizeof *w);
    void *y = up(be, NULL, len * 2);
    struct norm_args a = {.n = n,
                          .dim = c->dim,
                          .x = x,
                          .delta = c->delta ? d : NULL,
                          .scale = 0.22f,
                          .post_w = c->post ? w : NULL,
                          .pre_w = c->pre ? w + c->dim : NULL,
                          .y = y,
                          .eps = 1e-6f};
    be->ops->add_norm(be, &a);
    down(be, c->x2 + at, x, len * sizeof *x);
    down_mat(be, c->y + at, y, len);
    be->ops->mem_free(be, x), be->ops->mem_free(be, d), be->ops->mem_free(be, w), be->ops->mem_free(be, y);
}

static void check_norm(struct backend *be, struct norm_case *c)
{
    size_t len = (size_t)c->n * c->dim;
    float *x = malloc(len * sizeof *x), *y = malloc(len * sizeof *y);
    ck_assert(x && y);
    memcpy(x, c->x, len * sizeof *x);
    memcpy(y, c->x, len * sizeof *y);
    struct norm_args a = {.n = c->n,
                          .dim = c->dim,
                          .x = x,
                          .delta = c->delta ? c->d : NULL,
                          .scale = 0.22f,
                          .post_w = c->post ? c->w : NULL,
                          .pre_w = c->pre ? c->w + c->dim : NULL,
                          .y = y,
                          .eps = 1e-6f};
    ref_add_norm_rows(&a, 0, c->n);
    norm_on_device(be, c, 0, c->n);
    ck_assert_double_lt(nmse(c->x2, x, len), 1e-12);
    if (c->pre) {
        for (size_t i = 0; i < len; i++) /* half a unit in the 8th bit */
            if (!(fabsf(c->y[i] - y[i]) <= 0x1.01p-8f * fabsf(y[i])))
                ck_abort_msg("dim %d: y[%zu] is %.9g, not %.9g", c->dim, i, c->y[i], y[i]);
    } else {
        memcpy(y, c->x2, len * sizeof *y);
        round_mat(y, len);
        ck_assert_mem_eq(c->y, y, len * sizeof *y);
    }
    memcpy(x, c->x2, len * sizeof *x);
    memcpy(y, c->y, len * sizeof *y);
    int last = c->n - 1;
    norm_on_device(be, c, last, 1); /* alone */
    if (c->n > 3) norm_on_device(be, c, 1, 2);
    ck_assert_mem_eq(c->x2, x, len * sizeof *x);
    ck_assert_mem_eq(c->y, y, len * sizeof *y);
    free(x), free(y);
}

START_TEST(add_norm_is_right_and_invariant)
{
    struct backend *be = open_norm(norms[_i / DIMS]);
    for (int form = 0; form < 8; form++) {
        int dim = dims[_i % DIMS];
        struct norm_case c = {.dim = dim,
                              .n = form == 7 && dim <= 64 ? N : 1 + form % 5,
                              .delta = form & 1,
                              .post = form & 2,
                              .pre = form & 4};
        size_t len = (size_t)c.n * dim;
        seed = (uint64_t)form + 3;
        c.x = random_floats(len), c.d = random_floats(len), c.w = random_floats((size_t)2 * dim);
        c.x2 = random_floats(len), c.y = random_floats(len);
        check_norm(be, &c);
        for (size_t i = 0; i < len; i++) c.x[i] *= i % 7 ? 3e4f : 3e16f, c.d[i] *= 1e15f;
        check_norm(be, &c);
        for (size_t i = 0; i < len; i++) c.x[i] *= 1e-36f, c.d[i] *= i % 5 ? 0 : 1e-32f;
        check_norm(be, &c);
        memset(c.x, 0, len * sizeof *c.x);
        memset(c.d, 0, len * sizeof *c.d);
        check_norm(be, &c);
        free(c.x), free(c.d), free(c.w), free(c.x2), free(c.y);
    }
    be->ops->close(be);
}
END_TEST

START_TEST(row_norm_leaves_gaps_alone)
{
    int dim = dims[_i], stride = dim + 12, n = 5;
    size_t len = (size_t)n * stride;
    struct backend *be = open_norm(CUDA_NORM_BLOCK);
    float *x = random_floats(len), *w = random_floats((size_t)dim), *y = random_floats(len);
    float *dx = up(be, x, len * sizeof *x), *dw = up(be, w, (size_t)dim * sizeof *w);
    be->ops->row_norm(be, dx, n, dim, stride, dw, 1e-5f);
    down(be, y, dx, len * sizeof *y);
    for (int r = 0; r < n; r++)
        ck_assert_mem_eq(y + (size_t)r * stride + dim, x + (size_t)r * stride + dim, 12 * sizeof *x);
    ref_row_norm_rows(x, 0, n, dim, stride, w, 1e-5f);
    ck_assert_double_lt(nmse(y, x, len), 1e-12);
    be->ops->mem_free(be, dx), be->ops->mem_free(be, dw);
    be->ops->close(be);
    free(x), free(w), free(y);
}
END_TEST

START_TEST(rope_angles_are_the_reference)
{
    enum { HALF = 48 };
    int32_t pos[N], zero[N] = {0};
    float freq[HALF], want[N * HALF * 2], got[N * HALF * 2];
    struct backend *be = open_norm(CUDA_NORM_BLOCK);
    cuda_reserve(be, N, 8, 8);
    for (int i = 0; i < N; i++) pos[i] = i * i * 97;
    pos[N - 1] = 10000000; /* far beyond what a fast sine can reduce */
    for (int i = 0; i < HALF; i++) freq[i] = powf(10000, -(float)i / HALF);
    for (int n = 1; n <= N; n += 23) {
        struct batch b = {.n = n, .ids = zero, .pos = pos + N - n};
        float *dfreq = up(be, freq, sizeof freq), *cs = up(be, NULL, sizeof got);
        be->ops->begin(be, &b);
        be->ops->rope_angles(be, &b, dfreq, HALF, 1.1f, cs);
        size_t len = (size_t)n * HALF * 2;
        down(be, got, cs, len * sizeof *got);
        ref_rope_angles_rows(b.pos, 0, n, freq, HALF, 1.1f, want);
        for (size_t i = 0; i < len; i++) ck_assert_float_eq_tol(got[i], want[i], 5e-7f);
        be->ops->mem_free(be, dfreq), be->ops->mem_free(be, cs);
    }
    be->ops->close(be);
}
END_TEST

/* Steps that are packed while others wait for the device keep their own integers. */
START_TEST(steps_under_way_keep_their_integers)
{
    enum { STEPS = 5, ROW = 8 };
    int32_t zero[N] = {0}, pos[STEPS][N];
    int out[STEPS][N];
    float x[N * ROW], y[N * ROW], cs[N * 2], one = 1, *dy[STEPS], *dcs[STEPS];
    struct backend *be = open_norm(CUDA_NORM_BLOCK);
    cuda_reserve(be, N, 8, 8);
    for (int i = 0; i < N * ROW; i++) x[i] = uniform();
    float *dx = up(be, x, sizeof x), *freq = up(be, &one, sizeof one);
    for (int s = 0; s < STEPS; s++) dy[s] = up(be, NULL, sizeof y), dcs[s] = up(be, NULL, sizeof cs);
    for (int s = 0; s < STEPS; s++) {
        int n = N - s / 2;
        for (int i = 0; i < n; i++) out[s][i] = n - 1 - i, pos[s][i] = s * N + i;
        struct batch b = {.n = n, .ids = zero, .pos = pos[s], .n_out = n - s, .out_row = out[s]};
        be->ops->begin(be, &b);
        be->ops->gather(be, &b, dx, ROW * sizeof *x, dy[s]);
        be->ops->rope_angles(be, &b, freq, 1, 1, dcs[s]);
    }
    for (int s = 0; s < STEPS; s++) {
        int n = N - s / 2;
        down(be, y, dy[s], sizeof y);
        down(be, cs, dcs[s], sizeof cs);
        for (int i = 0; i < n - s; i++) ck_assert_mem_eq(y + ROW * i, x + ROW * (n - 1 - i), ROW * sizeof *x);
        for (int i = 0; i < n; i++) ck_assert_float_eq_tol(cs[2 * i], cosf((float)(s * N + i)), 1e-6f);
        be->ops->mem_free(be, dy[s]), be->ops->mem_free(be, dcs[s]);
    }
    be->ops->mem_free(be, dx), be->ops->mem_free(be, freq);
    be->ops->close(be);
}
END_TEST

START_TEST(a_recorded_step_serves_its_rows_only)
{
    struct backend *be = open_norm(CUDA_NORM_BLOCK);
    struct err e;
    int32_t zero[N] = {0};
    float x[4] = {1, 2, 3, 4}, y[4];
    cuda_reserve(be, N, 8, 8);
    float *dx = up(be, x, sizeof x);
    struct batch four = {.n = 4, .ids = zero, .pos = zero}, three = {.n = 3, .ids = zero, .pos = zero};
    be->ops->begin(be, &four);
    ck_assert_int_eq(be->ops->record(be, &e), 0);
    be->ops->scale_cap(be, dx, 4, 2, 0);
    ck_assert_int_eq(be->ops->record_end(be, 4, &e), 0);
    be->ops->begin(be, &three);
    ck_assert(!be->ops->replay(be, &three));
    be->ops->begin(be, &four);
    ck_assert(be->ops->replay(be, &four));
    down(be, y, dx, sizeof y);
    for (int i = 0; i < 4; i++) ck_assert(y[i] == 2 * x[i]); /* once: recording did not run it */
    be->ops->mem_free(be, dx);
    be->ops->close(be);
}
END_TEST

/* Rows that are whole float4, whole words, and neither. */
START_TEST(gather_copies_rows)
{
    static const size_t sizes[] = {4096, 1600, 20, 12, 6, 7};
    size_t row = sizes[_i];
    int32_t zero[N] = {0};
    int out[N], n_out = 0;
    unsigned char *x = (unsigned char *)random_floats(row * N / 4 + 1), *y = malloc(row * N);
    ck_assert_ptr_nonnull(y);
    struct backend *be = open_norm(CUDA_NORM_BLOCK);
    cuda_reserve(be, N, 8, 8);
    for (int i = 0; i < N; i++)
        if (uniform() > 0 || i == N - 1) out[n_out++] = i;
    struct batch b = {.n = N, .ids = zero, .pos = zero, .n_out = n_out, .out_row = out};
    void *dx = up(be, x, row * N), *dy = up(be, NULL, row * N);
    be->ops->begin(be, &b);
    be->ops->gather(be, &b, dx, row, dy);
    down(be, y, dy, row * n_out);
    for (int i = 0; i < n_out; i++) ck_assert_mem_eq(y + row * i, x + row * out[i], row);
    be->ops->mem_free(be, dx), be->ops->mem_free(be, dy);
    be->ops->close(be);
    free(x), free(y);
}
END_TEST

START_TEST(scale_cap_is_the_reference)
{
    static const int sizes[] = {1, 3, 1023, 1024, 1025, 5000};
    struct backend *be = open_norm(CUDA_NORM_BLOCK);
    for (int z = 0; z < 6; z++)
        for (int form = 0; form < 2; form++) {
            size_t n = (size_t)sizes[z];
            float *x = random_floats(n), *y = random_floats(n), cap = form ? 30 : 0;
            for (size_t i = 0; i < n; i++) x[i] *= i % 3 ? 10 : 1e4f;
            float *d = up(be, x, n * sizeof *x);
            be->ops->scale_cap(be, d, (int64_t)n, 0.7f, cap);
            down(be, y, d, n * sizeof *y);
            ref_scale_cap_range(x, 0, (int64_t)n, 0.7f, cap);
            for (size_t i = 0; i < n; i++) ck_assert_float_le(fabsf(y[i] - x[i]), 1e-6f * fabsf(x[i]));
            be->ops->mem_free(be, d);
            free(x), free(y);
        }
    be->ops->close(be);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cuda step");
    TCase *t = tcase_create("step");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, add_norm_is_right_and_invariant, 0, 2 * DIMS);
    tcase_add_loop_test(t, row_norm_leaves_gaps_alone, 0, DIMS);
    tcase_add_test(t, rope_angles_are_the_reference);
    tcase_add_test(t, steps_under_way_keep_their_integers);
    tcase_add_test(t, a_recorded_step_serves_its_rows_only);
    tcase_add_loop_test(t, gather_copies_rows, 0, 6);
    tcase_add_test(t, scale_cap_is_the_reference);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int bad = srunner_ntests_failed(r);
    srunner_free(r);
    return bad != 0;
}
