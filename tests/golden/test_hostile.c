/* Damaged model files, whole loads: each must be refused with a message that names file and fault, or load
 * and serve; never crash, hang or read out of bounds (run under sanitizers, it proves more). */
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

#define ROUNDS 300
static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json",
                                    "tokenizer_config.json"};
static char dir[] = "/tmp/inferd-hostile-XXXXXX";

static const char *in_dir(const char *file)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return path;
}

static void write_file(const char *file, const void *data, size_t n)
{
    unlink(in_dir(file)); /* it may be a link into the golden data */
    FILE *f = fopen(in_dir(file), "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert((!n || fwrite(data, n, 1, f) == 1) && !fclose(f));
}

static void link_golden(void)
{
    char target[512];
    for (int i = 0; i < 4; i++) {
        snprintf(target, sizeof target, "%s/qwen2/%s", GOLDEN_DATA, files[i]);
        unlink(in_dir(files[i]));
        ck_assert_int_eq(symlink(target, in_dir(files[i])), 0);
    }
}

static void read_file(const char *path, struct buf *b)
{
    struct err e = {0};
    ck_assert_msg(!file_read(path, 64u << 20, b, &e), "%s", e.msg);
}

/* Loads, and if that succeeds, serves. Returns whether it loaded. */
static bool try_model(const char *path, const char *tokenizer, struct err *e)
{
    struct rig g;
    int seq = 0;
    float *logits;
    *e = (struct err){0};
    int rc = rig_open(&g, path, ref_backend(), &(struct model_options){.tokenizer = tokenizer}, 1, 32, e);
    for (int i = 0; !rc && i < 5; i++) {
        rig_start(&g, 0, (int32_t[]){1, 0, 3}, 3);
        ck_assert_msg(!rig_step(&g, &seq, 1, 3, 1, e), "%s", e->msg);
        ck_assert_msg(!runner_logits(g.r, 0, 1, &logits, e), "%s", e->msg);
    }
    ck_assert(rc == 0 || e->msg[0]);
    rig_close(&g);
    return rc == 0;
}

static void expect(const char *path, const char *message)
{
    struct err e;
    ck_assert(!try_model(path, NULL, &e));
    ck_assert_msg(strstr(e.msg, dir) && strstr(e.msg, message), "'%s' does not name the file and '%s'", e.msg,
                  message);
}

START_TEST(test_files)
{
    static const struct {
        const char *file, *text, *message;
    } cases[] = {{"config.json", "", "config.json"},
                 {"config.json", "{", "config.json"},
                 {"config.json", "[]", "architectures"},
                 {"config.json", "{}", "architectures"},
                 {"config.json", "{\"architectures\":[\"Qwen2ForCausalLM\"]}", "num_hidden_layers"},
                 {"model.safetensors", "", "model.safetensors"},
                 {"model.safetensors", "short", "model.safetensors"},
                 {"tokenizer.json", "", "tokenizer.json"},
                 {"tokenizer.json", "{}", "tokenizer.json"},
                 {"generation_config.json", "{\"temperature\":\"hot\"}", "temperature"},
                 {"generation_config.json", "{\"top_p\":7}", "top_p"},
                 {"generation_config.json", "{\"eos_token_id\":[1,9999]}", "eos_token_id"},
                 {"generation_config.json", "nonsense", "generation_config.json"},
                 {"chat_template.jinja", "\xff\xfe", "chat_template.jinja"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        link_golden();
        write_file(cases[i].file, cases[i].text, strlen(cases[i].text));
        expect(dir, cases[i].message);
        unlink(in_dir(cases[i].file));
    }
    for (int i = 0; i < 3; i++) { /* missing */
        link_golden();
        unlink(in_dir(files[i]));
        expect(dir, files[i]);
    }
    link_golden();
    expect(in_dir("nothing-there"), "no such file");
    expect(in_dir("config.json"), "magic"); /* a file, but no GGUF */
}
END_TEST

/* Configurations that are fine by themselves, but not with these tensors. */
START_TEST(test_mismatch)
{
    static const struct {
        const char *key;
        double value;
        const char *message;
    } cases[] = {{"num_hidden_layers", 3, "model.layers.3."},
                 {"num_hidden_layers", 5, "model.layers.4."},
                 {"hidden_size", 128, "shape"},
                 {"intermediate_size", 96, "shape"},
                 {"vocab_size", 1023, "shape"},
                 {"vocab_size", 2048, "shape"},
                 {"num_key_value_heads", 4, "k_proj"},
                 {"num_attention_heads", 4, "k_proj"}};
    struct buf b = {0};
    read_file(GOLDEN_DATA "/qwen2/config.json", &b);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cJSON *j = cJSON_Parse(b.data);
        cJSON_ReplaceItemInObjectCaseSensitive(j, cases[i].key, cJSON_CreateNumber(cases[i].value));
        cJSON_DeleteItemFromObjectCaseSensitive(j, "layer_types");
        char *text = cJSON_PrintUnformatted(j);
        link_golden();
        write_file("config.json", text, strlen(text));
        expect(dir, cases[i].message);
        free(text);
        cJSON_Delete(j);
    }
    buf_free(&b);
}
END_TEST

/* One or two random bytes of the first n change. */
static void damage(const struct buf *b, size_t n, unsigned *rng, const char *file)
{
    char *copy = malloc(b->len);
    memcpy(copy, b->data, b->len);
    for (unsigned k = 0; k < 1 + *rng % 2; k++) {
        *rng = *rng * 1664525u + 1013904223u;
        copy[(*rng >> 8) % n] = (char)(*rng >> 3);
    }
    *rng = *rng * 1664525u + 1013904223u;
    write_file(file, copy, b->len);
    free(copy);
}

START_TEST(test_flip_folder)
{
    static const struct {
        const char *file;
        size_t n;
    } where[] = {{"config.json", 0}, {"model.safetensors", 4096}};
    unsigned rng = 7, loaded = 0;
    struct err e;
    for (int w = 0; w < 2; w++) {
        struct buf b = {0};
        link_golden();
        read_file(in_dir(where[w].file), &b);
        for (int i = 0; i < ROUNDS; i++) {
            damage(&b, where[w].n ? where[w].n : b.len, &rng, where[w].file);
            loaded += try_model(dir, NULL, &e);
        }
        buf_free(&b);
    }
    ck_assert_uint_gt(loaded, 0);
    ck_assert_uint_lt(loaded, 2 * ROUNDS);
}
END_TEST

START_TEST(test_flip_gguf)
{
    unsigned rng = 7, loaded = 0;
    struct err e = {0};
    struct buf b = {0};
    const char *tokenizer = GOLDEN_DATA "/gemma3";
    ck_assert_msg(!gguf_convert(GOLDEN_DATA "/gemma3", in_dir("m.gguf"), DT_Q8_0, &e), "%s", e.msg);
    read_file(in_dir("m.gguf"), &b);
    ck_assert(try_model(in_dir("m.gguf"), tokenizer, &e));
    for (int i = 0; i < ROUNDS; i++) {
        damage(&b, 4096, &rng, "m.gguf");
        loaded += try_model(in_dir("m.gguf"), tokenizer, &e);
    }
    ck_assert_uint_gt(loaded, 0);
    ck_assert_uint_lt(loaded, ROUNDS);
    for (size_t n = 1; n < b.len; n += b.len / 40) { /* cut short */
        write_file("m.gguf", b.data, n);
        ck_assert(!try_model(in_dir("m.gguf"), tokenizer, &e));
        ck_assert_ptr_nonnull(strstr(e.msg, "m.gguf"));
    }
    buf_free(&b);
}
END_TEST

static void setup(void)
{
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
    for (int i = 0; i < 4; i++) unlink(in_dir(files[i]));
    unlink(in_dir("m.gguf"));
    unlink(in_dir("generation_config.json"));
    unlink(in_dir("chat_template.jinja"));
    rmdir(dir);
}

int main(void)
{
    log_setup(LOG_WARN, LOG_TEXT);
    Suite *s = suite_create("hostile model files");
    TCase *t = tcase_create("hostile");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_files);
    tcase_add_test(t, test_mismatch);
    tcase_add_test(t, test_flip_folder);
    tcase_add_test(t, test_flip_gguf);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
