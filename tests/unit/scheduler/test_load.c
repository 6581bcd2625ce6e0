/* A crowd on a pool of a quarter of its demand: everybody finishes, nobody is preempted over and over, and
 * the steps stay full. */
#include "sched_test.h"

static void crowd(int n_seq, int n_block, struct sched_config c, int *most_preempted, int *steps,
                  double *computed)
{
    struct rig r = rig_open(n_block, c);
    struct seq *q[500];
    int needed = 0;
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < n_seq; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        int prompt = 20 + (int)(x % 200), answer = 20 + (int)((x >> 32) % 150);
        q[i] = seq_add(&r, i, prompt, answer, 0);
        needed += prompt + answer;
    }
    int64_t done = 0;
    *steps = 0;
    for (; sched_first(r.s) && *steps < 100000; ++*steps) {
        ck_assert_int_gt(plan_step(&r), 0);
        ck_assert_ptr_null(r.stuck);
        done += r.plan.n_tok;
        commit_step(&r);
    }
    *most_preempted = 0;
    *computed = (double)done / needed;
    for (int i = 0; i < n_seq; i++) {
        ck_assert_int_eq(q[i]->state, SEQ_FINISHED);
        ck_assert_int_eq(q[i]->n_tok, q[i]->max_total);
        if (q[i]->n_preempted > *most_preempted) *most_preempted = q[i]->n_preempted;
        seq_drop(&r, q[i]);
    }
    rig_close(&r);
}

START_TEST(pool_of_a_quarter_of_the_demand)
{
    int most, steps;
    double computed;
    /* 32 at once want about 32 * 55 blocks */
    crowd(500, 440, (struct sched_config){32, 256, 4, 0}, &most, &steps, &computed);
    ck_assert_msg(most <= 8, "a sequence was preempted %d times", most);
    ck_assert_msg(computed < 1.5, "%.2f times the tokens were computed", computed);
}
END_TEST

START_TEST(sequences_of_sixty_percent_of_the_pool)
{
    int most, steps;
    double computed;
    crowd(32, 130, (struct sched_config){32, 256, 2, 64}, &most, &steps, &computed);
    ck_assert_msg(most <= 8, "a sequence was preempted %d times", most);
}
END_TEST

TCase *load_tests(void)
{
    TCase *t = tcase_create("load");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, pool_of_a_quarter_of_the_demand);
    tcase_add_test(t, sequences_of_sixty_percent_of_the_pool);
    return t;
}
