/* Good tokenizers and arbitrary bytes. Byte-level ones give back the text (its faults as U+FFFD); all give
 * ids in range, the same ids twice, and a stream that equals the whole. First byte: which tokenizer, and
 * flags. FUZZ_TOKENIZERS is the folder with the files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "file.h"
#include "tokenizer.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

static const struct {
    const char *file;
    bool lossless; /* byte-level, no normalizer, nothing added or stripped */
} model[] = {{"gpt2", true},     {"llama3", true},   {"deepseek3", true}, {"tekken", true},
             {"gpt4o", true},    {"falcon", true},   {"qwen2", false},    {"llama2", false},
             {"phi3", false},    {"gemma", false},   {"lower", false},    {"punct", false},
             {"mistral", false}, {"replace", false}, {"bytenorm", false}, {"metaspace", false}};
enum { N_MODEL = sizeof model / sizeof *model };

static const struct tokenizer *get(unsigned i)
{
    static struct tokenizer *loaded[N_MODEL];
    if (loaded[i]) return loaded[i];
    struct buf path = {0}, json = {0};
    struct err e = {0};
    buf_fmt(&path, "%s/%s.tokenizer.json", FUZZ_TOKENIZERS, model[i].file);
    if (file_read(path.data, 1 << 24, &json, &e) ||
        tok_parse_hf(json.data, json.len, NULL, 0, &loaded[i], &e)) {
        fprintf(stderr, "%s\n", e.msg);
        abort();
    }
    buf_free(&path);
    buf_free(&json);
    return loaded[i];
}

static void check_stream(const struct tokenizer *t, const struct vec_i32 *ids, bool skip,
                         const struct buf *whole)
{
    struct tok_stream st = {0};
    struct buf raw = {0}, clean = {0};
    for (int i = 0; i < ids->n; i++) tok_stream_push(t, &st, ids->v[i], skip, &raw);
    if (raw.len) utf8_clean(&clean, raw.data, raw.len);
    check(clean.len == whole->len && (!clean.len || !memcmp(clean.data, whole->data, clean.len)));
    buf_free(&raw);
    buf_free(&clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    unsigned which = (data[0] & 63) % N_MODEL, flags = data[0] >> 6;
    const char *s = (const char *)data + 1;
    const struct tokenizer *t = get(which);
    struct vec_i32 ids = {0}, again = {0};
    struct buf out = {0}, clean = {0};
    struct err e = {0};
    check(!tok_encode(t, s, size - 1, flags, &ids, &e) && !tok_encode(t, s, size - 1, flags, &again, &e));
    check(ids.n == again.n && (size_t)ids.n >= tok_min_ids(t, size - 1));
    for (int i = 0; i < ids.n; i++) check(ids.v[i] == again.v[i] && tok_token(t, ids.v[i], &(size_t){0}));
    check(!tok_decode(t, ids.v, ids.n, false, &out));
    check_stream(t, &ids, false, &out);
    if (model[which].lossless && !(flags & TOK_ADD_SPECIAL)) {
        if (size > 1) utf8_clean(&clean, s, size - 1);
        check(clean.len == out.len && (!out.len || !memcmp(clean.data, out.data, out.len)));
    }
    /* The bytes themselves as ids: any sequence decodes, cut anywhere. */
    ids.n = 0;
    for (size_t i = 0; i + 1 < size - 1; i += 2)
        check(
            !vec_i32_push(&ids, (int)(((unsigned)(unsigned char)s[i] << 8 | (unsigned char)s[i + 1]) % 500)));
    for (int skip = 0; skip < 2; skip++) {
        buf_clear(&out);
        check(!tok_decode(t, ids.v, ids.n, skip, &out) && utf8_valid(out.data ? out.data : "", out.len));
        check_stream(t, &ids, skip, &out);
    }
    vec_i32_free(&ids);
    vec_i32_free(&again);
    buf_free(&out);
    buf_free(&clean);
    return 0;
}
