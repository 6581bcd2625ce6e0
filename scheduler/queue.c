/* Sorted intrusive lists of sequences. New arrivals belong near the tail and preempted ones near the head, so
 * both ways of adding look at few entries. */
#include "sched_impl.h"

bool seq_before(const struct seq *a, const struct seq *b)
{
    if (a->priority != b->priority) return a->priority < b->priority;
    if (a->arrival != b->arrival) return a->arrival < b->arrival;
    return a->id < b->id;
}

/* Puts q after `prev`; NULL = at the head. */
static void insert_after(struct seq_list *l, struct seq *prev, struct seq *q)
{
    q->prev = prev;
    q->next = prev ? prev->next : l->head;
    if (q->next)
        q->next->prev = q;
    else
        l->tail = q;
    if (prev)
        prev->next = q;
    else
        l->head = q;
    l->n++;
}

void seq_list_add(struct seq_list *l, struct seq *q)
{
    struct seq *prev = l->tail;
    while (prev && seq_before(q, prev)) prev = prev->prev;
    insert_after(l, prev, q);
}

void seq_list_readd(struct seq_list *l, struct seq *q)
{
    struct seq *next = l->head;
    while (next && seq_before(next, q)) next = next->next;
    insert_after(l, next ? next->prev : l->tail, q);
}

void seq_list_remove(struct seq_list *l, struct seq *q)
{
    if (q->prev)
        q->prev->next = q->next;
    else
        l->head = q->next;
    if (q->next)
        q->next->prev = q->prev;
    else
        l->tail = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}
