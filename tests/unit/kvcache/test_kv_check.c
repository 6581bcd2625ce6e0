/* The positive control: kv_check must notice each kind of damage. One way of damage per loop index, each done
 * to the same sound state. */
#include "kv_test.h"

struct scene {
    struct kv *kv;
    struct kv_ref a,
        b; /* a: 2 published blocks and a partial one; b shares the first; block 2 of a third is cached */
};

static int32_t *block_of_node(struct kv *kv, int32_t node, int g)
{
    return &kv->node_block[node * kv->c.n_group + g];
}

static void break_free_list(struct scene *s) { s->kv->idle.n--; }
static void break_back_link(struct scene *s) { s->kv->block[s->kv->idle.tail].prev = KV_NONE; }
static void break_tail(struct scene *s) { s->kv->idle.tail = s->kv->idle.head; }
static void break_cycle(struct scene *s) { s->kv->block[s->kv->idle.tail].next = s->kv->idle.head; }
static void break_two_lists(struct scene *s) { s->kv->block[s->kv->lru.tail].next = s->kv->idle.head; }
static void break_leak(struct scene *s) /* a block in no list and without references */
{
    s->kv->block[s->a.table[0][2]].ref = 0;
}
static void break_ref_up(struct scene *s) { s->kv->block[s->a.table[0][0]].ref++; }
static void break_ref_down(struct scene *s) { s->kv->block[s->a.table[0][0]].ref--; }
static void break_early_free(struct scene *s) /* used by a and also free */
{
    kv_block_unpin(s->kv, s->a.table[0][2]);
}
static void break_double_table(struct scene *s) { s->a.table[0][2] = s->a.table[0][1]; }
static void break_table_range(struct scene *s) { s->a.table[0][2] = 99; }
static void break_table_hole(struct scene *s) { s->a.table[0][0] = KV_NONE; }
static void break_wrong_group(struct scene *s)
{
    int32_t t = s->a.table[0][2];
    s->a.table[0][2] = s->a.table[1][2];
    s->a.table[1][2] = t;
}
static void break_node_tokens(struct scene *s) { s->kv->node_tok[s->a.node * 4]++; }
static void break_node_salt(struct scene *s) { s->kv->node[s->a.node].salt++; }
static void break_node_hash(struct scene *s) { s->kv->node[s->a.node].hash++; }
static void break_node_parent(struct scene *s) { s->kv->node[s->a.node].parent = KV_NONE; }
static void break_node_links(struct scene *s) { s->kv->node[s->a.node].n_link++; }
static void break_node_count(struct scene *s) { s->kv->node[s->a.node].n_block--; }
static void break_node_block(struct scene *s) { *block_of_node(s->kv, s->a.node, 0) = s->a.table[0][2]; }
static void break_node_loses(struct scene *s) { *block_of_node(s->kv, s->a.node, 0) = KV_NONE; }
static void break_block_node(struct scene *s) { s->kv->block[s->a.table[0][1]].node = s->b.node; }
static void break_unpublished(struct scene *s) { s->kv->block[s->kv->lru.head].node = KV_NONE; }
static void break_published(struct scene *s) { s->a.n_published++; }
static void break_chain(struct scene *s) { s->a.node = s->b.node; }
static void break_slot(struct scene *s)
{
    for (uint32_t i = 0; i <= s->kv->slot_mask; i++) s->kv->slot[i] = KV_NONE;
}
static void break_node_list(struct scene *s) { s->kv->node_free = KV_NONE; }
static void break_lost_ref(struct scene *s) { s->kv->refs = s->kv->refs->next; }
static void break_counter(struct scene *s) { s->a.n_base = s->a.n_tokens + 1; }

static void (*const damage[])(struct scene *) = {
    break_free_list,   break_back_link,   break_tail,        break_cycle,       break_two_lists,
    break_leak,        break_ref_up,      break_ref_down,    break_early_free,  break_double_table,
    break_table_range, break_table_hole,  break_wrong_group, break_node_tokens, break_node_salt,
    break_node_hash,   break_node_parent, break_node_links,  break_node_count,  break_node_block,
    break_node_loses,  break_block_node,  break_unpublished, break_published,   break_chain,
    break_slot,        break_node_list,   break_lost_ref,    break_counter};

START_TEST(damage_is_noticed)
{
    const int window[] = {0, 64};
    struct scene s = {.kv = open_kv(16, 4, 2, window)};
    struct kv_ref c = new_ref(s.kv);
    s.a = new_ref(s.kv);
    s.b = new_ref(s.kv);
    start(s.kv, &c, words + 40, 5, 0);
    kv_release(s.kv, &c);
    start(s.kv, &s.a, words, 10, 0);
    ck_assert_int_eq(start(s.kv, &s.b, words, 5, 0), 4);
    check_kv(s.kv);
    damage[_i](&s);
    struct err e = {0};
    ck_assert_msg(kv_check(s.kv, &e) != 0, "damage %d went unnoticed", _i);
    ck_assert(e.msg[0]);
    kv_ref_free(&s.a);
    kv_ref_free(&s.b);
    kv_ref_free(&c);
    kv_close(s.kv);
}
END_TEST

TCase *kv_check_tests(void)
{
    TCase *t = tcase_create("check");
    tcase_add_loop_test(t, damage_is_noticed, 0, (int)(sizeof damage / sizeof *damage));
    return t;
}
