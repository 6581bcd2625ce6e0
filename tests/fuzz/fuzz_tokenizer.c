/* tokenizer.json (and, behind the first NUL byte, tokenizer_config.json) from hostile bytes: refused with a
 * message, or a tokenizer that encodes and decodes. */
#include <stdlib.h>
#include <string.h>
#include "gguf.h"
#include "tokenizer.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

static int load(const char *s, size_t size, struct tokenizer **t, struct err *e)
{
    if (size > 4 && !memcmp(s, "GGUF", 4)) {
        struct gguf *g = NULL;
        int status = gguf_parse(s, size, &g, e);
        if (status) return status;
        status = tok_load_gguf(g, t, e);
        gguf_close(g);
        return status;
    }
    const char *nul = size ? memchr(s, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - s) : size;
    return tok_parse_hf(s, n, nul ? nul + 1 : NULL, nul ? size - n - 1 : 0, t, e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "Hello  w\xc3\xb6rld 123\n\t<s> \xf0\x9f\xa6\x8a\xe2\x96\x81 \xff end";
    struct tokenizer *t = NULL;
    struct err e = {0};
    int status = load((const char *)data, size, &t, &e);
    check(status ? !t && e.code == status && e.msg[0] && utf8_valid(e.msg, strlen(e.msg)) : t != NULL);
    if (!t) return 0;
    struct vec_i32 ids = {0};
    struct buf out = {0};
    if (!tok_encode(t, text, sizeof text - 1, TOK_ADD_SPECIAL | TOK_PARSE_SPECIAL, &ids, &e))
        for (int i = 0; i < ids.n; i++) check(ids.v[i] >= 0 && ids.v[i] < tok_vocab(t));
    check(!tok_decode(t, ids.v, ids.n, false, &out) && utf8_valid(out.data ? out.data : "", out.len));
    check(tok_bos(t) < tok_vocab(t) && tok_eos(t) < tok_vocab(t));
    vec_i32_free(&ids);
    buf_free(&out);
    tok_free(t);
    return 0;
}
