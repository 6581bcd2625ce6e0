/* Every family of kernels once or twice on a small shape, for ThreadSanitizer, which takes minutes over the
 * tests themselves: it sees two threads, blocks, ranks, or stream and host at one place without an order
 * between them, whatever the values. Results are read but not judged. CK_RUN_CASE chooses a family;
 * tests/cuda/mutate.py builds it and runs it. */
#include <pthread.h>
#include "comm.h"
#include "device.h"

static struct step_limits limits = {.max_rows = 48,
                                    .max_seqs = 8,
                                    .max_ctx = 512,
                                    .max_in = 2048,
                                    .n_head = 2,
                                    .n_kv_head = 1,
                                    .head_dim = 256,
                                    .vocab = 5000,
                                    .n_list = 2,
                                    .block_size = 8};

static struct backend *device(struct cuda_options o)
{
    struct err e = {0};
    struct backend *be = cuda_device(o);
    ck_assert_msg(!be->ops->reserve(be, &limits, &e), "%s", e.msg);
    return be;
}

static float *device_floats(struct backend *be, size_t n)
{
    float *x = random_floats(n), *d = up(be, x, n * sizeof *x);
    free(x);
    return d;
}

static void fetch(struct backend *be, const void *x, size_t bytes)
{
    void *y = malloc(bytes);
    ck_assert_ptr_nonnull(y);
    down(be, y, x, bytes);
    free(y);
}

/* ---- products: by rows and by tiles, alone, in company, and gated; sums of several blocks and of one ----
 */

static struct weight *matrix(struct backend *be, enum dtype t, int n_out, int n_in)
{
    struct weight *w;
    struct err e = {0};
    size_t bytes = dtype_row_bytes(t, n_in) * (size_t)n_out;
    unsigned char *src = calloc(1, bytes);
    ck_assert_ptr_nonnull(src);
    ck_assert_msg(!be->ops->weight_pack(be, t, n_out, n_in, src, &w, &e), "%s", e.msg);
    free(src);
    return w;
}

/* For each number of rows: two outs in one launch, or a gated unit. */
static void products(struct backend *be, enum dtype t, int n_in, bool gated, int n_rows, const int *rows)
{
    enum { OUT = 24, MOST = 70 };
    struct weight *w[2] = {matrix(be, t, OUT, n_in), matrix(be, t, OUT, n_in)};
    float *x = device_floats(be, (size_t)MOST * n_in), *y = device_floats(be, 2 * MOST * OUT),
          *bias = device_floats(be, OUT);
    struct linear_out out[2] = {{w[0], bias, y, OUT}, {w[1], NULL, y + MOST * OUT, OUT}};
    for (int i = 0; i < n_rows; i++)
        if (gated)
            be->ops->linear_glu(be, x, rows[i], w[0], w[1], ACT_SILU, y);
        else
            be->ops->linear(be, x, rows[i], out, i ? 1 : 2);
    fetch(be, y, 2 * MOST * OUT * sizeof *y);
    for (int i = 0; i < 2; i++) be->ops->weight_free(be, w[i]);
    be->ops->mem_free(be, x), be->ops->mem_free(be, y), be->ops->mem_free(be, bias);
}

/* Outs whose sums are cut differently: a block walks all units, through every stage of its ring many times.
 */
static void long_walk(struct backend *be)
{
    enum { IN = 2048, OUT = 24, ROWS = 33 };
    struct weight *w[2] = {matrix(be, DT_BF16, OUT, IN), matrix(be, DT_BF16, IN, IN)};
    float *x = device_floats(be, ROWS * IN), *y = up(be, NULL, ROWS * (OUT + IN) * sizeof *y);
    struct linear_out out[2] = {{w[0], NULL, y, OUT}, {w[1], NULL, y + ROWS * OUT, IN}};
    be->ops->linear(be, x, ROWS, out, 2);
    fetch(be, y, ROWS * (OUT + IN) * sizeof *y);
    for (int i = 0; i < 2; i++) be->ops->weight_free(be, w[i]);
    be->ops->mem_free(be, x), be->ops->mem_free(be, y);
}

START_TEST(linear)
{
    struct backend *be = device((struct cuda_options){.deterministic = true});
    long_walk(be);
    products(be, DT_BF16, 192, false, 2, (const int[]){40, 70});
    products(be, DT_BF16, 2048, false, 2, (const int[]){3, 12}); /* sums of several blocks */
    products(be, DT_Q8_0, 192, false, 2, (const int[]){3, 40});
    products(be, DT_Q4_0, 192, true, 2, (const int[]){3, 40});
    be->ops->close(be);
    be = device((struct cuda_options){.fp8 = true});
    products(be, DT_F32, 192, false, 2, (const int[]){3, 40});
    be->ops->close(be);
}
END_TEST

/* ---- norms, and what treats every element alone ---- */

START_TEST(norm)
{
    enum { ROWS = 2, DIM = 520 };
    for (int plain = 0; plain < 2; plain++) {
        struct backend *be = device((struct cuda_options){.norm = plain ? CUDA_NORM_PLAIN : CUDA_NORM_BLOCK});
        float *x = device_floats(be, ROWS * DIM), *d = device_floats(be, ROWS * DIM),
              *w = device_floats(be, DIM);
        void *y = up(be, NULL, ROWS * DIM * 2);
        struct norm_args a = {.n = ROWS,
                              .dim = DIM,
                              .x = x,
                              .delta = d,
                              .scale = 0.5f,
                              .post_w = w,
                              .pre_w = w,
                              .y = y,
                              .eps = 1e-6f};
        be->ops->add_norm(be, &a);
        be->ops->row_norm(be, x, ROWS, DIM / 2, DIM, w, 1e-6f);
        be->ops->scale_cap(be, x, ROWS * DIM, 2, 30);
        fetch(be, y, ROWS * DIM * 2);
        be->ops->mem_free(be, x), be->ops->mem_free(be, d), be->ops->mem_free(be, w),
            be->ops->mem_free(be, y);
        be->ops->close(be);
    }
}
END_TEST

/* ---- the cache and attention: a prefill, and decodes behind a cache ---- */

enum { BLOCKS = 64, SEQS = 5 }; /* chunks enough that the block of the prefill gets one too */
struct scene {
    int dim, window;
    enum dtype type;
    bool prep; /* with norms and rotation before it */
};

static void attend(struct cuda_options o, const struct scene *s)
{
    enum { HEADS = 2, KV = 1, LEN = 20, ROWS = LEN + SEQS };
    static int32_t table[SEQS][BLOCKS], zero[ROWS];
    for (int i = 0; i < SEQS; i++)
        for (int b = 0; b < BLOCKS; b++) table[i][b] = b * SEQS + i;
    static const int pos[SEQS] = {10, 511, 500, 490, 70};
    struct attn_item item[SEQS] = {{0, LEN, pos[0], table[0]}};
    for (int i = 1; i < SEQS; i++) item[i] = (struct attn_item){LEN - 1 + i, 1, pos[i], table[i]};
    struct batch b = {.n = ROWS, .ids = zero, .pos = zero, .n_list = 1};
    b.list[0] = (struct attn_list){item, SEQS, s->window};
    struct backend *be = device(o);
    struct kv_geom g = {SEQS * BLOCKS, 8, 1, KV, s->dim, s->type};
    struct kv_store *kv;
    struct err e = {0};
    ck_assert_msg(!be->ops->kv_alloc(be, &g, &kv, &e), "%s", e.msg);
    int stride = (HEADS + 2 * KV) * s->dim;
    float *x = device_floats(be, (size_t)ROWS * stride), *w = device_floats(be, s->dim),
          *cs = device_floats(be, (size_t)ROWS * s->dim);
    void *y = up(be, NULL, (size_t)ROWS * HEADS * s->dim * 2);
    struct qkv_args prep = {.n = ROWS,
                            .n_head = HEADS,
                            .n_kv_head = KV,
                            .head_dim = s->dim,
                            .q = x,
                            .q_stride = stride,
                            .k = x + HEADS * s->dim,
                            .k_stride = stride,
                            .v = x + (HEADS + KV) * s->dim,
                            .v_stride = stride,
                            .q_norm = w,
                            .k_norm = w,
                            .eps = 1e-6f,
                            .rot = s->dim,
                            .cs = cs,
                            .kv = kv,
                            .b = &b};
    struct attn_args a = {.n = ROWS,
                          .n_head = HEADS,
                          .n_kv_head = KV,
                          .head_dim = s->dim,
                          .q = x,
                          .q_stride = stride,
                          .out = y,
                          .out_stride = HEADS * s->dim,
                          .scale = 0.1f,
                          .kv = kv,
                          .b = &b};
    be->ops->begin(be, &b);
    if (s->prep) be->ops->qkv_prep(be, &prep);
    be->ops->attn(be, &a);
    fetch(be, y, (size_t)ROWS * HEADS * s->dim * 2);
    be->ops->mem_free(be, x), be->ops->mem_free(be, w), be->ops->mem_free(be, cs), be->ops->mem_free(be, y);
    be->ops->kv_free(be, kv);
    be->ops->close(be);
}

START_TEST(attention)
{
    static const struct scene narrow = {32, 0, DT_BF16, true}, wide = {128, 50, DT_BF16, false},
                              codes = {64, 0, DT_E4M3, true}, widest = {200, 20, DT_BF16, false},
                              plain = {40, 0, DT_BF16, false};
    attend((struct cuda_options){.attention = CUDA_ATTENTION_MMA}, &narrow);
    attend((struct cuda_options){.attention = CUDA_ATTENTION_MMA, .deterministic = true}, &wide);
    attend((struct cuda_options){.attention = CUDA_ATTENTION_MMA, .deterministic = true}, &codes);
    attend((struct cuda_options){.attention = CUDA_ATTENTION_MMA}, &widest);
    attend((struct cuda_options){.attention = CUDA_ATTENTION_PLAIN}, &plain);
}
END_TEST

/* ---- steps under way while the next is packed ---- */

START_TEST(steps)
{
    enum { ROWS = 2, STEPS = 3, HALF = 8, DIM = 16 };
    struct backend *be = device((struct cuda_options){0});
    struct weight *w = matrix(be, DT_BF16, 10, DIM);
    float *freq = device_floats(be, HALF), *cs = device_floats(be, ROWS * HALF * 2),
          *x = device_floats(be, ROWS * DIM), *y = device_floats(be, ROWS * DIM);
    static int32_t ids[STEPS][ROWS], pos[STEPS][ROWS];
    static const int out[] = {1};
    for (int i = 0; i < STEPS; i++) {
        struct batch b = {.n = ROWS, .ids = ids[i], .pos = pos[i], .n_out = 1, .out_row = out};
        be->ops->begin(be, &b);
        be->ops->embed(be, w, &b, 1, x);
        be->ops->rope_angles(be, &b, freq, HALF, 1, cs);
        be->ops->gather(be, &b, x, DIM * sizeof *x, y);
    }
    fetch(be, y, DIM * sizeof *y);
    be->ops->weight_free(be, w);
    be->ops->mem_free(be, freq), be->ops->mem_free(be, cs), be->ops->mem_free(be, x),
        be->ops->mem_free(be, y);
    be->ops->close(be);
}
END_TEST

/* ---- sampling: every way to draw, with and without edits and logprobs, two batches under way ---- */

static struct sample_row draw(int k)
{
    static const struct logit_bias bias[2] = {{3, 1}, {400, -1}};
    static const int32_t ban[3] = {3, 7, 9}; /* banned twice, a token would be written twice with one value */
    static struct penalty seen[300];
    for (int i = 0; i < 300; i++) seen[i] = (struct penalty){i * 2, i % 3};
    struct sample_row r = {.temperature = 0.7f,
                           .top_p = k == 1 ? 0.9f : 1,
                           .top_k = k == 2 ? 550 : 0,
                           .min_p = k == 3 ? 0.01f : 0,
                           .repetition = 1.1f,
                           .presence = 0.5f,
                           .random = (uint64_t)k << 60,
                           .score = -1,
                           .n_top = k % 2 ? -1 : 3};
    if (k % 2) return r;
    r.bias = bias, r.n_bias = 2;
    r.ban[0] = ban, r.n_ban[0] = 3;
    r.seen = seen, r.n_seen = 300;
    return r;
}

START_TEST(sample)
{
    enum { VOCAB = 600, MOST = 5000, ROWS = 4, BATCHES = 4 };
    struct backend *be = device((struct cuda_options){0});
    struct sample_row row[ROWS], greedy = {.top_p = 1, .repetition = 1, .score = -1, .n_top = -1};
    for (int k = 0; k < ROWS; k++) row[k] = draw(k);
    const struct sample_result *r;
    float *logits = device_floats(be, MOST);
    be->ops->sample(be, logits, VOCAB, row, ROWS);
    be->ops->sample(be, logits, MOST, row, 1); /* two chunks */
    for (int i = 0; i < BATCHES; i++) r = be->ops->sample(be, logits, VOCAB, &greedy, 1);
    cuda_sync(be);
    ck_assert_int_eq(r->status, 0);
    be->ops->mem_free(be, logits);
    be->ops->close(be);
}
END_TEST

/* ---- two ranks: messages of one block and of several, one after another without a wait ---- */

enum { RANKS = 2 };
static pthread_barrier_t meet; /* what orders the ranks' host threads in comm.h is not instrumented */
static struct comm *comm[RANKS];

static void exchange(struct backend *be)
{
    enum { ROWS = 5, DIM = 520, N = ROWS * DIM, ROUNDS = 2 }; /* of five rows a block has two */
    static const float zero[N];
    float *x = up(be, zero, sizeof zero), *d = up(be, zero, sizeof zero), *w = up(be, zero, DIM * sizeof *w),
          *all = up(be, NULL, RANKS * sizeof zero);
    void *y = up(be, NULL, N * 2);
    struct norm_args a = {.n = ROWS,
                          .dim = DIM,
                          .x = x,
                          .delta = d,
                          .reduce = true,
                          .scale = 0.5f,
                          .pre_w = w,
                          .y = y,
                          .eps = 1e-6f};
    for (int i = 0; i < ROUNDS; i++) {
        be->ops->all_reduce(be, x, N);
        be->ops->all_reduce(be, x, 5);
        be->ops->add_norm(be, &a);
        be->ops->all_gather(be, x, ROWS, DIM, all);
        be->ops->all_gather(be, x, 1, 3, all);
    }
    fetch(be, x, N * sizeof *x);
    pthread_barrier_wait(&meet); /* to free waits for all devices */
    be->ops->mem_free(be, x), be->ops->mem_free(be, d), be->ops->mem_free(be, w);
    be->ops->mem_free(be, all), be->ops->mem_free(be, y);
}

static void *rank_main(void *arg)
{
    struct comm **own = arg;
    struct err e = {0};
    struct backend *be = cuda_device((struct cuda_options){.device = (int)(own - comm)});
    ck_assert_msg(!be->ops->join(be, *own, &e), "%s", e.msg);
    pthread_barrier_wait(&meet);
    exchange(be);
    be->ops->close(be);
    comm_close(*own);
    return NULL;
}

START_TEST(ranks)
{
    pthread_t thread[RANKS];
    struct err e = {0};
    pthread_barrier_init(&meet, NULL, RANKS);
    ck_assert_msg(!comm_local_open(RANKS, comm, &e), "%s", e.msg);
    for (int i = 0; i < RANKS; i++) ck_assert(!pthread_create(&thread[i], NULL, rank_main, &comm[i]));
    for (int i = 0; i < RANKS; i++) pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&meet);
}
END_TEST

int main(void)
{
    const struct {
        const char *name;
        const TTest *test;
    } families[] = {{"linear", linear}, {"norm", norm},     {"attn", attention},
                    {"step", steps},    {"sample", sample}, {"comm", ranks}};
    Suite *s = suite_create("cuda races");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        TCase *t = tcase_create(families[i].name);
        tcase_set_timeout(t, 120);
        tcase_add_test(t, families[i].test);
        suite_add_tcase(s, t);
    }
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int bad = srunner_ntests_failed(r);
    srunner_free(r);
    return bad != 0;
}
