/* Matrices and products of the CUDA back end against the scalar oracle, whose weights are what the device is
 * to have: BF16 or E4M3 roundings of plain types, exact values of quantised ones. */
#include "device.h"

/* NMSE: where both sides have the same values of weights and x, only the order of sums differs; values that
 * are dequantised to BF16, and BF16 results, are off by 2^-9 at most. */
#define NMSE_SAME    1e-11
#define NMSE_ROUNDED 1e-5

static struct backend *be, *be_fixed, *be_fp8, *ref;

static void setup(void)
{
    if (be) return;
    be = cuda_device((struct cuda_options){0});
    be_fixed = cuda_device((struct cuda_options){.deterministic = true});
    be_fp8 = cuda_device((struct cuda_options){.fp8 = true});
    ref = ref_backend();
    cuda_reserve(be, 600, 4096, 64);
    cuda_reserve(be_fixed, 600, 4096, 64);
    cuda_reserve(be_fp8, 600, 4096, 64);
}

/* Plain loops to the nearest E4M3 value, for |v| <= 448: eight steps of each power of two, from 2^-6. */
static float round_e4m3(float v)
{
    int e;
    frexpf(v, &e);
    if (e < -5) e = -5;
    float step = ldexpf(1, e - 4);
    return rintf(v / step) * step;
}

struct matrix {
    enum dtype type;
    int n_out, n_in;
    uint8_t *src;
    float *f; /* [n_out][n_in] the values that the device has */
    struct weight *w, *oracle;
    double limit; /* of NMSE */
};

/* Codes of any value; scales of either sign about 0.01. */
static void random_blocks(enum dtype t, uint8_t *p, size_t n)
{
    static const short scale_at[DT_COUNT][2] = {
        [DT_Q8_0] = {0, -1}, [DT_Q4_0] = {0, -1},  [DT_Q4_1] = {0, 2},    [DT_Q5_0] = {0, -1},
        [DT_Q5_1] = {0, 2},  [DT_Q2_K] = {80, 82}, [DT_Q3_K] = {108, -1}, [DT_Q4_K] = {0, 2},
        [DT_Q5_K] = {0, 2},  [DT_Q6_K] = {208, -1}};
    const struct dtype_info *d = dtype_info(t);
    for (size_t i = 0; i < n; i += (size_t)d->block, p += d->bytes) {
        for (int k = 0; k < d->bytes; k++) p[k] = (uint8_t)(int)(uniform() * 128 + 128);
        for (int k = 0; k < 2; k++) {
            uint16_t h = half_from_f32(0.01f * uniform());
            if (scale_at[t][k] >= 0) memcpy(p + scale_at[t][k], &h, 2);
        }
    }
}

static void as_on_device(struct matrix *m, bool fp8)
{
    for (int o = 0; o < m->n_out; o++) {
        float *f = m->f + (size_t)o * (size_t)m->n_in, max = 0;
        for (int k = 0; k < m->n_in; k++) max = fmaxf(max, fabsf(f[k]));
        for (int k = 0; k < m->n_in; k++)
            if (!fp8)
                f[k] = bf16_to_f32(bf16_from_f32(f[k]));
            else if (max > 0)
                f[k] = round_e4m3(f[k] * (1 / (max / 448))) * (max / 448);
    }
}

/* From src, of which the matrix becomes the owner. */
static struct matrix *matrix_of(struct backend *b, enum dtype t, int n_out, int n_in, uint8_t *src)
{
    struct matrix *m = malloc(sizeof *m);
    ck_assert_ptr_nonnull(m);
    size_t n = (size_t)n_out * (size_t)n_in;
    *m = (struct matrix){.type = t, .n_out = n_out, .n_in = n_in, .src = src, .f = random_floats(n)};
    struct err e = {0};
    dtype_to_f32(t, src, m->f, (int64_t)n);
    if (t <= DT_BF16) as_on_device(m, b == be_fp8);
    m->limit = t <= DT_BF16 ? NMSE_SAME : NMSE_ROUNDED;
    if (b == be_fp8) m->limit = NMSE_ROUNDED; /* a tie may go either way */
    ck_assert_msg(!b->ops->weight_pack(b, t, n_out, n_in, src, &m->w, &e), "%s", e.msg);
    ck_assert_msg(!ref->ops->weight_pack(ref, DT_F32, n_out, n_in, m->f, &m->oracle, &e), "%s", e.msg);
    return m;
}

static struct matrix *matrix_new(struct backend *b, enum dtype t, int n_out, int n_in)
{
    size_t row = dtype_row_bytes(t, n_in), n = (size_t)n_out * (size_t)n_in;
    ck_assert_msg(row != 0, "%s of %d", dtype_info(t)->name, n_in);
    uint8_t *src = malloc(row * (size_t)n_out);
    ck_assert_ptr_nonnull(src);
    if (dtype_is_quant(t)) {
        random_blocks(t, src, n);
    } else {
        float *f = random_floats(n);
        if (t == DT_F32)
            memcpy(src, f, n * sizeof *f);
        else
            dtype_from_f32(t, f, src, (int64_t)n);
        free(f);
    }
    return matrix_of(b, t, n_out, n_in, src);
}

static void matrix_free(struct backend *b, struct matrix *m)
{
    b->ops->weight_free(b, m->w);
    ref->ops->weight_free(ref, m->oracle);
    free(m->src);
    free(m->f);
    free(m);
}

/* What x is, [n][n_in], on both sides. */
struct input {
    float *f;
    void *d;
};
static struct input input_new(struct backend *b, int n, int n_in)
{
    size_t values = (size_t)n * (size_t)n_in;
    struct input x = {.f = random_floats(values)};
    round_mat(x.f, values);
    x.d = up_mat(b, x.f, values);
    return x;
}
static void input_free(struct backend *b, struct input x)
{
    b->ops->mem_free(b, x.d);
    free(x.f);
}

#define MARK 12345.0f /* in memory that no op may write */

/* The product by the device: [n][n_out], in memory with a gap after each row and a row more. */
static float *product(struct backend *b, const struct matrix *m, const void *x, int n, const float *bias)
{
    int stride = m->n_out + 3;
    size_t all = (size_t)(n + 1) * (size_t)stride;
    float *y = random_floats(all);
    for (size_t i = 0; i < all; i++) y[i] = MARK;
    float *dy = up(b, y, all * sizeof *y),
          *dbias = bias ? up(b, bias, (size_t)m->n_out * sizeof *bias) : NULL;
    b->ops->linear(b, x, n, &(struct linear_out){m->w, dbias, dy, stride}, 1);
    down(b, y, dy, all * sizeof *y);
    for (int r = 0; r <= n; r++)
        for (int o = 0; o < stride; o++)
            if (r == n || o >= m->n_out)
                ck_assert_msg(y[r * stride + o] == MARK, "[%d][%d] of %d x %d was written", r, o, n,
                              m->n_out);
            else
                y[r * m->n_out + o] = y[r * stride + o];
    b->ops->mem_free(b, dy);
    if (dbias) b->ops->mem_free(b, dbias);
    return y;
}

static void check_product(struct backend *b, const struct matrix *m, int n, bool with_bias)
{
    struct input x = input_new(b, n, m->n_in);
    float *bias = with_bias ? random_floats((size_t)m->n_out) : NULL;
    float *y = product(b, m, x.d, n, bias), *want = random_floats((size_t)n * (size_t)m->n_out);
    ref->ops->linear(ref, x.f, n, &(struct linear_out){m->oracle, bias, want, m->n_out}, 1);
    double got = nmse(y, want, (size_t)n * (size_t)m->n_out);
    double few = n * m->n_out < 64 ? 20 : 1; /* of which some may be small by cancellation */
    ck_assert_msg(got <= m->limit * few, "%s%s %d x %d, %d rows: NMSE %g", dtype_info(m->type)->name,
                  b == be_fp8 ? " as E4M3" : "", m->n_out, m->n_in, n, got);
    free(want);
    free(y);
    free(bias);
    input_free(b, x);
}

static const int row_counts[] = {1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 65, 100, 200};
#define N_COUNTS ((int)(sizeof row_counts / sizeof *row_counts))

START_TEST(every_type_by_every_number_of_rows) /* _i: type */
{
    for (int k = 0; k < 3; k++) {
        struct backend *b = k == 0 ? be : k == 1 ? be_fixed : be_fp8;
        if (b == be_fp8 && _i > DT_BF16) continue;
        if (b == be_fixed && dtype_is_quant((enum dtype)_i)) continue; /* nothing differs */
        struct matrix *m = matrix_new(b, (enum dtype)_i, 40, 256);
        for (int i = 0; i < N_COUNTS; i++) check_product(b, m, row_counts[i], i % 2);
        matrix_free(b, m);
    }
}
END_TEST

START_TEST(ragged_shapes) /* _i: type */
{
    static const int outs[] = {1, 8, 16, 40, 130}, ins[] = {8, 24, 64, 96, 160, 320};
    enum dtype t = (enum dtype[]){DT_BF16, DT_F32, DT_Q8_0, DT_Q4_0, DT_Q4_1}[_i];
    struct backend *b = t == DT_F32 ? be_fp8 : be;
    for (int o = 0; o < 5; o++)
        for (int i = 0; i < 6; i++) {
            if (!dtype_row_bytes(t, ins[i])) continue;
            struct matrix *m = matrix_new(b, t, outs[o], ins[i]);
            check_product(b, m, 3, true);
            check_product(b, m, 20, false);
            check_product(b, m, 70, true);
            matrix_free(b, m);
        }
}
END_TEST

/* Sums that several blocks share, by rows and by tiles. */
START_TEST(long_rows) /* _i: type */
{
    enum dtype t = (enum dtype[]){DT_BF16, DT_F16, DT_Q8_0, DT_Q4_K}[_i];
    struct backend *b = t == DT_F16 ? be_fp8 : be_fixed;
    struct matrix *m = matrix_new(b, t, 40, 4096), *wide = matrix_new(b, t, 1000, 512);
    struct matrix *deep = matrix_new(b, t, 40, 40960); /* a part is longer than the ring of copies */
    check_product(b, m, 1, true);
    check_product(b, m, 12, false);
    check_product(b, m, 40, false);
    check_product(b, m, 70, true);
    check_product(b, wide, 5, true);
    check_product(b, wide, 40, true);
    check_product(b, deep, 40, false);
    matrix_free(b, m);
    matrix_free(b, deep);
    matrix_free(b, wide);
}
END_TEST

/* So many that matrices are unpacked for the library. */
START_TEST(unpacked_matrices) /* _i: type */
{
    enum dtype t = (enum dtype[]){DT_Q8_0, DT_Q4_1, DT_F32}[_i];
    struct backend *b = t == DT_F32 ? be_fp8 : be;
    struct matrix *m = matrix_new(b, t, 40, 96), *narrow = matrix_new(b, t, 17, 64);
    check_product(b, m, 530, true);
    check_product(b, narrow, 512, false);
    matrix_free(b, m);
    matrix_free(b, narrow);
}
END_TEST

/* Values far from 1 in x and in the scales of blocks. */
START_TEST(extreme_values)
{
    for (int k = 0; k < 4; k++) {
        enum dtype t = (enum dtype[]){DT_BF16, DT_Q8_0, DT_Q4_1, DT_F32}[k];
        struct backend *b = t == DT_F32 ? be_fp8 : be;
        for (int big = 0; big < 2; big++) {
            uint8_t *src = malloc(64 * 256 * 4);
            ck_assert_ptr_nonnull(src);
            struct matrix *m = matrix_new(b, t, 20, 256);
            memcpy(src, m->src, dtype_row_bytes(t, 256) * 20);
            matrix_free(b, m);
            for (int i = 0; i < 20 * 256; i += dtype_info(t)->block) { /* every block tiny, or huge */
                uint8_t *p = src + (size_t)(i / dtype_info(t)->block * dtype_info(t)->bytes);
                float v = uniform() * (big ? 6e4f : 1e-6f);
                uint16_t h = half_from_f32(v);
                if (t == DT_F32)
                    memcpy(p, &v, 4);
                else if (t == DT_BF16)
                    h = bf16_from_f32(v), memcpy(p, &h, 2);
                else
                    memcpy(p, &h, 2), memcpy(p + 2, &h, t == DT_Q4_1 ? 2 : 0);
            }
            m = matrix_of(b, t, 20, 256, src);
            for (int n = 2; n < 70; n += 38) {
                struct input x = {.f = random_floats((size_t)n * 256)};
                for (int i = 0; i < n * 256; i++) x.f[i] *= i % 256 == 5 ? 1e20f : i % 3 ? 1e18f : 1e-30f;
                round_mat(x.f, (size_t)n * 256);
                x.d = up_mat(b, x.f, (size_t)n * 256);
                float *y = product(b, m, x.d, n, NULL), *want = random_floats((size_t)n * 20);
                ref->ops->linear(ref, x.f, n, &(struct linear_out){m->oracle, NULL, want, 20}, 1);
                double got = nmse(y, want, (size_t)n * 20);
                ck_assert_msg(got <= NMSE_ROUNDED, "%s, %s values, %d rows: NMSE %g", dtype_info(t)->name,
                              big ? "huge" : "tiny", n, got);
                free(y);
                free(want);
                input_free(b, x);
            }
            matrix_free(b, m);
        }
    }
}
END_TEST

/* Projections of different types, sizes and cuts, with and without bias, in one call. */
START_TEST(several_outs_equal_single_ones)
{
    static const enum dtype types[] = {DT_Q4_K, DT_Q4_0, DT_BF16, DT_Q6_K, DT_Q8_0,
                                       DT_F32,  DT_F32,  DT_F16,  DT_BF16, DT_BF16};
    static const int n_out[] = {24, 32, 17, 8, 40, 33, 16, 24, 1, 40};
    enum { N = 10, STRIDE = 50, IN = 2048, ROWS = 40 };
    struct matrix *m[N];
    struct linear_out out[N];
    float *bias = random_floats(256), *dbias = up(be_fixed, bias, 256 * sizeof *bias);
    for (int i = 0; i < N; i++) {
        m[i] = matrix_new(be_fixed, types[i], n_out[i], IN);
        out[i] =
            (struct linear_out){m[i]->w, i % 2 ? dbias : NULL, up(be_fixed, NULL, ROWS * STRIDE * 4), STRIDE};
    }
    static const int counts[] = {1, 20, ROWS};
    for (int k = 0; k < 3; k++) {
        int n = counts[k];
        struct input x = input_new(be_fixed, n, IN);
        be_fixed->ops->linear(be_fixed, x.d, n, out, N);
        for (int i = 0; i < N; i++) {
            float *y = product(be_fixed, m[i], x.d, n, i % 2 ? bias : NULL), all[ROWS * STRIDE];
            down(be_fixed, all, out[i].y, (size_t)n * STRIDE * 4);
            for (int r = 0; r < n; r++)
                ck_assert_msg(!memcmp(y + r * n_out[i], all + r * STRIDE, (size_t)n_out[i] * 4),
                              "out %d, %d rows: row %d differs", i, n, r);
            free(y);
        }
        input_free(be_fixed, x);
    }
    for (int i = 0; i < N; i++) {
        be_fixed->ops->mem_free(be_fixed, out[i].y);
        matrix_free(be_fixed, m[i]);
    }
    be_fixed->ops->mem_free(be_fixed, dbias);
    free(bias);
}
END_TEST

/* Two matrices of one call whose sums are cut differently. */
START_TEST(cut_differently)
{
    struct matrix *a = matrix_new(be_fixed, DT_Q8_0, 40, 3072),
                  *b = matrix_new(be_fixed, DT_Q8_0, 1600, 3072);
    struct input x = input_new(be_fixed, 33, 3072);
    float *ya = up(be_fixed, NULL, 33 * 40 * 4), *yb = up(be_fixed, NULL, 33 * 1600 * 4);
    struct linear_out out[2] = {{a->w, NULL, ya, 40}, {b->w, NULL, yb, 1600}};
    float *together = random_floats(33 * 1600), *alone = product(be_fixed, a, x.d, 33, NULL);
    be_fixed->ops->linear(be_fixed, x.d, 33, out, 2);
    down(be_fixed, together, ya, 33 * 40 * 4);
    ck_assert(!memcmp(together, alone, 33 * 40 * 4));
    free(alone);
    alone = product(be_fixed, b, x.d, 1, NULL);
    down(be_fixed, together, yb, 33 * 1600 * 4);
    ck_assert(!memcmp(together, alone, 1600 * 4));
    free(alone);
    free(together);
    be_fixed->ops->mem_free(be_fixed, ya);
    be_fixed->ops->mem_free(be_fixed, yb);
    input_free(be_fixed, x);
    matrix_free(be_fixed, a);
    matrix_free(be_fixed, b);
}
END_TEST

/* ---- gated units ---- */

/* The result lies `shift` values behind an aligned address. */
static void check_glu_at(struct backend *b, const struct matrix *gate, const struct matrix *up_, enum act act,
                         int n, size_t shift)
{
    int f = gate->n_out;
    size_t values = (size_t)n * (size_t)f;
    struct input x = input_new(b, n, gate->n_in);
    float *y = random_floats(values), *want = random_floats(values);
    uint16_t *dy = up(b, NULL, (values + shift) * 2);
    b->ops->linear_glu(b, x.d, n, gate->w, up_->w, act, dy + shift);
    down_mat(b, y, dy + shift, values);
    ref->ops->linear_glu(ref, x.f, n, gate->oracle, up_->oracle, act, want);
    double got = nmse(y, want, values);
    ck_assert_msg(got <= NMSE_ROUNDED * 4, "%s %d x %d, act %d, %d rows: NMSE %g",
                  dtype_info(gate->type)->name, f, gate->n_in, (int)act, n, got);
    b->ops->mem_free(b, dy);
    free(y);
    free(want);
    input_free(b, x);
}

static void check_glu(struct backend *b, const struct matrix *gate, const struct matrix *up_, enum act act,
                      int n)
{
    check_glu_at(b, gate, up_, act, n, 0);
}

START_TEST(gated_units) /* _i: pair of types */
{
    static const enum dtype types[][2] = {{DT_BF16, DT_BF16}, {DT_F32, DT_F32},   {DT_Q8_0, DT_Q8_0},
                                          {DT_Q4_K, DT_Q4_0}, {DT_Q4_K, DT_Q6_K}, {DT_F16, DT_BF16}};
    struct backend *b = _i == 1 ? be_fp8 : _i == 5 ? be_fixed : be;
    struct matrix *gate = matrix_new(b, types[_i][0], 72, 256), *up_ = matrix_new(b, types[_i][1], 72, 256);
    for (int i = 0; i < N_COUNTS; i++) check_glu(b, gate, up_, (enum act)(i % 4), row_counts[i]);
    check_glu(b, gate, up_, ACT_SILU, 530); /* quantised ones are unpacked for the library */
    matrix_free(b, gate);
    matrix_free(b, up_);
    gate = matrix_new(b, types[_i][0], 40, 4096),
    up_ = matrix_new(b, types[_i][1], 40, 4096); /* shared sums */
    check_glu(b, gate, up_, ACT_SILU, 3);
    check_glu(b, gate, up_, ACT_GELU_TANH, 40);
    matrix_free(b, gate);
    matrix_free(b, up_);
}
END_TEST

/* Wider than there is room for at once: some rows at a time. */
START_TEST(gated_units_of_many_rows)
{
    struct backend *b = cuda_device((struct cuda_options){0});
    cuda_reserve(b, 40, 264, 64);
    struct matrix *gate = matrix_new(b, DT_BF16, 264, 64), *up_ = matrix_new(b, DT_BF16, 264, 64);
    struct matrix *other = matrix_new(b, DT_Q8_0, 264, 64);
    check_glu(b, gate, other, ACT_SILU, 130);
    check_glu(b, gate, up_, ACT_SILU, 170);      /* by the library: there is room for 160 */
    check_glu_at(b, gate, up_, ACT_SILU, 70, 4); /* which refuses: aligned to 8 bytes only */
    matrix_free(b, gate);
    matrix_free(b, up_);
    matrix_free(b, other);
    backend_close(b);
}
END_TEST

/* ---- batch invariance ---- */

static void check_rows_alone(struct backend *b, const struct matrix *m, const struct matrix *up_)
{
    enum { ROWS = 200, SAMPLES = 6 };
    static const int sample[SAMPLES] = {0, 1, 16, 64, 69, 199}, counts[] = {3, 17, 40, 70, ROWS};
    struct input x = input_new(b, ROWS, m->n_in);
    size_t f = (size_t)m->n_out, row = (size_t)m->n_in * 2;
    float *bias = random_floats(f), *alone[SAMPLES];
    uint16_t *y16 = malloc(ROWS * f * 2), *alone16 = malloc(SAMPLES * f * 2);
    void *dy = up(b, NULL, ROWS * f * 2);
    for (int s = 0; s < SAMPLES; s++) {
        const void *xs = (const char *)x.d + row * (size_t)sample[s];
        alone[s] = product(b, m, xs, 1, bias);
        b->ops->linear_glu(b, xs, 1, m->w, up_->w, ACT_GELU_TANH, dy);
        down(b, alone16 + (size_t)s * f, dy, f * 2);
    }
    for (int c = 0; c < 5; c++) {
        float *y = product(b, m, x.d, counts[c], bias);
        b->ops->linear_glu(b, x.d, counts[c], m->w, up_->w, ACT_GELU_TANH, dy);
        down(b, y16, dy, (size_t)counts[c] * f * 2);
        for (int s = 0; s < SAMPLES && sample[s] < counts[c]; s++) {
            const char *what = dtype_info(m->type)->name;
            ck_assert_msg(!memcmp(y + (size_t)sample[s] * f, alone[s], f * 4),
                          "%s %d x %d: row %d of %d is not as alone", what, m->n_out, m->n_in, sample[s],
                          counts[c]);
            ck_assert_msg(!memcmp(y16 + (size_t)sample[s] * f, alone16 + (size_t)s * f, f * 2),
                          "%s %d x %d, gated: row %d of %d is not as alone", what, m->n_out, m->n_in,
                          sample[s], counts[c]);
        }
        free(y);
    }
    for (int s = 0; s < SAMPLES; s++) free(alone[s]);
    free(bias);
    free(y16);
    free(alone16);
    b->ops->mem_free(b, dy);
    input_free(b, x);
}

START_TEST(a_row_is_the_same_in_any_company) /* _i: type */
{
    static const struct {
        int n_out, n_in;
    } shapes[] = {{40, 64}, {16, 2304}, {72, 256}};
    enum dtype t = (enum dtype[]){DT_BF16, DT_F32, DT_Q8_0, DT_Q4_K}[_i];
    struct backend *b = be_fixed;
    if (t == DT_F32) { /* E4M3 has no library to leave out */
        b = be_fp8;
    }
    for (int i = 0; i < 3; i++) {
        if (!dtype_row_bytes(t, shapes[i].n_in)) continue;
        struct matrix *m = matrix_new(b, t, shapes[i].n_out, shapes[i].n_in),
                      *up_ = matrix_new(b, t, shapes[i].n_out, shapes[i].n_in);
        check_rows_alone(b, m, up_);
        matrix_free(b, m);
        matrix_free(b, up_);
    }
}
END_TEST

/* ---- packing ---- */

START_TEST(embedding) /* _i: type */
{
    enum { OUT = 40, IN = 256 };
    for (int k = 0; k < 2; k++) {
        struct backend *b = k ? be_fp8 : be;
        if (k && _i > DT_BF16) continue;
        struct matrix *m = matrix_new(b, (enum dtype)_i, OUT, IN);
        int32_t ids[OUT + 1], pos[OUT + 1] = {0};
        for (int i = 0; i <= OUT; i++) ids[i] = i * 7 % OUT;
        ids[3] = -1, ids[5] = OUT; /* zeros */
        struct batch step = {.n = OUT + 1, .ids = ids, .pos = pos, .n_list = 1};
        float y[(OUT + 1) * IN], want[(OUT + 1) * IN], *dy = up(b, NULL, sizeof y);
        b->ops->begin(b, &step);
        b->ops->embed(b, m->w, &step, 11.5f, dy);
        down(b, y, dy, sizeof y);
        ref->ops->embed(ref, m->oracle, &step, 11.5f, want);
        double got = nmse(y, want, (OUT + 1) * IN);
        ck_assert_msg(got <= m->limit, "%s: NMSE %g", dtype_info(m->type)->name, got);
        b->ops->mem_free(b, dy);
        matrix_free(b, m);
    }
}
END_TEST

/* The embedding of `n` rows as the device has them. */
static float *rows_of(struct backend *b, const struct weight *w, const int32_t *ids, int n, int n_in)
{
    struct batch step = {.n = n, .ids = ids, .pos = ids, .n_list = 1};
    size_t bytes = (size_t)n * (size_t)n_in * sizeof(float);
    float *y = malloc(bytes), *dy = up(b, NULL, bytes);
    ck_assert_ptr_nonnull(y);
    b->ops->begin(b, &step);
    b->ops->embed(b, w, &step, 1, dy);
    down(b, y, dy, bytes);
    b->ops->mem_free(b, dy);
    return y;
}

/* By three threads and in several slices; then some of its rows as a matrix of their own. */
START_TEST(many_slices) /* _i: case */
{
    static const struct {
        enum dtype type;
        bool fp8;
        int n_out, n_in;
    } cases[] = {{DT_BF16, false, 5003, 4096}, {DT_Q8_0, false, 8991, 4096}, {DT_Q4_K, false, 14999, 4096},
                 {DT_F16, true, 9001, 4096},   {DT_BF16, false, 37, 600000}, {DT_Q4_0, false, 17, 1 << 20}};
    enum dtype t = cases[_i].type;
    int n_out = cases[_i].n_out, n_in = cases[_i].n_in, n = 0;
    struct err e = {0};
    struct pool *pool;
    ck_assert_msg(!pool_open(3, &pool, &e), "%s", e.msg);
    struct backend *b = cuda_device((struct cuda_options){.fp8 = cases[_i].fp8, .pool = pool});
    cuda_reserve(b, 64, 64, 64);
    size_t row = dtype_row_bytes(t, n_in);
    uint8_t *src = malloc(row * (size_t)n_out), *few = malloc(row * 64);
    ck_assert(src && few);
    random_blocks(t, src, (size_t)n_out * (size_t)n_in); /* small halves of plain types */
    int32_t ids[64], all[64];
    for (int o = 0; o < n_out; o += n_out / 40 + 1, n++) {
        ids[n] = n_out - 1 - o, all[n] = n;
        memcpy(few + row * (size_t)n, src + row * (size_t)ids[n], row);
    }
    struct weight *w, *some;
    for (int again = 0; again < 2; again++) {
        ck_assert_msg(!b->ops->weight_pack(b, t, n_out, n_in, src, &w, &e), "%s", e.msg);
        if (again) memset(src, 0xff, row * (size_t)n_out); /* has been read */
        ck_assert_msg(!b->ops->weight_pack(b, t, n, n_in, few, &some, &e), "%s", e.msg);
        float *y = rows_of(b, w, ids, n, n_in), *want = rows_of(b, some, all, n, n_in);
        for (int i = 0; i < n; i++)
            ck_assert_msg(!memcmp(y + (size_t)i * (size_t)n_in, want + (size_t)i * (size_t)n_in,
                                  (size_t)n_in * sizeof *y),
                          "%s %d x %d: row %d", dtype_info(t)->name, n_out, n_in, ids[i]);
        free(y);
        free(want);
        b->ops->weight_free(b, w);
        b->ops->weight_free(b, some);
        cuda_reserve(b, 64, 64, 64); /* the buffers go */
    }
    free(src);
    free(few);
    backend_close(b);
    pool_close(pool);
}
END_TEST

START_TEST(what_cannot_be_packed)
{
    struct weight *w = NULL;
    struct err e = {0};
    static const float src[64];
    ck_assert_int_eq(be->ops->weight_pack(be, DT_F32, 2, 12, src, &w, &e), ERR_UNSUPPORTED);
    ck_assert_msg(strstr(e.msg, "12 columns") && strstr(e.msg, "multiple of 8"), "%s", e.msg);
    ck_assert_int_eq(be->ops->weight_pack(be, DT_I8, 2, 8, src, &w, &e), ERR_UNSUPPORTED);
    ck_assert_int_eq(be->ops->weight_pack(be, DT_Q4_0, 2, 24, src, &w, &e), ERR_INVALID);
    ck_assert_int_eq(be->ops->weight_pack(be, DT_F32, 0, 8, src, &w, &e), ERR_INVALID);
    ck_assert_ptr_null(w);
}
END_TEST

START_TEST(sizes)
{
    static const struct {
        enum dtype type;
        double bits;
    } want[] = {{DT_F32, 16}, {DT_BF16, 16}, {DT_Q8_0, 8.5}, {DT_Q4_0, 5}, {DT_Q4_K, 5}, {DT_Q6_K, 16}};
    for (int i = 0; i < 6; i++) {
        struct matrix *m = matrix_new(be, want[i].type, 160, 512);
        struct weight_info info = be->ops->weight_info(m->w);
        ck_assert(info.type == want[i].type && info.n_out == 160 && info.n_in == 512);
        double bits = (double)info.bytes * 8 / (160 * 512);
        ck_assert_msg(bits >= want[i].bits && bits < want[i].bits + 0.1, "%s: %g bits",
                      dtype_info(want[i].type)->name, bits);
        matrix_free(be, m);
    }
}
END_TEST

static TCase *cases(Suite *s, const char *name)
{
    TCase *t = tcase_create(name);
    tcase_set_timeout(t, 240);
    tcase_add_checked_fixture(t, setup, NULL); /* a device of its own in each process, as CUDA wants it */
    suite_add_tcase(s, t);
    return t;
}

int main(void)
{
    Suite *s = suite_create("cuda linear");
    TCase *t = cases(s, "products");
    tcase_add_loop_test(t, every_type_by_every_number_of_rows, 0, DT_I8);
    tcase_add_loop_test(t, ragged_shapes, 0, 5);
    tcase_add_loop_test(t, long_rows, 0, 4);
    tcase_add_loop_test(t, unpacked_matrices, 0, 3);
    tcase_add_test(t, extreme_values);
    t = cases(s, "outs");
    tcase_add_test(t, several_outs_equal_single_ones);
    tcase_add_test(t, cut_differently);
    t = cases(s, "gated");
    tcase_add_loop_test(t, gated_units, 0, 6);
    tcase_add_test(t, gated_units_of_many_rows);
    t = cases(s, "invariance");
    tcase_add_loop_test(t, a_row_is_the_same_in_any_company, 0, 4);
    t = cases(s, "packing");
    tcase_add_loop_test(t, embedding, 0, DT_I8);
    tcase_add_loop_test(t, many_slices, 0, 6);
    tcase_add_test(t, what_cannot_be_packed);
    tcase_add_test(t, sizes);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
