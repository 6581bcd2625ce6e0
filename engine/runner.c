#include "runner.h"
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "forward.h"
#include "log.h"
#include "ranks.h"
#include "record.h"

#define LOGIT_ROWS 32 /* logits of so many rows at a time, unless the configuration says more */

struct runner {
    struct model *m;
    struct runner_config c;
    struct kv_layout layout;
    struct forward f;
    void *arena;                /* of f and logits, in the back end's memory */
    float *logits;              /* [logit_rows][vocab] */
    float *share;               /* [logit_rows][this rank's part of vocab], if there are several */
    float *host_logits;         /* the same, where the engine can write; r->logits if that is there */
    int32_t *ids, *pos, *drawn; /* [max_batch_tokens] */
    int *out_row;               /* [max_batch_tokens] */
    struct attn_item *item;     /* [2][n_group][max_seqs]: all rows, and those that need logits */
    int n_out;                  /* rows of the last forward */
    bool have_logits;           /* of all of them, in r->logits: the forward was a recorded step */
    struct record record;
    struct ranks *ranks; /* NULL = this is the only one */
};

static struct kv_geom geometry(const struct arch *a, const struct runner_config *c,
                               const struct kv_layout *layout)
{
    return (struct kv_geom){.n_block = c->n_block,
                            .block_size = c->block_size,
                            .n_slot = layout->n_slot,
                            .n_kv_head = a->n_kv_head,
                            .head_dim = a->head_dim,
                            .type = c->kv_type};
}

static int logit_rows(const struct runner_config *c)
{
    int most = c->logit_rows ? c->logit_rows : LOGIT_ROWS;
    return c->max_batch_tokens < most ? c->max_batch_tokens : most;
}

/* Activations and logits in one allocation; with arena NULL only measured. */
static size_t carve(const struct arch *a, const struct runner_config *c, enum dtype mat, char *arena,
                    struct forward *f, float **logits, float **share)
{
    size_t rows = (size_t)logit_rows(c) * a->vocab * sizeof(float),
           at = forward_place(f, a, c->max_batch_tokens, mat, arena);
    if (arena) *logits = (float *)(void *)(arena + at), *share = (float *)(void *)(arena + at + rows);
    return at + rows + (c->n_rank > 1 ? rows / (size_t)c->n_rank : 0);
}

static int check_config(const struct runner_config *c, struct err *e)
{
    if (c->block_size < 1 || c->block_size > 4096 || (c->block_size & (c->block_size - 1)))
        return err_param(e, ERR_INVALID, "block-size", "block size %d: must be a power of two up to 4096",
                         c->block_size);
    if (c->n_block < 0 || c->max_batch_tokens < 1 || c->max_batch_tokens > 1 << 20 || c->max_seqs < 1 ||
        c->max_seqs > 1 << 16 || c->max_ctx < 1)
        return err_set(e, ERR_INVALID, "runner: sizes out of range");
    return 0;
}

int runner_measure(const struct arch *a, const struct runner_config *c, struct runner_budget *out,
                   struct err *e)
{
    struct kv_layout layout;
    if (check_config(c, e) || arch_kv_layout(a, &layout, e)) return e ? e->code : ERR_INVALID;
    struct kv_geom g = geometry(a, c, &layout);
    struct forward none;
    float *no_logits, *no_share;
    size_t activations =
        carve(a, c, DT_F32, NULL, &none, &no_logits, &no_share); /* the largest that it may be */
    size_t plan = (size_t)c->max_batch_tokens * (3 * sizeof(int32_t) + sizeof(int)) +
                  2 * (size_t)layout.n_group * c->max_seqs * sizeof(struct attn_item);
    *out = (struct runner_budget){
        .block_bytes = kv_block_bytes(&g), .activations = activations + plan, .n_group = layout.n_group};
    return 0;
}

static int largest(int a, int b, int c) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }

static int allocate(struct runner *r, struct err *e)
{
    const struct arch *a = &r->m->arch;
    const struct runner_config *c = &r->c;
    struct backend *be = r->m->be;
    size_t n = (size_t)c->max_batch_tokens, bytes = carve(a, c, be->mat, NULL, &r->f, &r->logits, &r->share);
    int status = be->ops->mem_alloc(be, bytes, &r->arena, e);
    if (status) return err_prefix(e, "the step's buffers: ");
    carve(a, c, be->mat, r->arena, &r->f, &r->logits, &r->share);
    r->ids = calloc(n, sizeof *r->ids);
    r->pos = calloc(n, sizeof *r->pos);
    r->drawn = calloc(n, sizeof *r->drawn);
    r->out_row = calloc(n, sizeof *r->out_row);
    r->item = calloc(2 * (size_t)r->layout.n_group * c->max_seqs, sizeof *r->item);
    r->host_logits = be->host ? r->logits : malloc((size_t)logit_rows(c) * a->vocab * sizeof(float));
    if (!r->ids || !r->pos || !r->drawn || !r->out_row || !r->item || !r->host_logits)
        return err_set(e, ERR_NOMEM, "out of memory for the step's buffers");
    for (int i = 0; i < a->n_rope; i++)
        be->ops->mem_write(be, r->f.inv_freq[i], a->rope[i].inv_freq,
                           (size_t)a->rope[i].rot / 2 * sizeof(float));
    return 0;
}

/* Every rank opens a runner of the core's sizes, and none goes on before all have. */
static int meet(struct runner *r, struct err *e)
{
    struct model *m = r->m;
    if (!m->comm) return 0;
    int status = ranks_open(m->comm, &r->c, r->layout.n_group, &r->ranks, e);
    return status ? status : comm_barrier(m->comm, e);
}

static void enqueue_logits(struct runner *r, int row, int n)
{
    const struct arch *a = &r->m->arch;
    const struct share *vocab = &r->m->split.vocab;
    struct backend *be = r->m->be;
    const char *h = r->f.h;
    float *y = r->ranks ? r->share : r->logits;
    be->ops->linear(be, h + (size_t)row * a->dim * r->f.mat_size, n,
                    &(struct linear_out){r->m->head, NULL, y, vocab->take}, 1);
    if (a->logit_scale != 1 || a->logit_cap > 0)
        be->ops->scale_cap(be, y, (int64_t)n * vocab->take, a->logit_scale, a->logit_cap);
    if (r->ranks) be->ops->all_gather(be, y, n, vocab->take, r->logits);
}

static void start_batch(struct runner *r, struct batch *b)
{
    *b = (struct batch){.ids = r->ids,
                        .pos = r->pos,
                        .drawn = r->drawn,
                        .out_row = r->out_row,
                        .n_list = 2 * r->layout.n_group};
    for (int l = 0; l < b->n_list; l++)
        b->list[l] = (struct attn_list){.item = r->item + (size_t)l * r->c.max_seqs,
                                        .window = r->layout.window[l % r->layout.n_group]};
}

/* Rows that are nobody's, up to n. */
static void pad(struct runner *r, struct batch *b, int n)
{
    for (; b->n < n; b->n++) {
        r->ids[b->n] = r->pos[b->n] = 0;
        r->drawn[b->n] = -1;
        r->out_row[b->n_out++] = b->n;
    }
}

static int compute(struct runner *r, struct batch *b, struct err *e)
{
    struct backend *be = r->m->be;
    int size = record_size(&r->record, b);
    r->n_out = b->n_out;
    if (size) pad(r, b, size);
    be->ops->begin(be, b);
    r->have_logits = size && be->ops->replay(be, b);
    if (!r->have_logits) forward_run(&r->f, b);
    return r->ranks ? be->ops->sync(be, e) : 0; /* alone, who asks for its outcome waits */
}

/* A step of n rows and its logits: once for real, since the first call of a kernel may do more than launch
 * it, and once to be kept. */
static int record_step(struct runner *r, int n, struct err *e)
{
    struct backend *be = r->m->be;
    struct batch b;
    start_batch(r, &b);
    pad(r, &b, n);
    be->ops->begin(be, &b);
    forward_run(&r->f, &b);
    enqueue_logits(r, 0, n);
    int status = be->ops->sync(be, e);
    if (status || (status = be->ops->record(be, e))) return status;
    forward_run(&r->f, &b);
    enqueue_logits(r, 0, n);
    return be->ops->record_end(be, n, e);
}

static int record_steps(struct runner *r, struct err *e)
{
    struct backend *be = r->m->be;
    if (!be->ops->record) return 0;
    struct record sizes;
    double start = clock_s();
    size_t before = be->ops->mem_available(be);
    record_sizes(&sizes, r->c.max_seqs < logit_rows(&r->c) ? r->c.max_seqs : logit_rows(&r->c));
    for (int i = sizes.n - 1; i >= 0; i--) { /* the largest first: it finds out what memory is needed */
        int status = record_step(r, sizes.size[i], e);
        if (status) return status;
    }
    r->record = sizes;
    size_t after = be->ops->mem_available(be);
    if (!r->m->split.rank)
        log_info("recorded decode steps of %d sizes up to %d sequences in %.2f s, %zu MiB", sizes.n,
                 sizes.size[sizes.n - 1], clock_s() - start, before > after ? (before - after) >> 20 : 0);
    return 0;
}

int runner_open(struct model *m, const struct runner_config *config, struct runner **out, struct err *e)
{
    const struct arch *a = &m->arch;
    struct runner *r = calloc(1, sizeof *r);
    struct err own = {0};
    *out = NULL;
    if (!e) e = &own;
    if (!r) return err_set(e, ERR_NOMEM, "out of memory");
    const struct runner_config *c = &r->c;
    r->m = m;
    r->c = *config;
    r->c.n_rank = m->split.size;
    if (check_config(c, e) || arch_kv_layout(a, &r->layout, e)) goto fail;
    if (m->comm && !m->split.rank && comm_broadcast(m->comm, &r->c, sizeof r->c, 0, e)) goto fail;
    if (allocate(r, e)) goto fail;
    struct kv_geom g = geometry(a, c, &r->layout);
    if (m->be->ops->kv_alloc(m->be, &g, &r->f.kv, e)) goto fail;
    struct step_limits limits = {.max_rows = c->max_batch_tokens,
                                 .max_seqs = c->max_seqs,
                                 .max_ctx = c->max_ctx,
                                 .max_in = largest(a->dim, a->ffn_dim, a->n_head * a->head_dim),
                                 .n_head = a->n_head,
                                 .n_kv_head = a->n_kv_head,
                                 .head_dim = a->head_dim,
                                 .vocab = a->vocab,
                                 .n_list = 2 * r->layout.n_group,
                                 .block_size = c->block_size};
    if (m->be->ops->reserve(m->be, &limits, e)) goto fail;
    r->f.m = m;
    r->f.layout = &r->layout;
    r->f.rope_of[0] = a->rope_long && c->max_ctx > a->rope_long ? 1 : 0;
    r->f.rope_of[1] = a->rope_long ? r->f.rope_of[0] : a->n_rope - 1;
    if (meet(r, e) || record_steps(r, e)) goto fail;
    *out = r;
    return 0;
fail:
    runner_close(r);
    return e->code;
}

void runner_close(struct runner *r)
{
    if (!r) return;
    if (r->ranks && !r->m->split.rank) ranks_tell(r->ranks, RANK_STOP, 0, 0, NULL);
    ranks_close(r->ranks);
    if (r->f.kv) r->m->be->ops->kv_free(r->m->be, r->f.kv);
    if (r->arena) r->m->be->ops->mem_free(r->m->be, r->arena);
    if (r->host_logits != r->logits) free(r->host_logits);
    free(r->ids);
    free(r->pos);
    free(r->drawn);
    free(r->out_row);
    free(r->item);
    free(r);
}

/* Rows and attention items of one sequence, appended to the batch. */
static int add_part(struct runner *r, struct batch *b, const struct rank_part *p, struct err *e)
{
    int n_group = r->layout.n_group, first = p->len - p->n_logits, n_item = b->list[0].n_item;
    if (n_item >= r->c.max_seqs || p->len < 1 || p->len > r->c.max_batch_tokens - b->n || p->n_logits < 0 ||
        first < 0)
        return err_set(e, ERR_INVALID, "runner: part %d of the plan is out of range", n_item);
    for (int g = 0; g < n_group; g++) {
        const int32_t *table = p->table[g];
        struct attn_list *all = &b->list[g], *out = &b->list[n_group + g];
        struct attn_item *item = r->item + (size_t)g * r->c.max_seqs,
                         *out_item = item + (size_t)n_group * r->c.max_seqs;
        item[all->n_item++] = (struct attn_item){b->n, p->len, p->start, table};
        if (p->n_logits)
            out_item[out->n_item++] = (struct attn_item){b->n + first, p->n_logits, p->start + first, table};
    }
    for (int i = 0; i < p->len; i++, b->n++) {
        bool known = p->tok[i] >= 0;
        r->ids[b->n] = known ? p->tok[i] - r->m->split.vocab.at : 0; /* rows of this rank's table */
        r->drawn[b->n] = known ? -1 : ~p->tok[i];
        r->pos[b->n] = p->start + i;
        if (i >= first) r->out_row[b->n_out++] = b->n;
    }
    return 0;
}

/* Makes the batch of a plan, and the message to the workers. */
static int build(struct runner *r, const struct batch_plan *p, struct batch *b, struct err *e)
{
    int status = 0;
    start_batch(r, b);
    if (r->ranks) ranks_begin(r->ranks);
    for (int i = 0; i < p->n_item && !status; i++) {
        const struct plan_item *x = &p->item[i];
        struct rank_part part = {x->q_start, x->q_len, x->n_logits, x->seq->tok + x->q_start, {0}};
        for (int g = 0; g < r->layout.n_group; g++) part.table[g] = x->seq->kv.table[g];
        status = x->mask ? err_set(e, ERR_INVALID, "runner: plan item %d has a mask", i)
                         : add_part(r, b, &part, e);
        if (!status && r->ranks) status = ranks_add(r->ranks, &part, e);
    }
    return status;
}

/* The core cannot go on after an error that the workers do not share. */
static int told(const struct runner *r, int status, const struct err *e)
{
    static const struct err unknown = {.code = ERR_IO, .msg = "a step failed"};
    if (status && r->ranks) comm_abort(r->m->comm, e ? e : &unknown);
    return status;
}

int runner_forward(struct runner *r, const struct batch_plan *p, struct err *e)
{
    struct batch b;
    int status = build(r, p, &b, e);
    r->n_out = 0;
    if (!status && !b.n) return 0;
    if (!status && r->ranks) status = ranks_tell_step(r->ranks, e);
    if (!status) status = compute(r, &b, e);
    return told(r, status, e);
}

int runner_logits_max(const struct runner *r) { return logit_rows(&r->c); }

/* Logits of rows of the last step, which begin at *logits: in r->logits, where a recorded step has left all
 * of them. */
static int compute_logits(struct runner *r, int row, int n, float **logits, struct err *e)
{
    if (row < 0 || n < 1 || n > runner_logits_max(r) || row > r->n_out - n)
        return err_set(e, ERR_INVALID, "runner: logits of rows %d to %d of %d", row, row + n, r->n_out);
    *logits = r->logits + (r->have_logits ? (size_t)row * r->m->arch.vocab : 0);
    if (!r->have_logits) enqueue_logits(r, row, n);
    return 0;
}

int runner_logits(struct runner *r, int row, int n, float **logits, struct err *e)
{
    struct backend *be = r->m->be;
    int status = r->ranks ? ranks_tell(r->ranks, RANK_LOGITS, row, n, e) : 0;
    float *at = NULL;
    if (!status) status = compute_logits(r, row, n, &at, e);
    if (!status && !be->host)
        be->ops->mem_read(be, r->host_logits, at, (size_t)n * r->m->arch.vocab * sizeof(float));
    if (!status) status = be->ops->sync(be, e);
    *logits = r->host_logits;
    return told(r, status, e);
}

bool runner_draws(const struct runner *r) { return r->m->be->ops->sample; }

int runner_draw(struct runner *r, int row, int n, const struct sample_row *how,
                const struct sample_result **out, struct err *e)
{
    struct backend *be = r->m->be;
    int status = r->ranks && n ? ranks_tell(r->ranks, RANK_LOGITS, row, n, e) : 0;
    float *at = NULL;
    if (!status && n) status = compute_logits(r, row, n, &at, e);
    if (!status) *out = be->ops->sample(be, at, r->m->arch.vocab, how, n);
    return told(r, status, e);
}

int runner_wait(struct runner *r, const struct sample_result *out, struct err *e)
{
    return told(r, r->m->be->ops->wait(r->m->be, out, e), e);
}

bool runner_overlaps(const struct runner *r) { return runner_draws(r) && !r->ranks; }

int runner_ping(struct runner *r, struct err *e)
{
    return r->ranks ? ranks_tell(r->ranks, RANK_PING, 0, 0, e) : 0;
}

static int follow_step(struct runner *r, int n_part, struct err *e)
{
    struct batch b;
    int status = 0;
    start_batch(r, &b);
    for (int i = 0; i < n_part && !status; i++) {
        struct rank_part part;
        status = ranks_next(r->ranks, &part, e);
        if (!status) status = add_part(r, &b, &part, e);
    }
    return status ? status : compute(r, &b, e);
}

int runner_follow(struct runner *r, bool *stop, struct err *e)
{
    struct rank_head h;
    int status = ranks_hear(r->ranks, &h, e);
    if (status) return status;
    switch (h.kind) {
    case RANK_STEP: return follow_step(r, h.n_part, e);
    case RANK_LOGITS:
        status = compute_logits(r, h.row, h.n, &(float *){NULL}, e);
        return status ? status : r->m->be->ops->sync(r->m->be, e);
    case RANK_PING: return 0;
    case RANK_STOP: *stop = true; return 0;
    }
    return err_set(e, ERR_INVALID, "message %d: the ranks run different programs", (int)h.kind);
}

const void *runner_hidden(const struct runner *r, size_t *bytes)
{
    *bytes = (size_t)r->n_out * r->m->arch.dim * r->f.mat_size;
    return r->f.h;
}
