/* Sampling on the device against engine/sampler.c, whose results it must equal bit for bit: tokens, ranks,
 * alternatives and logprobs. (The logarithm in these is a device's own, in double: the last bit of one in
 * 2^28 logprobs may differ.) */
#include "device.h"
#include "sampler.h"
#include "sampler_vec.h"

enum { MAX_ROWS = 300, SEEN = 64, BIAS = 40, BAN = 8 };

static int below(int n) { return (int)((uniform() * 0.5f + 0.5f) * (float)n) % n; }
static bool one_in(int n) { return !below(n); }
static float normal(void)
{
    float u = uniform() * 0.5f + 0.5f, v = uniform();
    return sqrtf(-2 * logf(u + 1e-7f)) * cosf(3.14159265f * v);
}

/* ---- rows of logits ---- */

static void fill_logits(float *x, int n, int kind)
{
    float scale = kind == 1 ? 0.1f : kind == 2 ? 20 : 3;
    for (int i = 0; i < n; i++) {
        x[i] = scale * normal();
        if (kind == 3) x[i] = 1.5f;            /* all equal */
        if (kind == 4) x[i] = (float)below(3); /* ties */
        if (kind == 5 && one_in(4)) x[i] = NAN;
        if (kind == 6 && one_in(2)) x[i] = -INFINITY;
        if (kind == 7) x[i] = -INFINITY;
        if (kind == 8) x[i] *= 1e30f;
        if (kind == 9) x[i] = one_in(2) ? 0.0f : -0.0f;
        if (kind == 10) x[i] = NAN;
        if (kind == 11) x[i] = -12 - 0.01f * uniform(); /* a few above many */
    }
    if (kind == 11)
        for (int k = 0; k < 6; k++) x[below(n)] = normal();
    if (kind == 12) x[below(n)] = INFINITY;
}
enum { KINDS = 13 };

/* ---- what to do with them ---- */

struct job { /* one row, for both samplers */
    struct gen_params p;
    struct logit_bias bias[BIAS];
    int32_t ban[2][BAN];
    struct penalty_set seen;
    struct sample_in in;
    int32_t score;
};

static void random_job(struct job *j, int vocab)
{
    static const float temperature[] = {0, 1e-6f, 0.3f, 0.7f, 1, 1.5f, 5, 100};
    static const float top_p[] = {1, 1, 0.95f, 0.5f, 0.01f, 1e-6f, 0.9999f};
    static const float min_p[] = {0, 0, 0, 0.05f, 0.5f, 1, 1e-7f, 1e-4f, 1e-12f};
    const int top_k[] = {0, 0, -1, 1, 2, 5, 40, 1000, vocab - 1, vocab, vocab + 1};
    gen_params_init(&j->p);
    struct gen_params *p = &j->p;
    p->temperature = temperature[below(8)];
    p->top_p = top_p[below(7)];
    p->min_p = min_p[below(9)];
    p->top_k = top_k[below(11)];
    p->logprobs = one_in(2) ? -1 : below(LOGPROBS_MAX + 1);
    p->seed = (uint64_t)below(1 << 20);
    if (one_in(4)) p->repetition_penalty = 1 + 0.5f * uniform();
    if (one_in(4)) p->frequency_penalty = 2 * uniform();
    if (one_in(4)) p->presence_penalty = 2 * uniform();
    j->score = one_in(6) ? below(vocab) : -1;
    j->in = (struct sample_in){.p = p, .position = below(1000)};
    if (one_in(3)) {
        int step = vocab / BIAS + 1;
        for (int id = below(step); id < vocab && p->n_bias < BIAS; id += step)
            j->bias[p->n_bias++] = (struct logit_bias){id, one_in(5) ? -100 : 4 * uniform()};
        p->bias = j->bias;
    }
    for (int k = 0; k < 2; k++)
        if (one_in(4)) {
            j->in.n_ban[k] = 1 + below(BAN);
            for (int i = 0; i < BAN; i++) j->ban[k][i] = below(vocab);
            j->in.ban[k] = j->ban[k];
        }
    if (one_in(2)) {
        void *mem = calloc(1, penalty_set_bytes(SEEN));
        ck_assert_ptr_nonnull(mem);
        penalty_set_init(&j->seen, SEEN, mem);
        for (int i = 0; i < SEEN; i++) penalty_set_add(&j->seen, below(vocab < 100 ? vocab : 100), one_in(2));
        j->in.seen = &j->seen;
    }
}

static void free_job(struct job *j) { free(j->seen.entry); }

static struct sample_row row_of(const struct job *j)
{
    const struct gen_params *p = &j->p;
    struct sample_row r = {.temperature = p->temperature,
                           .top_p = p->top_p,
                           .min_p = p->min_p,
                           .top_k = p->top_k,
                           .repetition = p->repetition_penalty,
                           .frequency = p->frequency_penalty,
                           .presence = p->presence_penalty,
                           .random = sampler_random(p->seed, j->in.position),
                           .score = j->score,
                           .n_top = p->logprobs,
                           .bias = p->bias,
                           .n_bias = p->n_bias};
    for (int k = 0; k < 2; k++) r.ban[k] = j->in.ban[k], r.n_ban[k] = j->in.n_ban[k];
    if (j->in.seen) {
        r.seen = j->in.seen->entry;
        r.n_seen = j->in.seen->n;
    }
    return r;
}

/* ---- comparison ---- */

static struct backend *open_for(int vocab)
{
    struct backend *be = cuda_device((struct cuda_options){0});
    cuda_reserve(be, MAX_ROWS, 8, vocab);
    return be;
}

/* Results of rows order[0 .. n) of x, copied. */
static struct sample_result *on_device(struct backend *be, const float *x, int vocab, const struct job *job,
                                       const int *order, int n)
{
    struct sample_row *row = calloc((size_t)n, sizeof *row);
    struct sample_result *r = calloc((size_t)n, sizeof *r);
    float *y = malloc((size_t)n * vocab * sizeof *y);
    ck_assert(row && r && y);
    for (int i = 0; i < n; i++) {
        row[i] = row_of(&job[order[i]]);
        memcpy(y + (size_t)i * vocab, x + (size_t)order[i] * vocab, (size_t)vocab * sizeof *y);
    }
    float *logits = up(be, y, (size_t)n * vocab * sizeof *y);
    const struct sample_result *got = be->ops->sample(be, logits, vocab, row, n);
    memset(row, 0xff, (size_t)n * sizeof *row); /* it is the caller's again */
    cuda_sync(be);
    memcpy(r, got, (size_t)n * sizeof *r);
    be->ops->mem_free(be, logits);
    free(row), free(y);
    return r;
}

static bool same(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

static void compare(struct sampler *s, const float *x, int vocab, const struct job *j,
                    const struct sample_result *r)
{
    struct sample_out o = {0};
    float *y = malloc((size_t)vocab * sizeof *y);
    ck_assert_ptr_nonnull(y);
    memcpy(y, x, (size_t)vocab * sizeof *y);
    int n_top = j->p.logprobs;
    if (j->score >= 0 && n_top < 0) { /* nothing is asked for */
        ck_assert_int_eq(r->status, 0);
        ck_assert_int_eq(r->token, j->score);
        ck_assert_int_eq(r->n_top, 0);
        free(y);
        return;
    }
    int status =
        j->score >= 0 ? sampler_score(s, y, j->score, n_top, &o, NULL) : sampler_row(s, y, &j->in, &o, NULL);
    free(y);
    ck_assert_int_eq(r->status, status);
    if (status) return;
    if (r->token != o.token)
        ck_abort_msg("token %d, not %d (vocab %d, T %g, top_k %d, top_p %g, min_p %g)", r->token, o.token,
                     vocab, j->p.temperature, j->p.top_k, j->p.top_p, j->p.min_p);
    if (n_top < 0) {
        ck_assert_int_eq(r->n_top, 0);
        return;
    }
    ck_assert_int_eq(r->rank, o.rank);
    ck_assert_int_eq(r->n_top, o.n_top);
    if (!same(r->logprob, o.logprob)) ck_abort_msg("logprob %.9g, not %.9g", r->logprob, o.logprob);
    for (int k = 0; k < o.n_top; k++) {
        ck_assert_int_eq(r->top[k].token, o.top[k].token);
        if (!same(r->top[k].logprob, o.top[k].logprob))
            ck_abort_msg("top %d: %.9g, not %.9g", k, r->top[k].logprob, o.top[k].logprob);
    }
}

static void same_result(const struct sample_result *a, const struct sample_result *b, int n_top)
{
    ck_assert_int_eq(a->status, b->status);
    if (a->status) return;
    ck_assert_int_eq(a->token, b->token);
    if (n_top < 0) return;
    ck_assert_int_eq(a->rank, b->rank);
    ck_assert_mem_eq(&a->logprob, &b->logprob, sizeof a->logprob);
    ck_assert_mem_eq(a->top, b->top, (size_t)a->n_top * sizeof *a->top);
}

/* `n` random rows in one batch; some of them again alone, and in another order */
static void check_batch(struct backend *be, struct sampler *s, int vocab, int n, int kind)
{
    float *x = malloc((size_t)n * vocab * sizeof *x);
    struct job *job = calloc((size_t)n, sizeof *job);
    int *order = calloc((size_t)n, sizeof *order);
    ck_assert(x && job && order);
    for (int i = 0; i < n; i++) {
        fill_logits(x + (size_t)i * vocab, vocab, kind < 0 ? below(KINDS) : kind);
        random_job(&job[i], vocab);
        order[i] = i;
    }
    struct sample_result *r = on_device(be, x, vocab, job, order, n), *again;
    for (int i = 0; i < n; i++) compare(s, x + (size_t)i * vocab, vocab, &job[i], &r[i]);
    for (int i = 0; i < n; i++) order[i] = n - 1 - i;
    int some = n < 3 ? n : 3;
    again = on_device(be, x, vocab, job, order, some);
    for (int i = 0; i < some; i++) same_result(&again[i], &r[order[i]], job[order[i]].p.logprobs);
    for (int i = 0; i < n; i++) free_job(&job[i]);
    free(again), free(r), free(x), free(job), free(order);
}

START_TEST(rows_equal_the_host_sampler)
{
    static const struct {
        int vocab, rows, batches;
    } size[] = {{1, 12, 2},    {7, 40, 4},    {256, 30, 2}, {1024, 30, 4},
                {4097, 20, 2}, {5000, 20, 2}, {12288, 9, 2}};
    seed = (uint64_t)_i + 11;
    int vocab = size[_i].vocab;
    struct sampler *s;
    ck_assert_int_eq(sampler_open(vocab, 4096, &s, NULL), 0);
    struct backend *be = open_for(vocab);
    for (int b = 0; b < size[_i].batches; b++) check_batch(be, s, vocab, size[_i].rows, -1);
    be->ops->close(be);
    sampler_close(s);
}
END_TEST

START_TEST(a_real_vocabulary)
{
    enum { VOCAB = 151936 };
    struct sampler *s;
    ck_assert_int_eq(sampler_open(VOCAB, 4096, &s, NULL), 0);
    struct backend *be = open_for(VOCAB);
    for (int kind = 0; kind < 5; kind++) {
        seed = (uint64_t)kind + 101;
        check_batch(be, s, VOCAB, 2, kind);
    }
    be->ops->close(be);
    sampler_close(s);
}
END_TEST

/* More rows than one round of the kernels takes. */
START_TEST(many_rows)
{
    struct sampler *s;
    seed = 77;
    ck_assert_int_eq(sampler_open(40, 4096, &s, NULL), 0);
    struct backend *be = open_for(40);
    check_batch(be, s, 40, MAX_ROWS, -1);
    be->ops->close(be);
    sampler_close(s);
}
END_TEST

/* The least random number that scale_random turns into `target` of `total`. */
static uint64_t random_for(int64_t target, int64_t total)
{
    unsigned __int128 v = (unsigned __int128)target << 64;
    return (uint64_t)((v + (unsigned __int128)total - 1) / (unsigned __int128)total);
}

struct ranked {
    int32_t q;
    int id;
};
static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->q != y->q ? (x->q < y->q ? 1 : -1) : x->id - y->id;
}

/* The filters by sorting, on the host's weights: zeroes what they cut, and returns the weight of the rest. */
static int64_t cut_weights(int32_t *q, int n, const struct gen_params *p)
{
    struct ranked *r = calloc((size_t)n, sizeof *r);
    ck_assert_ptr_nonnull(r);
    int64_t total = 0, mass = 0;
    for (int i = 0; i < n; i++) r[i] = (struct ranked){q[i], i}, q[i] = 0;
    qsort(r, (size_t)n, sizeof *r, by_rank);
    int keep = 0, count = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    while (keep < count && r[keep].q >= (double)p->min_p * SAMPLER_ONE) total += r[keep++].q;
    int64_t share = p->top_p < 1 ? (int64_t)ceil((double)p->top_p * (double)total) : total;
    for (int i = 0; i < keep && (!i || mass < share); i++) mass += q[r[i].id] = r[i].q;
    free(r);
    return mass;
}

/* The first and the last random number that give a token: one unit of any weight more or less would show. */
START_TEST(draws_turn_where_the_weights_say)
{
    enum { VOCAB = 5000, DRAWS = 10 };
    static const float temperature[] = {0.6f, 1, 1.9f}, top_p[] = {1, 0.9f, 0.45f},
                       min_p[] = {0, 0.02f, 2e-4f};
    static const int top_k[] = {0, 30, 3000};
    static int32_t q[VOCAB];
    static float x[VOCAB];
    float *many = malloc(sizeof x * DRAWS);
    struct backend *be = open_for(VOCAB);
    struct sampler *s;
    ck_assert_int_eq(sampler_open(VOCAB, 64, &s, NULL), 0);
    seed = (uint64_t)_i + 1;
    struct gen_params g;
    gen_params_init(&g);
    g.temperature = temperature[_i % 3];
    g.top_k = top_k[_i / 3 % 3];
    g.top_p = top_p[_i / 9 % 3];
    g.min_p = min_p[_i / 27];
    fill_logits(x, VOCAB, _i % 5 ? 0 : 1);
    for (int at = 0, top; at < VOCAB; at += BLOCK)
        vec_ops()->weights(x + at, VOCAB - at < BLOCK ? VOCAB - at : BLOCK, vec_ops()->max(x, VOCAB),
                           1 / g.temperature, q + at, &top);
    int64_t mass = cut_weights(q, VOCAB, &g), before = 0;
    struct sample_row row[DRAWS];
    int want[DRAWS], n = 0;
    for (int id = 0; id < VOCAB; id++) { /* about DRAWS / 2 of the tokens that may come */
        if (q[id] && n + 2 <= DRAWS && (q[id] > SAMPLER_ONE / 8 || one_in(VOCAB / DRAWS / 2))) {
            row[n].random = random_for(before, mass), want[n++] = id;
            row[n].random = random_for(before + q[id], mass) - 1, want[n++] = id;
        }
        before += q[id];
    }
    ck_assert_int_gt(n, 0);
    for (int d = 0; d < n; d++) {
        row[d] = (struct sample_row){.temperature = g.temperature,
                                     .top_p = g.top_p,
                                     .min_p = g.min_p,
                                     .top_k = g.top_k,
                                     .repetition = 1,
                                     .score = -1,
                                     .n_top = -1,
                                     .random = row[d].random};
        memcpy(many + (size_t)d * VOCAB, x, sizeof x);
    }
    float *logits = up(be, many, sizeof x * (size_t)n);
    const struct sample_result *r = be->ops->sample(be, logits, VOCAB, row, n);
    cuda_sync(be);
    for (int d = 0; d < n; d++) {
        ck_assert_int_eq(sampler_pick(s, x, &g, row[d].random), want[d]);
        if (r[d].token != want[d])
            ck_abort_msg("case %d, draw %d: token %d, not %d", _i, d, r[d].token, want[d]);
    }
    be->ops->mem_free(be, logits);
    be->ops->close(be);
    sampler_close(s);
    free(many);
}
END_TEST

/* Two batches under way at once keep their own results; the third waits for the first. Lists grow in between.
 */
START_TEST(batches_overlap)
{
    enum { VOCAB = 30000, BATCHES = 5 };
    struct backend *be = open_for(VOCAB);
    struct penalty *seen = calloc(VOCAB, sizeof *seen);
    float *x = calloc(VOCAB, sizeof *x), *logits[BATCHES];
    ck_assert(seen && x);
    for (int i = 0; i < VOCAB; i++) seen[i] = (struct penalty){i, 1};
    const struct sample_result *r[BATCHES];
    for (int b = 0; b < BATCHES; b++) {
        x[100 + b] = 5;
        logits[b] = up(be, x, VOCAB * sizeof *x);
        x[100 + b] = 0;
    }
    for (int b = 0; b < BATCHES; b++) { /* all but 50 + b are made unlikely in odd batches */
        struct sample_row row = {.top_p = 1, .repetition = 1, .presence = 2, .score = -1, .n_top = -1};
        for (int i = 0; b % 2 && i < VOCAB; i++) seen[i].n_out = i != 50 + b;
        row.frequency = 10;
        row.seen = seen;
        row.n_seen = b % 2 ? VOCAB : 0;
        r[b] = be->ops->sample(be, logits[b], VOCAB, &row, 1);
    }
    cuda_sync(be);
    for (int b = BATCHES - 2; b < BATCHES; b++) {
        ck_assert_int_eq(r[b]->status, 0);
        ck_assert_int_eq(r[b]->token, b % 2 ? 50 + b : 100 + b);
    }
    for (int b = 0; b < BATCHES; b++) be->ops->mem_free(be, logits[b]);
    be->ops->close(be);
    free(seen), free(x);
}
END_TEST

static int32_t wait_token(struct backend *be, const struct sample_result *r)
{
    struct err e = {0};
    ck_assert_msg(!be->ops->wait(be, r, &e), "%s", e.msg);
    ck_assert_int_eq(r->status, 0);
    return r->token;
}

/* A step whose ids are the tokens of a draw that nobody has waited for; then the draw of that step, and a
 * wait for the first draw alone. */
START_TEST(a_draw_feeds_the_next_step)
{
    enum { VOCAB = 40, DIM = 8, DRAWN = 4, ROWS = 6, SKEW = 7 };
    struct backend *be = open_for(VOCAB);
    struct err e = {0};
    float table[VOCAB][DIM], y[ROWS][DIM], x[2][DRAWN][VOCAB] = {0};
    for (int id = 0; id < VOCAB; id++)
        for (int k = 0; k < DIM; k++) table[id][k] = (float)(id * DIM + k) / 64;
    struct weight *w;
    ck_assert_msg(!be->ops->weight_pack(be, DT_F32, VOCAB, DIM, table, &w, &e), "%s", e.msg);
    struct sample_row row[DRAWN];
    for (int i = 0; i < DRAWN; i++) {
        row[i] = (struct sample_row){.top_p = 1, .repetition = 1, .score = -1, .n_top = -1};
        x[0][i][3 + SKEW * i] = x[1][i][4 + SKEW * i] = 5;
    }
    float *first = up(be, x[0], sizeof x[0]), *second = up(be, x[1], sizeof x[1]),
          *out = up(be, NULL, sizeof y);
    const int32_t ids[ROWS] = {9, 30, 9, 31, 9, 9}, drawn[ROWS] = {2, -1, 0, -1, 3, 1}, pos[ROWS] = {0};
    const int32_t want[ROWS] = {3 + SKEW * 2, 30, 3, 31, 3 + SKEW * 3, 3 + SKEW};
    struct batch b = {.n = ROWS, .ids = ids, .pos = pos, .drawn = drawn};
    const struct sample_result *last = be->ops->sample(be, first, VOCAB, row, DRAWN);
    be->ops->begin(be, &b);
    be->ops->embed(be, w, &b, 1, out);
    const struct sample_result *next = be->ops->sample(be, second, VOCAB, row, DRAWN);
    ck_assert_int_eq(wait_token(be, last), 3);
    for (int i = 0; i < DRAWN; i++) ck_assert_int_eq(last[i].token, 3 + SKEW * i);
    ck_assert_int_eq(wait_token(be, next), 4);
    const struct sample_result *nothing = be->ops->sample(be, second, VOCAB, row, 0);
    ck_assert_msg(!be->ops->wait(be, nothing, &e), "%s", e.msg);
    down(be, y, out, sizeof y);
    for (int i = 0; i < ROWS; i++) ck_assert_mem_eq(y[i], table[want[i]], sizeof y[i]);
    b.drawn = NULL; /* and the rows of the step before are not taken for this one's */
    be->ops->begin(be, &b);
    be->ops->embed(be, w, &b, 1, out);
    down(be, y, out, sizeof y);
    for (int i = 0; i < ROWS; i++) ck_assert_mem_eq(y[i], table[ids[i]], sizeof y[i]);
    be->ops->weight_free(be, w);
    be->ops->mem_free(be, first), be->ops->mem_free(be, second), be->ops->mem_free(be, out);
    be->ops->close(be);
}
END_TEST

static TCase *cases(Suite *s, const char *name)
{
    TCase *t = tcase_create(name);
    tcase_set_timeout(t, 300);
    suite_add_tcase(s, t);
    return t;
}

int main(void)
{
    Suite *s = suite_create("cuda sample");
    TCase *t = cases(s, "host");
    tcase_add_loop_test(t, rows_equal_the_host_sampler, 0, 7);
    tcase_add_test(t, many_rows);
    tcase_add_test(cases(s, "vocabulary"), a_real_vocabulary);
    tcase_add_loop_test(cases(s, "turns"), draws_turn_where_the_weights_say, 0, 81);
    t = cases(s, "overlap");
    tcase_add_test(t, batches_overlap);
    tcase_add_test(t, a_draw_feeds_the_next_step);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int bad = srunner_ntests_failed(r);
    srunner_free(r);
    return bad != 0;
}
