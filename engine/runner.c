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
    float *arena;
    float *logits;          /* [LOGIT_ROWS][vocab] */
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

/* The activations, as parts of one allocation: with f NULL only measured. Parts begin at 64-byte borders. */
static size_t carve(const struct arch *a, const struct runner_config *c, float *arena, struct forward *f,
                    float **logits)
{
    size_t n = (size_t)c->max_batch_tokens, q = (size_t)a->n_head * a->head_dim,
           kv = (size_t)a->n_kv_head * a->head_dim, at = 0;
    struct forward none;
    float *no_logits;
    if (!f) f = &none, logits = &no_logits;
    const struct {
        float **to;
        size_t size;
    } part[] = {{&f->x, n * a->dim},
                {&f->h, n * a->dim},
                {&f->delta, n * a->dim},
                {&f->q, n * q},
                {&f->att, n * q},
                {&f->k, n * kv},
                {&f->v, n * kv},
                {&f->ff, n * a->ffn_dim},
                {&f->cs[0], n * a->rope[0].rot},
                {&f->cs[1], n * (a->n_rope > 1 ? a->rope[1].rot : 0)},
                {logits, (size_t)logit_rows(c) * a->vocab}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        *part[i].to = arena ? arena + at : NULL;
        at += (part[i].size + 15) & ~(size_t)15;
    }
    return at * sizeof(float);
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
    size_t plan = (size_t)c->max_batch_tokens * (2 * sizeof(int32_t) + sizeof(int)) +
                  2 * (size_t)layout.n_group * c->max_seqs * sizeof(struct attn_item);
    *out = (struct runner_budget){.block_bytes = kv_block_bytes(&g),
                                  .activations = carve(a, c, NULL, NULL, NULL) + plan,
                                  .n_group = layout.n_group};
    return 0;
}

static int largest(int a, int b, int c) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }

static int allocate(struct runner *r, struct err *e)
{
    const struct arch *a = &r->m->arch;
    const struct runner_config *c = &r->c;
    size_t n = (size_t)c->max_batch_tokens, bytes = carve(a, c, NULL, NULL, NULL);
    r->arena = aligned_alloc(64, bytes);
    r->ids = calloc(n, sizeof *r->ids);
    r->pos = calloc(n, sizeof *r->pos);
    r->out_row = calloc(n, sizeof *r->out_row);
    r->item = calloc(2 * (size_t)r->layout.n_group * c->max_seqs, sizeof *r->item);
    if (!r->arena || !r->ids || !r->pos || !r->out_row || !r->item)
        return err_set(e, ERR_NOMEM, "out of memory for the step's buffers (%zu MiB)", bytes >> 20);
    carve(a, c, r->arena, &r->f, &r->logits);
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
    if (m->be->ops->reserve(m->be, c->max_batch_tokens, largest(a->dim, a->ffn_dim, a->n_head * a->head_dim),
                            a->n_head, a->head_dim, c->max_ctx, e))
        goto fail;
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
    free(r->arena);
    free(r->ids);
    free(r->pos);
    free(r->out_row);
    free(r->item);
    free(r);
}

/* Rows and attention items of one plan item, appended to the step. */
static void add_item(struct runner *r, struct step *s, const struct plan_item *p)
{
    int cap = r->c.max_seqs, first = p->q_len - p->n_logits;
    for (int g = 0; g < r->layout.n_group; g++) {
        const int32_t *table = p->seq->kv.table[g];
        struct attn_item *all = r->item + (size_t)g * cap,
                         *out = r->item + ((size_t)r->layout.n_group + g) * cap;
        all[s->n_item] = (struct attn_item){s->n, p->q_len, p->q_start, table};
        if (p->n_logits)
            out[s->n_out_item] = (struct attn_item){s->n + first, p->n_logits, p->q_start + first, table};
    }
    for (int i = 0; i < p->q_len; i++, s->n++) {
        r->ids[s->n] = p->seq->tok[p->q_start + i];
        r->pos[s->n] = p->q_start + i;
        if (i >= first) r->out_row[s->n_out++] = s->n;
    }
    s->n_item++;
    s->n_out_item += p->n_logits > 0;
}

int runner_forward(struct runner *r, const struct batch_plan *p, struct err *e)
{
    struct step s = {.ids = r->ids, .pos = r->pos, .out_row = r->out_row};
    if (p->n_item > r->c.max_seqs || p->n_tok > r->c.max_batch_tokens)
        return err_set(e, ERR_INVALID, "runner: a plan of %d items and %d tokens", p->n_item, p->n_tok);
    for (int i = 0; i < p->n_item; i++) {
        const struct plan_item *x = &p->item[i];
        if (x->q_len < 1 || x->q_len > r->c.max_batch_tokens - s.n || x->n_logits < 0 ||
            x->n_logits > x->q_len || x->mask)
            return err_set(e, ERR_INVALID, "runner: plan item %d is out of range", i);
        add_item(r, &s, x);
    }
    for (int g = 0; g < r->layout.n_group; g++) {
        s.item[g] = r->item + (size_t)g * r->c.max_seqs;
        s.out_item[g] = r->item + ((size_t)r->layout.n_group + g) * r->c.max_seqs;
    }
    r->n_out = s.n_out;
    if (!s.n) return 0;
    forward_run(&r->f, &s);
    return r->m->be->ops->sync(r->m->be, e);
}

int runner_logits_max(const struct runner *r) { return logit_rows(&r->c); }

int runner_logits(struct runner *r, int row, int n, float **logits, struct err *e)
{
    const struct arch *a = &r->m->arch;
    struct backend *be = r->m->be;
    if (row < 0 || n < 1 || n > runner_logits_max(r) || row > r->n_out - n)
        return err_set(e, ERR_INVALID, "runner: logits of rows %d to %d of %d", row, row + n, r->n_out);
    be->ops->linear(be, r->f.h + (size_t)row * a->dim, n,
                    &(struct linear_out){r->m->head, NULL, r->logits, a->vocab}, 1);
    if (a->logit_scale != 1 || a->logit_cap > 0)
        be->ops->scale_cap(be, r->logits, (int64_t)n * a->vocab, a->logit_scale, a->logit_cap);
    *logits = r->logits;
    return be->ops->sync(be, e);
}
