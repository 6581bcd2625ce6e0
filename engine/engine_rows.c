/* The rows of logits of a step: what each is for, and the token or the score that comes of it. Logits in main
 * memory are drawn from here, row by row over the pool; a back end that keeps them to itself draws on its
 * own, by the same rules, and only tokens come back. */
#include <string.h>
#include "engine_impl.h"

/* Rows of an item predict the tokens after its last n_logits positions. */
int engine_rows_fill(struct engine *en, const struct batch_plan *plan)
{
    int n = 0;
    for (int i = 0; i < plan->n_item; i++) {
        const struct plan_item *it = &plan->item[i];
        struct request *r = it->seq->owner;
        for (int k = it->n_logits; k > 0; k--) {
            int pos = it->q_start + it->q_len - k + 1; /* the token predicted */
            struct row_job *row = &en->row[n++];
            *row = (struct row_job){.r = r, .pos = pos};
            if (pos == it->seq->n_tok) {
                row->kind = ROW_DRAW;
            } else if (r->prompt_out && pos < r->n_prompt && pos >= r->n_prompt_out) {
                row->kind = ROW_PROMPT; /* a recompute after preemption passes over the known ones */
            }
        }
    }
    return n;
}

/* Each row has a place of its own: its request's next answer token, or one prompt entry. */
static void put_token(const struct row_job *row, int32_t token, float logprob, int rank, int n_top,
                      const struct token_logprob *from)
{
    struct request *r = row->r;
    bool draw = row->kind == ROW_DRAW;
    int top = draw ? request_top_answer(r, r->n_out) : request_top_prompt(r, row->pos);
    *(draw ? &r->out[r->n_out] : &r->prompt_out[row->pos]) =
        (struct out_token){token, logprob, rank, n_top, top};
    if (n_top) memcpy(r->top + top, from, (size_t)n_top * sizeof *from);
}

/* Bans end-of-sequence and stop ids while the answer is shorter than min_tokens. */
static struct sample_in sample_in(const struct engine *en, const struct request *r, int pos)
{
    const struct gen_params *p = &r->p;
    struct sample_in in = {.p = p, .seen = r->penalised ? &r->seen : NULL, .position = pos};
    if (r->n_out < p->min_tokens) {
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

static int host_rows(struct engine *en, int at, int n, struct err *e)
{
    struct slice s = {.en = en, .row = en->row + at, .n = n};
    int status = runner_logits(en->runner, at, n, &s.logits, e);
    if (!status) pool_run(en->pool, n, host_row, &s);
    return status;
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

static int device_rows(struct engine *en, int at, int n, struct err *e)
{
    const struct sample_result *out;
    for (int i = 0; i < n; i++) en->draw[i] = device_row(en, &en->row[at + i]);
    int status = runner_draw(en->runner, at, n, en->draw, &out, e);
    for (int i = 0; i < n && !status; i++) {
        struct row_job *row = &en->row[at + i];
        row->status = row->kind == ROW_UNUSED ? 0 : out[i].status;
        if (row->kind != ROW_UNUSED)
            put_token(row, out[i].token, out[i].logprob, out[i].rank, out[i].n_top, out[i].top);
    }
    return status;
}

int engine_rows_sample(struct engine *en, int n_row, struct err *e)
{
    int max = runner_logits_max(en->runner), status = 0;
    for (int at = 0; at < n_row && !status; at += max) {
        int n = n_row - at < max ? n_row - at : max;
        status = runner_draws(en->runner) ? device_rows(en, at, n, e) : host_rows(en, at, n, e);
    }
    return status;
}
