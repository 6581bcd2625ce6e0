/* The ranks of one model on CUDA devices: every op between them against the plain sum in the order of the
 * ranks, with equal bits on all; small and large messages, many without a wait, recorded steps, and a rank
 * that never comes. Ranks are threads, each with a device of its own; sizes for which there are too few
 * devices are left out. */
#include <pthread.h>
#include <time.h>
#include "comm.h"
#include "device.h"

enum { RANKS = 9, MEM = 512, SMALL = 131072 /* floats of a message without a library, for 4 ranks */ };
static const int sizes[] = {2, 4, 3, RANKS};
enum { SIZES = sizeof sizes / sizeof *sizes };

struct rank {
    int me, size;
    bool deterministic;
    struct comm *comm;
    struct backend *be;
    void (*body)(struct rank *);
    pthread_t thread;
    int n_mem;
    void *mem[MEM]; /* freed at the end: to free waits for devices, which may wait for this rank */
};

static const struct cuda_module *module(void)
{
    const void *table;
    struct err e = {0};
    ck_assert_msg(!module_open("inferd_cuda", CUDA_MODULE_SYMBOL, CUDA_MODULE_ABI, &table, &e), "%s", e.msg);
    return table;
}

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    struct err e = {0};
    r->be = cuda_device((struct cuda_options){.device = r->me, .deterministic = r->deterministic});
    ck_assert_msg(!r->be->ops->join(r->be, r->comm, &e), "%s", e.msg);
    ck_assert_int_eq(r->be->rank, r->me);
    ck_assert_int_eq(r->be->size, r->size);
    r->body(r);
    if (!comm_barrier(r->comm, NULL))
        while (r->n_mem) r->be->ops->mem_free(r->be, r->mem[--r->n_mem]);
    r->be->ops->close(r->be);
    comm_close(r->comm);
    return NULL;
}

static void run_ranks(int size, bool deterministic, void (*body)(struct rank *))
{
    struct rank rank[RANKS];
    struct comm *comm[RANKS];
    struct err e = {0};
    if (module()->count(&e) < size) return;
    ck_assert_msg(!comm_local_open(size, comm, &e), "%s", e.msg);
    for (int i = 0; i < size; i++) {
        rank[i] = (struct rank){i, size, deterministic, comm[i], NULL, body, 0, 0, {0}};
        ck_assert(!pthread_create(&rank[i].thread, NULL, rank_main, &rank[i]));
    }
    for (int i = 0; i < size; i++) pthread_join(rank[i].thread, NULL);
}

static void *put(struct rank *r, const void *src, size_t bytes)
{
    ck_assert_int_lt(r->n_mem, MEM);
    return r->mem[r->n_mem++] = up(r->be, src, bytes);
}

/* What rank k has at place i of message m; sums of these depend on the order. */
static float value(int k, int m, size_t i)
{
    uint64_t x = ((uint64_t)k << 56 ^ (uint64_t)m << 40 ^ i) * 0x9e3779b97f4a7c15u;
    x ^= x >> 29;
    return (float)((x * 0xbf58476d1ce4e5b9u) >> 40) * 0x1p-23f - 1;
}
static float *values(int k, int m, size_t n)
{
    float *x = malloc((n ? n : 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < n; i++) x[i] = value(k, m, i);
    return x;
}
static float *sums(int size, int m, size_t n)
{
    float *x = values(0, m, n);
    for (int k = 1; k < size; k++)
        for (size_t i = 0; i < n; i++) x[i] += value(k, m, i);
    return x;
}

/* Every rank has the same bytes. */
static void check_equal(struct rank *r, const void *data, size_t bytes)
{
    struct err e = {0};
    char *all = malloc(bytes * r->size + 1);
    ck_assert_ptr_nonnull(all);
    ck_assert_msg(!comm_all_gather(r->comm, data, bytes, all, &e), "%s", e.msg);
    for (int k = 1; k < r->size; k++) ck_assert_mem_eq(all, all + bytes * k, bytes);
    free(all);
}

/* Ranks of a library may sum in another order. */
static void check_sum(struct rank *r, const float *x, const float *want, size_t n)
{
    if (r->deterministic || (r->size <= 4 && n <= SMALL))
        ck_assert_mem_eq(x, want, n * sizeof *x);
    else
        ck_assert_double_lt(nmse(x, want, n), 1e-12);
    check_equal(r, x, n * sizeof *x);
}

/* ---- sums ---- */

static const size_t lengths[] = {1, 3, 4, 5, 1023, 1024, 1026, 9000, SMALL, SMALL + 1, SMALL + 4000};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static void sum_all(struct rank *r)
{
    const struct ops *op = r->be->ops;
    for (int m = 0; m < LENGTHS; m++) {
        size_t n = lengths[m];
        if (r->size > 4 && n > 9000 && m != LENGTHS - 2) continue;
        float *x = values(r->me, m, n), *want = sums(r->size, m, n), *d = put(r, x, n * sizeof *x);
        op->all_reduce(r->be, d, n);
        down(r->be, x, d, n * sizeof *x);
        check_sum(r, x, want, n);
        free(x), free(want);
    }
}

START_TEST(sums_are_in_the_order_of_the_ranks) { run_ranks(sizes[_i / 2], _i % 2, sum_all); }
END_TEST

/* Messages of many sizes, at odd places, one after another without a wait. */
static void sum_often(struct rank *r)
{
    enum { ROUNDS = 60, MOST = 3000 };
    const struct ops *op = r->be->ops;
    float *x[ROUNDS], *d[ROUNDS];
    size_t n[ROUNDS];
    for (int m = 0; m < ROUNDS; m++) {
        n[m] = (size_t)(m * 977 % MOST) + 1;
        x[m] = values(r->me, m, n[m]);
        d[m] = put(r, NULL, (n[m] + 4) * sizeof(float));
        d[m] += m % 5 == 4;
        op->mem_write(r->be, d[m], x[m], n[m] * sizeof(float));
    }
    for (int m = 0; m < ROUNDS; m++) op->all_reduce(r->be, d[m], n[m]);
    for (int m = 0; m < ROUNDS; m++) {
        float *want = sums(r->size, m, n[m]);
        down(r->be, x[m], d[m], n[m] * sizeof(float));
        ck_assert_mem_eq(x[m], want, n[m] * sizeof(float));
        free(x[m]), free(want);
    }
}

START_TEST(messages_follow_each_other) { run_ranks(sizes[_i], true, sum_often); }
END_TEST

/* ---- sums with residual and norm: what add_norm makes of the sum ---- */

static const struct norm_shape {
    int n, dim;
} norm_shapes[] = {{1, 8}, {3, 100}, {5, 33}, {9, 64}, {2, 2052}, {7, 4100}, {1, 16384}, {35, 4096}};
enum { NORM_SHAPES = sizeof norm_shapes / sizeof *norm_shapes };

static struct norm_args norm_case(int form, const struct norm_shape *s, float *x, float *delta, float *w,
                                  void *y)
{
    return (struct norm_args){.n = s->n,
                              .dim = s->dim,
                              .x = x,
                              .delta = delta,
                              .scale = 0.7f,
                              .post_w = form & 1 ? w : NULL,
                              .pre_w = form & 2 ? w + (size_t)s->n * s->dim : NULL,
                              .y = y,
                              .eps = 1e-6f};
}

static void norm_one(struct rank *r, int form, const struct norm_shape *s)
{
    const struct ops *op = r->be->ops;
    size_t n = (size_t)s->n * s->dim, bytes = n * sizeof(float);
    float *x = values(100, form, n), *part = values(r->me, form, n), *sum = sums(r->size, form, n),
          *w = values(101, form, 2 * n), *y = values(0, 0, n), *y2 = values(0, 0, n), *x2 = values(0, 0, n);
    float *dx = put(r, x, bytes), *dpart = put(r, part, bytes), *dsum = put(r, sum, bytes),
          *dx2 = put(r, x, bytes), *dw = put(r, w, 2 * bytes);
    void *dy = put(r, NULL, n * 2), *dy2 = put(r, NULL, n * 2);
    struct norm_args a = norm_case(form, s, dx, dpart, dw, dy), b = norm_case(form, s, dx2, dsum, dw, dy2);
    a.reduce = true;
    op->add_norm(r->be, &a);
    op->add_norm(r->be, &b);
    down(r->be, x, dx, bytes);
    down(r->be, x2, dx2, bytes);
    down_mat(r->be, y, dy, n);
    down_mat(r->be, y2, dy2, n);
    ck_assert_mem_eq(x, x2, bytes);
    ck_assert_mem_eq(y, y2, bytes);
    check_equal(r, x, bytes);
    check_equal(r, y, bytes);
    free(x), free(part), free(sum), free(w), free(y), free(y2), free(x2);
}

static void norm_all(struct rank *r)
{
    for (int i = 0; i < NORM_SHAPES; i++)
        for (int form = 0; form < 4; form++)
            if (form == 3 || norm_shapes[i].n * norm_shapes[i].dim < 1000) norm_one(r, form, &norm_shapes[i]);
}

START_TEST(sum_and_norm_is_the_norm_of_the_sum) { run_ranks(sizes[_i], true, norm_all); }
END_TEST

static void norm_alone(struct rank *r) { norm_one(r, 3, &norm_shapes[1]); }

START_TEST(one_rank_needs_nobody) { run_ranks(1, false, norm_alone); }
END_TEST

/* ---- gathering ---- */

static const struct gather_shape {
    int n, len;
} gather_shapes[] = {{1, 1}, {3, 5}, {1, 1000}, {7, 12}, {4, 250}, {2, 7777}, {3, 50000}, {70, 2000}};
enum { GATHER_SHAPES = sizeof gather_shapes / sizeof *gather_shapes };

static void gather_all(struct rank *r)
{
    for (int m = 0; m < GATHER_SHAPES; m++) {
        int n = gather_shapes[m].n, len = gather_shapes[m].len;
        size_t count = (size_t)n * len;
        float *part = values(r->me, m, count), *all = values(0, 0, count * r->size);
        float *dpart = put(r, part, count * sizeof(float)),
              *dall = put(r, NULL, count * r->size * sizeof(float));
        r->be->ops->all_gather(r->be, dpart, n, len, dall);
        down(r->be, all, dall, count * r->size * sizeof(float));
        for (int i = 0; i < n; i++)
            for (int k = 0; k < r->size; k++)
                for (int j = 0; j < len; j++)
                    if (all[((size_t)i * r->size + k) * len + j] != value(k, m, (size_t)i * len + j))
                        ck_abort_msg("n %d, len %d: row %d, rank %d, %d is wrong", n, len, i, k, j);
        free(part), free(all);
    }
}

START_TEST(gathered_parts_stand_side_by_side) { run_ranks(sizes[_i], false, gather_all); }
END_TEST

/* ---- recorded steps ---- */

enum { ROWS = 3, DIM = 64, REPLAYS = 7 };

/* A sum, a sum with norm, a large sum and a gathering, of n rows in x [4 parts]. */
static const size_t LARGE = SMALL + 100;
struct recorded {
    float *x, *part, *large, *gathered;
    void *y;
};

static void recorded_ops(struct rank *r, const struct recorded *d)
{
    const struct ops *op = r->be->ops;
    struct norm_args a = {.n = ROWS,
                          .dim = DIM,
                          .x = d->x,
                          .delta = d->part,
                          .reduce = true,
                          .scale = 1,
                          .y = d->y,
                          .eps = 1e-6f};
    op->all_reduce(r->be, d->x, ROWS * DIM);
    op->add_norm(r->be, &a);
    op->all_reduce(r->be, d->large, LARGE);
    op->all_gather(r->be, d->x, ROWS, DIM, d->gathered);
}

static void replay_all(struct rank *r)
{
    const struct ops *op = r->be->ops;
    struct err e = {0};
    int32_t zero[ROWS] = {0};
    struct batch b = {.n = ROWS, .ids = zero, .pos = zero, .n_list = 1};
    size_t n = ROWS * DIM, all = n * (size_t)r->size;
    struct recorded d = {put(r, NULL, n * 4), put(r, NULL, n * 4), put(r, NULL, LARGE * 4),
                         put(r, NULL, all * 4), put(r, NULL, n * 2)};
    cuda_reserve(r->be, 4, 64, 8);
    ck_assert_msg(!op->record(r->be, &e), "%s", e.msg);
    recorded_ops(r, &d);
    ck_assert_msg(!op->record_end(r->be, ROWS, &e), "%s", e.msg);
    for (int m = 0; m < REPLAYS; m++) {
        float *x = values(r->me, m, n), *part = values(r->me, m + 50, n), *large = values(r->me, m, LARGE),
              *sum = sums(r->size, m, n), *delta = sums(r->size, m + 50, n), *far = sums(r->size, m, LARGE),
              *gathered = values(0, 0, all);
        op->mem_write(r->be, d.x, x, n * 4);
        op->mem_write(r->be, d.part, part, n * 4);
        op->mem_write(r->be, d.large, large, LARGE * 4);
        op->begin(r->be, &b);
        if (m % 3 == 2)
            recorded_ops(r, &d); /* in between, a step that is not recorded */
        else
            ck_assert(op->replay(r->be, &b));
        down(r->be, gathered, d.gathered, all * 4);
        down(r->be, large, d.large, LARGE * 4);
        for (size_t i = 0; i < all; i++) {
            size_t at = i / (DIM * r->size) * DIM + i % DIM;
            ck_assert(gathered[i] == sum[at] + delta[at]);
        }
        check_sum(r, large, far, LARGE);
        free(x), free(part), free(large), free(sum), free(delta), free(far), free(gathered);
    }
}

START_TEST(recorded_steps_meet) { run_ranks(sizes[_i / 2], _i % 2, replay_all); }
END_TEST

/* ---- a rank that is gone ---- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static pthread_barrier_t end;
static size_t lost_length;

/* The last rank does its first message and then nothing; the others must hear of it in bounded time. */
static void one_stays_away(struct rank *r)
{
    const struct ops *op = r->be->ops;
    struct err e = {0};
    float *x = values(0, 0, SMALL), *d = put(r, x, SMALL * sizeof *x);
    op->all_reduce(r->be, d, 1000);
    cuda_sync(r->be);
    if (r->me != r->size - 1) {
        double since = seconds();
        for (int i = 0; i < 3; i++) op->all_reduce(r->be, d, 1000);
        ck_assert_int_eq(op->sync(r->be, &e), ERR_IO);
        ck_assert_msg(strstr(e.msg, "another rank") != NULL, "%s", e.msg);
        ck_assert_double_lt(seconds() - since, 10);
    }
    pthread_barrier_wait(&end);
    free(x);
}

START_TEST(a_rank_that_never_comes_is_an_error)
{
    setenv("CUEMU_SPIN", "6", 1);
    pthread_barrier_init(&end, NULL, 3);
    run_ranks(3, false, one_stays_away);
}
END_TEST

/* The last rank gives up and closes: the others hear of it at once, also in a library's kernel. */
static void one_leaves(struct rank *r)
{
    const struct ops *op = r->be->ops;
    struct err e = {0}, why = {ERR_IO, "", "enough"};
    size_t n = lost_length;
    float *x = values(0, 0, n), *d = put(r, x, n * sizeof *x);
    op->all_reduce(r->be, d, n);
    cuda_sync(r->be);
    ck_assert(!comm_barrier(r->comm, &e));
    if (r->me == r->size - 1)
        comm_abort(r->comm, &why);
    else {
        double since = seconds();
        op->all_reduce(r->be, d, n);
        ck_assert_int_eq(op->sync(r->be, &e), ERR_IO);
        ck_assert_double_lt(seconds() - since, 4);
        op->all_reduce(r->be, d, n);
        ck_assert_int_eq(op->sync(r->be, &e), ERR_IO);
    }
    free(x);
}

START_TEST(a_rank_that_leaves_is_an_error_at_once)
{
    lost_length = _i ? SMALL + 8 : 500;
    run_ranks(3, false, one_leaves);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cuda_comm");
    TCase *t = tcase_create("comm");
    setenv("CUEMU_DEVICES", "9", 0);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, one_rank_needs_nobody);
    tcase_add_loop_test(t, sums_are_in_the_order_of_the_ranks, 0, 2 * SIZES);
    tcase_add_loop_test(t, messages_follow_each_other, 0, SIZES);
    tcase_add_loop_test(t, sum_and_norm_is_the_norm_of_the_sum, 0, SIZES - 1);
    tcase_add_loop_test(t, gathered_parts_stand_side_by_side, 0, SIZES);
    tcase_add_loop_test(t, recorded_steps_meet, 0, 4);
    tcase_add_test(t, a_rank_that_never_comes_is_an_error);
    tcase_add_loop_test(t, a_rank_that_leaves_is_an_error_at_once, 0, 2);
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
