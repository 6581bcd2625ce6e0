#include "sim.h"
#include <string.h>
#include "kv_impl.h"
#include "mem.h"
#include "sched_impl.h"

enum { N_SLOT = 10, CAP = 48, DRAIN_STEPS = 3000, FLIGHTS = 2 };

#define WRONG(...) return fprintf(stderr, "sim: " __VA_ARGS__), fputc('\n', stderr), 1

struct slot {
    struct seq q;
    int32_t tok[CAP];
    int32_t truth[CAP]; /* the same, with the tokens that the scheduler does not know yet */
    bool live, was_running;
};
struct flight { /* a launched step */
    struct batch_plan plan;
    struct plan_item item[N_SLOT];
    struct step_item result[N_SLOT];
};
struct sim {
    const uint8_t *data;
    size_t n, at;
    uint64_t rng; /* goes on where the bytes end */
    struct kv *kv;
    struct sched *s;
    struct kv_config kc;
    struct sched_config sc;
    struct mem mem;
    struct slot slot[N_SLOT];
    int64_t clock;
    bool draining;
    struct flight flight[FLIGHTS]; /* [n_flight] the oldest first */
    int n_flight, most_flights;
    struct sim_result sum;
};

static int byte(struct sim *m)
{
    if (m->at < m->n) return m->data[m->at++];
    m->rng = mem_mix(m->rng + 0x9e3779b97f4a7c15u);
    return (int)(m->rng & 255);
}
static int below(struct sim *m, int n) { return byte(m) % n; }

static int sim_open(struct sim *m)
{
    m->kc = (struct kv_config){.block_size = 1 << below(m, 3),
                               .n_group = 1 + below(m, 3),
                               .max_tokens = CAP,
                               .prefix_cache = below(m, 8) != 0};
    /* From a little less than one longest sequence needs to four times as much. */
    m->kc.n_block = 1 + m->kc.n_group * CAP / m->kc.block_size * (14 + below(m, 50)) / 16;
    for (int g = 0; g < m->kc.n_group; g++) m->kc.group[g].window = below(m, 2) ? 1 + below(m, 24) : 0;
    int seqs = 1 + below(m, 6);
    m->sc = (struct sched_config){.max_seqs = seqs,
                                  .max_batch_tokens = seqs + below(m, 40),
                                  .watermark = below(m, 4),
                                  .max_chunk = below(m, 2) ? 1 + below(m, 16) : 0};
    m->most_flights = below(m, 3) ? FLIGHTS : 1;
    mem_open(&m->mem, &m->kc);
    if (kv_open(&m->kc, &m->kv, NULL)) return 1;
    if (below(m, 4) == 0) m->kv->hash_mask = (uint32_t)below(m, 4); /* many collisions */
    m->kv->seed = 1;                                                /* the same bytes, the same day */
    return sched_open(&m->sc, m->kv, &m->s, NULL);
}

static void drop(struct sim *m, struct slot *x)
{
    sched_remove(m->s, &x->q);
    sched_remove(m->s, &x->q); /* cancel may come twice */
    kv_release(m->kv, &x->q.kv);
    kv_ref_free(&x->q.kv);
    for (int f = 0; f < m->n_flight; f++)
        for (int i = 0; i < m->flight[f].plan.n_item; i++)
            if (m->flight[f].item[i].seq == &x->q) m->flight[f].item[i].seq = NULL;
    x->live = x->was_running = false;
}

static void sim_close(struct sim *m)
{
    for (int i = 0; i < N_SLOT; i++)
        if (m->slot[i].live) drop(m, &m->slot[i]);
    sched_close(m->s);
    kv_close(m->kv);
    mem_close(&m->mem);
}

/* A new sequence: the first tokens of another one (also of a finished one), then some of two different
 * tokens. */
static int op_add(struct sim *m)
{
    struct slot *x = &m->slot[below(m, N_SLOT)];
    const struct slot *like = &m->slot[below(m, N_SLOT)];
    if (x->live) return 0;
    int same = below(m, CAP), n_prompt = 1 + below(m, CAP - 12), flags = byte(m);
    uint64_t text = (uint64_t)byte(m);
    for (int i = 0; i < n_prompt; i++) {
        text = mem_mix(text + 1);
        x->tok[i] = x->truth[i] = i < same ? like->truth[i] : (int32_t)(text & 1);
    }
    x->q = (struct seq){.id = (uint64_t)m->clock,
                        .owner = x,
                        .tok = x->tok,
                        .n_tok = n_prompt,
                        .n_prompt = n_prompt,
                        .cap_tok = CAP,
                        .max_total = n_prompt + below(m, 13),
                        .priority = flags >> 6 ? 0 : below(m, 3) - 1,
                        .arrival = m->clock,
                        .salt = (flags & 3) == 0,
                        .all_logits = (flags & 28) == 4,
                        .no_prefix = (flags & 28) == 8};
    m->clock++;
    if (kv_ref_init(m->kv, &x->q.kv, NULL)) WRONG("no memory");
    x->live = true;
    sched_add(m->s, &x->q);
    return 0;
}

static int check_item(const struct sim *m, const struct plan_item *it, bool decode)
{
    const struct seq *q = it->seq;
    int chunk = m->sc.max_chunk ? m->sc.max_chunk : m->sc.max_batch_tokens;
    if (q->state != SEQ_RUNNING) WRONG("an item does not run");
    if (it->q_start != q->n_computed || it->q_len < 1 || it->q_len > chunk) WRONG("item's start or length");
    if (it->q_start + it->q_len > q->n_tok || it->q_start + it->q_len > q->kv.n_tokens)
        WRONG("item goes too far");
    if (decode && (it->q_len != 1 || q->n_tok - q->n_computed != 1)) WRONG("no decode");
    int logits = q->all_logits && it->q_start < q->n_prompt ? it->q_len : it->q_start + it->q_len == q->n_tok;
    if (it->n_logits != logits || it->mask) WRONG("logits %d, expected %d", it->n_logits, logits);
    return 0;
}

static int check_plan(const struct sim *m, const struct batch_plan *p)
{
    int tok = 0, logits = 0, prefill = 0;
    if (p->n_item > m->sc.max_seqs || p->n_decode > p->n_item) WRONG("too many items");
    for (int i = 0; i < p->n_item; i++) {
        if (check_item(m, &p->item[i], i < p->n_decode)) return 1;
        tok += p->item[i].q_len;
        logits += p->item[i].n_logits;
        if (i >= p->n_decode) prefill += p->item[i].q_len;
        for (int k = 0; k < i; k++)
            if (p->item[k].seq == p->item[i].seq) WRONG("a sequence is planned twice");
    }
    if (tok != p->n_tok || logits != p->n_logits) WRONG("the plan's sums are wrong");
    if (tok > m->sc.max_batch_tokens) WRONG("%d tokens", tok);
    if (p->n_decode && prefill > m->s->max_prefill) WRONG("%d prompt tokens beside decodes", prefill);
    return 0;
}

static bool planned(const struct batch_plan *p, const struct seq *q)
{
    for (int i = 0; i < p->n_item; i++)
        if (p->item[i].seq == q) return true;
    return false;
}

/* Who was preempted, who was admitted, and that the most important one gets on. */
static int check_order(const struct sim *m, const struct batch_plan *p, const struct seq *stuck)
{
    const struct seq *first = NULL;
    int admitted = 0, stayed = 0, live = 0;
    for (int i = 0; i < N_SLOT; i++) {
        const struct slot *x = &m->slot[i];
        bool running = x->live && x->q.state == SEQ_RUNNING;
        live += x->live;
        admitted += running && !x->was_running;
        stayed += running && x->was_running;
        if (running && (!first || seq_before(&x->q, first))) first = &x->q;
        for (int k = 0; running && k < N_SLOT; k++) {
            const struct slot *y = &m->slot[k];
            if (!y->live || y->q.state != SEQ_WAITING) continue;
            if (y->was_running && seq_before(&y->q, &x->q)) WRONG("preempted the older one");
            if (y->was_running && !x->was_running) WRONG("admitted while short of room");
            if (!x->was_running && seq_before(&y->q, &x->q)) WRONG("overtaken while waiting");
        }
    }
    if (live && !p->n_item && !stuck && !m->n_flight) WRONG("no progress");
    if (first && first != stuck && !first->n_flying && !planned(p, first))
        WRONG("the first sequence does not advance");
    if (stuck && planned(p, stuck)) WRONG("stuck and planned");
    struct kv_stats k = kv_stats(m->kv);
    if (admitted && admitted + stayed > 1 && k.free + k.cached < m->sc.watermark)
        WRONG("admitted below the watermark");
    return 0;
}

/* The runner's part: all stores of a step come before all reads, and nobody writes what another one holds. */
static int compute(struct sim *m, const struct batch_plan *p)
{
    int bs = m->kc.block_size;
    for (int i = 0; i < p->n_item; i++) {
        const struct plan_item *it = &p->item[i];
        const struct seq *q = it->seq;
        uint64_t writer = (m->sum.steps + 1) << 32 | (uint64_t)(i + 1);
        const int32_t *tok = ((const struct slot *)q->owner)->truth;
        if (mem_store(&m->mem, &q->kv, tok, q->salt, it->q_start, it->q_start + it->q_len, writer)) return 1;
        for (int k = 0; k < N_SLOT; k++) {
            const struct seq *o = &m->slot[k].q;
            if (!m->slot[k].live || o == q) continue;
            for (int g = 0; g < m->kc.n_group; g++)
                for (int b = it->q_start / bs; b * bs < it->q_start + it->q_len; b++)
                    for (int c = 0; c * bs < o->kv.n_tokens; c++)
                        if (o->kv.table[g][c] == q->kv.table[g][b]) WRONG("wrote another sequence's block");
        }
    }
    for (int i = 0; i < p->n_item; i++) {
        const struct plan_item *it = &p->item[i];
        const struct seq *q = it->seq;
        const int32_t *tok = ((const struct slot *)q->owner)->truth;
        if (mem_verify(&m->mem, &q->kv, tok, q->salt, it->q_start, it->q_start + it->q_len)) return 1;
    }
    return 0;
}

/* The engine's part: a random token, now and then the end, and sometimes it forgets to stop at max_total. */
static void outcome(struct sim *m, struct flight *f)
{
    for (int i = 0; i < f->plan.n_item; i++) {
        const struct plan_item *it = &f->item[i];
        struct step_item *r = &f->result[i];
        struct seq *q = it->seq;
        *r = (struct step_item){0};
        if (q->all_logits && it->q_start + it->q_len >= q->n_prompt) q->all_logits = false;
        if (it->q_start + it->q_len < q->n_tok) continue;
        r->n_new = q->n_tok < q->max_total;
        r->token = below(m, 2);
        if (r->n_new) ((struct slot *)q->owner)->truth[q->n_tok] = r->token;
        bool last = q->n_tok + r->n_new >= q->max_total;
        r->finished = last ? below(m, 8) > 0 : below(m, m->draining ? 3 : 12) == 0;
        if (!r->n_new && q->max_total == q->n_prompt) r->finished = true;
    }
}

/* The oldest launched step's outcome becomes known. */
static int land(struct sim *m)
{
    struct flight f = m->flight[0];
    f.plan.item = f.item;
    sched_commit(m->s, &f.plan, &(struct step_result){f.plan.n_item, f.result});
    m->n_flight--;
    memmove(m->flight, m->flight + 1, (size_t)m->n_flight * sizeof *m->flight);
    for (int i = 0; i < f.plan.n_item; i++) {
        if (!f.item[i].seq) continue;
        struct slot *x = f.item[i].seq->owner;
        if (memcmp(x->tok, x->truth, (size_t)x->q.n_known * sizeof *x->tok)) WRONG("a token was lost");
        if (x->q.state != SEQ_FINISHED) continue;
        m->sum.finished++;
        if (x->q.kv.n_tokens) WRONG("finished and holds blocks");
        drop(m, x);
    }
    return 0;
}

static int op_step(struct sim *m)
{
    struct flight *f = &m->flight[m->n_flight];
    struct batch_plan *p = &f->plan;
    struct seq *stuck;
    for (int i = 0; i < N_SLOT; i++)
        m->slot[i].was_running = m->slot[i].live && m->slot[i].q.state == SEQ_RUNNING;
    if (sched_step(m->s, p, &stuck) != p->n_item) WRONG("sched_step miscounts");
    if (check_plan(m, p) || check_order(m, p, stuck)) return 1;
    if (compute(m, p)) return 1;
    if (stuck) {
        m->sum.stuck++;
        drop(m, stuck->owner);
    }
    m->sum.steps++;
    m->sum.items += (uint64_t)p->n_item;
    for (int i = 0; i < p->n_item; i++) {
        f->item[i] = p->item[i];
        const struct seq *q = p->item[i].seq;
        if (q->n_cached >= q->n_tok || q->n_cached % m->kc.block_size) WRONG("n_cached %d", q->n_cached);
    }
    outcome(m, f);
    sched_launch(m->s, p);
    m->n_flight++;
    bool wait = m->n_flight == m->most_flights || !p->n_item || below(m, 4) == 0;
    return wait && m->n_flight == FLIGHTS && below(m, 4) == 0 ? land(m) || land(m) : wait ? land(m) : 0;
}

static int one_op(struct sim *m)
{
    int op = byte(m) & 31;
    struct slot *x = &m->slot[below(m, N_SLOT)];
    if (op < 10) return op_add(m);
    if (op < 27) return op_step(m);
    if (op < 29 && x->live) drop(m, x);
    if (op == 29 && x->live) sched_preempt(m->s, &x->q);
    if (op == 30) kv_reset_prefix(m->kv);
    if (op == 31) sched_limit_prefill(m->s, byte(m) - 20);
    return 0;
}

static int check_all(const struct sim *m)
{
    struct err e = {0};
    if (kv_check(m->kv, &e) || sched_check(m->s, &e)) WRONG("%s", e.msg);
    struct kv_stats k = kv_stats(m->kv);
    if (k.free + k.cached + k.used != k.total || k.total != m->kc.n_block) WRONG("blocks do not add up");
    return 0;
}

static int run(struct sim *m)
{
    while (m->at < m->n)
        if (one_op(m) || check_all(m)) return 1;
    m->draining = true;
    for (int i = 0; sched_first(m->s); i++) {
        if (i > DRAIN_STEPS) WRONG("livelock");
        if (op_step(m) || check_all(m)) return 1;
    }
    if (kv_stats(m->kv).used) WRONG("blocks leaked");
    kv_reset_prefix(m->kv);
    if (kv_stats(m->kv).free != m->kc.n_block) WRONG("blocks stay cached");
    return check_all(m);
}

int sim_run(const uint8_t *data, size_t n, struct sim_result *sum)
{
    struct sim m = {.data = data, .n = n};
    int rc = sim_open(&m) || run(&m);
    if (sum && !rc) {
        struct kv_stats k = kv_stats(m.kv);
        sum->steps += m.sum.steps;
        sum->items += m.sum.items;
        sum->hit_tokens += k.hit_tokens;
        sum->evictions += k.evictions;
        sum->preemptions += sched_stats(m.s).preemptions;
        sum->stuck += m.sum.stuck;
        sum->finished += m.sum.finished;
    }
    sim_close(&m);
    return rc;
}
