/* Queues in and out: opening, adding, removing, preempting, and what a step leaves behind when it is launched
 * and when its outcome is known. Planning is in step.c. */
#include <stdlib.h>
#include "sched_impl.h"

int sched_open(const struct sched_config *c, struct kv *kv, struct sched **out, struct err *e)
{
    *out = NULL;
    if (c->max_seqs < 1 || c->max_seqs > 1 << 20)
        return err_set(e, ERR_INVALID, "sequences at once must be 1 to 2^20");
    if (c->max_batch_tokens < c->max_seqs)
        return err_set(e, ERR_INVALID, "a step's token budget (%d) is below the sequences at once (%d)",
                       c->max_batch_tokens, c->max_seqs);
    if (c->watermark < 0 || c->max_chunk < 0)
        return err_set(e, ERR_INVALID, "the watermark and the prefill chunk must not be negative");
    struct sched *s = calloc(1, sizeof *s);
    if (s) s->item = calloc(c->max_seqs, sizeof *s->item);
    if (s) s->prefill = calloc(c->max_seqs, sizeof *s->prefill);
    if (!s || !s->item || !s->prefill) {
        sched_close(s);
        return err_set(e, ERR_NOMEM, "no memory for the scheduler");
    }
    s->c = *c;
    s->kv = kv;
    s->max_prefill = c->max_batch_tokens;
    *out = s;
    return 0;
}

void sched_close(struct sched *s)
{
    if (!s) return;
    free(s->item);
    free(s->prefill);
    free(s);
}

void sched_add(struct sched *s, struct seq *q)
{
    q->state = SEQ_WAITING;
    q->n_computed = q->n_cached = q->n_flying = 0;
    q->n_known = q->n_tok;
    seq_list_add(&s->waiting, q);
}

/* Out of the running set; the blocks go back. */
static void leave(struct sched *s, struct seq *q)
{
    seq_list_remove(&s->running, q);
    kv_release(s->kv, &q->kv);
}

void sched_remove(struct sched *s, struct seq *q)
{
    if (q->state == SEQ_WAITING) seq_list_remove(&s->waiting, q);
    if (q->state == SEQ_RUNNING) leave(s, q);
    q->state = SEQ_FINISHED;
}

void sched_preempt(struct sched *s, struct seq *q)
{
    if (q->state != SEQ_RUNNING) return;
    leave(s, q);
    q->state = SEQ_WAITING;
    q->n_computed = 0;
    q->n_preempted++;
    s->preemptions++;
    seq_list_readd(&s->waiting, q);
}

static void publish(struct sched *s, struct seq *q)
{
    int n = q->n_computed < q->n_known ? q->n_computed : q->n_known;
    if (q->state == SEQ_RUNNING && !q->no_prefix) kv_commit(s->kv, &q->kv, q->tok, n);
}

void sched_launch(struct sched *s, const struct batch_plan *plan)
{
    int row = 0;
    for (int i = 0; i < plan->n_item; i++) {
        const struct plan_item *it = &plan->item[i];
        struct seq *q = it->seq;
        row += it->n_logits;
        q->n_flying++;
        q->n_computed += it->q_len;
        if (q->n_computed == q->n_tok && q->n_tok < q->max_total) q->tok[q->n_tok++] = ~(row - 1);
        publish(s, q);
    }
}

void sched_commit(struct sched *s, const struct batch_plan *plan, const struct step_result *res)
{
    for (int i = 0; i < plan->n_item && i < res->n_item; i++) {
        const struct plan_item *it = &plan->item[i];
        const struct step_item *r = &res->item[i];
        struct seq *q = it->seq;
        if (!q) continue;
        q->n_flying--;
        if (r->n_new && q->n_known < q->n_tok) q->tok[q->n_known++] = r->token;
        publish(s, q);
        if (r->finished) sched_remove(s, q);
    }
}

void sched_limit_prefill(struct sched *s, int n)
{
    s->max_prefill = n < 1 ? 1 : n > s->c.max_batch_tokens ? s->c.max_batch_tokens : n;
}

struct sched_stats sched_stats(const struct sched *s)
{
    return (struct sched_stats){s->waiting.n, s->running.n, s->preemptions};
}

struct seq *sched_first(struct sched *s) { return s->running.head ? s->running.head : s->waiting.head; }
