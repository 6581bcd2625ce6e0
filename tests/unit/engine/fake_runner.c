/* The fake's runner. Like a device, it copies a step when it is called; like a main memory's, it computes at
 * once, unless fake_draws: then it draws tokens itself, and does nothing before somebody waits for it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fake.h"
#include "runner.h"
#include "sampler.h"

enum { SLICE = 4, JOBS = 3, PAIRS = 2 };

bool fake_draws;

struct part { /* of a step: one item of the plan */
    int start, len, n_logits, n_block;
    int32_t tok[FAKE_CTX];      /* [start + len]; ~row in the last place: of the draw before */
    int32_t table[2][FAKE_CTX]; /* [n_block] */
};
struct row { /* of a draw */
    struct sample_row how;
    struct logit_bias bias[LOGIT_BIAS_MAX];
    int32_t ban[2][SAMPLER_BAN_MAX];
    struct penalty seen[FAKE_CTX];
};
struct job {
    enum { FORWARD, DRAW } kind;
    struct part *part; /* [max_seqs] */
    struct row *row;   /* [SLICE] */
    int n, at;         /* parts; or rows, from row `at` of the last forward on */
    enum { FINE, FAILS, TAKEN_ALONG } fate;
    struct sample_result *out;
};
struct runner {
    struct runner_config c;
    uint64_t *cell; /* [n_block][block_size] */
    uint64_t *hash; /* [max_batch_tokens] of the rows that want logits */
    int32_t *last;  /* [max_batch_tokens] last token of these */
    float *logits;  /* [SLICE][FAKE_VOCAB] */
    int n_row;
    struct job job[JOBS * 2]; /* a ring, of which n_job wait from first on */
    int first, n_job, turn;
    struct sample_result result[PAIRS][SLICE];
    int32_t drawn[SLICE]; /* by the last draw that was done */
    struct sampler *sampler;
};

int runner_measure(const struct arch *a, const struct runner_config *c, struct runner_budget *out,
                   struct err *e)
{
    (void)a, (void)e;
    *out = (struct runner_budget){
        .block_bytes = (size_t)c->block_size * 8, .activations = 1 << 16, .n_group = 2};
    return 0;
}

int runner_open(struct model *m, const struct runner_config *c, struct runner **out, struct err *e)
{
    (void)m;
    struct runner *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NOMEM, "out of memory");
    r->c = *c;
    r->cell = calloc((size_t)c->n_block * (size_t)c->block_size, sizeof *r->cell);
    r->hash = calloc((size_t)c->max_batch_tokens, sizeof *r->hash);
    r->last = calloc((size_t)c->max_batch_tokens, sizeof *r->last);
    r->logits = calloc(SLICE * FAKE_VOCAB, sizeof *r->logits);
    for (int i = 0; i < 2 * JOBS; i++) {
        r->job[i].part = calloc((size_t)c->max_seqs, sizeof *r->job[i].part);
        r->job[i].row = calloc(SLICE, sizeof *r->job[i].row);
    }
    *out = r;
    return sampler_open(FAKE_VOCAB, FAKE_CTX, &r->sampler, e);
}

void runner_close(struct runner *r)
{
    if (!r) return;
    free(r->cell);
    free(r->hash);
    free(r->last);
    free(r->logits);
    for (int i = 0; i < 2 * JOBS; i++) free(r->job[i].part), free(r->job[i].row);
    sampler_close(r->sampler);
    free(r);
}

static uint64_t *cell(struct runner *r, const struct part *p, int group, int pos)
{
    int32_t block = p->table[group][pos / r->c.block_size];
    if (block < 0 || block >= r->c.n_block) {
        fake.kv_faults++;
        return r->cell;
    }
    return &r->cell[(size_t)block * (size_t)r->c.block_size + (size_t)(pos % r->c.block_size)];
}

static uint64_t compute(struct runner *r, const struct part *p, int pos)
{
    uint64_t h = fake_chain(pos ? *cell(r, p, 0, pos - 1) : 0, p->tok[pos]);
    *cell(r, p, 0, pos) = h;
    *cell(r, p, 1, pos) = (uint64_t)p->tok[pos];
    for (int t = pos; t >= 0 && t > pos - FAKE_WINDOW; t--)
        if (*cell(r, p, 1, t) != (uint64_t)p->tok[t]) fake.kv_faults++;
    return h;
}

static void forward(struct runner *r, struct job *j)
{
    int us = fake.delay_us;
    if (us) nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000L}, NULL);
    r->n_row = 0;
    for (struct part *p = j->part; p < j->part + j->n; p++) {
        int32_t *tok = &p->tok[p->start + p->len - 1];
        if (*tok < 0) *tok = r->drawn[~*tok];
        for (int k = 0; k < p->len; k++) {
            uint64_t h = compute(r, p, p->start + k);
            if (k < p->len - p->n_logits) continue;
            r->last[r->n_row] = p->tok[p->start + k];
            r->hash[r->n_row++] = h;
        }
    }
}

static void fill_logits(const struct runner *r, int row, float *x)
{
    fake_logits_of(r->hash[row], x);
    for (int t = 0; t < FAKE_VOCAB && r->last[row] == fake.nan_token; t++) x[t] = NAN;
}

static float penalised(float v, const struct sample_row *h, int n_out)
{
    v = v > 0 ? v / h->repetition : v * h->repetition;
    return n_out ? v - h->frequency * (float)n_out - h->presence : v;
}

static void draw_row(struct runner *r, const struct row *row, float *raw, struct sample_result *out)
{
    const struct sample_row *h = &row->how;
    struct gen_params p;
    struct sample_out o = {0};
    float x[FAKE_VOCAB];
    gen_params_init(&p);
    p.temperature = h->temperature, p.top_p = h->top_p, p.min_p = h->min_p, p.top_k = h->top_k;
    memcpy(x, raw, sizeof x);
    for (int i = 0; i < h->n_bias; i++) x[row->bias[i].token] += row->bias[i].bias;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < h->n_ban[k]; i++) x[row->ban[k][i]] = -INFINITY;
    for (int i = 0; i < h->n_seen; i++) {
        float *v = &x[row->seen[i].token];
        *v = penalised(*v, h, row->seen[i].n_out);
    }
    *out = (struct sample_result){.token = h->score};
    if (h->score < 0) out->token = sampler_pick(r->sampler, x, &p, h->random);
    if (out->token < 0) out->status = ERR_INVALID;
    if (out->status || h->n_top < 0) return;
    out->status = sampler_score(r->sampler, raw, out->token, h->n_top, &o, NULL);
    out->logprob = o.logprob, out->rank = o.rank, out->n_top = o.n_top;
    memcpy(out->top, o.top, (size_t)o.n_top * sizeof *o.top);
}

static void draw(struct runner *r, struct job *j)
{
    for (int i = 0; i < j->n; i++) {
        fill_logits(r, j->at + i, r->logits);
        draw_row(r, &j->row[i], r->logits, &j->out[i]);
        r->drawn[i] = j->out[i].token;
    }
}

/* The oldest job. One that fails takes along all that wait behind it then. */
static int do_first(struct runner *r)
{
    struct job *j = &r->job[r->first];
    r->first = (r->first + 1) % (2 * JOBS);
    r->n_job--;
    for (int i = 0; j->fate == FAILS && i < r->n_job; i++)
        r->job[(r->first + i) % (2 * JOBS)].fate = TAKEN_ALONG;
    if (j->fate == FINE && j->kind == FORWARD) forward(r, j);
    if (j->fate == FINE && j->kind == DRAW) draw(r, j);
    return j->fate;
}

static struct job *new_job(struct runner *r, int kind)
{
    while (r->n_job == 2 * JOBS) do_first(r);
    struct job *j = &r->job[(r->first + r->n_job++) % (2 * JOBS)];
    j->kind = kind;
    j->fate = FINE;
    return j;
}

int runner_forward(struct runner *r, const struct batch_plan *p, struct err *e)
{
    fake.ahead += r->n_job > 0;
    fake.forwards++;
    struct job *j = new_job(r, FORWARD);
    if (p->n_item > fake.max_items) fake.max_items = p->n_item;
    if (fake.fail) {
        fake.fail--;
        j->fate = FAILS;
    }
    j->n = p->n_item;
    for (int i = 0; i < p->n_item; i++) {
        const struct plan_item *it = &p->item[i];
        struct part *to = &j->part[i];
        int end = it->q_start + it->q_len;
        *to = (struct part){.start = it->q_start, .len = it->q_len, .n_logits = it->n_logits};
        memcpy(to->tok, it->seq->tok, (size_t)end * sizeof *to->tok);
        for (int g = 0; g < 2; g++)
            memcpy(to->table[g], it->seq->kv.table[g],
                   (size_t)((end - 1) / r->c.block_size + 1) * sizeof **to->table);
        if (it->q_len > 1) fake.prefilled += it->q_len;
    }
    return fake_draws || !do_first(r) ? 0 : err_set(e, ERR_IO, "the device is gone");
}

int runner_ping(struct runner *r, struct err *e)
{
    (void)r, (void)e;
    return 0;
}

int runner_logits_max(const struct runner *r)
{
    (void)r;
    return SLICE;
}

bool runner_draws(const struct runner *r)
{
    (void)r;
    return fake_draws;
}

bool runner_overlaps(const struct runner *r)
{
    (void)r;
    return fake_draws;
}

int runner_draw(struct runner *r, int row, int n, const struct sample_row *how,
                const struct sample_result **out, struct err *e)
{
    if (n < 0 || n > SLICE) return err_set(e, ERR_INVALID, "a draw of %d rows", n);
    struct job *j = new_job(r, DRAW);
    j->n = n;
    j->at = row;
    j->out = r->result[r->turn = (r->turn + 1) % PAIRS];
    memset(j->out, 0xee, sizeof r->result[0]); /* what was there may not be read any more */
    for (int i = 0; i < n; i++) {
        const struct sample_row *h = &how[i];
        struct row *to = &j->row[i];
        to->how = *h;
        if (h->n_bias) memcpy(to->bias, h->bias, (size_t)h->n_bias * sizeof *h->bias);
        for (int k = 0; k < 2; k++)
            if (h->n_ban[k]) memcpy(to->ban[k], h->ban[k], (size_t)h->n_ban[k] * sizeof **h->ban);
        if (h->n_seen) memcpy(to->seen, h->seen, (size_t)h->n_seen * sizeof *h->seen);
    }
    *out = j->out;
    return 0;
}

int runner_wait(struct runner *r, const struct sample_result *out, struct err *e)
{
    bool failed = false, there = false;
    while (r->n_job && !there) {
        const struct job *j = &r->job[r->first];
        there = j->kind == DRAW && j->out == out;
        failed = do_first(r);
    }
    return failed ? err_set(e, ERR_IO, "the device is gone") : 0;
}

int runner_logits(struct runner *r, int row, int n, float **logits, struct err *e)
{
    if (row < 0 || n > SLICE || row + n > r->n_row)
        return err_set(e, ERR_INVALID, "no such rows: %d + %d", row, n);
    for (int i = 0; i < n; i++) fill_logits(r, row + i, r->logits + (size_t)i * FAKE_VOCAB);
    *logits = r->logits;
    return 0;
}
