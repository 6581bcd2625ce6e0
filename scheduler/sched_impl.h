/* The inside of the scheduler, for scheduler/ and its tests only. */
#pragma once
#include "scheduler.h"

struct seq_list { /* sorted: most important and oldest first */
    struct seq *head, *tail;
    int n;
};
struct sched {
    struct sched_config c;
    struct kv *kv;
    int max_prefill; /* prompt tokens beside decodes in a step, 1 to c.max_batch_tokens */
    struct seq_list waiting, running;
    struct plan_item *item;    /* [max_seqs] the plan */
    struct plan_item *prefill; /* [max_seqs] gathered apart, so that decodes come first */
    int n_prefill;
    bool short_of_room; /* in this step: somebody was preempted or sat out */
    uint64_t preemptions;
};

/* Whether a goes before b: lower priority value, then earlier arrival, then lower id. */
bool seq_before(const struct seq *a, const struct seq *b);
void seq_list_add(struct seq_list *l, struct seq *q);   /* keeps the order; searched from the tail */
void seq_list_readd(struct seq_list *l, struct seq *q); /* the same, searched from the head */
void seq_list_remove(struct seq_list *l, struct seq *q);
