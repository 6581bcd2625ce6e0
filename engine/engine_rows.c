/* The rows of logits of a step: what each is for, and the token or the score that comes of it. Logits in main
 * memory are drawn from here, row by row over the pool; a back end that keeps them to itself draws on its
 * own, by the same rules, and only tokens come back. */
#include <string.h>
#include "engine_impl.h"

/* Rows of an item predict the tokens after its last n_logits positions. */
void engine_rows_fill(struct flight *f)
{
    f->n_row = 0;
    for (int i = 0; i < f->plan.n_item; i++) {
        const struct plan_item *it = &f->plan.item[i];
        struct request *r = it->seq->owner;
        for (int k = it->n_logits; k > 0; k--) {
            int pos = it->q_start + it->q_len - k + 1; /* the token predicted */
            struct row_job *row = &f->row[f->n_row++];
            *row = (struct row_job){.r = r, .pos = pos};
            if (pos == it->seq->n_tok) {
                row->kind = ROW_DRAW;
            } else if (r->prompt_out && pos < r->n_prompt && pos >= r->n_prompt_out) {
                row->kind = ROW_PROMPT; /* a recompute after preemption passes over the known ones */
            }
        }
    }
}

/* Each row has a place of its own: its request's next answer token, or one prompt entry. */
static void put_token(const struct row_job *row, int32_t token, float logprob, int rank, int n_top,
                      const struct token_logprob *from)
{
    struct request *r = row->r;
    bool draw = row->kind == ROW_DRAW;
    int i = row->pos - r->n_prompt, top = draw ? request_top_answer(r, i) : request_top_prompt(r, row->pos);
    *(draw ? &r->out[i] : &r->prompt_out[row->pos]) = (struct out_token){token, logprob, rank, n_top, top};
    if (n_top) memcpy(r->top + top, from, (size_t)n_top * sizeof *from);
}

/* Bans end-of-sequence and stop ids while the answer is shorter than min_tokens. */
static struct sample_in sample_in(const struct engine *en, const struct request *r, int pos)
{
    const struct gen_params *p = &r->p;
    struct sample_in in = {.p = p, .seen = r->penalised ? &r->seen : NULL, .position = pos};
    if (pos - r->n_prompt < p->min_tokens) {
        in.ban[0] = en->eos;
        in.n_ban[0] = p->ignore_eos ? 0 : en->n_eos;
        in.ban[1] = p->stop_token;
        in.n_ban[1] = p->n_stop_token;
    }
    return in;
}

struct slice {
    struct engine *en;
    struct row_job *row;
    float *logits; /* [n][vocab] */
    int n;
};

static void host_row(void *arg, int k, int worker)
{
    struct slice *s = arg;
    struct row_job *row = &s->row[k];
    struct sampler *sampler = s->en->sampler[worker];
    float *logits = s->logits + (size_t)k * (size_t)s->en->model->arch.vocab;
    const struct request *r = row->r;
    struct sample_out o = {0};
    if (row->kind == ROW_UNUSED) return;
    if (row->kind == ROW_DRAW) {
        struct sample_in in = sample_in(s->en, r, row->pos);
        row->status = sampler_row(sampler, logits, &in, &o, NULL);
    } else {
        row->status = sampler_score(sampler, logits, r->seq.tok[row->pos], r->p.prompt_logprobs, &o, NULL);
    }
    put_token(row, o.token, o.logprob, o.rank, o.n_top, o.top);
}

static struct sample_row device_row(const struct engine *en, const struct row_job *row)
{
    const struct request *r = row->r;
    const struct gen_params *p = &r->p;
    if (row->kind == ROW_UNUSED)
        return (struct sample_row){.score = 0, .n_top = -1, .top_p = 1, .repetition = 1};
    if (row->kind == ROW_PROMPT)
        return (struct sample_row){
            .score = r->seq.tok[row->pos], .n_top = p->prompt_logprobs, .top_p = 1, .repetition = 1};
    struct sample_in in = sample_in(en, r, row->pos);
    return (struct sample_row){.temperature = p->temperature,
                               .top_p = p->top_p,
                               .min_p = p->min_p,
                               .top_k = p->top_k,
                               .repetition = p->repetition_penalty,
                               .frequency = p->frequency_penalty,
                               .presence = p->presence_penalty,
                               .random = sampler_random(p->seed, row->pos),
                               .score = -1,
                               .n_top = p->logprobs,
                               .bias = p->bias,
                               .n_bias = p->n_bias,
                               .ban = {in.ban[0], in.ban[1]},
                               .n_ban = {in.n_ban[0], in.n_ban[1]},
                               .seen = in.seen ? in.seen->entry : NULL,
                               .n_seen = in.seen ? in.seen->n : 0};
}

/* All rows at once, over the pool. */
static int host_rows(struct engine *en, struct flight *f, struct err *e)
{
    int max = runner_logits_max(en->runner), status = 0;
    for (int at = 0; at < f->n_row && !status; at += max) {
        struct slice s = {.en = en, .row = f->row + at, .n = f->n_row - at < max ? f->n_row - at : max};
        status = runner_logits(en->runner, at, s.n, &s.logits, e);
        if (!status) pool_run(en->pool, s.n, host_row, &s);
    }
    return status;
}

/* As many rows at a time as the device has logits for; the last of these are waited for by who wants them. */
static int device_rows(struct engine *en, struct flight *f, struct err *e)
{
    int max = runner_logits_max(en->runner), status = 0, at = 0;
    do {
        int n = f->n_row - at < max ? f->n_row - at : max;
        if (at && (status = engine_rows_take(en, f, e))) break;
        for (int i = 0; i < n; i++) en->draw[i] = device_row(en, &f->row[at + i]);
        status = runner_draw(en->runner, at, n, en->draw, &f->result, e);
        f->first = at;
        f->n_result = n;
        at += n;
    } while (at < f->n_row && !status);
    return status;
}

int engine_rows_draw(struct engine *en, struct flight *f, struct err *e)
{
    f->result = NULL;
    return runner_draws(en->runner) ? device_rows(en, f, e) : host_rows(en, f, e);
}

int engine_rows_take(struct engine *en, struct flight *f, struct err *e)
{
    const struct sample_result *out = f->result;
    int status = out ? runner_wait(en->runner, out, e) : 0;
    for (int i = 0; out && i < f->n_result && !status; i++, out++) {
        struct row_job *row = &f->row[f->first + i];
        if (!row->r || row->kind == ROW_UNUSED) continue;
        row->status = out->status;
        put_token(row, out->token, out->logprob, out->rank, out->n_top, out->top);
    }
    if (!status) f->result = NULL;
    return status;
}
