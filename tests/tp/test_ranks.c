/* What cannot be split is refused by name, and a group whose rank fails ends at once, telling why. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "engine.h"
#include "group.h"
#include "log.h"
#include "split.h"

static struct arch plain(void)
{
    return (struct arch){
        .name = "test", .n_head = 16, .n_kv_head = 4, .head_dim = 8, .ffn_dim = 96, .vocab = 480};
}

START_TEST(shares_cover_the_model)
{
    for (int size = 1; size <= 16; size *= 2) {
        struct arch a = plain(), part;
        int q = 0, ffn = 0, vocab = 0;
        for (int rank = 0; rank < size; rank++) {
            struct split s;
            ck_assert_int_eq(split_arch(&a, rank, size, &s, &part, NULL), 0);
            ck_assert_int_eq(s.q.at, q);
            ck_assert_int_eq(s.ffn.at, ffn);
            ck_assert_int_eq(s.vocab.at, vocab);
            q += s.q.take, ffn += s.ffn.take, vocab += s.vocab.take;
            /* each of its query heads reads one of its KV heads, the one of the whole model */
            for (int h = 0; h < part.n_head; h++) {
                int kv = h / (part.n_head / part.n_kv_head) + s.kv.at / a.head_dim;
                ck_assert_int_eq(kv, (h + s.q.at / a.head_dim) / (a.n_head / a.n_kv_head));
            }
            ck_assert_int_eq(part.vocab, a.vocab);
        }
        ck_assert_int_eq(q, a.n_head * a.head_dim);
        ck_assert_int_eq(ffn, a.ffn_dim);
        ck_assert_int_eq(vocab, a.vocab);
    }
}
END_TEST

START_TEST(refused_splits)
{
    const struct {
        struct arch a;
        int size;
        const char *says;
    } bad[] = {
        {{.n_head = 12, .n_kv_head = 12, .head_dim = 8, .ffn_dim = 64, .vocab = 64}, 8, "12 heads"},
        {{.n_head = 24, .n_kv_head = 6, .head_dim = 8, .ffn_dim = 64, .vocab = 64}, 4, "6 KV heads"},
        {{.n_head = 8, .n_kv_head = 4, .head_dim = 8, .ffn_dim = 66, .vocab = 64}, 4, "66 feed-forward rows"},
        {{.n_head = 8, .n_kv_head = 4, .head_dim = 8, .ffn_dim = 64, .vocab = 66},
         4,
         "66 tokens of vocabulary"},
        {{.n_head = 8, .n_kv_head = 4, .head_dim = 8, .ffn_dim = 64, .vocab = 64, .qk_norm = QK_NORM_ROW},
         2,
         "norms queries and keys over all heads"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct split s;
        struct arch part;
        struct err e = {0};
        ck_assert_int_eq(split_arch(&bad[i].a, 0, bad[i].size, &s, &part, &e), ERR_UNSUPPORTED);
        ck_assert_msg(strstr(e.msg, bad[i].says), "%s", e.msg);
        ck_assert_str_eq(e.param, "tensor-parallel-size");
    }
}
END_TEST

/* 160 columns: two ranks would cut the third block of 32 in halves. */
START_TEST(blocks_are_not_cut)
{
    struct err e = {0};
    struct model *m;
    struct group *g =
        group_open(GOLDEN_DATA "/qwen3", &(struct group_config){.size = 2, .quantization = "q8"});
    struct model_options o = {.comm = group_comm(g), .quantization = "q8"};
    ck_assert_int_ne(model_load(GOLDEN_DATA "/qwen3", group_backend(g), &o, &m, &e), 0);
    ck_assert_msg(strstr(e.msg, "--tensor-parallel-size 2") && strstr(e.msg, "mlp.down_proj") &&
                      strstr(e.msg, "columns 0 to 80 are not whole blocks of type Q8_0"),
                  "%s", e.msg);
    group_close(g, &e);
}
END_TEST

struct served {
    struct group *g;
    struct model *m;
    struct engine *en;
};

static void open_served(struct served *s)
{
    struct err e = {0};
    struct engine_config c;
    engine_config_init(&c);
    c.n_block = 512;
    c.n_rank = 2;
    s->g = group_open(GOLDEN_DATA "/qwen3", &(struct group_config){.size = 2, .isa = cpu_isa_detect()});
    ck_assert(!model_load(GOLDEN_DATA "/qwen3", group_backend(s->g),
                          &(struct model_options){.comm = group_comm(s->g)}, &s->m, &e));
    ck_assert_msg(!engine_open(s->m, group_pool(s->g), &c, NULL, &s->en, &e), "%s", e.msg);
}

static void close_served(struct served *s)
{
    struct err e = {0};
    engine_close(s->en);
    model_free(s->m);
    group_close(s->g, &e);
    ck_assert_msg(strstr(e.msg, "killed by the test"), "%s", e.msg);
}

static struct request *submit(struct served *s, int max_tokens)
{
    struct gen_params p;
    struct request *r;
    struct err e = {0};
    gen_params_init(&p);
    p.max_tokens = max_tokens;
    p.ignore_eos = true;
    ck_assert_int_eq(request_new((int32_t[]){1, 2, 3}, 3, &p, NULL, NULL, &r, NULL), 0);
    ck_assert_msg(!engine_submit(s->en, r, &e), "%s", e.msg);
    return r;
}

START_TEST(death_in_mid_stream)
{
    struct served s;
    struct out_batch out = {0};
    open_served(&s);
    struct request *r[3];
    for (int i = 0; i < 3; i++) r[i] = submit(&s, 2000);
    for (int n = 0; n < 5; n += out.n_tok) request_take(r[0], &out, -1);
    double start = clock_s();
    group_kill(s.g, 1);
    for (int i = 0; i < 3; i++) {
        do {
            request_take(r[i], &out, -1);
        } while (!out.done);
        ck_assert_int_eq(out.finish, FINISH_ERROR);
        ck_assert_msg(strstr(out.error.msg, "rank 1 gave up: killed by the test"), "%s", out.error.msg);
        request_release(r[i]);
    }
    ck_assert_double_lt(clock_s() - start, 5);
    ck_assert_int_eq(engine_state(s.en), ENGINE_FAILED);
    close_served(&s);
}
END_TEST

START_TEST(death_while_idle)
{
    struct served s;
    struct out_batch out = {0};
    open_served(&s);
    struct request *r = submit(&s, 5);
    do {
        request_take(r, &out, -1);
    } while (!out.done);
    ck_assert_int_eq(out.finish, FINISH_LENGTH);
    request_release(r);
    group_kill(s.g, 1);
    double start = clock_s();
    while (engine_state(s.en) != ENGINE_FAILED) ck_assert_double_lt(clock_s() - start, 5);
    close_served(&s);
}
END_TEST

int main(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    Suite *s = suite_create("ranks");
    TCase *t = tcase_create("ranks");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, shares_cover_the_model);
    tcase_add_test(t, refused_splits);
    tcase_add_test(t, blocks_are_not_cut);
    tcase_add_test(t, death_in_mid_stream);
    tcase_add_test(t, death_while_idle);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
