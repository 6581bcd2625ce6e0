/* Planning one step. Blocks are granted in order (priority, arrival), and taken away from the end of that
 * order, so a sequence that already has its place in the plan never loses it. */
#include <string.h>
#include "sched_impl.h"

static int remaining(const struct seq *q) { return q->n_tok - q->n_computed; }

/* Nothing left that it may compute: once no step with it is under way, the engine should have finished it. */
static bool is_spent(const struct seq *q)
{
    return remaining(q) < 1 || (q->n_tok >= q->max_total && q->n_tok > q->n_prompt);
}

static int min_int(int a, int b) { return a < b ? a : b; }

static int chunk_limit(const struct sched *s)
{
    return s->c.max_chunk ? s->c.max_chunk : s->c.max_batch_tokens;
}

static int available(const struct sched *s)
{
    struct kv_stats k = kv_stats(s->kv);
    return k.free + k.cached;
}

/* Blocks that q will still ask for until all its present tokens are computed. */
static int owed(const struct sched *s, const struct seq *q)
{
    int chunk = min_int(chunk_limit(s), remaining(q));
    int more = kv_blocks_needed(kv_config(s->kv), q->n_tok, chunk) - kv_held(s->kv, &q->kv);
    return more > 0 ? more : 0;
}

/* Room for `want` more tokens, or half of it, and so on; returns how many, 0 if not even one fits. */
static int reserve_some(struct sched *s, struct seq *q, int want)
{
    while (want && kv_extend(s->kv, &q->kv, q->n_computed, q->n_computed + want) != KV_OK) want /= 2;
    return want;
}

/* Room for `want` tokens of a running sequence, at the cost of those that come after it. The last one has
 * nobody to preempt and takes what there is. */
static int reserve(struct sched *s, struct seq *q, int want)
{
    while (kv_extend(s->kv, &q->kv, q->n_computed, q->n_computed + want) != KV_OK) {
        s->short_of_room = true;
        if (s->running.tail == q) return reserve_some(s, q, want / 2);
        sched_preempt(s, s->running.tail);
    }
    return want;
}

/* Prompt logits are wanted of every row; otherwise only the row that predicts the next, still unknown token.
 */
static int logits_of(const struct seq *q, int n)
{
    if (q->all_logits && q->n_computed < q->n_prompt) return n;
    return q->n_computed + n == q->n_tok;
}

static void plan_add(struct batch_plan *plan, struct plan_item *to, struct seq *q, int n)
{
    *to = (struct plan_item){.seq = q, .q_start = q->n_computed, .q_len = n, .n_logits = logits_of(q, n)};
    plan->n_item++;
    plan->n_tok += n;
    plan->n_logits += to->n_logits;
}

/* Running sequences: a token for each decode, and chunks from `left` tokens for prefills. Returns what is
 * left of these, and in *debt the blocks that prefills will ask for in later steps. */
static int plan_running(struct sched *s, struct batch_plan *plan, int left, int *debt, struct seq **stuck)
{
    for (struct seq *q = s->running.head, *next; q; q = next) {
        bool decode = remaining(q) == 1;
        int n = decode ? 1 : min_int(min_int(remaining(q), chunk_limit(s)), left);
        if (is_spent(q)) {
            if (!q->n_flying && !*stuck) *stuck = q;
        } else if (n) {
            n = reserve(s, q, n);
            if (n && decode)
                plan_add(plan, &s->item[plan->n_decode++], q, 1);
            else if (n)
                plan_add(plan, &s->prefill[s->n_prefill++], q, n);
            else if (s->running.n == 1 && !q->n_flying && !*stuck)
                *stuck = q;
            if (!decode) left -= n;
        }
        if (!decode) *debt += owed(s, q);
        next = q->next; /* after reserve, which may have preempted it */
    }
    return left;
}

/* Whether q, which holds its cached prefix, may start beside the running ones: all its tokens must fit beyond
 * what these will still take and the watermark. Alone it may always try. */
static bool may_start(const struct sched *s, const struct seq *q, int debt)
{
    return !s->running.n || available(s) >= (int64_t)owed(s, q) + debt + s->c.watermark;
}

/* Waiting sequences, strictly in order: one that does not fit yet is not overtaken, so it cannot starve. One
 * that was preempted under way starts again when its last token is known. */
static void plan_waiting(struct sched *s, struct batch_plan *plan, int left, int debt, struct seq **stuck)
{
    for (struct seq *q; (q = s->waiting.head) && !q->n_flying && left && s->running.n < s->c.max_seqs;) {
        if (is_spent(q)) {
            if (!*stuck) *stuck = q;
            return;
        }
        if (s->running.n && available(s) < (int64_t)debt + s->c.watermark + kv_config(s->kv)->n_group) return;
        bool cold = q->no_prefix || q->all_logits;
        q->n_computed = kv_match(s->kv, q->tok, cold ? 0 : q->n_tok, q->salt, &q->kv);
        int n = min_int(min_int(remaining(q), chunk_limit(s)), left);
        n = may_start(s, q, debt) ? reserve_some(s, q, n) : 0;
        if (!n) {
            kv_release(s->kv, &q->kv);
            q->n_computed = 0;
            if (!s->running.n && !*stuck) *stuck = q;
            return;
        }
        seq_list_remove(&s->waiting, q);
        seq_list_add(&s->running, q);
        q->state = SEQ_RUNNING;
        if (!q->n_preempted) q->n_cached = q->n_computed;
        plan_add(plan, &s->prefill[s->n_prefill++], q, n);
        left -= n;
        debt += owed(s, q);
    }
}

int sched_step(struct sched *s, struct batch_plan *plan, struct seq **stuck)
{
    *plan = (struct batch_plan){.item = s->item};
    *stuck = NULL;
    s->n_prefill = 0;
    s->short_of_room = false;
    int n_decode = 0, debt = 0;
    for (const struct seq *q = s->running.head; q; q = q->next) n_decode += remaining(q) == 1 && !is_spent(q);
    /* Decodes come first in the budget; one token of prefill always goes, lest many decodes starve it. */
    int left = s->c.max_batch_tokens > n_decode ? s->c.max_batch_tokens - n_decode : 1;
    if (n_decode) left = min_int(left, s->max_prefill);
    left = plan_running(s, plan, left, &debt, stuck);
    if (!s->short_of_room) plan_waiting(s, plan, left, debt, stuck);
    memcpy(s->item + plan->n_decode, s->prefill, s->n_prefill * sizeof *s->prefill);
    return plan->n_item;
}
