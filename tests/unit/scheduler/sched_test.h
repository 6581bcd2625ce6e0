/* Shared by the scheduler tests: a pool, sequences, and a step whose tokens are all 1. */
#pragma once
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "sched_impl.h"

enum { MAX_LEN = 512, MAX_SEQ = 512 };

struct rig {
    struct kv *kv;
    struct sched *s;
    struct batch_plan plan; /* of the last step */
    struct seq *stuck;
    int64_t clock;
    struct seq *all[MAX_SEQ]; /* by id; NULL: dropped */
};

TCase *sim_tests(void);
TCase *load_tests(void);

static inline void rig_check(const struct rig *r)
{
    struct err e = {0};
    ck_assert_msg(kv_check(r->kv, &e) == 0, "%s", e.msg);
    ck_assert_msg(sched_check(r->s, &e) == 0, "%s", e.msg);
}

/* One group of full attention, blocks of 4. */
static inline struct rig rig_open(int n_block, struct sched_config c)
{
    struct rig r = {0};
    struct kv_config k = {
        .n_block = n_block, .block_size = 4, .n_group = 1, .max_tokens = MAX_LEN, .prefix_cache = true};
    ck_assert_int_eq(kv_open(&k, &r.kv, NULL), 0);
    ck_assert_int_eq(sched_open(&c, r.kv, &r.s, NULL), 0);
    return r;
}

static inline void seq_free(struct rig *r, struct seq *q)
{
    r->all[q->id] = NULL;
    kv_ref_free(&q->kv);
    free(q->tok);
    free(q);
}

static inline void seq_drop(struct rig *r, struct seq *q)
{
    sched_remove(r->s, q);
    rig_check(r);
    ck_assert_int_eq(q->state, SEQ_FINISHED);
    seq_free(r, q);
}

/* Frees everything, in whatever state it is. */
static inline void rig_free(struct rig *r)
{
    for (int i = 0; i < r->clock; i++)
        if (r->all[i]) seq_free(r, r->all[i]);
    sched_close(r->s);
    kv_close(r->kv);
}

static inline void rig_close(struct rig *r)
{
    for (struct seq *q; (q = sched_first(r->s));) seq_drop(r, q);
    ck_assert_int_eq(kv_stats(r->kv).used, 0);
    rig_free(r);
}

/* n_prompt different tokens that no other `first` shares. */
static inline struct seq *seq_make(struct rig *r, int first, int n_prompt, int max_new, int priority)
{
    struct seq *q = calloc(1, sizeof *q);
    ck_assert_ptr_nonnull(q);
    q->tok = calloc(MAX_LEN, sizeof *q->tok);
    ck_assert_ptr_nonnull(q->tok);
    for (int i = 0; i < n_prompt; i++) q->tok[i] = first * 1000 + i;
    q->n_tok = q->n_prompt = n_prompt;
    q->cap_tok = MAX_LEN;
    q->max_total = n_prompt + max_new;
    q->priority = priority;
    ck_assert_int_lt(r->clock, MAX_SEQ);
    r->all[r->clock] = q;
    q->arrival = q->id = r->clock++;
    ck_assert_int_eq(kv_ref_init(r->kv, &q->kv, NULL), 0);
    return q;
}

static inline struct seq *seq_add(struct rig *r, int first, int n_prompt, int max_new, int priority)
{
    struct seq *q = seq_make(r, first, n_prompt, max_new, priority);
    sched_add(r->s, q);
    return q;
}

/* Plans only. */
static inline int plan_step(struct rig *r)
{
    int n = sched_step(r->s, &r->plan, &r->stuck);
    ck_assert_int_eq(n, r->plan.n_item);
    rig_check(r);
    return n;
}

static inline void commit_step(struct rig *r)
{
    struct step_item item[64] = {0};
    for (int i = 0; i < r->plan.n_item; i++) {
        const struct plan_item *it = &r->plan.item[i];
        item[i].n_new = it->q_start + it->q_len == it->seq->n_tok && it->seq->n_tok < it->seq->max_total;
        item[i].token = 1;
        item[i].finished =
            it->q_start + it->q_len == it->seq->n_tok && it->seq->n_tok + 1 >= it->seq->max_total;
    }
    sched_launch(r->s, &r->plan);
    sched_commit(r->s, &r->plan, &(struct step_result){r->plan.n_item, item});
    rig_check(r);
}

static inline int step(struct rig *r)
{
    int n = plan_step(r);
    commit_step(r);
    return n;
}

/* Tokens of q in the plan, 0 if it is not there. */
static inline int planned(const struct rig *r, const struct seq *q)
{
    for (int i = 0; i < r->plan.n_item; i++)
        if (r->plan.item[i].seq == q) return r->plan.item[i].q_len;
    return 0;
}
