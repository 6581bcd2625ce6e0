/* The parts of tokenizer.json that become operations: normalizer, pre_tokenizer, decoder, post_processor.
 * Anything that would not be done exactly is refused by name. */
#include "hf.h"
#include <string.h>
#include "utf8.h"

enum { MAX_NEST = 8 };

/* An element of tokenizer.json and the key it stands under, for messages. */
static int bad(const char *key, struct err *e, const char *what)
{
    return err_param(e, ERR_FORMAT, key, "%s: %s", key, what);
}

static int unsupported(const char *key, const char *what, const char *type, struct err *e)
{
    char name[40] = "";
    for (size_t i = 0; i < sizeof name - 1 && type[i]; i++)
        name[i] = type[i] < ' ' || type[i] > '~' ? '?' : type[i];
    return err_param(e, ERR_UNSUPPORTED, key, "%s: %s \"%s\" is not supported", key, what, name);
}

static bool flag(const cJSON *o, const char *name, bool absent)
{
    const cJSON *v = json_get(o, name);
    return cJSON_IsBool(v) ? cJSON_IsTrue(v) : absent;
}

/* String member as bytes; false if it is no string. */
static bool text(const cJSON *o, const char *name, struct buf *out)
{
    const cJSON *v = json_get(o, name);
    if (!cJSON_IsString(v)) return false;
    json_str(v, out);
    return true;
}

/* "pattern": {"String": s} or {"Regex": s} */
static int read_pattern(const cJSON *o, const char *key, struct pattern *p, struct err *e)
{
    const cJSON *pattern = json_get(o, "pattern");
    struct buf s = {0};
    int status;
    if (text(pattern, "String", &s)) {
        status = pattern_literal(p, s.data, s.len, e);
    } else if (text(pattern, "Regex", &s)) {
        status = pattern_regex(p, s.data, s.len, e);
    } else {
        status = err_set(e, ERR_FORMAT, "needs {\"String\": ...} or {\"Regex\": ...}");
    }
    if (status) {
        err_prefix(e, "%s.pattern", key);
        if (e) snprintf(e->param, sizeof e->param, "%s.pattern", key);
    }
    buf_free(&s);
    return status;
}

static int read_behaviour(const cJSON *o, const char *key, enum op_behaviour *out, struct err *e)
{
    static const char *const name[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                       "Contiguous"};
    const char *s = json_get_cstr(o, "behavior");
    for (int i = 0; s && i < 5; i++)
        if (!strcmp(s, name[i])) {
            *out = (enum op_behaviour)i;
            return 0;
        }
    return bad(key, e, "unknown split behavior");
}

static int read_replace(const cJSON *o, const char *key, struct ops *ops, struct err *e)
{
    struct op *op = ops_add(ops, OP_REPLACE, e);
    if (!op) return ERR_UNSUPPORTED;
    if (!text(o, "content", &op->with)) return bad(key, e, "Replace needs a content");
    return read_pattern(o, key, &op->pattern, e);
}

static int read_normalizer_one(const cJSON *o, const char *type, struct ops *ops, struct err *e)
{
    static const char key[] = "normalizer";
    static const char *const form[] = {"NFC", "NFD", "NFKC", "NFKD"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(type, form[i])) {
            struct op *op = ops_add(ops, OP_NORMAL_FORM, e);
            if (op) op->form = (enum uni_form)i;
            return op ? 0 : ERR_UNSUPPORTED;
        }
    if (!strcmp(type, "Lowercase")) return ops_add(ops, OP_LOWER, e) ? 0 : ERR_UNSUPPORTED;
    if (!strcmp(type, "StripAccents")) return ops_add(ops, OP_ACCENTS, e) ? 0 : ERR_UNSUPPORTED;
    if (!strcmp(type, "ByteLevel")) return ops_add(ops, OP_BYTES, e) ? 0 : ERR_UNSUPPORTED;
    if (!strcmp(type, "Replace")) return read_replace(o, key, ops, e);
    if (!strcmp(type, "Strip")) {
        struct op *op = ops_add(ops, OP_STRIP, e);
        if (!op) return ERR_UNSUPPORTED;
        op->left = flag(o, "strip_left", false);
        op->right = flag(o, "strip_right", false);
        return 0;
    }
    if (!strcmp(type, "Prepend")) {
        struct op *op = ops_add(ops, OP_PREPEND, e);
        if (!op) return ERR_UNSUPPORTED;
        return text(o, "prepend", &op->with) ? 0 : bad(key, e, "Prepend needs a prepend");
    }
    return unsupported(key, "type", type, e);
}

static int read_byte_level(const cJSON *o, struct ops *ops, struct err *e)
{
    int status = 0;
    if (flag(o, "add_prefix_space", true)) status = ops_add_with(ops, OP_PREPEND, WHEN_LACKING, " ", 1, e);
    if (!status && flag(o, "use_regex", true))
        status = ops_add_split(ops, GPT2_PATTERN, sizeof GPT2_PATTERN - 1, SPLIT_ISOLATED, false, e);
    if (status) return status;
    return ops_add(ops, OP_BYTES, e) ? 0 : ERR_UNSUPPORTED;
}

/* replacement, and the scheme in its new and its old spelling. */
static int read_metaspace(const cJSON *o, const char *key, struct buf *mark, enum op_when *when, bool *never,
                          struct err *e)
{
    const char *scheme = json_get_cstr(o, "prepend_scheme");
    *never = false;
    *when = WHEN_LACKING;
    if (!text(o, "replacement", mark) || !mark->len) return bad(key, e, "Metaspace needs a replacement");
    uint32_t cp;
    if (utf8_next(mark->data, mark->len, &cp) != (int)mark->len)
        return bad(key, e, "replacement is not one character");
    if (scheme && !strcmp(scheme, "first")) {
        *when = WHEN_FIRST_LACKING;
    } else if (scheme && !strcmp(scheme, "never")) {
        *never = true;
    } else if (scheme && strcmp(scheme, "always")) {
        return bad(key, e, "unknown prepend_scheme");
    }
    if (!flag(o, "add_prefix_space", true)) {
        if (!*never && scheme) return bad(key, e, "add_prefix_space contradicts prepend_scheme");
        *never = true;
    }
    return 0;
}

static int read_pre_metaspace(const cJSON *o, struct ops *ops, struct err *e)
{
    struct buf mark = {0};
    enum op_when when;
    bool never;
    int status = read_metaspace(o, "pre_tokenizer", &mark, &when, &never, e);
    if (!status) status = ops_add_replace(ops, " ", 1, mark.data, mark.len, e);
    if (!status && !never) status = ops_add_with(ops, OP_PREPEND, when, mark.data, mark.len, e);
    if (!status && flag(o, "split", true)) {
        struct op *op = ops_add(ops, OP_SPLIT, e);
        status = op ? pattern_literal(&op->pattern, mark.data, mark.len, e) : ERR_UNSUPPORTED;
        if (op) op->behaviour = SPLIT_NEXT;
    }
    buf_free(&mark);
    return status;
}

static int read_pre_one(const cJSON *o, const char *type, struct ops *ops, struct err *e)
{
    static const char key[] = "pre_tokenizer";
    enum op_behaviour b = SPLIT_ISOLATED;
    if (!strcmp(type, "ByteLevel")) return read_byte_level(o, ops, e);
    if (!strcmp(type, "Metaspace")) return read_pre_metaspace(o, ops, e);
    if (!strcmp(type, "WhitespaceSplit")) return ops_add_class(ops, uni_is_space, SPLIT_REMOVED, e);
    if (!strcmp(type, "Whitespace")) {
        /* \w and \W of the regex crate: Alphabetic, M, Nd, Pc and the joiners. */
#define RUST_WORD                                                                                            \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-" \
    "\\x{1f169}"                                                                                             \
    "\\x{1f170}-\\x{1f189}"
        static const char words[] = "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+";
        return ops_add_split(ops, words, sizeof words - 1, SPLIT_REMOVED, true, e);
    }
    if (!strcmp(type, "Digits"))
        return ops_add_class(ops, uni_is_numeric,
                             flag(o, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, e);
    if (!strcmp(type, "Punctuation")) {
        int status = json_get(o, "behavior") ? read_behaviour(o, key, &b, e) : 0;
        return status ? status : ops_add_class(ops, uni_is_punct, b, e);
    }
    if (!strcmp(type, "Split")) {
        int status = read_behaviour(o, key, &b, e);
        struct op *op = status ? NULL : ops_add(ops, OP_SPLIT, e);
        if (!op) return status ? status : ERR_UNSUPPORTED;
        op->behaviour = b;
        op->invert = flag(o, "invert", false);
        return read_pattern(o, key, &op->pattern, e);
    }
    return unsupported(key, "type", type, e);
}

/* Walks a step or a (nested) Sequence of steps in order. */
typedef int read_one(const cJSON *o, const char *type, void *into, struct err *e);
static int read_steps(const cJSON *o, const char *key, const char *list, read_one *one, void *into, int depth,
                      struct err *e)
{
    const char *type = json_get_cstr(o, "type");
    if (!type) return bad(key, e, "needs a type");
    if (strcmp(type, "Sequence")) return one(o, type, into, e);
    if (depth == MAX_NEST) return bad(key, e, "nested too deeply");
    const cJSON *steps = json_get(o, list), *step;
    if (!cJSON_IsArray(steps)) return bad(key, e, "Sequence without a list");
    int status = 0;
    cJSON_ArrayForEach(step, steps)
    {
        status = read_steps(step, key, list, one, into, depth + 1, e);
        if (status) return status;
    }
    return 0;
}

static int one_normalizer(const cJSON *o, const char *type, void *into, struct err *e)
{
    return read_normalizer_one(o, type, into, e);
}
static int one_pre(const cJSON *o, const char *type, void *into, struct err *e)
{
    return read_pre_one(o, type, into, e);
}

int hf_read_normalizer(const cJSON *o, struct tokenizer *t, struct err *e)
{
    return o ? read_steps(o, "normalizer", "normalizers", one_normalizer, &t->normalizer, 0, e) : 0;
}

int hf_read_pre_tokenizer(const cJSON *o, struct tokenizer *t, struct err *e)
{
    return o ? read_steps(o, "pre_tokenizer", "pretokenizers", one_pre, &t->pre, 0, e) : 0;
}

/* Decoder steps. `fused`: the tokens are one text by now; `bytes`: byte tokens are resolved. */
struct dec_reader {
    struct decoder *d;
    bool fused, bytes;
};

static int read_dec_strip(const cJSON *o, struct dec_reader *r, struct dec_op *op, struct err *e)
{
    int64_t start = 0, stop = 0;
    struct err local = {0};
    json_get_int(o, "start", 0, 200, &start, &local);
    json_get_int(o, "stop", 0, 200, &stop, &local);
    if (local.code || !text(o, "content", &op->from) || !op->from.len) return bad("decoder", e, "bad Strip");
    op->kind = DEC_STRIP;
    op->left = (int)start;
    op->right = (int)stop;
    if (!r->fused) return 0;
    if (stop || op->from.len != 1 || r->d->strip_left)
        return unsupported("decoder", "after Fuse, this kind of", "Strip", e);
    r->d->strip_left = (uint8_t)start;
    r->d->strip_char = op->from.data[0];
    r->d->n_op--; /* not a step of single tokens */
    buf_free(&op->from);
    return 0;
}

static int one_decoder(const cJSON *o, const char *type, void *into, struct err *e)
{
    struct dec_reader *r = into;
    static const char key[] = "decoder";
    if (!strcmp(type, "Fuse")) {
        r->fused = true;
        return 0;
    }
    if (r->d->n_op == MAX_DEC_OPS) return bad(key, e, "too many steps");
    if ((r->fused || r->bytes) && strcmp(type, "Strip"))
        return unsupported(key, "after Fuse or ByteFallback, type", type, e);
    if (r->bytes && !r->fused) return unsupported(key, "after ByteFallback, type", type, e);
    struct dec_op *op = &r->d->op[r->d->n_op++];
    *op = (struct dec_op){0};
    if (!strcmp(type, "Strip")) return read_dec_strip(o, r, op, e);
    if (!strcmp(type, "ByteFallback")) {
        op->kind = DEC_BYTE_FALLBACK;
        r->bytes = true;
        return 0;
    }
    if (!strcmp(type, "ByteLevel")) {
        op->kind = DEC_BYTE_LEVEL;
        r->fused = true;
        return 0;
    }
    if (!strcmp(type, "Metaspace")) {
        enum op_when when;
        bool never;
        int status = read_metaspace(o, key, &op->from, &when, &never, e);
        op->kind = DEC_METASPACE;
        op->first = !never;
        return status;
    }
    if (!strcmp(type, "Replace")) {
        op->kind = DEC_REPLACE;
        if (!text(json_get(o, "pattern"), "String", &op->from) || !op->from.len ||
            !text(o, "content", &op->to))
            return unsupported(key, "this kind of", "Replace", e);
        return 0;
    }
    return unsupported(key, "type", type, e);
}

int hf_read_decoder(const cJSON *o, struct tokenizer *t, struct err *e)
{
    struct dec_reader r = {.d = &t->decoder};
    t->decoder.join_spaces = !o;
    return o ? read_steps(o, "decoder", "decoders", one_decoder, &r, 0, e) : 0;
}

/* Post-processors only ever put ids before and after. Steps of a Sequence wrap what the earlier ones made. */
static int wrap(struct tokenizer *t, const int32_t *pre, int n_pre, const int32_t *post, int n_post,
                struct err *e)
{
    if (t->n_prefix + n_pre > TOK_MAX_AFFIX || t->n_suffix + n_post > TOK_MAX_AFFIX)
        return bad("post_processor", e, "too many special tokens");
    memmove(t->prefix + n_pre, t->prefix, (size_t)t->n_prefix * sizeof *pre);
    memcpy(t->prefix, pre, (size_t)n_pre * sizeof *pre);
    memcpy(t->suffix + t->n_suffix, post, (size_t)n_post * sizeof *post);
    t->n_prefix += n_pre;
    t->n_suffix += n_post;
    return 0;
}

static bool read_id(const cJSON *v, const struct tokenizer *t, int32_t *out)
{
    size_t n;
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble < t->bpe.vocab.n_id)) return false;
    *out = (int32_t)v->valuedouble;
    return dict_get(&t->bpe.vocab, *out, &n) != NULL;
}

static int read_template(const cJSON *o, struct tokenizer *t, struct err *e)
{
    static const char key[] = "post_processor";
    int32_t part[2][TOK_MAX_AFFIX];
    int n[2] = {0}, side = 0;
    const cJSON *item, *single = json_get(o, "single"), *id;
    if (!cJSON_IsArray(single)) return bad(key, e, "TemplateProcessing needs a list \"single\"");
    cJSON_ArrayForEach(item, single)
    {
        const char *name = json_get_cstr(json_get(item, "SpecialToken"), "id");
        if (json_get(item, "Sequence")) {
            if (side++) return bad(key, e, "the template has the text more than once");
            continue;
        }
        const cJSON *ids = name ? json_get(json_get(json_get(o, "special_tokens"), name), "ids") : NULL;
        if (!cJSON_IsArray(ids)) return bad(key, e, "the template names a token that special_tokens lacks");
        cJSON_ArrayForEach(id, ids)
        {
            if (n[side] == TOK_MAX_AFFIX) return bad(key, e, "too many special tokens");
            if (!read_id(id, t, &part[side][n[side]++])) return bad(key, e, "an id is not in the vocabulary");
        }
    }
    if (!side) return bad(key, e, "the template lacks the text");
    return wrap(t, part[0], n[0], part[1], n[1], e);
}

static int one_post(const cJSON *o, const char *type, void *into, struct err *e)
{
    static const char key[] = "post_processor";
    if (!strcmp(type, "ByteLevel")) return 0; /* only moves offsets */
    if (!strcmp(type, "TemplateProcessing")) return read_template(o, into, e);
    if (!strcmp(type, "BertProcessing") || !strcmp(type, "RobertaProcessing")) {
        int32_t cls, sep;
        if (!read_id(cJSON_GetArrayItem(json_get(o, "cls"), 1), into, &cls) ||
            !read_id(cJSON_GetArrayItem(json_get(o, "sep"), 1), into, &sep))
            return bad(key, e, "cls and sep need [token, id]");
        return wrap(into, &cls, 1, &sep, 1, e);
    }
    return unsupported(key, "type", type, e);
}

int hf_read_post_processor(const cJSON *o, struct tokenizer *t, struct err *e)
{
    return o ? read_steps(o, "post_processor", "processors", one_post, t, 0, e) : 0;
}
