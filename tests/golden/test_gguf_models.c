/* The GGUF path: golden models converted to GGUF must give the logits that the Hugging Face folder gives
 * (which test_golden compares with transformers), and nearly so when quantised. Also --dtype and dummy
 * weights. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "backend.h"
#include "common.h"
#include "file.h"
#include "gguf_write.h"
#include "log.h"
#include "rig.h"

static const char *const names[] = {"llama2", "llama3", "qwen2", "qwen3", "mistral",
                                    "gemma2", "gemma3", "phi3",  "olmo2", "granite"};
#define N_NAME (int)(sizeof names / sizeof *names)
#define N_TOK  40

static char dir[512], file[] = "/tmp/inferd-gguf-XXXXXX";

/* Logits [N_TOK][vocab] of a fixed text. The caller frees. */
static float *logits_of(const char *path, const struct model_options *o)
{
    struct rig g;
    struct err e = {0};
    int32_t tok[N_TOK];
    int seq = 0;
    float *part;
    ck_assert_msg(!rig_open(&g, path, ref_backend(), o, 1, 64, &e), "%s", e.msg);
    int vocab = g.m->arch.vocab;
    float *all = malloc((size_t)N_TOK * vocab * sizeof *all);
    for (int i = 0; i < N_TOK; i++) tok[i] = 3 + i * 37 % (vocab - 3);
    rig_start(&g, 0, tok, N_TOK);
    ck_assert_msg(!rig_step(&g, &seq, 1, N_TOK, N_TOK, &e), "%s", e.msg);
    for (int i = 0; i < N_TOK; i += 20) {
        ck_assert_msg(!runner_logits(g.r, i, 20, &part, &e), "%s", e.msg);
        memcpy(all + (size_t)i * vocab, part, (size_t)20 * vocab * sizeof *all);
    }
    rig_close(&g);
    return all;
}

/* Mean absolute difference of log-probabilities, over 1,024 entries of each position. */
static double distance(const float *a, const float *b, double *max)
{
    double sum = 0;
    *max = 0;
    for (int i = 0; i < N_TOK; i++)
        for (int k = 0; k < 1024; k += 73) {
            double d = fabs(log_prob(a + i * 1024, 1024, k) - log_prob(b + i * 1024, 1024, k));
            sum += d;
            *max = fmax(*max, d);
        }
    return sum / (N_TOK * 15);
}

static void compare(const char *name, enum dtype type, const struct model_options *o, double limit)
{
    struct err e = {0};
    double max;
    snprintf(dir, sizeof dir, "%s/%s", GOLDEN_DATA, name);
    float *want = logits_of(dir, &(struct model_options){0});
    ck_assert_msg(!gguf_convert(dir, file, type, &e), "%s", e.msg);
    float *got = logits_of(file, o);
    double mean = distance(want, got, &max);
    if (getenv("GOLDEN_VERBOSE"))
        printf("%-8s %-4s mean %.2g, max %.2g\n", name, dtype_info(type)->name, mean, max);
    ck_assert_msg(mean < limit, "%s as %s: mean %g, max %g", name, dtype_info(type)->name, mean, max);
    free(want);
    free(got);
}

START_TEST(test_convert)
{
    char tok[512];
    snprintf(tok, sizeof tok, "%s/%s", GOLDEN_DATA, names[_i]);
    compare(names[_i], DT_BF16, &(struct model_options){.tokenizer = tok}, 1e-5);
}
END_TEST

START_TEST(test_quantised)
{
    char tok[512];
    snprintf(tok, sizeof tok, "%s/%s", GOLDEN_DATA, names[_i]);
    compare(names[_i], DT_Q8_0, &(struct model_options){.tokenizer = tok}, 0.3);
}
END_TEST

START_TEST(test_dtype)
{
    compare("qwen3", DT_BF16, &(struct model_options){.tokenizer = GOLDEN_DATA "/qwen3", .dtype = "float32"},
            1e-6);
    compare("qwen3", DT_F32, &(struct model_options){.tokenizer = GOLDEN_DATA "/qwen3", .dtype = "bfloat16"},
            1e-6);
}
END_TEST

START_TEST(test_dummy)
{
    struct model_options o = {.dummy = true, .dummy_seed = 7}, other = {.dummy = true, .dummy_seed = 8};
    double max;
    float *a = logits_of(GOLDEN_DATA "/qwen3", &o), *b = logits_of(GOLDEN_DATA "/qwen3", &o),
          *c = logits_of(GOLDEN_DATA "/qwen3", &other);
    ck_assert_double_eq(distance(a, b, &max), 0);
    ck_assert_double_gt(distance(a, c, &max), 0.01);
    free(a);
    free(b);
    free(c);
}
END_TEST

static void write_file(const char *path, const void *head, size_t n_head, const void *tail, size_t n_tail)
{
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(head, n_head, 1, f) == 1 && (!n_tail || fwrite(tail, n_tail, 1, f) == 1) &&
              !fclose(f));
}

/* Gemma 3 as the multimodal releases wrap it: text_config around the sizes, a prefix before the tensors'
 * names, and an image part (here empty) that is left alone. */
START_TEST(test_wrapper)
{
    char tmp[] = "/tmp/inferd-wrapper-XXXXXX", path[2][512];
    struct buf config = {0}, all = {0}, header = {0};
    struct err e = {0};
    uint64_t len;
    double max;
    ck_assert_ptr_nonnull(mkdtemp(tmp));
    snprintf(path[0], sizeof path[0], "%s/config.json", tmp);
    snprintf(path[1], sizeof path[1], "%s/model.safetensors", tmp);
    ck_assert(!file_read(GOLDEN_DATA "/gemma3/config.json", 1 << 20, &config, &e));
    buf_str(&header, "{\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"text_config\":");
    buf_add(&header, config.data, config.len);
    buf_str(&header, "}");
    write_file(path[0], header.data, header.len, NULL, 0);

    ck_assert(!file_read(GOLDEN_DATA "/gemma3/model.safetensors", 8 << 20, &all, &e));
    memcpy(&len, all.data, 8);
    buf_clear(&header);
    buf_str(&header, "12345678{\"vision_tower.x\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},");
    for (const char *p = all.data + 9, *end = all.data + 8 + len; p < end; p++) {
        if (!strncmp(p, "\"model.", 7))
            buf_str(&header, "\"language_model.model."), p += 6;
        else
            buf_chr(&header, *p);
    }
    uint64_t new_len = header.len - 8;
    memcpy(header.data, &new_len, 8);
    write_file(path[1], header.data, header.len, all.data + 8 + len, all.len - 8 - (size_t)len);

    float *want = logits_of(GOLDEN_DATA "/gemma3", &(struct model_options){0});
    float *got = logits_of(tmp, &(struct model_options){.tokenizer = GOLDEN_DATA "/gemma3"});
    ck_assert_double_eq(distance(want, got, &max), 0);
    free(want);
    free(got);
    buf_free(&config);
    buf_free(&all);
    buf_free(&header);
    for (int i = 0; i < 2; i++) unlink(path[i]);
    rmdir(tmp);
}
END_TEST

START_TEST(test_metadata_only)
{
    struct err e = {0};
    struct model *m;
    struct buf card = {0};
    snprintf(dir, sizeof dir, "%s/%s", GOLDEN_DATA, names[_i]);
    ck_assert_msg(!model_load(dir, NULL, &(struct model_options){.metadata_only = true}, &m, &e), "%s",
                  e.msg);
    model_card(m, &card);
    ck_assert_ptr_nonnull(strstr(card.data, names[_i]));
    ck_assert_ptr_null(m->embed);
    buf_free(&card);
    model_free(m);
}
END_TEST

START_TEST(test_cancel)
{
    int cancel = 1;
    struct err e = {0};
    struct model *m;
    ck_assert_int_eq(
        model_load(GOLDEN_DATA "/llama3", ref_backend(), &(struct model_options){.cancel = &cancel}, &m, &e),
        ERR_CLOSED);
    ck_assert_ptr_null(m);
}
END_TEST

int main(void)
{
    int fd = mkstemp(file);
    if (fd < 0) return 1;
    close(fd);
    log_setup(LOG_WARN, LOG_TEXT);
    Suite *s = suite_create("gguf models");
    TCase *t = tcase_create("models");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, test_convert, 0, N_NAME);
    tcase_add_loop_test(t, test_quantised, 0, N_NAME);
    tcase_add_test(t, test_dtype);
    tcase_add_test(t, test_dummy);
    tcase_add_test(t, test_wrapper);
    tcase_add_loop_test(t, test_metadata_only, 0, N_NAME);
    tcase_add_test(t, test_cancel);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    unlink(file);
    return failed != 0;
}
