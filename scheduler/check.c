/* The scheduler's invariants, for tests and idle moments. */
#include "sched_impl.h"

#define FAIL(...) return err_set(e, ERR_FORMAT, "sched: " __VA_ARGS__)

static int check_seq(const struct seq *q, enum seq_state state, struct err *e)
{
    unsigned long long id = q->id;
    if (q->state != state) FAIL("sequence %llu is in state %d, in the queue of %d", id, q->state, state);
    if (q->n_tok > q->cap_tok || q->n_prompt > q->n_tok) FAIL("sequence %llu: token counts disagree", id);
    if (q->n_known > q->n_tok || (q->n_known < q->n_tok && !q->n_flying))
        FAIL("sequence %llu: %d of %d tokens known, %d steps under way", id, q->n_known, q->n_tok,
             q->n_flying);
    if (q->n_computed < 0 || q->n_computed > q->n_tok) FAIL("sequence %llu: %d computed", id, q->n_computed);
    if (state == SEQ_WAITING && (q->kv.n_tokens || q->n_computed))
        FAIL("waiting sequence %llu holds blocks", id);
    if (state == SEQ_RUNNING && q->kv.n_tokens < q->n_computed)
        FAIL("sequence %llu computed without room", id);
    return 0;
}

static int check_list(const struct seq_list *l, enum seq_state state, struct err *e)
{
    int n = 0;
    const struct seq *prev = NULL;
    for (const struct seq *q = l->head; q; prev = q, q = q->next, n++) {
        if (n >= l->n || q->prev != prev) FAIL("queue of state %d is broken", state);
        if (prev && seq_before(q, prev)) FAIL("queue of state %d is out of order", state);
        int rc = check_seq(q, state, e);
        if (rc) return rc;
    }
    if (n != l->n || l->tail != prev) FAIL("queue of state %d has %d entries, counts %d", state, n, l->n);
    return 0;
}

int sched_check(const struct sched *s, struct err *e)
{
    int rc = check_list(&s->waiting, SEQ_WAITING, e);
    if (!rc) rc = check_list(&s->running, SEQ_RUNNING, e);
    if (rc) return rc;
    if (s->running.n > s->c.max_seqs) FAIL("%d sequences run, at most %d may", s->running.n, s->c.max_seqs);
    if (s->max_prefill < 1 || s->max_prefill > s->c.max_batch_tokens)
        FAIL("prefill limit %d", s->max_prefill);
    if (!s->running.n && kv_stats(s->kv).used) FAIL("nothing runs, %d blocks are used", kv_stats(s->kv).used);
    return 0;
}
