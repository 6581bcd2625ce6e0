/* The encoder against dtype_to_f32, and the cache of quantised copies: hit, miss, damage, sharing. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "gguf_write.h"
#include "log.h"
#include "pool.h"
#include "quant_cache.h"
#include "quantize.h"
#include "rng.h"
#include "weights_tests.h"

#define N 512

static const struct {
    enum dtype type;
    float worst; /* error relative to the largest of 256 values */
    float nmse;  /* of Gaussian rows */
} types[] = {{DT_Q8_0, 0.0046f, 5e-5f},
             {DT_Q6_K, 0.03f, 5e-4f},
             {DT_Q5_0, 0.07f, 2.2e-3f},
             {DT_Q5_1, 0.06f, 1.7e-3f},
             {DT_Q4_K, 0.14f, 8e-3f}};
#define N_TYPE (sizeof types / sizeof *types)

static float gauss(uint64_t *state)
{
    double u = (double)(rng_next(state) >> 11) * 0x1p-53 + 1e-17,
           v = (double)(rng_next(state) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

/* Quantises and reads back; the worst error is measured against the row's largest value. */
static double round_trip(enum dtype t, const float *x, int n, float *worst)
{
    unsigned char q[N * 2];
    float y[N], max = 0;
    double err = 0, sum = 0;
    ck_assert(quantize_row(t, x, q, n));
    dtype_to_f32(t, q, y, n);
    *worst = 0;
    for (int i = 0; i < n; i++) {
        ck_assert(isfinite(y[i]));
        max = fmaxf(max, fabsf(x[i]));
        *worst = fmaxf(*worst, fabsf(y[i] - x[i]));
        err += pow((double)y[i] - x[i], 2);
        sum += pow((double)x[i], 2);
    }
    *worst = max > 0 ? *worst / max : *worst;
    return sum > 0 ? err / sum : err;
}

START_TEST(test_gaussian)
{
    uint64_t state = 1;
    float x[N], worst;
    for (int row = 0; row < 50; row++) {
        for (int i = 0; i < N; i++) x[i] = 0.02f * gauss(&state);
        for (size_t k = 0; k < N_TYPE; k++) {
            double nmse = round_trip(types[k].type, x, N, &worst);
            ck_assert_msg(worst <= types[k].worst, "%s: worst %g", dtype_info(types[k].type)->name, worst);
            ck_assert_msg(nmse <= types[k].nmse, "%s: nmse %g", dtype_info(types[k].type)->name, nmse);
        }
    }
}
END_TEST

START_TEST(test_extremes)
{
    static const float values[] = {1, -1, 3e-5f, 65504, -65504, 1e-40f, 0.7f};
    uint64_t state = 2;
    float x[N], worst;
    for (size_t k = 0; k < N_TYPE; k++) {
        memset(x, 0, sizeof x);
        ck_assert(round_trip(types[k].type, x, N, &worst) == 0);
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            float tiny = fabsf(values[v]) < 1e-4f; /* half precision scales have an absolute step there */
            for (int i = 0; i < N; i++) x[i] = values[v]; /* constant */
            round_trip(types[k].type, x, N, &worst);
            ck_assert_msg(worst <= types[k].worst || tiny, "%s: constant %g, worst %g",
                          dtype_info(types[k].type)->name, values[v], worst);
            memset(x, 0, sizeof x);
            x[77] = values[v]; /* one outlier among zeros */
            round_trip(types[k].type, x, N, &worst);
            ck_assert_msg(worst <= types[k].worst || tiny, "%s: outlier %g, worst %g",
                          dtype_info(types[k].type)->name, values[v], worst);
            for (int i = 0; i < N; i++) x[i] = (i == 300 ? 100 : 1) * values[v] * 0.01f * gauss(&state) / 4;
            if (fabsf(values[v]) < 60000) round_trip(types[k].type, x, N, &worst);
        }
        for (int i = 0; i < N; i++) x[i] = -65504 + 300 * fabsf(gauss(&state)); /* a min must not overflow */
        round_trip(types[k].type, x, N, &worst);
        for (int i = 0; i < N; i++) x[i] = fabsf(gauss(&state)) + 5; /* far from zero */
        round_trip(types[k].type, x, N, &worst);
        ck_assert(worst <= types[k].worst);
    }
}
END_TEST

START_TEST(test_refused)
{
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 65536, -1e30f};
    unsigned char q[N * 2];
    float x[N] = {0};
    for (size_t k = 0; k < N_TYPE; k++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            x[N - 1] = bad[i];
            ck_assert(!quantize_row(types[k].type, x, q, N));
        }
}
END_TEST

/* ------------------------------------------------------------------------------------------------ cache */

static char dir[] = "/tmp/inferd-quant-XXXXXX";
static char model[64], cache[64];

static void run(const char *command)
{
    char line[512];
    snprintf(line, sizeof line, "cd %s && %s", dir, command);
    ck_assert_int_eq(system(line), 0);
}

/* A vector and two matrices, one of which has rows that are no whole super-blocks. */
static void write_model(float scale, float one)
{
    struct gguf_writer w = {0};
    struct buf b = {0};
    uint64_t state = 3;
    static float x[600 * 256];
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = scale * gauss(&state);
    x[5000] = one;
    gw_str(&w, "general.architecture", "test");
    gw_tensor(&w, "norm", DT_F32, (int64_t[2]){256, 0}, x);
    gw_tensor(&w, "wide", DT_F32, (int64_t[2]){600, 256}, x);
    gw_tensor(&w, "odd", DT_BF16, (int64_t[2]){40, 96}, x);
    gw_bytes(&w, &b);
    FILE *f = fopen(model, "wb");
    ck_assert(f && fwrite(b.data, b.len, 1, f) == 1 && !fclose(f));
    buf_free(&b);
}

static void setup(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(model, sizeof model, "%s/model.gguf", dir);
    snprintf(cache, sizeof cache, "%s/a/cache", dir);
    write_model(1, 1);
}

static void teardown(void)
{
    char line[128];
    snprintf(line, sizeof line, "rm -r %s", dir);
    ck_assert_int_eq(system(line), 0);
}

/* Loads as model.c does; the quantised bytes of both matrices into out, and whether they were replaced. */
static int load(const char *path, const char *folder, int threads, struct buf *out, bool *replaced,
                struct err *e)
{
    struct gguf *g = NULL;
    struct store *s = NULL;
    struct weight *none;
    struct pool *pool = NULL;
    uint64_t id = store_identity(0, path);
    ck_assert(!pool_open(threads, &pool, e) && !gguf_open(path, &g, e) && !store_open_gguf(g, &s, e));
    store_set_identity(s, id);
    ck_assert(
        !store_matrix(s, NULL, &(struct matrix_spec){"wide", 600, 256, 0, 600, DT_Q4_K, 0, 0}, &none, e));
    ck_assert(!store_matrix(s, NULL, &(struct matrix_spec){"odd", 40, 96, 0, 40, DT_Q5_0, 0, 0}, &none, e));
    int rc = quant_cache_apply(s, &(struct quant_cache){.dir = folder, .pool = pool}, e);
    const struct tensor *wide = store_find(s, "wide"), *odd = store_find(s, "odd");
    *replaced = wide->type == DT_Q4_K && odd->type == DT_Q5_0;
    if (*replaced && out) {
        buf_add(out, wide->data, wide->bytes);
        buf_add(out, odd->data, odd->bytes);
    }
    store_close(s);
    gguf_close(g);
    pool_close(pool);
    return rc;
}

/* Loads through the cache; counts its finished and unfinished files; returns the copy's inode (of the last).
 */
static ino_t load_well(const char *path, struct buf *out, int *n_copy)
{
    struct err e = {0};
    bool replaced;
    ck_assert_msg(!load(path, cache, 2, out, &replaced, &e), "%s", e.msg);
    ck_assert(replaced);
    ino_t inode = 0;
    DIR *d = opendir(cache);
    *n_copy = 0;
    for (struct dirent *x; (x = readdir(d));) {
        ck_assert_msg(strncmp(x->d_name, "making-", 7), "left over: %s", x->d_name);
        size_t n = strlen(x->d_name);
        if (n > 5 && !strcmp(x->d_name + n - 5, ".gguf")) inode = x->d_ino, ++*n_copy;
    }
    closedir(d);
    return inode;
}

START_TEST(test_cache_hit)
{
    struct buf first = {0}, second = {0}, third = {0};
    int n;
    ino_t made = load_well(model, &first, &n);
    ck_assert_int_eq(n, 1);
    ck_assert(load_well(model, &second, &n) == made); /* by the link */
    run("cp model.gguf copy.gguf");
    char copy[80];
    snprintf(copy, sizeof copy, "%s/copy.gguf", dir);
    ck_assert(load_well(copy, &third, &n) == made); /* by the content */
    ck_assert_int_eq(n, 1);
    ck_assert(first.len > 0 && first.len == second.len && !memcmp(first.data, second.data, first.len));
    ck_assert(first.len == third.len && !memcmp(first.data, third.data, first.len));
    buf_clear(&second);
    write_model(2, 1); /* another model at the same place */
    ck_assert(load_well(model, &second, &n) != made);
    ck_assert_int_eq(n, 2);
    ck_assert(memcmp(first.data, second.data, first.len));
    buf_free(&first);
    buf_free(&second);
    buf_free(&third);
}
END_TEST

/* What the cache holds is what the encoder gives, on any number of threads, with and without a cache. */
START_TEST(test_deterministic)
{
    struct buf a = {0}, b = {0};
    struct err e = {0};
    struct gguf *g;
    bool replaced;
    char other[80];
    snprintf(other, sizeof other, "%s/other", dir);
    ck_assert(!load(model, cache, 1, &a, &replaced, &e) && replaced);
    ck_assert(!load(model, other, 3, &b, &replaced, &e) && replaced);
    ck_assert(a.len == b.len && !memcmp(a.data, b.data, a.len));
    run("cmp a/cache/*.gguf other/*.gguf");
    ck_assert(!gguf_open(model, &g, &e));
    const struct gguf_tensor *t = gguf_tensor(g, "wide");
    size_t row = dtype_row_bytes(DT_Q4_K, 256);
    for (int i = 0; i < 600; i++) {
        unsigned char q[256];
        ck_assert(quantize_row(DT_Q4_K, (const float *)t->data + 256 * i, q, 256));
        ck_assert(!memcmp(q, a.data + row * (size_t)i, row));
    }
    gguf_close(g);
    buf_free(&a);
    buf_free(&b);
}
END_TEST

static const char *const damages[] = {
    "truncate -s -100 a/cache/*.gguf",
    "truncate -s 0 a/cache/*.gguf",
    "truncate -s 64 a/cache/*.gguf",
    "head -c 3000 /dev/urandom > x && cat x > a/cache/*.gguf",
    "for f in a/cache/*.gguf; do printf X | dd of=$f bs=1 seek=40000 conv=notrunc status=none; done",
    "for f in a/cache/*.gguf; do printf XXXX | dd of=$f bs=1 conv=notrunc status=none; done",
    "for f in a/cache/*.gguf; do sed -i s/wide/WIDE/ $f; done",
    "rm a/cache/*.gguf",
    "rm a/cache/*.gguf && ln -s /dev/zero a/cache/x.gguf",
};
START_TEST(test_damage)
{
    struct buf good = {0}, again = {0};
    int n;
    load_well(model, &good, &n);
    run(damages[_i]);
    load_well(model, &again, &n);
    ck_assert(good.len == again.len && !memcmp(good.data, again.data, good.len));
    buf_free(&good);
    buf_free(&again);
}
END_TEST

START_TEST(test_no_folder)
{
    struct err e = {0};
    bool replaced;
    ck_assert(!load(model, model, 2, NULL, &replaced, &e) && !replaced); /* a file is in the way */
    ck_assert(!load(model, NULL, 2, NULL, &replaced, &e) && !replaced);
    ck_assert(!load(model, "", 2, NULL, &replaced, &e) && !replaced);
    if (!access("/dev/full", F_OK))
        ck_assert(!load(model, "/dev/full/x", 2, NULL, &replaced, &e) && !replaced);
}
END_TEST

START_TEST(test_bad_weight)
{
    struct err e = {0};
    bool replaced;
    write_model(1, NAN);
    ck_assert_int_eq(load(model, cache, 2, NULL, &replaced, &e), ERR_INVALID);
    ck_assert_msg(strstr(e.msg, "tensor wide") && !strcmp(e.param, "wide"), "%s", e.msg);
    run("test -z \"$(ls a/cache)\"");
}
END_TEST

START_TEST(test_cancel)
{
    struct err e = {0};
    struct gguf *g = NULL;
    struct store *s = NULL;
    struct weight *none;
    const volatile int stop = 1;
    ck_assert(!gguf_open(model, &g, &e) && !store_open_gguf(g, &s, &e));
    ck_assert(
        !store_matrix(s, NULL, &(struct matrix_spec){"wide", 600, 256, 0, 600, DT_Q8_0, 0, 0}, &none, &e));
    ck_assert_int_eq(quant_cache_apply(s, &(struct quant_cache){.dir = cache, .cancel = &stop}, &e),
                     ERR_CLOSED);
    store_close(s);
    gguf_close(g);
    run("test -z \"$(ls a/cache)\"");
}
END_TEST

START_TEST(test_two_processes)
{
    pid_t child[4];
    int n;
    run("mkdir -p a/cache && touch a/cache/making-killed");
    for (int i = 0; i < 4; i++)
        if (!(child[i] = fork())) {
            struct err e = {0};
            bool replaced = false;
            _exit(load(model, cache, 1, NULL, &replaced, &e) || !replaced);
        }
    for (int i = 0; i < 4; i++) {
        int status;
        ck_assert(waitpid(child[i], &status, 0) == child[i] && WIFEXITED(status) && !WEXITSTATUS(status));
    }
    load_well(model, NULL, &n);
    ck_assert_int_eq(n, 1);
}
END_TEST

TCase *quantize_tests(void)
{
    TCase *t = tcase_create("quantize");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_gaussian);
    tcase_add_test(t, test_extremes);
    tcase_add_test(t, test_refused);
    tcase_add_test(t, test_cache_hit);
    tcase_add_test(t, test_deterministic);
    tcase_add_loop_test(t, test_damage, 0, (int)(sizeof damages / sizeof *damages));
    tcase_add_test(t, test_no_folder);
    tcase_add_test(t, test_bad_weight);
    tcase_add_test(t, test_cancel);
    tcase_add_test(t, test_two_processes);
    return t;
}
