/* The inner kernels of every instruction level that this machine has, and with SIMDe also of those it lacks,
 * against the scalar ones on the same activations: quantised types bit for bit, plain ones within rounding.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include "panel.h"
#include "random_weights.h"

#define MAX_IN 768
#define VALUES (BLOCK_ROWS * PANEL)

static struct {
    const char *name;
    const struct panel_kernels *k;
} levels[8];
static int n_level;

#ifdef HAVE_EMULATED
extern const struct panel_kernels panel_emulated_avx512, panel_emulated_bf16;
#endif

static void add_level(const char *name, const struct panel_kernels *k)
{
    levels[n_level].name = name;
    levels[n_level++].k = k;
}

static void find_levels(void)
{
    enum cpu_isa best = cpu_isa_detect();
    add_level("scalar", &panel_scalar);
#if defined(__x86_64__)
    if (best >= ISA_AVX2) add_level("avx2", &panel_avx2);
    if (best >= ISA_AVX512) add_level("avx512", &panel_avx512);
    if (best >= ISA_AVX512_VNNI) add_level("vnni", &panel_vnni);
    if (best >= ISA_AVX512_BF16) add_level("bf16", &panel_bf16);
#endif
#ifdef HAVE_EMULATED
    if (best < ISA_AVX2) return; /* the emulation itself uses AVX2 */
    add_level("emulated avx512", &panel_emulated_avx512);
    add_level("emulated bf16", &panel_emulated_bf16);
#endif
}

static float x[BLOCK_ROWS * MAX_IN];
static uint8_t source[PANEL * MAX_IN * 4];
static _Alignas(64) uint8_t panel[PANEL * MAX_IN * 4 + 4096];
static struct act_unit want_act[BLOCK_ROWS * MAX_IN / UNIT], act[BLOCK_ROWS * MAX_IN / UNIT];
static struct panel_tile tile;

static void make_panel(enum dtype t, int n_in)
{
    size_t row = dtype_row_bytes(t, n_in);
    random_weights(t, source, (size_t)PANEL * (size_t)n_in);
    memset(panel, 0, sizeof panel);
    for (int c = 0; c < PANEL; c++) panel_pack_row(t, n_in, source + row * (size_t)c, panel, c);
}

/* Activations with zeros, a group far below the others and the largest codes everywhere in a group. */
static void make_rows(int n_in)
{
    random_floats(x, (size_t)(BLOCK_ROWS * n_in));
    for (int k = 0; k < 32; k++) {
        x[k] = 0;
        x[n_in - 1 - k] *= 1e-20f;
        x[n_in + k] = k % 3 ? 1.0f : -1.0f;
        x[2 * n_in + k] = -3.0f;
    }
}

START_TEST(activations_are_quantised_alike)
{
    const struct panel_kernels *k = levels[_i].k;
    make_rows(MAX_IN);
    x[40] = INFINITY;
    x[100] = 1e-38f;
    for (int rows = 1; rows <= k->few_rows; rows++) {
        int n = rows * MAX_IN / UNIT;
        panel_scalar.quantise(x, MAX_IN, rows, MAX_IN / UNIT, want_act);
        k->quantise(x, MAX_IN, rows, MAX_IN / UNIT, act);
        for (int i = 0; i < n; i++) {
            if (!(want_act[i].scale <
                  INFINITY)) { /* codes mean nothing, but the result must not look finite */
                ck_assert(!(act[i].scale < INFINITY));
                continue;
            }
            ck_assert_mem_eq(&act[i], &want_act[i], sizeof act[i]);
        }
    }
}
END_TEST

/* Reference result in want, of `rows` rows. */
static void scalar_dot(enum dtype t, int rows, int n_in, float *want)
{
    panel_scalar.quantise(x, n_in, rows, n_in / UNIT, act);
    for (int i = 0; i < rows * PANEL; i++) want[i] = 0;
    panel_scalar.dot(t, rows, panel, 0, act, n_in / UNIT, want);
}

static void check_equal(const char *what, enum dtype t, int rows, const float *y, const float *want)
{
    for (int i = 0; i < rows * PANEL; i++)
        ck_assert_msg(y[i] == want[i], "%s %s, %d rows: value %d is %a, should be %a", what,
                      dtype_info(t)->name, rows, i, (double)y[i], (double)want[i]);
}

START_TEST(quantised_products_agree_bit_for_bit)
{
    const struct panel_kernels *k = levels[_i].k;
    float want[VALUES], y[VALUES];
    for (enum dtype t = DT_Q8_0; t <= DT_Q6_K; t++) {
        int sizes[] = {dtype_info(t)->block, 96, 512, MAX_IN};
        for (int s = 0; s < 4; s++) {
            int n_in = sizes[s], n_unit = n_in / UNIT;
            if (!dtype_row_bytes(t, n_in)) continue;
            make_panel(t, n_in);
            make_rows(n_in < 64 ? 64 : n_in);
            for (int rows = 1; rows <= k->few_rows; rows++) {
                scalar_dot(t, rows, n_in, want);
                memset(y, 0, sizeof y);
                k->dot(t, rows, panel, 0, act, n_unit, y);
                check_equal(levels[_i].name, t, rows, y, want);
                if (!k->expand || rows < 3) continue;
                memset(y, 0, sizeof y);
                for (int u = 0; u < n_unit; u += TILE_UNITS) {
                    int n = n_unit - u < TILE_UNITS ? n_unit - u : TILE_UNITS;
                    k->expand(t, panel, u, n, &tile);
                    k->dot_tile(t, rows, &tile, act + u * rows, n, y);
                }
                check_equal(levels[_i].name, t, rows, y, want);
            }
        }
    }
}
END_TEST

/* The scalar kernels themselves: the float product of dequantised weights and activations, in double. */
START_TEST(scalar_products_are_right)
{
    static float w[MAX_IN];
    float y[VALUES];
    for (enum dtype t = DT_Q8_0; t <= DT_Q6_K; t++) {
        make_panel(t, MAX_IN);
        make_rows(MAX_IN);
        scalar_dot(t, BLOCK_ROWS, MAX_IN, y);
        for (int c = 0; c < PANEL; c++) {
            dtype_to_f32(t, source + dtype_row_bytes(t, MAX_IN) * (size_t)c, w, MAX_IN);
            float back[MAX_IN];
            panel_unpack_row(t, MAX_IN, panel, c, back);
            for (int i = 0; i < MAX_IN; i++)
                ck_assert_msg(back[i] == w[i], "%s: value %d", dtype_info(t)->name, i);
            for (int r = 0; r < BLOCK_ROWS; r++) {
                double sum = 0, size = 0;
                for (int i = 0; i < MAX_IN; i++) {
                    const struct act_unit *a = &act[i / UNIT * BLOCK_ROWS + r];
                    double p = (double)w[i] * a->q[i % UNIT] * (double)a->scale;
                    sum += p;
                    size += fabs(p);
                }
                ck_assert_double_eq_tol(y[PANEL * r + c], sum, 2e-6 * size + 1e-30);
            }
        }
    }
}
END_TEST

START_TEST(plain_products_agree)
{
    const struct panel_kernels *k = levels[_i].k;
    static float a[(MAX_IN + 1) * BLOCK_ROWS];
    static uint16_t b[(MAX_IN + 1) * BLOCK_ROWS];
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16};
    float want[VALUES], y[VALUES];
    int sizes[] = {1, 37, 64, 500};
    for (int i = 0; i < 12; i++) {
        enum dtype t = types[i / 4];
        int n_in = sizes[i % 4], padded = n_in + n_in % 2;
        make_panel(t, n_in);
        random_floats(x, sizeof x / sizeof *x);
        bool bf16 = t == DT_BF16 && k->dot_bf16;
        for (int rows = 1; rows <= (bf16 ? k->bf16_rows : k->few_rows); rows++) {
            for (int j = 0; j < padded; j++)
                for (int r = 0; r < rows; r++) {
                    uint16_t h = bf16_from_f32(j < n_in ? x[r * n_in + j] : 0);
                    b[(j / 2 * rows + r) * 2 + j % 2] = h;
                    a[j * rows + r] = j == n_in ? 0 : bf16 ? bf16_to_f32(h) : x[r * n_in + j];
                }
            for (int c = 0; c < VALUES; c++) want[c] = y[c] = 0;
            panel_scalar.dot_plain(t, rows, panel, a, n_in, want);
            if (bf16)
                k->dot_bf16(rows, panel, b, n_in, y);
            else
                k->dot_plain(t, rows, panel, a, n_in, y);
            for (int c = 0; c < rows * PANEL; c++)
                ck_assert_msg(fabsf(y[c] - want[c]) <= 2e-6f * (float)n_in + 1e-6f,
                              "%s %s %d rows: %g, not %g", levels[_i].name, dtype_info(t)->name, rows,
                              (double)y[c], (double)want[c]);
        }
    }
}
END_TEST

START_TEST(gates_agree)
{
    const struct panel_kernels *k = levels[_i].k;
    enum { N = 208 };
    float gate[N], up[N], y[N];
    for (int i = 0; i < N; i++) {
        gate[i] = ((float)i - 100) * (i % 7 ? 0.11f : 2);
        up[i] = random_normal();
    }
    for (enum act form = ACT_SILU; form <= ACT_RELU; form++) {
        memcpy(y, gate, sizeof y);
        k->glu(form, y, up, y, N);
        for (int i = 0; i < N; i++) {
            double g = gate[i], v = 0;
            if (form == ACT_SILU) v = g / (1 + exp(-g));
            if (form == ACT_GELU_TANH)
                v = 0.5 * g * (1 + tanh(0.79788456080286536 * (g + 0.044715 * g * g * g)));
            if (form == ACT_GELU) v = 0.5 * g * (1 + erf(g / sqrt(2)));
            if (form == ACT_RELU) v = g > 0 ? g : 0;
            ck_assert_double_eq_tol(y[i], v * (double)up[i], 1e-6 * (1 + fabs(g)));
        }
    }
}
END_TEST

int main(void)
{
    find_levels();
    Suite *s = suite_create("panel");
    TCase *t = tcase_create("panel");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, scalar_products_are_right);
    tcase_add_loop_test(t, activations_are_quantised_alike, 0, n_level);
    tcase_add_loop_test(t, quantised_products_agree_bit_for_bit, 0, n_level);
    tcase_add_loop_test(t, plain_products_agree, 0, n_level);
    tcase_add_loop_test(t, gates_agree, 0, n_level);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
