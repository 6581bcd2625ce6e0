/* The KV cache and attention of the CUDA back end: both kernels and both types of the cache against the
 * scalar reference, in steps of every kind, among NaNs; and in deterministic mode the same bits however a row
 * is computed. */
#include "device.h"

enum { SEQS = 3, MAX_LEN = 400, MAX_CROWD = 16, PAD = 2 };

struct scene {
    int n_head, n_kv_head, dim;
    enum dtype type;
    int window;
    float cap;
    int block;
};
static const struct scene scenes[] = {
    {4, 2, 8, DT_BF16, 0, 0, 8},     {6, 2, 32, DT_BF16, 100, 0, 16}, {8, 2, 64, DT_BF16, 0, 0, 16},
    {5, 1, 72, DT_BF16, 0, 50, 8},   {7, 1, 96, DT_BF16, 20, 0, 32},  {4, 2, 128, DT_BF16, 0, 0, 16},
    {3, 3, 128, DT_BF16, 33, 0, 64}, {4, 1, 256, DT_BF16, 7, 30, 16}, {18, 1, 64, DT_BF16, 0, 0, 16},
    {2, 2, 200, DT_BF16, 0, 0, 8},   {4, 2, 16, DT_E4M3, 0, 0, 8},    {8, 2, 64, DT_E4M3, 100, 0, 16},
    {4, 2, 128, DT_E4M3, 0, 50, 16}, {3, 1, 256, DT_E4M3, 40, 0, 32}, {3, 1, 112, DT_E4M3, 0, 0, 64},
    {2, 1, 12, DT_BF16, 0, 0, 8},    {2, 1, 24, DT_E4M3, 50, 0, 16},  {3, 1, 320, DT_BF16, 0, 20, 16},
};
enum { SCENES = sizeof scenes / sizeof *scenes };

/* What the tensor cores lose: weights and results have 8 bits, a relative error of at most 2^-9 each, whose
 * square is 4e-6. Of E4M3 the reference gets the values that the codes stand for, so that the rest is the
 * same. */
static const double tolerance = 1e-5;

/* Tokens of the sequences, one after another: q | k | v in each row, as a joint matrix would leave them. */
struct data {
    struct scene s;
    int n_seq, len[MAX_CROWD], first[MAX_CROWD], n, stride;
    float *x;    /* [n][stride] */
    float *want; /* [n][n_head][dim], by the reference */
};

/* The value of a code for x: with a scale of most / 448, to 4 significant bits, subnormal below 2^-6. */
static float e4m3(float x, float most)
{
    float v = fabsf(x * (448 / most));
    int e;
    frexpf(v, &e);
    float unit = ldexpf(1, (e < -5 ? -5 : e) - 4);
    v = fminf(nearbyintf(v / unit) * unit, 448);
    return copysignf(v * (most / 448), x);
}

static void round_like_cache(const struct scene *s, float *x)
{
    for (int h = 0; h < 2 * s->n_kv_head; h++, x += s->dim) {
        float most = 0;
        for (int i = 0; i < s->dim; i++) most = fmaxf(most, fabsf(x[i]));
        for (int i = 0; i < s->dim; i++)
            x[i] = s->type == DT_BF16 ? bf16_to_f32(bf16_from_f32(x[i])) : e4m3(x[i], most);
    }
}

/* One step: tokens [from[i], to[i]) of each sequence, `pad` rows of padding before and after. */
struct step {
    struct batch b;
    struct attn_item item[2][MAX_CROWD];
    int seq[MAX_CROWD]; /* of the items */
};
static void step_make(struct step *st, const struct data *d, const int *from, const int *to,
                      int32_t table[][MAX_LEN], int pad)
{
    static const int32_t zeros[MAX_CROWD * MAX_LEN];
    *st = (struct step){.b = {.n = pad, .ids = zeros, .pos = zeros, .n_list = 2}};
    int n = 0;
    for (int i = d->n_seq; i-- > 0;) { /* not in the order of the rows' tokens */
        int len = to[i] - from[i];
        if (len <= 0) continue;
        st->item[0][n] = (struct attn_item){st->b.n, len, from[i], table[i]};
        st->item[1][n] = (struct attn_item){st->b.n + len - 1, 1, from[i] + len - 1, table[i]};
        st->seq[n++] = i;
        st->b.n += len;
    }
    st->b.n += pad;
    for (int k = 0; k < 2; k++) st->b.list[k] = (struct attn_list){st->item[k], n, d->s.window};
}

/* A row of the step as a row of d->x, -1: padding. */
static int row_of(const struct step *st, const struct data *d, int row)
{
    for (int i = 0; i < st->b.list[0].n_item; i++) {
        const struct attn_item *it = &st->item[0][i];
        if (row >= it->row && row < it->row + it->len) return d->first[st->seq[i]] + it->pos + row - it->row;
    }
    return -1;
}

static void prep(struct backend *be, const struct step *st, const struct scene *s, float *x, int stride,
                 struct kv_store *kv)
{
    struct qkv_args a = {.n = st->b.n,
                         .n_head = s->n_head,
                         .n_kv_head = s->n_kv_head,
                         .head_dim = s->dim,
                         .q = x,
                         .q_stride = stride,
                         .k = x + s->n_head * s->dim,
                         .k_stride = stride,
                         .v = x + (s->n_head + s->n_kv_head) * s->dim,
                         .v_stride = stride,
                         .kv = kv,
                         .slot = 1,
                         .b = &st->b};
    be->ops->qkv_prep(be, &a);
}

static void attend(struct backend *be, const struct step *st, const struct scene *s, const float *x,
                   int stride, struct kv_store *kv, int list, void *out)
{
    struct attn_args a = {.n = st->b.n,
                          .n_head = s->n_head,
                          .n_kv_head = s->n_kv_head,
                          .head_dim = s->dim,
                          .q = x,
                          .q_stride = stride,
                          .out = out,
                          .out_stride = s->n_head * s->dim,
                          .scale = 0.3f,
                          .cap = s->cap,
                          .kv = kv,
                          .slot = 1,
                          .b = &st->b,
                          .list = list};
    be->ops->attn(be, &a);
}

static void reference(struct data *d)
{
    static int32_t table[MAX_CROWD][MAX_LEN];
    struct backend *be = ref_backend();
    struct kv_store *kv;
    struct step st;
    struct err e;
    int from[MAX_CROWD] = {0}, n = 0;
    for (int i = 0; i < d->n_seq; i++)
        for (int b = 0; b * 16 < d->len[i]; b++) table[i][b] = n++;
    struct kv_geom g = {n, 16, 2, d->s.n_kv_head, d->s.dim, DT_F32};
    ck_assert_int_eq(be->ops->kv_alloc(be, &g, &kv, &e), 0);
    step_make(&st, d, from, d->len, table, PAD);
    int width = d->s.n_head * d->s.dim;
    float *x = calloc((size_t)st.b.n * d->stride, sizeof *x),
          *out = calloc((size_t)st.b.n * width, sizeof *out);
    for (int r = 0; r < st.b.n; r++)
        if (row_of(&st, d, r) >= 0) {
            float *to = x + (size_t)r * d->stride;
            memcpy(to, d->x + (size_t)row_of(&st, d, r) * d->stride, d->stride * sizeof *x);
            round_like_cache(&d->s, to + width);
        }
    prep(be, &st, &d->s, x, d->stride, kv);
    attend(be, &st, &d->s, x, d->stride, kv, 0, out);
    for (int r = 0; r < st.b.n; r++)
        if (row_of(&st, d, r) >= 0)
            memcpy(d->want + (size_t)row_of(&st, d, r) * width, out + (size_t)r * width, width * sizeof *out);
    be->ops->kv_free(be, kv);
    free(x);
    free(out);
}

static struct data data_make(const struct scene *s, int n_seq, const int *len)
{
    struct data d = {.s = *s, .n_seq = n_seq, .stride = (s->n_head + 2 * s->n_kv_head) * s->dim};
    for (int i = 0; i < n_seq; i++) {
        d.first[i] = d.n;
        d.n += d.len[i] = len[i];
    }
    seed = (uint64_t)s->dim * 31 + s->n_head;
    d.x = random_floats((size_t)d.n * d.stride);
    d.want = random_floats((size_t)d.n * s->n_head * s->dim);
    for (int i = 0; i < d.n; i++) {
        float *q = d.x + (size_t)i * d.stride;
        for (int j = 0; j < s->n_head * s->dim; j++) q[j] *= 3;
        round_mat(q, (size_t)s->n_head * s->dim);
    }
    return d;
}

static void data_free(struct data *d)
{
    free(d->x);
    free(d->want);
}

/* Shuffled blocks; -1 for those behind the window of the next token, and for those not begun. */
static int fill_table(int32_t table[][MAX_LEN], const struct data *d, int block, const int *from,
                      const int *to)
{
    int n = 0;
    for (int b = 0; b * block < MAX_LEN; b++)
        for (int i = d->n_seq; i-- > 0;) {
            bool gone = d->s.window > 0 && (b + 1) * block <= from[i] - d->s.window + 1,
                 ahead = b * block >= to[i];
            table[i][b] = gone || ahead ? -1 : n;
            n += b * block < d->len[i];
        }
    return n;
}

/* Every slot of the cache gets NaN: a token that no list covers but the first. */
static void poison(struct backend *be, const struct data *d, int blocks, int block, struct kv_store *kv)
{
    static int32_t table[1][MAX_LEN];
    struct data all = {.s = d->s, .n_seq = 1};
    float *x = random_floats((size_t)(block * MAX_LEN / 8 + 2 * PAD) * d->stride);
    for (int b0 = 0; b0 < blocks; b0 += 8) {
        struct step st;
        int zero = 0, n = (blocks - b0 < 8 ? blocks - b0 : 8) * block;
        for (int b = 0; b < n / block; b++) table[0][b] = b0 + b;
        step_make(&st, &all, &zero, &n, table, PAD);
        for (size_t i = 0; i < (size_t)st.b.n * d->stride; i++) x[i] = NAN;
        float *dev = up(be, x, (size_t)st.b.n * d->stride * sizeof *x);
        be->ops->begin(be, &st.b);
        prep(be, &st, &d->s, dev, d->stride, kv);
        cuda_sync(be);
        be->ops->mem_free(be, dev);
    }
    free(x);
}

static bool all_zero(const float *x, int n)
{
    for (int i = 0; i < n; i++)
        if (x[i] != 0) return false;
    return true;
}

/* All tokens of all sequences, in steps that end at the given tokens: out [n][n_head * dim]. */
static float *compute(struct backend *be, struct data *d, int block, const int *cut, int n_cut)
{
    static int32_t table[MAX_CROWD][MAX_LEN];
    struct kv_store *kv;
    struct err e;
    int zero[MAX_CROWD] = {0}, width = d->s.n_head * d->s.dim, rows = d->n + 2 * PAD;
    int blocks = fill_table(table, d, block, zero, d->len);
    struct kv_geom g = {blocks, block, 2, d->s.n_kv_head, d->s.dim, d->s.type};
    struct step_limits lim = {.max_rows = rows > 8 * block + 2 * PAD ? rows : 8 * block + 2 * PAD,
                              .max_seqs = MAX_CROWD,
                              .max_ctx = MAX_LEN,
                              .max_in = 8,
                              .n_head = d->s.n_head,
                              .n_kv_head = d->s.n_kv_head,
                              .head_dim = d->s.dim,
                              .vocab = 8,
                              .n_list = 2,
                              .block_size = block};
    ck_assert_msg(!be->ops->kv_alloc(be, &g, &kv, &e), "%s", e.msg);
    ck_assert_msg(!be->ops->reserve(be, &lim, &e), "%s", e.msg);
    poison(be, d, blocks, block, kv);
    float *x = calloc((size_t)rows * d->stride, sizeof *x), *got = calloc((size_t)rows * width, sizeof *got);
    float *last = calloc((size_t)rows * width, sizeof *last),
          *out = calloc((size_t)d->n * width, sizeof *out);
    for (int c = 0; c < n_cut; c++) {
        struct step st;
        int from[MAX_CROWD], to[MAX_CROWD], before = c ? cut[c - 1] : 0;
        for (int i = 0; i < d->n_seq; i++) {
            to[i] = cut[c] < d->len[i] ? cut[c] : d->len[i];
            from[i] = before < to[i] ? before : to[i];
        }
        fill_table(table, d, block, from, to);
        step_make(&st, d, from, to, table, c % 2 ? 0 : PAD);
        for (int r = 0; r < st.b.n; r++) {
            int at = row_of(&st, d, r);
            if (at >= 0)
                memcpy(x + (size_t)r * d->stride, d->x + (size_t)at * d->stride, d->stride * sizeof *x);
        }
        float *dx = up(be, x, (size_t)st.b.n * d->stride * sizeof *x);
        void *y = up(be, NULL, (size_t)st.b.n * width * 2), *y1 = up(be, NULL, (size_t)st.b.n * width * 2);
        be->ops->begin(be, &st.b);
        prep(be, &st, &d->s, dx, d->stride, kv);
        attend(be, &st, &d->s, dx, d->stride, kv, 0, y);
        attend(be, &st, &d->s, dx, d->stride, kv, 1, y1);
        down_mat(be, got, y, (size_t)st.b.n * width);
        down_mat(be, last, y1, (size_t)st.b.n * width);
        be->ops->mem_free(be, dx);
        be->ops->mem_free(be, y);
        be->ops->mem_free(be, y1);
        for (int r = 0; r < st.b.n; r++) {
            int at = row_of(&st, d, r);
            const float *row = got + (size_t)r * width, *row1 = last + (size_t)r * width;
            bool wanted = at >= 0 && (r + 1 == st.b.n || row_of(&st, d, r + 1) != at + 1);
            if (at >= 0) memcpy(out + (size_t)at * width, row, width * sizeof *row);
            /* Check writes a line for each assertion, so there are few. */
            if (at < 0) ck_assert_msg(all_zero(row, width), "row %d of padding", r);
            if (!wanted && !all_zero(row1, width)) ck_abort_msg("row %d, not wanted", r);
            if (wanted && isfinite(nmse(row, row, width)) && !(nmse(row1, row, width) < 2 * tolerance))
                ck_abort_msg("row %d of the wanted", r);
        }
    }
    be->ops->kv_free(be, kv);
    free(x);
    free(got);
    free(last);
    return out;
}

static struct backend *device(enum cuda_attention kind, bool deterministic)
{
    return cuda_device((struct cuda_options){.deterministic = deterministic, .attention = kind});
}

START_TEST(attention_is_right)
{
    static const int len[SEQS] = {135, 65, 38}, cut[] = {20, 37, 38, 64, 65, 134, 135};
    struct data d = data_make(&scenes[_i % SCENES], SEQS, len);
    reference(&d);
    struct backend *be = device((enum cuda_attention)(_i / SCENES % 2), _i / SCENES / 2);
    float *out = compute(be, &d, d.s.block, cut, sizeof cut / sizeof *cut);
    double err = nmse(out, d.want, (size_t)d.n * d.s.n_head * d.s.dim);
    if (getenv("VERBOSE")) printf("scene %d kind %d: %g\n", _i % SCENES, _i / SCENES, err);
    ck_assert_msg(err < tolerance, "nmse %g", err);
    be->ops->close(be);
    free(out);
    data_free(&d);
}
END_TEST

static const struct scene long_scenes[] = {
    {2, 1, 64, DT_BF16, 0, 0, 0},
    {3, 1, 128, DT_E4M3, 200, 0, 0},
    {2, 2, 128, DT_BF16, 0, 20, 0},
    {4, 1, 256, DT_BF16, 0, 0, 0},
};
enum { LONG_SCENES = sizeof long_scenes / sizeof *long_scenes };

/* Whole, in chunks, and tokens alone, around the borders of everything. */
static const int whole[] = {400}, chunks[] = {250, 255, 260, 380, 385, 390, 395, 400},
                 single[] = {1, 126, 127, 128, 129, 130, 255, 256, 257, 383, 384, 385, 399, 400};
static const struct {
    int block;
    const int *cut;
    int n;
} ways[] = {{16, whole, 1},
            {8, chunks, sizeof chunks / sizeof *chunks},
            {64, single, sizeof single / sizeof *single}};

START_TEST(rows_do_not_depend_on_the_step)
{
    int kind = _i / LONG_SCENES;
    int len[1] = {long_scenes[_i % LONG_SCENES].dim > 128 ? 290 : 400};
    struct data d = data_make(&long_scenes[_i % LONG_SCENES], 1, len);
    size_t n = (size_t)d.n * d.s.n_head * d.s.dim;
    reference(&d);
    float *first = NULL;
    for (int w = 0; w < 3; w++) {
        struct backend *be = device((enum cuda_attention)kind, true);
        float *out = compute(be, &d, ways[w].block, ways[w].cut, ways[w].n);
        ck_assert_double_lt(nmse(out, d.want, n), tolerance);
        for (size_t i = 0; first && i < n; i++)
            if (out[i] != first[i])
                ck_abort_msg("way %d: token %zu, number %zu: %a instead of %a", w, i / (d.s.n_head * d.s.dim),
                             i % (d.s.n_head * d.s.dim), out[i], first[i]);
        be->ops->close(be);
        if (first)
            free(out);
        else
            first = out;
    }
    free(first);
    data_free(&d);
}
END_TEST

/* With many sequences a decode is not cut any more. */
START_TEST(rows_do_not_depend_on_the_crowd)
{
    static const int cut[] = {138, 139, 140};
    static const struct scene s = {8, 8, 16, DT_BF16, 0, 0, 0};
    int len[MAX_CROWD];
    for (int i = 0; i < MAX_CROWD; i++) len[i] = 140;
    struct data d = data_make(&s, MAX_CROWD, len), one = d;
    one.n_seq = 1;
    one.n = len[0];
    struct backend *be = device(CUDA_ATTENTION_MMA, true);
    float *many = compute(be, &d, 16, cut, 3), *alone = compute(be, &one, 16, cut, 3);
    ck_assert_mem_eq(many, alone, (size_t)one.n * s.n_head * s.dim * sizeof *many);
    be->ops->close(be);
    free(many);
    free(alone);
    data_free(&d);
}
END_TEST

/* What one sequence does to itself must not reach another's rows. */
START_TEST(bad_numbers_stay_in_their_sequence)
{
    static const int len[SEQS] = {135, 50, 38}, cut[] = {134, 135};
    struct data d = data_make(&scenes[_i % 2 ? 12 : 5], SEQS, len);
    struct backend *be = device((enum cuda_attention)(_i / 2), true);
    int kv = 2 * d.s.n_kv_head * d.s.dim, width = d.s.n_head * d.s.dim;
    float *want = compute(be, &d, 16, cut, 2);
    for (int i = 0; i < kv; i++) d.x[(size_t)(d.first[1] + 3) * d.stride + width + i] = INFINITY;
    for (int i = 0; i < kv; i++) d.x[(size_t)(d.first[1] + 5) * d.stride + width + i] = NAN;
    for (int i = 0; i < kv; i++) /* the first number of the pool, where lanes look that have no key */
        d.x[(size_t)d.first[2] * d.stride + width + i] = NAN;
    float *out = compute(be, &d, 16, cut, 2);
    for (int t = 0; t < d.n; t++) {
        if (t >= d.first[1])
            ck_assert(t < d.first[1] + 5 || isnan(out[(size_t)t * width]));
        else
            ck_assert_mem_eq(out + (size_t)t * width, want + (size_t)t * width, width * sizeof *out);
    }
    be->ops->close(be);
    free(want);
    free(out);
    data_free(&d);
}
END_TEST

/* Norms and rotation in place, against the reference with a cache of the same type; what is stored shows in
 * attention. */
START_TEST(queries_and_keys_are_prepared)
{
    static const struct {
        int rot;
        enum rope_style style;
        bool norm;
    } kinds[] = {{64, ROPE_NEOX, true},
                 {64, ROPE_PAIRS, false},
                 {24, ROPE_NEOX, false},
                 {24, ROPE_PAIRS, true},
                 {0, ROPE_NEOX, true}};
    enum { LEN = 21, DIM = 64, HEADS = 4, KV = 2, ROWS = LEN + 2 * PAD, STRIDE = (HEADS + 2 * KV) * DIM };
    struct scene s = {HEADS, KV, DIM, DT_BF16, 0, 0, 8};
    int32_t table[1][MAX_LEN] = {{3, 0, 2}};
    int rot = kinds[_i].rot, zero = 0, len = LEN;
    struct data d = {.s = s, .n_seq = 1, .stride = STRIDE, .n = LEN};
    struct step st;
    struct err e;
    step_make(&st, &d, &zero, &len, table, PAD);
    seed = _i + 1;
    float *x = random_floats(ROWS * STRIDE), *norm = random_floats(2 * DIM),
          *cs = random_floats((size_t)ROWS * (rot + 1));
    float *done[2], *y[2];
    struct backend *dev[2] = {ref_backend(), device(CUDA_ATTENTION_MMA, false)};
    for (int i = 0; i < 2; i++) {
        struct backend *be = dev[i];
        struct kv_store *kv;
        struct kv_geom g = {4, 8, 2, KV, DIM, DT_BF16};
        struct step_limits lim = {.max_rows = ROWS,
                                  .max_seqs = 4,
                                  .max_ctx = 32,
                                  .max_in = 8,
                                  .n_head = HEADS,
                                  .n_kv_head = KV,
                                  .head_dim = DIM,
                                  .vocab = 8,
                                  .n_list = 2,
                                  .block_size = 8};
        ck_assert_int_eq(be->ops->kv_alloc(be, &g, &kv, &e), 0);
        ck_assert_int_eq(be->ops->reserve(be, &lim, &e), 0);
        float *dx = up(be, x, sizeof(float) * ROWS * STRIDE), *dn = up(be, norm, sizeof(float) * 2 * DIM);
        float *dc = up(be, cs, sizeof(float) * ROWS * rot);
        void *out = up(be, NULL, sizeof(float) * ROWS * HEADS * DIM);
        struct qkv_args a = {.n = ROWS,
                             .n_head = HEADS,
                             .n_kv_head = KV,
                             .head_dim = DIM,
                             .q = dx,
                             .q_stride = STRIDE,
                             .k = dx + HEADS * DIM,
                             .k_stride = STRIDE,
                             .v = dx + (HEADS + KV) * DIM,
                             .v_stride = STRIDE,
                             .q_norm = kinds[_i].norm ? dn : NULL,
                             .k_norm = kinds[_i].norm ? dn + DIM : NULL,
                             .eps = 1e-5f,
                             .rot = rot,
                             .style = kinds[_i].style,
                             .cs = dc,
                             .kv = kv,
                             .slot = 1,
                             .b = &st.b};
        be->ops->begin(be, &st.b);
        be->ops->qkv_prep(be, &a);
        attend(be, &st, &s, dx, STRIDE, kv, 0, out);
        down(be, done[i] = random_floats(ROWS * STRIDE), dx, sizeof(float) * ROWS * STRIDE);
        y[i] = random_floats(ROWS * HEADS * DIM);
        if (be->mat == DT_BF16)
            down_mat(be, y[i], out, ROWS * HEADS * DIM);
        else
            down(be, y[i], out, sizeof(float) * ROWS * HEADS * DIM);
        be->ops->mem_free(be, dx);
        be->ops->mem_free(be, dn);
        be->ops->mem_free(be, dc);
        be->ops->mem_free(be, out);
        be->ops->kv_free(be, kv);
        be->ops->close(be);
    }
    size_t at = (size_t)PAD * STRIDE, n = (size_t)LEN * STRIDE;
    ck_assert_double_lt(nmse(done[1] + at, done[0] + at, n), 1e-12);
    /* Queries lose bits too, here. */
    ck_assert_double_lt(nmse(y[1] + PAD * HEADS * DIM, y[0] + PAD * HEADS * DIM, LEN * HEADS * DIM), 3e-5);
    free(x), free(norm), free(cs), free(done[0]), free(done[1]), free(y[0]), free(y[1]);
}
END_TEST

/* A step that was recorded at short lengths runs at others: nothing but the rows may be in its launches. */
START_TEST(recorded_steps_serve_every_length)
{
    enum { STEPS = 3, LEN = 320, BLOCK = 8 };
    static const int at[STEPS] = {3, 310, 90}, len[SEQS] = {LEN, LEN, LEN};
    static const struct scene s = {4, 2, 32, DT_BF16, 0, 0, BLOCK};
    static int32_t table[SEQS][MAX_LEN];
    struct data d = data_make(&s, SEQS, len);
    struct step all, st[STEPS];
    struct backend *be = device(_i % 2 ? CUDA_ATTENTION_PLAIN : CUDA_ATTENTION_MMA, false);
    struct kv_store *kv;
    struct err e;
    int zero[SEQS] = {0}, pad = _i / 2 * PAD, rows = SEQS + 2 * pad, width = s.n_head * s.dim;
    struct kv_geom g = {fill_table(table, &d, BLOCK, zero, d.len), BLOCK, 2, s.n_kv_head, s.dim, s.type};
    struct step_limits lim = {.max_rows = SEQS * LEN + 2 * PAD,
                              .max_seqs = SEQS,
                              .max_ctx = LEN,
                              .max_in = 8,
                              .n_head = s.n_head,
                              .n_kv_head = s.n_kv_head,
                              .head_dim = s.dim,
                              .vocab = 8,
                              .n_list = 2,
                              .block_size = BLOCK};
    ck_assert_msg(!be->ops->kv_alloc(be, &g, &kv, &e), "%s", e.msg);
    ck_assert_msg(!be->ops->reserve(be, &lim, &e), "%s", e.msg);
    step_make(&all, &d, zero, d.len, table, pad);
    float *x = random_floats((size_t)all.b.n * d.stride);
    float *dx = up(be, x, (size_t)all.b.n * d.stride * sizeof *x);
    be->ops->begin(be, &all.b);
    prep(be, &all, &s, dx, d.stride, kv);
    uint16_t want[STEPS][(SEQS + 2 * PAD) * 128], got[(SEQS + 2 * PAD) * 128];
    size_t bytes = (size_t)rows * 128 * sizeof *got;
    void *y = up(be, NULL, bytes);
    ck_assert_int_eq(width, 128);
    for (int i = 0; i < STEPS; i++) {
        int from[SEQS], to[SEQS];
        for (int k = 0; k < SEQS; k++) from[k] = at[i] - k, to[k] = from[k] + 1;
        step_make(&st[i], &d, from, to, table, pad);
        be->ops->begin(be, &st[i].b);
        attend(be, &st[i], &s, dx, d.stride, kv, 0, y);
        down(be, want[i], y, bytes);
    }
    be->ops->begin(be, &st[0].b);
    ck_assert_msg(!be->ops->record(be, &e), "%s", e.msg);
    attend(be, &st[0], &s, dx, d.stride, kv, 0, y);
    ck_assert_msg(!be->ops->record_end(be, rows, &e), "%s", e.msg);
    for (int i = 0; i < STEPS; i++) {
        be->ops->begin(be, &st[i].b);
        ck_assert(be->ops->replay(be, &st[i].b));
        down(be, got, y, bytes);
        ck_assert_msg(!memcmp(got, want[i], bytes), "at token %d", at[i]);
    }
    be->ops->mem_free(be, dx), be->ops->mem_free(be, y);
    be->ops->kv_free(be, kv);
    be->ops->close(be);
    free(x);
    data_free(&d);
}
END_TEST

START_TEST(absurd_caches_are_refused)
{
    static const struct {
        struct kv_geom g;
        int code;
    } bad[] = {
        {{4, 16, 1, 1, 64, DT_F32}, ERR_UNSUPPORTED},
        {{4, 16, 1, 1, 64, DT_I8}, ERR_UNSUPPORTED},
        {{4, 16, 1, 1, 64, DT_Q8_0}, ERR_UNSUPPORTED},
        {{4, 12, 1, 1, 64, DT_BF16}, ERR_INVALID},
        {{4, 4, 1, 1, 64, DT_BF16}, ERR_INVALID},
        {{0, 16, 1, 1, 64, DT_BF16}, ERR_INVALID},
        {{4, 16, 1, 1, 5000, DT_BF16}, ERR_UNSUPPORTED},
        {{4, 1 << 30, 1, 1, 64, DT_E4M3}, ERR_NOMEM},
        {{1 << 30, 1 << 20, 1 << 30, 1 << 20, 64, DT_BF16}, ERR_NOMEM},
    };
    struct backend *be = device(CUDA_ATTENTION_MMA, false);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct kv_store *kv;
        struct err e = {0};
        ck_assert_int_eq(be->ops->kv_alloc(be, &bad[i].g, &kv, &e), bad[i].code);
        ck_assert(e.msg[0]);
    }
    be->ops->close(be);
}
END_TEST

static TCase *cases(Suite *s, const char *name)
{
    TCase *t = tcase_create(name);
    tcase_set_timeout(t, 120);
    suite_add_tcase(s, t);
    return t;
}

int main(void)
{
    Suite *s = suite_create("attn");
    tcase_add_loop_test(cases(s, "right"), attention_is_right, 0,
                        3 * SCENES); /* mma, plain, mma and deterministic */
    TCase *t = cases(s, "invariant");
    tcase_add_loop_test(t, rows_do_not_depend_on_the_step, 0, LONG_SCENES + 1);
    tcase_add_test(t, rows_do_not_depend_on_the_crowd);
    tcase_add_loop_test(t, bad_numbers_stay_in_their_sequence, 0, 4);
    t = cases(s, "steps");
    tcase_add_loop_test(t, queries_and_keys_are_prepared, 0, 5);
    tcase_add_loop_test(t, recorded_steps_serve_every_length, 0, 4);
    tcase_add_test(t, absurd_caches_are_refused);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
