#include "runner.h"
#include <stdlib.h>
#include <string.h>
#include "forward.h"

#define LOGIT_ROWS 32 /* logits of so many rows at a time */

struct runner {
    struct model *m;
    struct runner_config c;
    struct kv_layout layout;
    struct forward f;
    void *arena;            /* of f and logits, in the back end's memory */
    float *logits;          /* [LOGIT_ROWS][vocab] */
    float *host_logits;     /* the same, where the engine can write; r->logits if that is there */
    int32_t *ids, *pos;     /* [max_batch_tokens] */
    int *out_row;           /* [max_batch_tokens] */
    struct attn_item *item; /* [2][n_group][max_seqs]: all rows, and those that need logits */
    int n_out;              /* rows of the last forward */
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
    return c->max_batch_tokens < LOGIT_ROWS ? c->max_batch_tokens : LOGIT_ROWS;
}

/* The activations, as parts of one allocation: with arena NULL only measured. Parts begin at 256-byte
 * borders. */
static size_t carve(const struct arch *a, const struct runner_config *c, enum dtype mat, char *arena,
                    struct forward *f, float **logits)
{
    size_t n = (size_t)c->max_batch_tokens, q = (size_t)a->n_head * a->head_dim,
           kv = (size_t)a->n_kv_head * a->head_dim, m = (size_t)dtype_info(mat)->bytes, s = sizeof(float),
           at = 0;
    struct {
        void *to;
        size_t bytes;
    } part[] = {{&f->x, n * a->dim * s},
                {&f->delta, n * a->dim * s},
                {&f->h, n * a->dim * m},
                {&f->q, n * q * s},
                {&f->k, n * kv * s},
                {&f->v, n * kv * s},
                {&f->att, n * q * m},
                {&f->ff, n * a->ffn_dim * m},
                {&f->cs[0], n * a->rope[0].rot * s},
                {&f->cs[1], n * (a->n_rope > 1 ? a->rope[1].rot : 0) * s},
                {&f->inv_freq[0], ROPE_MAX_HALF * s},
                {&f->inv_freq[1], ROPE_MAX_HALF * s},
                {logits, (size_t)logit_rows(c) * a->vocab * s}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        char *p = arena + at;
        if (arena) memcpy(part[i].to, &p, sizeof p);
        at += (part[i].bytes + 255) & ~(size_t)255;
    }
    return at;
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
    float *no_logits;
    size_t activations = carve(a, c, DT_F32, NULL, &none, &no_logits); /* the largest that it may be */
    size_t plan = (size_t)c->max_batch_tokens * (2 * sizeof(int32_t) + sizeof(int)) +
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
    size_t n = (size_t)c->max_batch_tokens, bytes = carve(a, c, be->mat, NULL, &r->f, &r->logits);
    int status = be->ops->mem_alloc(be, bytes, &r->arena, e);
    if (status) return err_prefix(e, "the step's buffers: ");
    carve(a, c, be->mat, r->arena, &r->f, &r->logits);
    r->ids = calloc(n, sizeof *r->ids);
    r->pos = calloc(n, sizeof *r->pos);
    r->out_row = calloc(n, sizeof *r->out_row);
    r->item = calloc(2 * (size_t)r->layout.n_group * c->max_seqs, sizeof *r->item);
    r->host_logits = be->host ? r->logits : malloc((size_t)logit_rows(c) * a->vocab * sizeof(float));
    if (!r->ids || !r->pos || !r->out_row || !r->item || !r->host_logits)
        return err_set(e, ERR_NOMEM, "out of memory for the step's buffers");
    for (int i = 0; i < a->n_rope; i++)
        be->ops->mem_write(be, r->f.inv_freq[i], a->rope[i].inv_freq,
                           (size_t)a->rope[i].rot / 2 * sizeof(float));
    return 0;
}

int runner_open(struct model *m, const struct runner_config *c, struct runner **out, struct err *e)
{
    const struct arch *a = &m->arch;
    struct runner *r = calloc(1, sizeof *r);
    struct err own = {0};
    *out = NULL;
    if (!e) e = &own;
    if (!r) return err_set(e, ERR_NOMEM, "out of memory");
    r->m = m;
    r->c = *c;
    if (check_config(c, e) || arch_kv_layout(a, &r->layout, e) || allocate(r, e)) goto fail;
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
    r->f.mat_size = (size_t)dtype_info(m->be->mat)->bytes;
    r->f.m = m;
    r->f.layout = &r->layout;
    r->f.rope_of[0] = a->rope_long && c->max_ctx > a->rope_long ? 1 : 0;
    r->f.rope_of[1] = a->rope_long ? r->f.rope_of[0] : a->n_rope - 1;
    *out = r;
    return 0;
fail:
    runner_close(r);
    return e->code;
}

void runner_close(struct runner *r)
{
    if (!r) return;
    if (r->f.kv) r->m->be->ops->kv_free(r->m->be, r->f.kv);
    if (r->arena) r->m->be->ops->mem_free(r->m->be, r->arena);
    if (r->host_logits != r->logits) free(r->host_logits);
    free(r->ids);
    free(r->pos);
    free(r->out_row);
    free(r->item);
    free(r);
}

/* Rows and attention items of one plan item, appended to the batch. */
static void add_item(struct runner *r, struct batch *b, const struct plan_item *p)
{
    int n_group = r->layout.n_group, first = p->q_len - p->n_logits;
    for (int g = 0; g < n_group; g++) {
        const int32_t *table = p->seq->kv.table[g];
        struct attn_list *all = &b->list[g], *out = &b->list[n_group + g];
        struct attn_item *item = r->item + (size_t)g * r->c.max_seqs,
                         *out_item = item + (size_t)n_group * r->c.max_seqs;
        item[all->n_item++] = (struct attn_item){b->n, p->q_len, p->q_start, table};
        if (p->n_logits)
            out_item[out->n_item++] =
                (struct attn_item){b->n + first, p->n_logits, p->q_start + first, table};
    }
    for (int i = 0; i < p->q_len; i++, b->n++) {
        r->ids[b->n] = p->seq->tok[p->q_start + i];
        r->pos[b->n] = p->q_start + i;
        if (i >= first) r->out_row[b->n_out++] = b->n;
    }
}

static int build(struct runner *r, const struct batch_plan *p, struct batch *b, struct err *e)
{
    *b = (struct batch){.ids = r->ids, .pos = r->pos, .out_row = r->out_row, .n_list = 2 * r->layout.n_group};
    if (p->n_item > r->c.max_seqs || p->n_tok > r->c.max_batch_tokens)
        return err_set(e, ERR_INVALID, "runner: a plan of %d items and %d tokens", p->n_item, p->n_tok);
    for (int l = 0; l < b->n_list; l++)
        b->list[l] = (struct attn_list){.item = r->item + (size_t)l * r->c.max_seqs,
                                        .window = r->layout.window[l % r->layout.n_group]};
    for (int i = 0; i < p->n_item; i++) {
        const struct plan_item *x = &p->item[i];
        if (x->q_len < 1 || x->q_len > r->c.max_batch_tokens - b->n || x->n_logits < 0 ||
            x->n_logits > x->q_len || x->mask)
            return err_set(e, ERR_INVALID, "runner: plan item %d is out of range", i);
        add_item(r, b, x);
    }
    return 0;
}

int runner_forward(struct runner *r, const struct batch_plan *p, struct err *e)
{
    struct batch b;
    int status = build(r, p, &b, e);
    if (status) return status;
    r->n_out = b.n_out;
    if (!b.n) return 0;
    forward_run(&r->f, &b);
    return r->m->be->ops->sync(r->m->be, e);
}

int runner_logits_max(const struct runner *r) { return logit_rows(&r->c); }

int runner_logits(struct runner *r, int row, int n, float **logits, struct err *e)
{
    const struct arch *a = &r->m->arch;
    struct backend *be = r->m->be;
    if (row < 0 || n < 1 || n > runner_logits_max(r) || row > r->n_out - n)
        return err_set(e, ERR_INVALID, "runner: logits of rows %d to %d of %d", row, row + n, r->n_out);
    const char *h = r->f.h;
    be->ops->linear(be, h + (size_t)row * a->dim * r->f.mat_size, n,
                    &(struct linear_out){r->m->head, NULL, r->logits, a->vocab}, 1);
    if (a->logit_scale != 1 || a->logit_cap > 0)
        be->ops->scale_cap(be, r->logits, (int64_t)n * a->vocab, a->logit_scale, a->logit_cap);
    if (!be->host) be->ops->mem_read(be, r->host_logits, r->logits, (size_t)n * a->vocab * sizeof(float));
    *logits = r->host_logits;
    return be->ops->sync(be, e);
}
