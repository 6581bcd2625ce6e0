/* tokenizer.json and tokenizer_config.json. */
#include <stdlib.h>
#include <string.h>
#include "file.h"
#include "hf.h"

static int bad(const char *key, struct err *e, const char *what)
{
    return err_param(e, ERR_FORMAT, key, "%s: %s", key, what);
}

static int no_memory(struct err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }

/* An object's key as bytes: as it stands, unless it holds an escaped NUL. */
static const char *key_bytes(const cJSON *item, struct buf *tmp, size_t *n)
{
    const char *s = item->string, *nul;
    *n = strlen(s);
    if (!strstr(s, "\xc0\x80")) return s;
    buf_clear(tmp);
    for (; (nul = strstr(s, "\xc0\x80")); s = nul + 2) {
        buf_add(tmp, s, (size_t)(nul - s));
        buf_chr(tmp, 0);
    }
    buf_str(tmp, s);
    *n = tmp->len;
    return tmp->failed ? NULL : tmp->data;
}

static bool token_id(const cJSON *v, int32_t *out)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble < TOK_MAX_VOCAB)) return false;
    *out = (int32_t)v->valuedouble;
    return v->valuedouble == *out;
}

/* Highest id + 1 of the model's vocabulary and the added tokens. */
static int count_ids(const cJSON *vocab, const cJSON *added, int *out, struct err *e)
{
    const cJSON *v;
    int32_t id, max = -1;
    if (!cJSON_IsObject(vocab) || !vocab->child) return bad("model.vocab", e, "missing or empty");
    cJSON_ArrayForEach(v, vocab)
    {
        if (!token_id(v, &id)) return bad("model.vocab", e, "an id is no integer from 0 to 4194303");
        if (id > max) max = id;
    }
    if (added && !cJSON_IsArray(added)) return bad("added_tokens", e, "not a list");
    cJSON_ArrayForEach(v, added)
    {
        if (!token_id(json_get(v, "id"), &id))
            return bad("added_tokens", e, "an id is no integer from 0 to 4194303");
        if (id > max) max = id;
    }
    *out = max + 1;
    return 0;
}

static int read_vocab(const cJSON *vocab, struct tokenizer *t, struct err *e)
{
    const cJSON *v;
    struct buf tmp = {0};
    int status = 0;
    cJSON_ArrayForEach(v, vocab)
    {
        size_t n;
        const char *s = key_bytes(v, &tmp, &n);
        status = s ? dict_put(&t->bpe.vocab, (int32_t)v->valuedouble, s, n) : ERR_NOMEM;
        if (status == ERR_INVALID)
            status = err_param(e, ERR_FORMAT, "model.vocab", "model.vocab: id %d is given twice",
                               (int)v->valuedouble);
        else if (status)
            status = no_memory(e);
        if (status) break;
    }
    buf_free(&tmp);
    return status;
}

static int read_added(const cJSON *list, struct tokenizer *t, struct err *e)
{
    int count = cJSON_GetArraySize(list), status = 0;
    t->added = calloc((size_t)count + 1, sizeof *t->added);
    if (!t->added || dict_init(&t->added_name, count)) return no_memory(e);
    const cJSON *v;
    struct buf s = {0};
    cJSON_ArrayForEach(v, list)
    {
        struct added a = {0};
        const cJSON *content = json_get(v, "content");
        token_id(json_get(v, "id"), &a.id); /* checked by count_ids */
        a.special = cJSON_IsTrue(json_get(v, "special"));
        a.single_word = cJSON_IsTrue(json_get(v, "single_word"));
        a.lstrip = cJSON_IsTrue(json_get(v, "lstrip"));
        a.rstrip = cJSON_IsTrue(json_get(v, "rstrip"));
        a.normalized = json_get(v, "normalized") ? cJSON_IsTrue(json_get(v, "normalized")) : !a.special;
        buf_clear(&s);
        if (cJSON_IsString(content)) json_str(content, &s);
        if (!s.len) {
            status = err_param(e, ERR_FORMAT, "added_tokens", "added_tokens: id %d has no content", a.id);
        } else {
            status = tok_add(t, a, s.data, s.len, e);
        }
        if (status) break;
    }
    buf_free(&s);
    return status;
}

/* "a b" or ["a", "b"]: the two pieces, and their concatenation in whole. */
static bool split_merge(const cJSON *v, struct buf *whole, size_t *n_left)
{
    buf_clear(whole);
    if (cJSON_IsString(v)) {
        json_str(v, whole);
        char *space = whole->len ? memchr(whole->data, ' ', whole->len) : NULL;
        if (!space) return false;
        *n_left = (size_t)(space - whole->data);
        size_t right = whole->len - *n_left - 1;
        if (memchr(space + 1, ' ', right)) return false;
        memmove(space, space + 1, right);
        whole->len--;
        return true;
    }
    const cJSON *a = cJSON_GetArrayItem(v, 0), *b = cJSON_GetArrayItem(v, 1);
    if (!cJSON_IsArray(v) || !cJSON_IsString(a) || !cJSON_IsString(b) || b->next) return false;
    json_str(a, whole);
    *n_left = whole->len;
    json_str(b, whole);
    return true;
}

static int read_merges(const cJSON *merges, struct tokenizer *t, struct err *e)
{
    static const char key[] = "model.merges";
    const cJSON *v;
    struct buf whole = {0};
    uint32_t rank = 0;
    int status = 0;
    if (!cJSON_IsArray(merges)) return bad(key, e, "missing");
    cJSON_ArrayForEach(v, merges)
    {
        size_t n_left;
        if (cJSON_IsString(v) && !strncmp(v->valuestring, "#version", 8)) continue;
        if (!split_merge(v, &whole, &n_left)) {
            status = err_param(e, ERR_FORMAT, key, "%s: entry %u is no pair of pieces", key, rank);
            break;
        }
        const struct dict *d = &t->bpe.vocab;
        int32_t a = dict_find(d, whole.data, n_left), id = dict_find(d, whole.data, whole.len);
        int32_t b = dict_find(d, whole.data + n_left, whole.len - n_left);
        if (a < 0 || b < 0 || id < 0) {
            status = err_param(e, ERR_FORMAT, key, "%s: entry %u names a piece that is not in the vocabulary",
                               key, rank);
            break;
        }
        if (whole.failed || pairs_put(&t->bpe.merges, (uint32_t)a, (uint32_t)b, rank++, id)) {
            status = no_memory(e);
            break;
        }
    }
    buf_free(&whole);
    return status;
}

/* null, "", false and 0 leave an option off. */
static bool is_off(const cJSON *v)
{
    return !v || cJSON_IsFalse(v) || (cJSON_IsString(v) && !*v->valuestring) ||
           (cJSON_IsNumber(v) && v->valuedouble == 0);
}

static int check_model(const cJSON *model, struct err *e)
{
    const char *type = json_get_cstr(model, "type");
    if (!cJSON_IsObject(model)) return bad("model", e, "missing");
    if (type && strcmp(type, "BPE")) {
        bool known = !strcmp(type, "Unigram") || !strcmp(type, "WordPiece") || !strcmp(type, "WordLevel");
        return err_param(e, ERR_UNSUPPORTED, "model.type", "model.type: %s is not supported (BPE is)",
                         known ? type : "this");
    }
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 3; i++)
        if (!is_off(json_get(model, off[i])))
            return err_set(e, ERR_UNSUPPORTED, "model.%s: only null is supported", off[i]);
    return 0;
}

static int32_t find_name(const struct tokenizer *t, const cJSON *v)
{
    if (cJSON_IsObject(v)) v = json_get(v, "content");
    return cJSON_IsString(v) ? tok_find(t, v->valuestring, strlen(v->valuestring)) : -1;
}

/* These classes rebuild the template from add_bos_token and add_eos_token, whatever tokenizer.json says. */
static bool is_legacy(const char *name)
{
    static const char *const legacy[] = {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer",
                                         "CohereTokenizer"};
    for (size_t i = 0; name && i < sizeof legacy / sizeof *legacy; i++)
        if (!strncmp(name, legacy[i], strlen(legacy[i]))) return true;
    return false;
}

static void apply_affix(const cJSON *want, int32_t id, int32_t *list, int *n)
{
    if (!cJSON_IsBool(want)) return;
    *n = cJSON_IsTrue(want) && id >= 0;
    list[0] = id;
}

static int read_config(const char *json, size_t n, struct tokenizer *t, struct err *e)
{
    cJSON *c = NULL;
    int status = json_parse(json, n, JSON_LIMITS_FILE, &c, e);
    if (status) return status;
    t->bos = find_name(t, json_get(c, "bos_token"));
    t->eos = find_name(t, json_get(c, "eos_token"));
    if (is_legacy(json_get_cstr(c, "tokenizer_class"))) {
        apply_affix(json_get(c, "add_bos_token"), t->bos, t->prefix, &t->n_prefix);
        apply_affix(json_get(c, "add_eos_token"), t->eos, t->suffix, &t->n_suffix);
    }
    cJSON_Delete(c);
    return 0;
}

static int read_model(const cJSON *root, struct tokenizer **out, struct err *e)
{
    const cJSON *model = json_get(root, "model"), *added = json_get(root, "added_tokens");
    int n_id = 0, status = check_model(model, e);
    if (!status) status = count_ids(json_get(model, "vocab"), added, &n_id, e);
    if (status) return status;
    struct tokenizer *t = *out = tok_new(n_id, e);
    if (!t) return ERR_NOMEM;
    if ((status = read_vocab(json_get(model, "vocab"), t, e))) return status;
    if ((status = read_merges(json_get(model, "merges"), t, e))) return status;
    if ((status = read_added(added, t, e))) return status;
    t->bpe.byte_fallback = !is_off(json_get(model, "byte_fallback"));
    t->bpe.fuse_unk = !is_off(json_get(model, "fuse_unk"));
    t->bpe.ignore_merges = !is_off(json_get(model, "ignore_merges"));
    t->bpe.unk = find_name(t, json_get(model, "unk_token"));
    return 0;
}

int tok_parse_hf(const char *json, size_t n, const char *config_json, size_t n_config, struct tokenizer **out,
                 struct err *e)
{
    cJSON *root = NULL;
    struct tokenizer *t = NULL;
    *out = NULL;
    if (n > TOK_MAX_FILE) return err_set(e, ERR_FORMAT, "larger than %d bytes", TOK_MAX_FILE);
    int status = json_parse(json, n, JSON_LIMITS_FILE, &root, e);
    if (!status) status = read_model(root, &t, e);
    if (!status) status = hf_read_normalizer(json_get(root, "normalizer"), t, e);
    if (!status) status = hf_read_pre_tokenizer(json_get(root, "pre_tokenizer"), t, e);
    if (!status) status = hf_read_decoder(json_get(root, "decoder"), t, e);
    if (!status) status = hf_read_post_processor(json_get(root, "post_processor"), t, e);
    cJSON_Delete(root);
    if (!status && config_json) {
        status = read_config(config_json, n_config, t, e);
        if (status) err_prefix(e, "tokenizer_config.json");
    }
    if (!status) status = tok_finish(t, e);
    if (status) {
        tok_free(t);
        return status;
    }
    *out = t;
    return 0;
}

int tok_load_hf(const char *dir, struct tokenizer **out, struct err *e)
{
    struct buf path = {0}, config = {0};
    struct file_map m = {0};
    *out = NULL;
    buf_fmt(&path, "%s/tokenizer_config.json", dir);
    int status = path.failed ? no_memory(e) : file_read(path.data, 16 << 20, &config, e);
    bool has_config = !status;
    if (status == ERR_IO) status = 0; /* optional */
    buf_clear(&path);
    buf_fmt(&path, "%s/tokenizer.json", dir);
    if (!status && path.failed) status = no_memory(e);
    if (!status) status = file_map_open(path.data, &m, e);
    if (!status) {
        status =
            tok_parse_hf((const char *)m.data, m.size, has_config ? config.data : NULL, config.len, out, e);
        if (status) err_prefix(e, "%s", path.data);
    }
    file_map_close(&m);
    buf_free(&path);
    buf_free(&config);
    return status;
}
