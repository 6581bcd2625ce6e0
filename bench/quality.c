#include "quality.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "file.h"
#include "log.h"
#include "result.h"
#include "runner.h"

#define MAX_TEXT (64u << 20)
#define BLOCK    16

/* One model with a sequence of its own. */
struct side {
    struct runner *r;
    struct seq seq;
    int n_group;
};

static void side_close(struct side *s)
{
    runner_close(s->r);
    free(s->seq.tok);
    for (int g = 0; g < s->n_group; g++) free(s->seq.kv.table[g]);
}

static int side_open(struct side *s, struct model *m, int window, enum dtype kv_type, struct err *e)
{
    struct kv_layout layout;
    *s = (struct side){0};
    if (arch_kv_layout(&m->arch, &layout, e)) return e->code;
    int per_table = (window + BLOCK - 1) / BLOCK;
    const struct runner_config c = {.n_block = per_table * layout.n_group,
                                    .block_size = BLOCK,
                                    .max_batch_tokens = window,
                                    .max_seqs = 1,
                                    .max_ctx = window,
                                    .kv_type = kv_type};
    if (!(s->seq.tok = calloc((size_t)window, sizeof *s->seq.tok)))
        return err_set(e, ERR_NOMEM, "out of memory");
    for (; s->n_group < layout.n_group; s->n_group++) {
        int32_t *t = s->seq.kv.table[s->n_group] = calloc((size_t)per_table, sizeof *t);
        if (!t) return err_set(e, ERR_NOMEM, "out of memory");
        for (int i = 0; i < per_table; i++) t[i] = s->n_group * per_table + i;
    }
    return runner_open(m, &c, &s->r, e);
}

/* Computes a window anew; the last n_logits rows can be asked for. */
static int side_run(struct side *s, const int32_t *tok, int n, int n_logits, struct err *e)
{
    memcpy(s->seq.tok, tok, (size_t)n * sizeof *tok);
    s->seq.n_tok = n;
    struct plan_item item = {.seq = &s->seq, .q_len = n, .n_logits = n_logits};
    return runner_forward(
        s->r, &(struct batch_plan){.n_item = 1, .n_tok = n, .n_logits = n_logits, .item = &item}, e);
}

struct score { /* of one token */
    double nll, base_nll, kl;
    bool same_top;
};
struct score_job {
    const float *logits, *base; /* [n][vocab]; base may be NULL */
    const int32_t *next;        /* [n] the tokens that came */
    struct score *out;          /* [n] */
    int vocab;
};

/* exp(v) for v <= 0, 0 below -80: v = n ln2 + r, and Taylor's series for exp(r) to r^6. Within 3e-7, and
 * without a call or a branch, so that loops of it become vector code. */
static inline float exp_neg(float v)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to the nearest integer */
    float c = v < -80 ? -80 : v, n = (c * 1.44269504f + magic) - magic,
          r = c - n * 0.693145752f - n * 1.42860677e-6f;
    float p =
        1 + r * (1 + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
    int32_t scale = ((int32_t)n + 127) << 23;
    float two_n;
    memcpy(&two_n, &scale, 4);
    return v < -80 ? 0 : p * two_n;
}

static int top_of(const float *x, int n)
{
    int top = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[top]) top = i;
    return top;
}

/* Sums over a row that the distributions softmax(x) and softmax(y) need, in chunks that stay in the cache. */
struct row_sums {
    double x, y; /* of exp(x - max x), exp(y - max y) */
    double diff; /* of exp(y - max y) * (y - x) */
};
static struct row_sums row_sums(const float *x, float max_x, const float *y, float max_y, int n)
{
    enum { CHUNK = 1024 };
    float ex[CHUNK], ey[CHUNK], dd[CHUNK];
    struct row_sums s = {0};
    for (int at = 0; at < n; at += CHUNK) {
        int k = n - at < CHUNK ? n - at : CHUNK;
        for (int i = 0; i < k; i++) ex[i] = exp_neg(x[at + i] - max_x);
        for (int i = 0; y && i < k; i++) ey[i] = exp_neg(y[at + i] - max_y);
        for (int i = 0; y && i < k; i++) dd[i] = ey[i] * (y[at + i] - x[at + i]);
        for (int i = 0; i < k; i++) s.x += ex[i];
        for (int i = 0; y && i < k; i++) s.y += ey[i], s.diff += dd[i];
    }
    return s;
}

static void score_row(void *arg, int r, int worker)
{
    const struct score_job *j = arg;
    (void)worker;
    const float *x = j->logits + (size_t)r * j->vocab, *y = j->base ? j->base + (size_t)r * j->vocab : NULL;
    int top_x = top_of(x, j->vocab), top_y = y ? top_of(y, j->vocab) : 0, next = j->next[r];
    struct row_sums sum = row_sums(x, x[top_x], y, y ? y[top_y] : 0, j->vocab);
    struct score *s = &j->out[r];
    double log_x = x[top_x] + log(sum.x);
    s->nll = log_x - x[next];
    if (!y) return;
    double log_y = y[top_y] + log(sum.y),
           kl = sum.diff / sum.y + log_x - log_y; /* sum of p (log p - log q) */
    s->base_nll = log_y - y[next];
    s->same_top = top_x == top_y;
    s->kl = kl > 0 ? kl : 0; /* rounding */
}

static int score_window(struct side *model, struct side *base, const int32_t *tok, int n, int vocab,
                        struct pool *pool, struct score *out, struct err *e)
{
    int scored = n / 2, rows = scored + 1,
        max = runner_logits_max(model->r); /* the last row predicts what comes after */
    if (side_run(model, tok, n, rows, e) || (base && side_run(base, tok, n, rows, e))) return e->code;
    for (int at = 0; at < scored; at += max) {
        int k = scored - at < max ? scored - at : max;
        float *x = NULL, *y = NULL;
        if (runner_logits(model->r, at, k, &x, e) || (base && runner_logits(base->r, at, k, &y, e)))
            return e->code;
        struct score_job j = {x, y, tok + n - scored + at, out + at, vocab};
        pool_run(pool, k, score_row, &j);
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------- report */

struct summary_of {
    double ppl, base_ppl, ratio, ratio_error, kl, kl_99, same_top;
};

static int summarise(const struct score *s, int n, struct summary_of *o, struct err *e)
{
    double nll = 0, base = 0, kl = 0, same = 0, spread = 0;
    double *sorted = malloc((size_t)n * sizeof *sorted);
    if (!sorted) return err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        nll += s[i].nll;
        base += s[i].base_nll;
        same += s[i].same_top;
        kl += sorted[i] = s[i].kl;
    }
    double mean = (nll - base) / n;
    for (int i = 0; i < n; i++) spread += pow(s[i].nll - s[i].base_nll - mean, 2);
    result_sort(sorted, n);
    *o = (struct summary_of){.ppl = exp(nll / n),
                             .base_ppl = exp(base / n),
                             .ratio = exp(mean),
                             .ratio_error = exp(mean) * sqrt(spread) / n,
                             .kl = kl / n,
                             .kl_99 = result_percentile(sorted, n, 99),
                             .same_top = same / n};
    free(sorted);
    return 0;
}

static int report(const struct quality *q, const struct model *m, const struct model *base,
                  const struct score *s, int n, struct err *e)
{
    struct summary_of o = {0};
    struct buf json = {0};
    if (summarise(s, n, &o, e)) return e->code;
    printf("model               %s (%s), KV cache %s, %.1f MiB of weights\n", m->name, m->weight_types,
           dtype_info(q->kv_type)->name, (double)m->weight_bytes / 1048576);
    printf("text                %s: %d tokens scored, each after at least %d of the same window\n", q->text,
           n, (q->window + 1) / 2);
    printf("perplexity          %.4f\n", o.ppl);
    buf_fmt(&json, "{\"tokens\": %d, \"window\": %d, \"weight_bytes\": %zu, \"perplexity\": %.9g", n,
            q->window, m->weight_bytes, o.ppl);
    if (base) {
        printf("base                %s (%s), KV cache F32\n", base->name, base->weight_types);
        printf("base perplexity     %.4f\n", o.base_ppl);
        printf("perplexity ratio    %.5f +- %.5f (standard error)\n", o.ratio, o.ratio_error);
        printf("KL divergence       mean %.6f, 99%% %.6f\n", o.kl, o.kl_99);
        printf("same top token      %.2f %%\n", 100 * o.same_top);
        buf_fmt(&json,
                ", \"base_perplexity\": %.9g, \"perplexity_ratio\": %.9g, \"perplexity_ratio_error\": %.9g, "
                "\"kl_mean\": %.9g, \"kl_p99\": %.9g, \"same_top\": %.9g",
                o.base_ppl, o.ratio, o.ratio_error, o.kl, o.kl_99, o.same_top);
    }
    buf_str(&json, "}\n");
    int status = q->json ? file_write(q->json, &json, false, e) : 0;
    buf_free(&json);
    return status;
}

/* Every window begins with BOS where the tokenizer adds one. */
static int read_text(const struct quality *q, const struct tokenizer *t, struct vec_i32 *ids, int *bos,
                     struct err *e)
{
    struct buf text = {0};
    struct vec_i32 probe = {0};
    int status = file_read(q->text, MAX_TEXT, &text, e);
    if (!status) status = tok_encode(t, "", 0, TOK_ADD_SPECIAL, &probe, e);
    if (!status) status = tok_encode(t, text.data, text.len, 0, ids, e);
    *bos = probe.n && probe.v[0] == tok_bos(t) ? tok_bos(t) : -1;
    vec_i32_free(&probe);
    buf_free(&text);
    return status;
}

static int score_text(const struct quality *q, struct side *model, struct side *base,
                      const struct vec_i32 *ids, int bos, int vocab, struct pool *pool, struct score *out,
                      struct err *e)
{
    int status = 0, step = q->window - (bos >= 0), n = ids->n / step;
    int32_t *tok = calloc((size_t)q->window, sizeof *tok);
    if (!tok) return err_set(e, ERR_NOMEM, "out of memory");
    for (int w = 0; !status && w < n; w++) {
        if (bos >= 0) tok[0] = bos;
        memcpy(tok + (bos >= 0), ids->v + (size_t)w * step, (size_t)step * sizeof *tok);
        status = score_window(model, base, tok, q->window, vocab, pool, out + (size_t)w * (q->window / 2), e);
        log_progress("windows", w + 1, n);
    }
    free(tok);
    return status;
}

int quality_run(const struct quality *q, struct model *m, struct model *base, struct pool *pool,
                struct err *e)
{
    struct side model = {0}, other = {0};
    struct vec_i32 ids = {0};
    struct score *score = NULL;
    int bos, vocab = m->arch.vocab, status;
    if (base && base->arch.vocab != vocab)
        return err_set(e, ERR_INVALID, "the base has a vocabulary of %d, the model of %d", base->arch.vocab,
                       vocab);
    if ((status = read_text(q, m->tok, &ids, &bos, e))) goto out;
    int n = ids.n / (q->window - (bos >= 0)) * (q->window / 2);
    for (int i = 0; i < ids.n; i++)
        if (ids.v[i] >= vocab)
            status = err_set(e, ERR_FORMAT, "the tokenizer gives ids beyond the model's vocabulary");
    if (!n) status = err_set(e, ERR_INVALID, "%s: %d tokens are less than one window", q->text, ids.n);
    if (!status && !(score = calloc((size_t)n, sizeof *score)))
        status = err_set(e, ERR_NOMEM, "out of memory");
    if (!status) status = side_open(&model, m, q->window, q->kv_type, e);
    if (!status && base) status = side_open(&other, base, q->window, DT_F32, e);
    if (!status) status = score_text(q, &model, base ? &other : NULL, &ids, bos, vocab, pool, score, e);
    if (!status) status = report(q, m, base, score, n, e);
out:
    side_close(&model);
    side_close(&other);
    vec_i32_free(&ids);
    free(score);
    return status;
}
