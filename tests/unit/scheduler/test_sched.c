/* scheduler/: what each call promises, case by case. */
#include "sched_test.h"

START_TEST(open_refuses_nonsense)
{
    struct rig r = rig_open(4, (struct sched_config){1, 1, 0, 0});
    const struct sched_config bad[] = {
        {0, 8, 0, 0}, {8, 7, 0, 0}, {-1, 8, 0, 0}, {4, 8, -1, 0}, {4, 8, 0, -1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sched *s;
        struct err e = {0};
        ck_assert_int_eq(sched_open(&bad[i], r.kv, &s, &e), ERR_INVALID);
        ck_assert_ptr_null(s);
        ck_assert(e.msg[0]);
    }
    ck_assert_int_eq(step(&r), 0);
    ck_assert_ptr_null(r.stuck);
    rig_close(&r);
}
END_TEST

START_TEST(one_sequence_from_start_to_end)
{
    struct rig r = rig_open(16, (struct sched_config){4, 8, 0, 0});
    struct seq *q = seq_add(&r, 1, 19, 3, 0);
    const int len[] = {8, 8, 3, 1, 1}, logits[] = {0, 0, 1, 1, 1};
    for (int i = 0, at = 0; i < 5; at += len[i++]) {
        ck_assert_int_eq(plan_step(&r), 1);
        ck_assert_int_eq(r.plan.item[0].q_start, at);
        ck_assert_int_eq(r.plan.item[0].q_len, len[i]);
        ck_assert_int_eq(r.plan.item[0].n_logits, logits[i]);
        ck_assert_int_eq(r.plan.n_logits, logits[i]);
        ck_assert_int_eq(r.plan.n_decode, i > 2);
        commit_step(&r);
    }
    ck_assert_int_eq(q->state, SEQ_FINISHED);
    ck_assert_int_eq(q->n_tok, 22);
    ck_assert_int_eq(kv_stats(r.kv).used, 0);
    ck_assert_int_eq(kv_stats(r.kv).cached, 5);
    ck_assert_int_eq(step(&r), 0);
    seq_drop(&r, q);
    rig_close(&r);
}
END_TEST

START_TEST(decodes_first_then_chunks_then_new_ones)
{
    struct rig r = rig_open(64, (struct sched_config){4, 16, 0, 0});
    struct seq *a = seq_add(&r, 1, 30, 20, 0); /* takes two steps */
    step(&r);
    struct seq *b = seq_add(&r, 2, 3, 20, 0), *c = seq_add(&r, 3, 40, 20, 0);
    ck_assert_int_eq(plan_step(&r), 2); /* 14 of a; 2 of b */
    ck_assert_int_eq(planned(&r, a), 14);
    ck_assert_int_eq(planned(&r, b), 2);
    commit_step(&r);
    ck_assert_int_eq(plan_step(&r), 3);
    /* a decodes and b's last prompt token counts as one, the rest of the budget is c's */
    ck_assert_int_eq(r.plan.n_decode, 2);
    ck_assert_ptr_eq(r.plan.item[0].seq, a);
    ck_assert_ptr_eq(r.plan.item[1].seq, b);
    ck_assert_int_eq(planned(&r, c), 14);
    ck_assert_int_eq(r.plan.n_tok, 16);
    commit_step(&r);
    /* c is older than d and still in prefill: decodes come first in the plan all the same */
    struct seq *d = seq_add(&r, 4, 1, 5, -1);
    for (int i = 0; i < 3 && d->state != SEQ_RUNNING; i++) step(&r);
    plan_step(&r);
    ck_assert_int_eq(d->state, SEQ_RUNNING);
    for (int i = 0; i < r.plan.n_item; i++)
        ck_assert_int_eq(i < r.plan.n_decode, r.plan.item[i].seq->n_tok - r.plan.item[i].q_start == 1);
    commit_step(&r);
    rig_close(&r);
}
END_TEST

/* max_chunk: a long prompt leaves room in each step for a short one. */
START_TEST(long_prompts_let_short_ones_pass)
{
    struct rig r = rig_open(128, (struct sched_config){4, 32, 0, 24});
    struct seq *a = seq_add(&r, 1, 400, 4, 0), *b = seq_add(&r, 2, 8, 4, 0);
    ck_assert_int_eq(step(&r), 2);
    ck_assert_int_eq(a->n_computed, 24);
    ck_assert_int_eq(b->n_tok, 9); /* the short one has its first token in the first step */
    rig_close(&r);
    r = rig_open(128, (struct sched_config){4, 32, 0, 0});
    seq_add(&r, 1, 400, 4, 0);
    seq_add(&r, 2, 8, 4, 0);
    ck_assert_int_eq(step(&r), 1); /* without, it waits */
    rig_close(&r);
}
END_TEST

START_TEST(prefills_do_not_starve_decodes)
{
    struct rig r = rig_open(512, (struct sched_config){8, 16, 0, 0});
    struct seq *a = seq_add(&r, 1, 4, 100, 0);
    step(&r);
    for (int i = 2; i < 30; i++) seq_add(&r, i, 60, 10, i % 3 - 1);
    for (int i = 0; i < 99; i++) {
        int before = a->n_tok;
        step(&r);
        ck_assert_int_eq(a->n_tok, before + 1); /* a token in every step */
    }
    ck_assert_int_eq(a->state, SEQ_FINISHED);
    seq_drop(&r, a);
    rig_close(&r);
}
END_TEST

START_TEST(prefill_beside_decodes_can_be_limited)
{
    struct rig r = rig_open(64, (struct sched_config){4, 32, 0, 0});
    struct seq *a = seq_add(&r, 1, 4, 50, 0), *b = seq_add(&r, 2, 4, 50, 0);
    step(&r);
    struct seq *c = seq_add(&r, 3, 60, 10, 0);
    sched_limit_prefill(r.s, 8);
    plan_step(&r);
    ck_assert_int_eq(r.plan.n_tok, 10);
    ck_assert_int_eq(planned(&r, c), 8);
    commit_step(&r);
    sched_limit_prefill(r.s, -5); /* decodes all go, and one token of prefill */
    plan_step(&r);
    ck_assert_int_eq(planned(&r, a), 1);
    ck_assert_int_eq(planned(&r, b), 1);
    ck_assert_int_eq(planned(&r, c), 1);
    commit_step(&r);
    sched_limit_prefill(r.s, 1 << 30); /* not beyond the budget */
    plan_step(&r);
    ck_assert_int_eq(r.plan.n_tok, 32);
    commit_step(&r);
    sched_remove(r.s, a);
    sched_remove(r.s, b);
    sched_limit_prefill(r.s, 5); /* nobody waits for the step */
    plan_step(&r);
    ck_assert_int_eq(planned(&r, c), 60 - 8 - 1 - 30);
    commit_step(&r);
    rig_close(&r);
}
END_TEST

START_TEST(sequence_slots_are_limited)
{
    struct rig r = rig_open(64, (struct sched_config){2, 32, 0, 0});
    struct seq *a = seq_add(&r, 1, 4, 2, 0);
    seq_add(&r, 2, 4, 10, 0);
    struct seq *c = seq_add(&r, 3, 4, 10, 0);
    ck_assert_int_eq(step(&r), 2);
    ck_assert_int_eq(sched_stats(r.s).n_waiting, 1);
    ck_assert_int_eq(sched_stats(r.s).n_running, 2);
    step(&r);
    ck_assert_int_eq(a->state, SEQ_FINISHED);
    ck_assert_int_eq(step(&r), 2);
    ck_assert_int_eq(c->state, SEQ_RUNNING);
    seq_drop(&r, a);
    rig_close(&r);
}
END_TEST

START_TEST(admission_follows_priority_then_arrival)
{
    struct rig r = rig_open(64, (struct sched_config){1, 32, 0, 0});
    const int priority[] = {1, 0, 5, 0, -3, 1};
    const int order[] = {4, 1, 3, 0, 5, 2};
    struct seq *q[6];
    for (int i = 0; i < 6; i++) q[i] = seq_add(&r, i, 4, 1, priority[i]);
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(step(&r), 1);
        ck_assert_ptr_eq(r.plan.item[0].seq, q[order[i]]);
    }
    for (int i = 0; i < 6; i++) seq_drop(&r, q[i]);
    rig_close(&r);
}
END_TEST

START_TEST(watermark_keeps_blocks_back)
{
    struct rig r = rig_open(10, (struct sched_config){4, 64, 3, 0});
    struct seq *a = seq_add(&r, 1, 16, 20, 0), *b = seq_add(&r, 2, 16, 20, 0);
    ck_assert_int_eq(step(&r), 1); /* 4 blocks; 4 more would leave 2, below 3 */
    ck_assert_int_eq(b->state, SEQ_WAITING);
    seq_drop(&r, a);
    struct seq *c = seq_add(&r, 3, 12, 20, 0);
    ck_assert_int_eq(step(&r), 2); /* 4 + 3 leave 3 */
    ck_assert_int_eq(c->state, SEQ_RUNNING);
    rig_close(&r);
    /* Alone it may use everything: a watermark above the pool is no deadlock. */
    r = rig_open(4, (struct sched_config){4, 64, 100, 0});
    a = seq_add(&r, 1, 15, 1, 0);
    ck_assert_int_eq(step(&r), 1);
    ck_assert_int_eq(a->state, SEQ_FINISHED);
    seq_drop(&r, a);
    rig_close(&r);
}
END_TEST

/* Chunked prompts: what the first will still take is not given to the second. */
START_TEST(admission_counts_unfinished_prompts)
{
    struct rig r = rig_open(20, (struct sched_config){4, 16, 0, 8});
    struct seq *a = seq_add(&r, 1, 60, 4, 0), *b = seq_add(&r, 2, 24, 4, 0), *c = seq_add(&r, 3, 4, 4, 0);
    ck_assert_int_eq(step(&r), 1); /* 15 of 20 blocks are a's, b needs 6 */
    ck_assert_int_eq(planned(&r, a), 8);
    ck_assert_int_eq(b->state, SEQ_WAITING);
    ck_assert_int_eq(c->state, SEQ_WAITING); /* does not overtake */
    for (int i = 0; i < 60 && a->state == SEQ_RUNNING; i++) step(&r);
    ck_assert_int_eq(a->state, SEQ_FINISHED);
    ck_assert_uint_eq(sched_stats(r.s).preemptions, 0);
    step(&r);
    ck_assert_int_eq(b->state, SEQ_RUNNING);
    seq_drop(&r, a);
    rig_close(&r);
}
END_TEST

START_TEST(blocked_head_does_not_disturb_statistics)
{
    struct rig r = rig_open(8, (struct sched_config){4, 64, 0, 0});
    seq_add(&r, 1, 16, 10, 0);
    struct seq *b = seq_add(&r, 2, 20, 10, 0);
    for (int i = 0; i < 5; i++) step(&r);
    ck_assert_int_eq(b->state, SEQ_WAITING);
    ck_assert_uint_eq(kv_stats(r.kv).query_tokens, 16);
    rig_close(&r);
}
END_TEST

START_TEST(prefix_hits_are_used)
{
    struct rig r = rig_open(32, (struct sched_config){4, 64, 0, 0});
    struct seq *a = seq_add(&r, 1, 18, 1, 0);
    step(&r);
    seq_drop(&r, a);
    struct seq *b = seq_add(&r, 1, 18, 5, 0), *salted = seq_make(&r, 1, 18, 5, 0);
    struct seq *cold = seq_make(&r, 1, 18, 5, 0), *logits = seq_make(&r, 1, 18, 5, 0);
    salted->salt = 9;
    cold->no_prefix = true;
    logits->all_logits = true;
    sched_add(r.s, salted);
    sched_add(r.s, cold);
    sched_add(r.s, logits);
    ck_assert_int_eq(plan_step(&r), 4);
    ck_assert_int_eq(planned(&r, b), 2);
    ck_assert_int_eq(b->n_cached, 16);
    ck_assert_int_eq(planned(&r, salted), 18);
    ck_assert_int_eq(planned(&r, cold), 18);
    ck_assert_int_eq(planned(&r, logits), 18);
    ck_assert_int_eq(r.plan.n_logits, 1 + 1 + 1 + 18);
    commit_step(&r);
    ck_assert_ptr_ne(cold->kv.table[0], b->kv.table[0]);
    ck_assert_int_ne(cold->kv.table[0][0], b->kv.table[0][0]);
    ck_assert_int_ne(salted->kv.table[0][0], b->kv.table[0][0]);
    ck_assert_int_eq(cold->kv.n_published, 0);
    ck_assert_int_eq(logits->kv.table[0][0],
                     b->kv.table[0][0]); /* reads none, but shares after the compute */
    plan_step(&r);
    ck_assert_int_eq(r.plan.n_logits, 4);
    commit_step(&r);
    rig_close(&r);
}
END_TEST

START_TEST(all_logits_chunk_by_chunk)
{
    struct rig r = rig_open(32, (struct sched_config){4, 8, 0, 0});
    struct seq *a = seq_make(&r, 1, 18, 5, 0);
    a->all_logits = true;
    sched_add(r.s, a);
    const int logits[] = {8, 8, 2, 1, 1};
    for (int i = 0; i < 5; i++) {
        plan_step(&r);
        ck_assert_int_eq(r.plan.n_logits, logits[i]);
        commit_step(&r);
    }
    /* After delivery the engine clears the flag; a preempted sequence then hits its own prefix and wants one
     * row. */
    a->all_logits = false;
    sched_preempt(r.s, a);
    rig_check(&r);
    ck_assert_int_eq(a->n_computed, 0);
    plan_step(&r);
    ck_assert_int_eq(r.plan.item[0].q_start, 20);
    ck_assert_int_eq(r.plan.n_logits, 1);
    ck_assert_int_eq(a->n_cached, 0); /* as when first admitted */
    rig_close(&r);
}
END_TEST

/* Prompts that end with the answer's length: only the prompt's logits are wanted. */
START_TEST(prompt_only_sequences_are_computed)
{
    struct rig r = rig_open(32, (struct sched_config){4, 64, 0, 0});
    struct seq *a = seq_add(&r, 1, 10, 0, 0);
    ck_assert_int_eq(step(&r), 1);
    ck_assert_ptr_null(r.stuck);
    ck_assert_int_eq(a->state, SEQ_FINISHED);
    ck_assert_int_eq(a->n_tok, 10);
    seq_drop(&r, a);
    rig_close(&r);
}
END_TEST

START_TEST(youngest_of_lowest_priority_is_preempted)
{
    struct rig r = rig_open(12, (struct sched_config){4, 64, 0, 0});
    struct seq *low_old = seq_add(&r, 1, 12, 40, 2), *low_new = seq_add(&r, 2, 12, 40, 2);
    struct seq *high_old = seq_add(&r, 3, 12, 40, 0), *high_new = seq_add(&r, 4, 8, 40, 0);
    ck_assert_int_eq(step(&r), 4); /* 3 + 3 + 3 + 2 blocks, one left */
    int n_tok = low_new->n_tok;
    step(&r); /* each needs a block but high_new */
    ck_assert_int_eq(low_new->state, SEQ_WAITING);
    ck_assert_int_eq(low_new->n_tok, n_tok); /* keeps what it generated */
    ck_assert_int_eq(low_new->n_computed, 0);
    ck_assert_int_eq(low_new->n_preempted, 1);
    ck_assert_int_eq(low_old->state, SEQ_RUNNING);
    ck_assert_int_eq(planned(&r, low_old), 1);
    while (low_old->state == SEQ_RUNNING) step(&r);
    ck_assert_int_eq(high_old->state, SEQ_RUNNING);
    ck_assert_int_eq(high_new->state, SEQ_RUNNING);
    ck_assert_ptr_eq(r.s->waiting.head, low_old); /* older, so before low_new, though preempted later */
    while (high_new->state == SEQ_RUNNING) step(&r);
    ck_assert_int_eq(high_old->state, SEQ_RUNNING);
    ck_assert_uint_eq(sched_stats(r.s).preemptions, 3);
    rig_close(&r);
}
END_TEST

/* The youngest has nobody to preempt: it keeps its blocks, sits out, and goes on when there is room. */
START_TEST(youngest_sits_out)
{
    struct rig r = rig_open(7, (struct sched_config){4, 64, 0, 0});
    struct seq *a = seq_add(&r, 1, 13, 3, 0), *b = seq_add(&r, 2, 12, 20, 0);
    ck_assert_int_eq(step(&r), 2); /* 4 + 3 blocks */
    ck_assert_int_eq(step(&r), 1);
    ck_assert_int_eq(planned(&r, a), 1);
    ck_assert_int_eq(b->state, SEQ_RUNNING);
    ck_assert_int_eq(step(&r), 1);
    ck_assert_int_eq(a->state, SEQ_FINISHED);
    ck_assert_int_eq(step(&r), 1);
    ck_assert_int_eq(planned(&r, b), 1);
    ck_assert_uint_eq(sched_stats(r.s).preemptions, 0);
    seq_drop(&r, a);
    rig_close(&r);
}
END_TEST

START_TEST(lone_sequence_that_fills_the_pool_is_stuck)
{
    struct rig r = rig_open(4, (struct sched_config){4, 64, 0, 0});
    struct seq *a = seq_add(&r, 1, 13, 100, 0);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(step(&r), 1);
        ck_assert_ptr_null(r.stuck);
    }
    struct seq *b = seq_add(&r, 2, 4, 10, 0);
    ck_assert_int_eq(step(&r), 0);
    ck_assert_ptr_eq(r.stuck, a);
    ck_assert_int_eq(a->n_tok, 17); /* 16 computed, and the token they gave */
    seq_drop(&r, a);
    ck_assert_int_eq(step(&r), 1);
    ck_assert_ptr_null(r.stuck);
    ck_assert_int_eq(b->state, SEQ_RUNNING);
    rig_close(&r);
    /* A prompt that never fits: computed as far as it goes, then reported; it does not block the queue for
     * ever. */
    r = rig_open(2, (struct sched_config){4, 64, 0, 0});
    a = seq_add(&r, 1, 40, 10, 0);
    for (int i = 0; i < 10 && !r.stuck; i++) step(&r);
    ck_assert_ptr_eq(r.stuck, a);
    rig_close(&r);
}
END_TEST

START_TEST(waiting_sequence_without_any_room_is_stuck)
{
    struct kv_config k = {.n_block = 2, .block_size = 4, .n_group = 3, .max_tokens = MAX_LEN};
    struct sched_config c = {4, 64, 0, 0};
    struct rig r = {0};
    ck_assert_int_eq(kv_open(&k, &r.kv, NULL), 0);
    ck_assert_int_eq(sched_open(&c, r.kv, &r.s, NULL), 0);
    struct seq *a = seq_add(&r, 1, 4, 4, 0), *empty;
    ck_assert_int_eq(step(&r), 0);
    ck_assert_ptr_eq(r.stuck, a);
    ck_assert_int_eq(a->state, SEQ_WAITING);
    seq_drop(&r, a);
    empty = seq_add(&r, 1, 0, 4, 0);
    ck_assert_int_eq(step(&r), 0);
    ck_assert_ptr_eq(r.stuck, empty);
    rig_close(&r);
}
END_TEST

START_TEST(reaching_max_total_is_reported)
{
    struct rig r = rig_open(32, (struct sched_config){4, 64, 0, 0});
    struct seq *a = seq_add(&r, 1, 4, 1, 0), *b = seq_add(&r, 2, 4, 9, 0);
    plan_step(&r);
    struct step_item item[2] = {{1, 7, false}, {1, 7, false}}; /* the engine forgot to finish a */
    sched_launch(r.s, &r.plan);
    sched_commit(r.s, &r.plan, &(struct step_result){2, item});
    ck_assert_int_eq(plan_step(&r), 1);
    ck_assert_ptr_eq(r.stuck, a);
    ck_assert_int_eq(planned(&r, b), 1); /* the others go on */
    seq_drop(&r, a);                     /* at once, the step still out */
    commit_step(&r);
    ck_assert_int_eq(b->n_tok, 6);
    rig_close(&r);
}
END_TEST

START_TEST(cancel_in_every_state)
{
    struct rig r = rig_open(16, (struct sched_config){2, 8, 0, 0});
    struct seq *never = seq_make(&r, 9, 4, 4, 0);
    seq_drop(&r, never);
    struct seq *prefill = seq_add(&r, 1, 30, 4, 0), *waiting = seq_add(&r, 2, 4, 4, 0);
    step(&r);
    ck_assert_int_eq(waiting->state, SEQ_WAITING);
    seq_drop(&r, waiting);
    seq_drop(&r, prefill);
    ck_assert_int_eq(kv_stats(r.kv).used, 0);
    struct seq *decode = seq_add(&r, 3, 4, 9, 0), *other = seq_add(&r, 3, 4, 9, 0),
               *done = seq_add(&r, 4, 4, 1, -1);
    step(&r);
    ck_assert_int_eq(done->state, SEQ_FINISHED);
    step(&r);
    ck_assert_int_eq(decode->n_tok, 6);
    sched_remove(r.s, decode);
    seq_drop(&r, decode); /* a second time */
    seq_drop(&r, done);
    sched_preempt(r.s, other);
    ck_assert_int_eq(other->state, SEQ_WAITING);
    sched_preempt(r.s, other); /* no effect on a waiting one */
    ck_assert_int_eq(other->n_preempted, 1);
    seq_drop(&r, other);
    ck_assert_ptr_null(sched_first(r.s));
    ck_assert_int_eq(kv_stats(r.kv).used, 0);
    rig_close(&r);
}
END_TEST

/* The plan's step is under way; its plan, with items of its own, for when it is committed. */
static struct batch_plan launch(struct rig *r, struct plan_item *own)
{
    struct batch_plan plan = r->plan;
    plan.item = memcpy(own, plan.item, (size_t)plan.n_item * sizeof *own);
    sched_launch(r->s, &plan);
    return plan;
}

/* Preempted while its step is under way: it keeps the token that comes of it, and starts again only then. */
START_TEST(preempted_under_way)
{
    struct rig r = rig_open(16, (struct sched_config){2, 32, 0, 0});
    struct seq *a = seq_add(&r, 1, 8, 9, 0), *b = seq_add(&r, 2, 8, 9, 0);
    struct plan_item first[2];
    ck_assert_int_eq(plan_step(&r), 2);
    struct batch_plan plan = launch(&r, first);
    sched_preempt(r.s, b);
    rig_check(&r);
    ck_assert_int_eq(plan_step(&r), 1); /* a's second step, and b must wait */
    ck_assert_ptr_eq(r.plan.item[0].seq, a);
    sched_launch(r.s, &r.plan);
    struct step_item item[2] = {{1, 7, false}, {1, 8, false}};
    sched_commit(r.s, &plan, &(struct step_result){2, item});
    ck_assert_int_eq(b->n_computed, 0);
    ck_assert_int_eq(b->n_tok, 9);
    ck_assert_int_eq(b->tok[8], 8);
    sched_commit(r.s, &r.plan, &(struct step_result){1, item});
    ck_assert_int_eq(step(&r), 2);
    ck_assert_int_eq(b->n_computed, 9);
    rig_close(&r);
}
END_TEST

/* The next step is planned while this one's tokens are not known: they have places, which name their rows. */
START_TEST(planned_ahead)
{
    struct rig r = rig_open(32, (struct sched_config){4, 64, 0, 0});
    struct seq *a = seq_add(&r, 1, 4, 2, 0), *b = seq_add(&r, 2, 4, 9, 0);
    struct plan_item first[2];
    ck_assert_int_eq(plan_step(&r), 2);
    struct batch_plan plan = launch(&r, first);
    ck_assert_int_eq(a->tok[4], ~0);
    ck_assert_int_eq(b->tok[4], ~1);
    ck_assert_int_eq(plan_step(&r), 2);
    ck_assert_int_eq(r.plan.n_decode, 2);
    struct plan_item second[2];
    struct batch_plan ahead = launch(&r, second);
    ck_assert_int_eq(a->n_tok, 6);
    ck_assert_int_eq(plan_step(&r), 1); /* a has all its places, and is not stuck: its steps are under way */
    ck_assert_ptr_null(r.stuck);
    sched_launch(r.s, &r.plan);
    sched_commit(r.s, &plan, &(struct step_result){2, (struct step_item[]){{1, 7, false}, {1, 8, false}}});
    ck_assert_int_eq(a->tok[4], 7);
    ck_assert_int_eq(b->tok[4], 8);
    ck_assert_int_eq(b->tok[5], ~1);
    sched_commit(r.s, &ahead, &(struct step_result){2, (struct step_item[]){{1, 9, true}, {1, 6, false}}});
    ck_assert_int_eq(a->state, SEQ_FINISHED);
    ck_assert_int_eq(b->tok[5], 6);
    sched_commit(r.s, &r.plan, &(struct step_result){1, (struct step_item[]){{1, 5, false}}});
    rig_check(&r);
    ck_assert_int_eq(b->n_known, b->n_tok);
    rig_close(&r);
}
END_TEST

/* Preempting costs little while the blocks are still cached. */
START_TEST(preempted_sequence_hits_its_own_blocks)
{
    struct rig r = rig_open(32, (struct sched_config){2, 64, 0, 0});
    struct seq *a = seq_add(&r, 1, 22, 20, 0);
    for (int i = 0; i < 5; i++) step(&r);
    ck_assert_int_eq(a->n_computed, 26);
    sched_preempt(r.s, a);
    plan_step(&r);
    ck_assert_int_eq(r.plan.item[0].q_start, 24); /* prompt and generated tokens alike */
    ck_assert_int_eq(r.plan.item[0].q_len, 3);
    ck_assert_int_eq(r.plan.n_logits, 1);
    commit_step(&r);
    ck_assert_int_eq(a->n_tok, 28);
    rig_close(&r);
}
END_TEST

static void break_count(struct rig *r) { r->s->running.n++; }
static void break_state(struct rig *r) { r->s->running.head->state = SEQ_WAITING; }
static void break_order(struct rig *r) { r->s->running.tail->priority = -9; }
static void break_link(struct rig *r) { r->s->running.tail->prev = NULL; }
static void break_tail(struct rig *r) { r->s->waiting.tail = NULL; }
static void break_computed(struct rig *r) { r->s->running.head->n_computed = 400; }
static void break_tokens(struct rig *r) { r->s->running.head->n_computed++; }
static void break_waiting(struct rig *r) { r->s->waiting.head->n_computed = 1; }
static void break_limit(struct rig *r) { r->s->max_prefill = 1000; }
static void break_slots(struct rig *r) { r->s->c.max_seqs = 1; }
static void break_leak(struct rig *r)
{
    while (r->s->running.head) seq_list_remove(&r->s->running, r->s->running.head);
}
static void (*const damage[])(struct rig *) = {break_count, break_state,    break_order,  break_link,
                                               break_tail,  break_computed, break_tokens, break_waiting,
                                               break_limit, break_slots,    break_leak};

/* The positive control for sched_check. The process ends with the test, which frees what damage made
 * unreachable. */
START_TEST(damage_is_noticed)
{
    struct rig r = rig_open(16, (struct sched_config){2, 16, 0, 0});
    seq_add(&r, 1, 4, 9, 0);
    seq_add(&r, 2, 4, 9, 0);
    seq_add(&r, 3, 4, 9, 0);
    step(&r);
    damage[_i](&r);
    struct err e = {0};
    ck_assert_msg(sched_check(r.s, &e) != 0, "damage %d went unnoticed", _i);
    ck_assert(e.msg[0]);
    rig_free(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("scheduler");
    TCase *t = tcase_create("calls");
    tcase_add_test(t, open_refuses_nonsense);
    tcase_add_test(t, one_sequence_from_start_to_end);
    tcase_add_test(t, decodes_first_then_chunks_then_new_ones);
    tcase_add_test(t, long_prompts_let_short_ones_pass);
    tcase_add_test(t, prefills_do_not_starve_decodes);
    tcase_add_test(t, prefill_beside_decodes_can_be_limited);
    tcase_add_test(t, sequence_slots_are_limited);
    tcase_add_test(t, admission_follows_priority_then_arrival);
    tcase_add_test(t, watermark_keeps_blocks_back);
    tcase_add_test(t, admission_counts_unfinished_prompts);
    tcase_add_test(t, blocked_head_does_not_disturb_statistics);
    tcase_add_test(t, prefix_hits_are_used);
    tcase_add_test(t, all_logits_chunk_by_chunk);
    tcase_add_test(t, prompt_only_sequences_are_computed);
    tcase_add_test(t, youngest_of_lowest_priority_is_preempted);
    tcase_add_test(t, youngest_sits_out);
    tcase_add_test(t, lone_sequence_that_fills_the_pool_is_stuck);
    tcase_add_test(t, waiting_sequence_without_any_room_is_stuck);
    tcase_add_test(t, reaching_max_total_is_reported);
    tcase_add_test(t, cancel_in_every_state);
    tcase_add_test(t, preempted_under_way);
    tcase_add_test(t, planned_ahead);
    tcase_add_test(t, preempted_sequence_hits_its_own_blocks);
    tcase_add_loop_test(t, damage_is_noticed, 0, (int)(sizeof damage / sizeof *damage));
    suite_add_tcase(s, t);
    suite_add_tcase(s, load_tests());
    suite_add_tcase(s, sim_tests());
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
