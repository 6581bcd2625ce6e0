/* The tokenizer.ggml.* keys of a GGUF file: model "llama" (SentencePiece BPE by score) and "gpt2" (merges).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "gguf.h"
#include "gguf_pre.h"
#include "tok.h"

#define KEY(name) "tokenizer.ggml." name
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };
static const char mark[] = "\xe2\x96\x81"; /* U+2581 stands for a space */

static int bad(const char *key, struct err *e, const char *what)
{
    return err_param(e, ERR_FORMAT, key, "%s: %s", key, what);
}

static int no_memory(struct err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }

static const struct gguf_kv *array(const struct gguf *g, const char *key, uint64_t n)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && kv->type == GGUF_ARRAY && (!n || kv->n == n) ? kv : NULL;
}

/* Gemma's runs of spaces are user-defined, yet Hugging Face's tokenizer reaches them by merging (33 spaces
 * become 16 and 17), not by longest match (31 and 2): so they are kept as pieces that merge before all
 * others. */
static bool is_space_run(const struct gguf_kv *types, uint64_t i, struct gguf_str s)
{
    if (!types || s.n < 2 || gguf_array_int(types, i) != TYPE_USER) return false;
    for (size_t k = 0; k < s.n; k++)
        if (s.s[k] != ' ') return false;
    return true;
}

static int read_tokens(const struct gguf_kv *tokens, const struct gguf_kv *types, bool is_llama,
                       struct tokenizer *t, struct err *e)
{
    struct buf marks = {0};
    int status = 0;
    for (uint64_t i = 0; i < tokens->n; i++) {
        struct gguf_str s = gguf_array_str(tokens, i);
        if (is_llama && is_space_run(types, i, s)) {
            buf_clear(&marks);
            for (size_t k = 0; k < s.n; k++) buf_str(&marks, mark);
            s = (struct gguf_str){marks.data, marks.len};
        }
        status = marks.failed ? ERR_NOMEM : dict_put(&t->bpe.vocab, (int32_t)i, s.s, s.n);
        /* Padding entries often share a name: the first one is found by it. */
        if (status == ERR_FULL) status = 0;
        if (status) break;
    }
    buf_free(&marks);
    return status ? no_memory(e) : 0;
}

/* Phi-3's template writes a newline behind its markers, which its tokenizer.json strips; GGUF has no key for
 * that. */
static bool strips_right(const struct gguf *g, const char *s, bool is_llama)
{
    static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
    struct gguf_str arch;
    if (!is_llama || !gguf_string(g, "general.architecture", &arch) || arch.n != 4 ||
        memcmp(arch.s, "phi3", 4))
        return false;
    for (int i = 0; i < 3; i++)
        if (!strcmp(s, plain[i])) return false;
    return true;
}

static int read_types(const struct gguf *g, bool is_llama, const struct gguf_kv *types, struct tokenizer *t,
                      struct err *e)
{
    int n_id = t->bpe.vocab.n_id, count = 0;
    for (int32_t id = 0; id < n_id; id++) {
        int64_t type = gguf_array_int(types, (uint64_t)id);
        count += type == TYPE_UNKNOWN || type == TYPE_CONTROL || type == TYPE_USER;
    }
    t->added = calloc((size_t)count + 1, sizeof *t->added);
    t->literal = calloc((size_t)n_id + 1, 1);
    if (!t->added || !t->literal || dict_init(&t->added_name, count)) return no_memory(e);
    for (int32_t id = 0; id < n_id; id++) {
        int64_t type = gguf_array_int(types, (uint64_t)id);
        if (type != TYPE_UNKNOWN && type != TYPE_CONTROL && type != TYPE_USER) continue;
        size_t n;
        const char *s = dict_get(&t->bpe.vocab, id, &n);
        bool special = type != TYPE_USER;
        if (!special && n >= 6 && !memcmp(s, "\xe2\x96\x81\xe2\x96\x81", 6)) continue; /* a run of spaces */
        t->literal[id] = 1;
        t->special[id] = special;
        if (!n || dict_find(&t->bpe.vocab, s, n) != id) continue; /* nameless, or a duplicate */
        int status = tok_add(
            t,
            (struct added){.id = id, .special = special, .rstrip = special && strips_right(g, s, is_llama)},
            s, n, e);
        if (status) return status;
    }
    return 0;
}

struct scored {
    double score;
    int32_t id;
};
static int compare_scores(const void *a, const void *b)
{
    double x = ((const struct scored *)a)->score, y = ((const struct scored *)b)->score;
    int32_t i = ((const struct scored *)a)->id, j = ((const struct scored *)b)->id;
    return x != y ? (x < y) - (x > y)
                  : (i > j) - (i < j); /* best first; ties by id, as in converted merges */
}

/* The better the score, the smaller the rank. */
static int read_scores(const struct gguf_kv *scores, const struct gguf_kv *types, struct tokenizer *t,
                       struct err *e)
{
    size_t n = (size_t)t->bpe.vocab.n_id;
    struct scored *v = malloc(n * sizeof *v);
    t->bpe.rank = malloc(n * sizeof *t->bpe.rank);
    if (!v || !t->bpe.rank) {
        free(v);
        return no_memory(e);
    }
    for (size_t i = 0; i < n; i++) {
        double score = gguf_array_num(scores, i);
        if (types && gguf_array_int(types, i) == TYPE_USER)
            score = INFINITY; /* files hold no real score for these */
        v[i] = (struct scored){isnan(score) ? -INFINITY : score, (int32_t)i};
    }
    qsort(v, n, sizeof *v, compare_scores);
    for (size_t i = 0; i < n; i++) t->bpe.rank[v[i].id] = (uint32_t)i;
    free(v);
    return 0;
}

/* Merges as "a b". Converters rename some tokens (added tokens of spaces), which leaves merges without their
 * pieces: those can never apply. A file most of whose merges are like that is broken. */
static int read_merges(const struct gguf_kv *merges, struct tokenizer *t, struct err *e)
{
    const struct dict *d = &t->bpe.vocab;
    struct buf whole = {0};
    uint64_t missing = 0;
    int status = 0;
    if (merges->n > UINT32_MAX / 2) return bad(KEY("merges"), e, "too many");
    for (uint64_t i = 0; i < merges->n && !status; i++) {
        struct gguf_str s = gguf_array_str(merges, i);
        const char *space = s.n > 1 ? memchr(s.s + 1, ' ', s.n - 1) : NULL;
        if (!space) {
            status = bad(KEY("merges"), e, "an entry is no pair of pieces");
            break;
        }
        size_t left = (size_t)(space - s.s), right = s.n - left - 1;
        buf_clear(&whole);
        buf_add(&whole, s.s, left);
        buf_add(&whole, space + 1, right);
        if (whole.failed) status = no_memory(e);
        if (status) break;
        int32_t a = dict_find(d, s.s, left), b = dict_find(d, space + 1, right),
                id = dict_find(d, whole.data, whole.len);
        if (a < 0 || b < 0 || id < 0) {
            missing++;
        } else if (pairs_put(&t->bpe.merges, (uint32_t)a, (uint32_t)b, (uint32_t)i, id)) {
            status = no_memory(e);
        }
    }
    buf_free(&whole);
    if (!status && missing > merges->n / 2)
        status = bad(KEY("merges"), e, "most pieces are not in the vocabulary");
    return status;
}

static int add_mark_steps(struct tokenizer *t, bool space_prefix, struct err *e)
{
    int status = 0;
    if (space_prefix) status = ops_add_with(&t->normalizer, OP_PREPEND, WHEN_ALWAYS, " ", 1, e);
    if (!status) status = ops_add_replace(&t->normalizer, " ", 1, mark, 3, e);
    if (status) return status;
    struct dec_op *op = t->decoder.op;
    op[0].kind = DEC_REPLACE;
    buf_add(&op[0].from, mark, 3);
    buf_chr(&op[0].to, ' ');
    op[1].kind = DEC_BYTE_FALLBACK;
    t->decoder.n_op = 2;
    t->decoder.strip_char = ' ';
    t->decoder.strip_left = space_prefix;
    return op[0].from.failed || op[0].to.failed ? no_memory(e) : 0;
}

static int setup_llama(const struct gguf *g, const struct gguf_kv *types, struct tokenizer *t, bool *add_bos,
                       struct err *e)
{
    const struct gguf_kv *scores = array(g, KEY("scores"), (uint64_t)t->bpe.vocab.n_id);
    if (!scores || (scores->elem != GGUF_F32 && scores->elem != GGUF_F64))
        return bad(KEY("scores"), e, "missing, or not one number for each token");
    int status = read_scores(scores, types, t, e);
    bool space_prefix = true;
    gguf_bool(g, KEY("add_space_prefix"), &space_prefix);
    *add_bos = true;
    return status ? status : add_mark_steps(t, space_prefix, e);
}

static int find_pre(const struct gguf *g, const struct gguf_pre **out, struct err *e)
{
    struct gguf_str name = {"default", 7};
    gguf_string(g, KEY("pre"), &name);
    *out = gguf_pre_find(name.s, name.n);
    if (*out) return 0;
    struct buf known = {0};
    const char *s;
    for (int i = 0; (s = gguf_pre_known(i)); i++) buf_fmt(&known, "%s%s", i ? " " : "", s);
    char shown[32] = "";
    for (size_t i = 0; i < name.n && i < sizeof shown - 1; i++)
        shown[i] = name.s[i] < ' ' || name.s[i] > '~' ? '?' : name.s[i];
    int status = err_param(e, ERR_UNSUPPORTED, KEY("pre"), "%s: unknown pre-tokenizer \"%s\"; known are: %s",
                           KEY("pre"), shown, known.failed ? "" : known.data);
    buf_free(&known);
    return status;
}

static int setup_gpt2(const struct gguf *g, struct tokenizer *t, bool *add_bos, struct err *e)
{
    const struct gguf_pre *pre;
    const struct gguf_kv *merges = array(g, KEY("merges"), 0);
    if (!merges || merges->elem != GGUF_STRING)
        return bad(KEY("merges"), e, "missing, or not a list of strings");
    int status = find_pre(g, &pre, e);
    if (!status) status = read_merges(merges, t, e);
    if (!status && pre->nfc && !ops_add(&t->normalizer, OP_NORMAL_FORM, e))
        status = ERR_UNSUPPORTED; /* UNI_NFC */
    bool space_prefix = false;
    gguf_bool(g, KEY("add_space_prefix"), &space_prefix);
    if (!status && pre->raw) {
        t->bpe.byte_fallback = true;
        status = add_mark_steps(t, space_prefix, e);
    } else if (!status && space_prefix) {
        status = ops_add_with(&t->pre, OP_PREPEND, WHEN_LACKING, " ", 1, e);
    }
    for (int i = 0; !status && pre->regex[i]; i++)
        status = ops_add_split(&t->pre, pre->regex[i], strlen(pre->regex[i]), SPLIT_ISOLATED, false, e);
    if (status) return status;
    if (!pre->raw) {
        if (!ops_add(&t->pre, OP_BYTES, e)) return ERR_UNSUPPORTED;
        t->decoder.op[0].kind = DEC_BYTE_LEVEL;
        t->decoder.n_op = 1;
    }
    t->bpe.ignore_merges = pre->ignore_merges;
    *add_bos = pre->add_bos;
    return 0;
}

static int read_id(const struct gguf *g, const char *key, int n_id, int32_t *out, struct err *e)
{
    int64_t id;
    *out = -1;
    if (!gguf_int(g, key, &id) || id == -1 || id == UINT32_MAX) return 0;
    if (id < 0 || id >= n_id) return bad(key, e, "not an id of the vocabulary");
    *out = (int32_t)id;
    return 0;
}

/* BOS, EOS and the other ends; which of them frame a text. */
static int read_frame(const struct gguf *g, struct tokenizer *t, bool add_bos, struct err *e)
{
    static const char *const ends[] = {KEY("eot_token_id"), KEY("eom_token_id")};
    int n_id = t->bpe.vocab.n_id, status = read_id(g, KEY("bos_token_id"), n_id, &t->bos, e);
    if (!status) status = read_id(g, KEY("eos_token_id"), n_id, &t->eos, e);
    if (!status) status = read_id(g, KEY("unknown_token_id"), n_id, &t->bpe.unk, e);
    for (int i = 0; !status && i < 2; i++) {
        int32_t id;
        status = read_id(g, ends[i], n_id, &id, e);
        if (id >= 0) t->eog[t->n_eog++] = id;
    }
    bool add_eos = false;
    gguf_bool(g, KEY("add_bos_token"), &add_bos);
    gguf_bool(g, KEY("add_eos_token"), &add_eos);
    if (add_bos && t->bos >= 0) t->prefix[t->n_prefix++] = t->bos;
    if (add_eos && t->eos >= 0) t->suffix[t->n_suffix++] = t->eos;
    return status;
}

static int build(const struct gguf *g, struct tokenizer *t, const struct gguf_kv *tokens, bool is_llama,
                 struct err *e)
{
    const struct gguf_kv *types = array(g, KEY("token_type"), tokens->n);
    bool add_bos = false;
    int status = 0;
    if (gguf_find(g, KEY("token_type")) &&
        (!types || types->elem == GGUF_STRING || types->elem == GGUF_ARRAY))
        status = bad(KEY("token_type"), e, "not one number for each token");
    if (!status) status = read_tokens(tokens, types, is_llama, t, e);
    if (!status && types) status = read_types(g, is_llama, types, t, e);
    if (!status) status = is_llama ? setup_llama(g, types, t, &add_bos, e) : setup_gpt2(g, t, &add_bos, e);
    if (!status) status = read_frame(g, t, add_bos, e);
    return status ? status : tok_finish(t, e);
}

int tok_load_gguf(const struct gguf *g, struct tokenizer **out, struct err *e)
{
    struct gguf_str model;
    *out = NULL;
    if (!gguf_string(g, KEY("model"), &model)) return bad(KEY("model"), e, "missing");
    bool is_llama = model.n == 5 && !memcmp(model.s, "llama", 5);
    bool is_gpt2 =
        (model.n == 4 && !memcmp(model.s, "gpt2", 4)) || (model.n == 6 && !memcmp(model.s, "gemma4", 6));
    if (!is_llama && !is_gpt2)
        return err_param(e, ERR_UNSUPPORTED, KEY("model"), "%s: only llama and gpt2 are supported",
                         KEY("model"));
    const struct gguf_kv *tokens = array(g, KEY("tokens"), 0);
    if (!tokens || tokens->elem != GGUF_STRING || !tokens->n || tokens->n > TOK_MAX_VOCAB)
        return bad(KEY("tokens"), e, "missing, or not a list of 1 to 4194304 strings");
    struct tokenizer *t = tok_new((int)tokens->n, e);
    int status = t ? build(g, t, tokens, is_llama, e) : ERR_NOMEM;
    if (status) {
        tok_free(t);
        return status;
    }
    *out = t;
    return 0;
}
