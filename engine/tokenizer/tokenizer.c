#include "tok.h"
#include <stdlib.h>
#include <string.h>
#include "utf8.h"

struct tokenizer *tok_new(int n_id, struct err *e)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (t) {
        t->bos = t->eos = t->bpe.unk = -1;
        t->special = calloc((size_t)n_id + 1, 1);
        if (t->special && !dict_init(&t->bpe.vocab, n_id) && !pairs_init(&t->bpe.merges)) return t;
    }
    tok_free(t);
    err_set(e, ERR_NOMEM, "out of memory");
    return NULL;
}

void tok_free(struct tokenizer *t)
{
    if (!t) return;
    bpe_free(&t->bpe);
    dict_free(&t->added_name);
    matcher_free(&t->raw);
    matcher_free(&t->normal);
    ops_free(&t->normalizer);
    ops_free(&t->pre);
    decoder_free(&t->decoder);
    free(t->added);
    free(t->special);
    free(t->literal);
    free(t);
}

int tok_vocab(const struct tokenizer *t) { return t->bpe.vocab.n_id; }
int tok_bos(const struct tokenizer *t) { return t->bos; }
int tok_eos(const struct tokenizer *t) { return t->eos; }

int tok_eog(const struct tokenizer *t, int32_t *out, int max)
{
    int n = t->n_eog < max ? t->n_eog : max;
    for (int i = 0; i < n; i++) out[i] = t->eog[i];
    return n > 0 ? n : 0;
}

bool tok_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->bpe.vocab.n_id && t->special[id];
}

int32_t tok_find(const struct tokenizer *t, const char *piece, size_t n)
{
    int32_t index = dict_find(&t->added_name, piece, n);
    return index >= 0 ? t->added[index].id : dict_find(&t->bpe.vocab, piece, n);
}

const char *tok_token(const struct tokenizer *t, int32_t id, size_t *n)
{
    return dict_get(&t->bpe.vocab, id, n);
}

/* Runs the normalizers alone over one string. */
static int normalize_name(const struct tokenizer *t, const char *s, size_t n, struct buf *out, struct err *e)
{
    struct work w = {0};
    int status = 0;
    buf_add(&w.a.bytes, s, n);
    if (w.a.bytes.failed || text_push(&w.a, 0, n, SPAN_FIRST))
        status = err_set(e, ERR_NOMEM, "out of memory");
    if (!status) status = ops_run(&t->normalizer, &w, e);
    if (!status) buf_add(out, w.a.bytes.data, w.a.bytes.len);
    work_free(&w);
    return status ? status : out->failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

bool tok_normalized_name(const struct tokenizer *t, int32_t id, struct buf *out)
{
    size_t n;
    const char *s = dict_get(&t->bpe.vocab, id, &n);
    int32_t index = s ? dict_find(&t->added_name, s, n) : -1;
    if (index < 0 || t->added[index].id != id || !t->added[index].normalized) return false;
    return !normalize_name(t, s, n, out, NULL);
}

static int add_matcher(struct tokenizer *t, int32_t index, struct err *e)
{
    struct buf name = {0};
    size_t n;
    const char *s = dict_get(&t->added_name, index, &n);
    int status = 0;
    bool normal = t->added[index].normalized;
    if (normal) {
        status = normalize_name(t, s, n, &name, e);
        if (name.len != n || memcmp(name.data, s, n)) t->normalized_name = true;
        s = name.data;
        n = name.len;
    }
    if (!status && n) {
        status = matcher_add(normal ? &t->normal : &t->raw, s, n, index);
        if (status == ERR_FULL)
            status = err_set(e, ERR_FORMAT, "added_tokens: id %d has the same text as another",
                             t->added[index].id);
        else if (status)
            err_set(e, status, "out of memory");
    }
    buf_free(&name);
    return status;
}

int tok_add(struct tokenizer *t, struct added a, const char *s, size_t n, struct err *e)
{
    size_t n_old;
    const char *old = dict_get(&t->bpe.vocab, a.id, &n_old);
    int32_t known = dict_find(&t->bpe.vocab, s, n);
    if ((old && (n_old != n || memcmp(old, s, n))) || (known >= 0 && known != a.id))
        return err_param(e, ERR_FORMAT, "added_tokens", "added_tokens: id %d contradicts the vocabulary",
                         a.id);
    int status = old ? 0 : dict_name(&t->bpe.vocab, a.id, s, n);
    if (!status) status = dict_put(&t->added_name, t->n_added, s, n);
    if (status == ERR_FULL)
        return err_param(e, ERR_FORMAT, "added_tokens", "added_tokens: id %d has the text of another", a.id);
    if (status) return err_set(e, ERR_NOMEM, "out of memory");
    t->added[t->n_added++] = a;
    return 0;
}

/* Names under which published models end an answer; they count if they are added tokens. */
static const char *const eog_names[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<EOT>",
    "<|eot|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<|endofturn|>",
    "<turn|>",
    "[|endofturn|]",
};

static void add_eog(struct tokenizer *t, int32_t id)
{
    for (int i = 0; i < t->n_eog; i++)
        if (t->eog[i] == id) return;
    if (id >= 0 && t->n_eog < TOK_MAX_EOG) t->eog[t->n_eog++] = id;
}

static void find_eog(struct tokenizer *t)
{
    add_eog(t, t->eos);
    bool harmony =
        dict_find(&t->added_name, "<|return|>", 10) >= 0 && dict_find(&t->added_name, "<|call|>", 8) >= 0;
    for (size_t i = 0; i < sizeof eog_names / sizeof *eog_names; i++) {
        const char *s = eog_names[i];
        int32_t index = dict_find(&t->added_name, s, strlen(s));
        /* In gpt-oss's format <|end|> only closes a message: the answer goes on in another channel. */
        if (index >= 0 && !(harmony && !strcmp(s, "<|end|>"))) add_eog(t, t->added[index].id);
    }
}

static bool may_drop(const struct ops *o)
{
    for (int i = 0; i < o->n; i++) {
        const struct op *op = &o->v[i];
        if (op->kind == OP_STRIP || op->kind == OP_ACCENTS) return true;
        if (op->kind == OP_SPLIT && op->behaviour == SPLIT_REMOVED) return true;
        if (op->kind == OP_REPLACE && (op->pattern.code || op->with.len < op->pattern.literal.len))
            return true;
    }
    return false;
}

/* Every byte of text ends up in some id unless a step drops it, unknown characters fuse or vanish, or an
 * added token takes the white space around it. Normal forms and lower case make at least 1 byte of 4. */
static void find_longest(struct tokenizer *t)
{
    bool bytes = t->bpe.rank || t->bpe.byte_fallback;
    for (int b = 0; b < 256; b++) {
        struct buf c = {0};
        uni_bytes_encode(&(char){(char)b}, 1, &c);
        bool alphabet = t->pre.n && t->pre.v[t->pre.n - 1].kind == OP_BYTES && c.len &&
                        dict_find(&t->bpe.vocab, c.data, c.len) >= 0;
        buf_free(&c);
        if (!(bytes && t->bpe.byte_id[b] >= 0) && !alphabet) return;
    }
    if (t->normalized_name || may_drop(&t->normalizer) || may_drop(&t->pre)) return;
    for (int i = 0; i < t->n_added; i++)
        if (t->added[i].lstrip || t->added[i].rstrip) return;
    size_t longest = 1, n;
    for (int32_t id = 0; id < t->bpe.vocab.n_id; id++)
        if (dict_get(&t->bpe.vocab, id, &n) && n > longest) longest = n;
    for (int i = 0; i < t->normalizer.n; i++)
        if (t->normalizer.v[i].kind == OP_NORMAL_FORM || t->normalizer.v[i].kind == OP_LOWER) longest *= 4;
    t->longest = longest;
}

size_t tok_min_ids(const struct tokenizer *t, size_t n) { return t->longest ? n / t->longest : 0; }

int tok_finish(struct tokenizer *t, struct err *e)
{
    if (bpe_index(&t->bpe) || matcher_init(&t->raw) || matcher_init(&t->normal))
        return err_set(e, ERR_NOMEM, "out of memory");
    for (int i = 0; i < t->n_added; i++) {
        int status = add_matcher(t, i, e);
        if (status) return status;
        if (t->added[i].special) t->special[t->added[i].id] = 1;
    }
    find_eog(t);
    find_longest(t);
    for (int i = 0; i < t->decoder.n_op; i++)
        if (t->decoder.op[i].kind == DEC_METASPACE && t->decoder.op[i].first) t->decoder.first_differs = true;
    return tok_index_decoder(t) ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

struct op *ops_add(struct ops *o, enum op_kind kind, struct err *e)
{
    if (o->n == MAX_OPS) {
        err_set(e, ERR_UNSUPPORTED, "more than %d steps", MAX_OPS);
        return NULL;
    }
    o->v[o->n] = (struct op){.kind = kind};
    return &o->v[o->n++];
}

int ops_add_split(struct ops *o, const char *regex, size_t n, enum op_behaviour b, bool invert, struct err *e)
{
    struct op *op = ops_add(o, OP_SPLIT, e);
    if (!op) return ERR_UNSUPPORTED;
    op->behaviour = b;
    op->invert = invert;
    return pattern_regex(&op->pattern, regex, n, e);
}

int ops_add_class(struct ops *o, char_class *is, enum op_behaviour b, struct err *e)
{
    struct op *op = ops_add(o, OP_SPLIT, e);
    if (!op) return ERR_UNSUPPORTED;
    op->behaviour = b;
    op->pattern.is = is;
    return 0;
}

int ops_add_with(struct ops *o, enum op_kind kind, enum op_when when, const char *s, size_t n, struct err *e)
{
    struct op *op = ops_add(o, kind, e);
    if (!op) return ERR_UNSUPPORTED;
    op->when = when;
    buf_add(&op->with, s, n);
    return op->with.failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

int ops_add_replace(struct ops *o, const char *from, size_t n_from, const char *to, size_t n_to,
                    struct err *e)
{
    int status = ops_add_with(o, OP_REPLACE, WHEN_ALWAYS, to, n_to, e);
    return status ? status : pattern_literal(&o->v[o->n - 1].pattern, from, n_from, e);
}

static int encode_spans(const struct tokenizer *t, const struct text *text, struct vec_i32 *out)
{
    struct bpe_work bw;
    bpe_work_init(&bw, text->bytes.len);
    int status = 0;
    for (size_t i = 0; i < text->n && !status; i++) {
        const struct span *sp = &text->v[i];
        status = sp->id >= 0 ? vec_i32_push(out, sp->id)
                             : bpe_encode(&t->bpe, &bw, text->bytes.data + sp->off, sp->len, out);
    }
    bpe_work_free(&bw);
    return status;
}

static int push_all(struct vec_i32 *out, const int32_t *v, int n)
{
    for (int i = 0; i < n; i++)
        if (vec_i32_push(out, v[i])) return ERR_NOMEM;
    return 0;
}

int tok_encode(const struct tokenizer *t, const char *s, size_t n, unsigned flags, struct vec_i32 *out,
               struct err *e)
{
    enum { MAX_TEXT = 1 << 28 }; /* offsets are 32 bits, and a character may grow on the way */
    if (n > MAX_TEXT) return err_set(e, ERR_TOO_LONG, "text longer than %d bytes", MAX_TEXT);
    struct work w = {0};
    int status = 0;
    if (n) utf8_clean(&w.a.bytes, s, n);
    bool special = flags & TOK_ADD_SPECIAL;
    if (w.a.bytes.failed || text_push(&w.a, 0, w.a.bytes.len, SPAN_FIRST) ||
        (special && push_all(out, t->prefix, t->n_prefix)))
        status = err_set(e, ERR_NOMEM, "out of memory");
    bool parse = flags & TOK_PARSE_SPECIAL;
    if (!status) status = matcher_cut(&t->raw, t->added, parse, &w, e);
    if (!status) status = ops_run(&t->normalizer, &w, e);
    if (!status) status = matcher_cut(&t->normal, t->added, parse, &w, e);
    if (!status) status = ops_run(&t->pre, &w, e);
    if (!status && (encode_spans(t, &w.a, out) || (special && push_all(out, t->suffix, t->n_suffix))))
        status = err_set(e, ERR_NOMEM, "out of memory");
    work_free(&w);
    return status;
}
