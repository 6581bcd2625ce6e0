#include "bpe.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "utf8.h"

enum { WORD_BYTES = 28, WORD_IDS = 7, MAX_CACHE = 8192 };
struct bpe_word { /* 64 bytes */
    uint16_t len;
    uint16_t n_id; /* len = 0: empty */
    char text[WORD_BYTES];
    int32_t id[WORD_IDS];
    int32_t pad;
};

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>' || hex(s[3]) < 0 || hex(s[4]) < 0) return -1;
    return hex(s[3]) << 4 | hex(s[4]);
}

void bpe_free(struct bpe *m)
{
    dict_free(&m->vocab);
    pairs_free(&m->merges);
    free(m->rank);
    free(m->joint);
    m->rank = NULL;
    m->joint = NULL;
}

/* ASCII one by one, the rest hashed. */
static uint32_t class_of(uint32_t cp)
{
    return cp < 128 ? cp : 128 + (cp * 2654435761u >> 16) % (BPE_CLASSES - 128);
}

static bool is_joint(const struct bpe *m, uint32_t left, uint32_t right)
{
    uint32_t i = left * BPE_CLASSES + right;
    return m->joint[i / 64] >> (i % 64) & 1;
}

static void join_chars(struct bpe *m, const char *s, size_t n)
{
    uint32_t last = BPE_CLASSES, cp;
    for (size_t i = 0; i < n;) {
        int k = utf8_next(s + i, n - i, &cp);
        if (k <= 0) return; /* cannot match a text, which is valid */
        uint32_t c = class_of(cp), at = last * BPE_CLASSES + c;
        if (last < BPE_CLASSES) m->joint[at / 64] |= (uint64_t)1 << (at % 64);
        last = c;
        i += (size_t)k;
    }
}

static bool is_byte_id(const struct bpe *m, uint32_t id)
{
    size_t n;
    const char *s = dict_get(&m->vocab, (int32_t)id, &n);
    int b = byte_token(s, n);
    return b >= 0 && m->byte_id[b] == (int32_t)id;
}

/* Cutting is only right where neighbouring symbols are always neighbouring characters: no unknown character
 * is dropped or fused, no byte token merges, and no whole text is looked up as one token. */
static int find_joints(struct bpe *m)
{
    bool cut = !m->ignore_merges && (m->rank || m->byte_fallback);
    for (int b = 0; cut && !m->rank && b < 256; b++) cut = m->byte_id[b] >= 0;
    for (uint32_t i = 0; cut && !m->rank && i <= m->merges.mask; i++) {
        const struct pair *p = &m->merges.slot[i];
        if (p->a != UINT32_MAX && (is_byte_id(m, p->a) || is_byte_id(m, p->b))) cut = false;
    }
    if (!cut) return 0;
    m->joint = calloc(BPE_CLASSES * BPE_CLASSES / 64, sizeof *m->joint);
    if (!m->joint) return ERR_NOMEM;
    size_t n;
    for (int32_t id = 0; m->rank && id < m->vocab.n_id; id++) {
        const char *s = dict_get(&m->vocab, id, &n);
        if (s) join_chars(m, s, n);
    }
    for (uint32_t i = 0; !m->rank && i <= m->merges.mask; i++) {
        const struct pair *p = &m->merges.slot[i];
        const char *s = p->a == UINT32_MAX ? NULL : dict_get(&m->vocab, p->id, &n);
        if (s) join_chars(m, s, n);
    }
    return 0;
}

int bpe_index(struct bpe *m)
{
    for (uint32_t cp = 0; cp < BPE_CHARS; cp++) {
        char c[4];
        m->char_id[cp] = dict_find(&m->vocab, c, (size_t)utf8_put(c, cp));
    }
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b & 0xffu);
        m->byte_id[b] = dict_find(&m->vocab, name, 6);
    }
    return find_joints(m);
}

void bpe_work_init(struct bpe_work *w, size_t text_len)
{
    *w = (struct bpe_work){0};
    uint32_t n = 32;
    while (n < MAX_CACHE && n < text_len / 16) n *= 2;
    w->cache = calloc(n, sizeof *w->cache);
    w->cache_mask = n - 1;
}

void bpe_work_free(struct bpe_work *w)
{
    free(w->sym);
    free(w->heap);
    free(w->cache);
    *w = (struct bpe_work){0};
}

/* Makes room for `need` elements of `size` bytes. */
static int grow(void **v, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return 0;
    size_t n = *cap * 2 > need ? *cap * 2 : need;
    if (n < 64) n = 64;
    if (n > INT32_MAX || n > SIZE_MAX / size) return ERR_NOMEM;
    void *p = realloc(*v, n * size);
    if (!p) return ERR_NOMEM;
    *v = p;
    *cap = n;
    return 0;
}

static void push_symbol(struct bpe_work *w, int32_t id, size_t off, size_t len)
{
    int32_t i = (int32_t)w->n_sym++;
    w->sym[i] = (struct symbol){id, i - 1, i + 1, (uint32_t)off, (uint32_t)len};
}

/* The characters of the word as ids. A pending unknown waits for the next known character, as in Hugging
 * Face's BPE: byte-fallback tokens in between overtake it. */
static int split_symbols(const struct bpe *m, struct bpe_work *w, const char *s, size_t n)
{
    if (grow((void **)&w->sym, &w->cap_sym, n + 1, sizeof *w->sym)) return ERR_NOMEM;
    w->n_sym = 0;
    bool unk = false;
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int k = utf8_next(s + i, n - i, &cp);
        if (k <= 0) k = 1;
        int32_t id = k > 0 && cp < BPE_CHARS ? m->char_id[cp] : dict_find(&m->vocab, s + i, (size_t)k);
        bool bytes = id < 0 && m->byte_fallback && !m->rank;
        for (int b = 0; bytes && b < k; b++) bytes = m->byte_id[(unsigned char)s[i + (size_t)b]] >= 0;
        if (id >= 0 || m->rank) {
            if (unk) push_symbol(w, m->unk, i, 0);
            unk = false;
            push_symbol(w, id, i, (size_t)k);
        } else if (bytes) {
            for (int b = 0; b < k; b++)
                push_symbol(w, m->byte_id[(unsigned char)s[i + (size_t)b]], i + (size_t)b, 1);
        } else if (m->unk >= 0) {
            if (unk && !m->fuse_unk) push_symbol(w, m->unk, i, 0);
            unk = true;
        }
        i += (size_t)k;
    }
    if (unk) push_symbol(w, m->unk, n, 0);
    if (w->n_sym) w->sym[w->n_sym - 1].next = -1;
    return 0;
}

/* What the pair of neighbours at i would become; false if nothing. */
static bool pair_at(const struct bpe *m, const struct bpe_work *w, const char *s, int32_t i,
                    struct merge *out)
{
    const struct symbol *a = &w->sym[i], *b = &w->sym[a->next];
    uint32_t rank;
    if (m->rank) {
        out->id = dict_find(&m->vocab, s + a->off, a->len + b->len);
        if (out->id < 0) return false;
        rank = m->rank[out->id];
    } else {
        const struct pair *p = pairs_find(&m->merges, (uint32_t)a->id, (uint32_t)b->id);
        if (!p) return false;
        out->id = p->id;
        rank = p->rank;
    }
    out->key = (uint64_t)rank << 32 | (uint32_t)i;
    out->len = a->len + b->len;
    return true;
}

static void sift_down(struct merge *h, size_t n, size_t i)
{
    struct merge x = h[i];
    for (size_t c; (c = 4 * i + 1) < n; i = c) {
        size_t end = c + 4 < n ? c + 4 : n;
        for (size_t j = c + 1; j < end; j++)
            if (h[j].key < h[c].key) c = j;
        if (h[c].key >= x.key) break;
        h[i] = h[c];
    }
    h[i] = x;
}

static int heap_push(struct bpe_work *w, struct merge x)
{
    if (grow((void **)&w->heap, &w->cap_heap, w->n_heap + 1, sizeof *w->heap)) return ERR_NOMEM;
    size_t i = w->n_heap++;
    for (size_t up; i && w->heap[up = (i - 1) / 4].key > x.key; i = up) w->heap[i] = w->heap[up];
    w->heap[i] = x;
    return 0;
}

static struct merge heap_pop(struct bpe_work *w)
{
    struct merge top = w->heap[0];
    w->heap[0] = w->heap[--w->n_heap];
    if (w->n_heap) sift_down(w->heap, w->n_heap, 0);
    return top;
}

static int merge_all(const struct bpe *m, struct bpe_work *w, const char *s)
{
    if (grow((void **)&w->heap, &w->cap_heap, w->n_sym, sizeof *w->heap)) return ERR_NOMEM;
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < w->n_sym; i++)
        if (pair_at(m, w, s, (int32_t)i, &w->heap[w->n_heap])) w->n_heap++;
    for (size_t i = w->n_heap / 4 + 1; i-- > 0;)
        if (i < w->n_heap) sift_down(w->heap, w->n_heap, i);
    struct merge now;
    while (w->n_heap) {
        struct merge top = heap_pop(w);
        int32_t i = (int32_t)(uint32_t)top.key;
        struct symbol *a = &w->sym[i];
        if (a->id == -2 || a->next < 0) continue;
        struct symbol *b = &w->sym[a->next];
        /* Equal length is equal text, hence an equal id; by pairs the same text may be divided differently.
         */
        if (a->len + b->len != top.len || (!m->rank && (!pair_at(m, w, s, i, &now) || now.id != top.id)))
            continue;
        a->id = top.id;
        a->len += b->len;
        a->next = b->next;
        b->id = -2;
        if (a->next >= 0) w->sym[a->next].prev = i;
        if (a->prev >= 0 && pair_at(m, w, s, a->prev, &now) && heap_push(w, now)) return ERR_NOMEM;
        if (a->next >= 0 && pair_at(m, w, s, i, &now) && heap_push(w, now)) return ERR_NOMEM;
    }
    return 0;
}

static int emit(const struct bpe *m, const struct bpe_work *w, const char *s, struct vec_i32 *out)
{
    for (int32_t i = w->n_sym ? 0 : -1; i >= 0; i = w->sym[i].next) {
        const struct symbol *a = &w->sym[i];
        if (a->id >= 0) {
            if (vec_i32_push(out, a->id)) return ERR_NOMEM;
            continue;
        }
        for (uint32_t b = 0; b < a->len; b++) { /* by score: a character without a token of its own */
            int32_t id = m->byte_id[(unsigned char)s[a->off + b]];
            if (id < 0) id = m->unk;
            if (id >= 0 && vec_i32_push(out, id)) return ERR_NOMEM;
        }
    }
    return 0;
}

static int merge_word(const struct bpe *m, struct bpe_work *w, const char *s, size_t n, struct vec_i32 *out)
{
    if (split_symbols(m, w, s, n) || merge_all(m, w, s)) return ERR_NOMEM;
    return emit(m, w, s, out);
}

static int encode_word(const struct bpe *m, struct bpe_work *w, const char *s, size_t n, struct vec_i32 *out)
{
    if (!w->cache || n > WORD_BYTES) return merge_word(m, w, s, n, out);
    struct bpe_word *c = &w->cache[hash_bytes(m->vocab.seed, s, n) & w->cache_mask];
    if (c->len == n && !memcmp(c->text, s, n)) {
        if (vec_i32_reserve(out, c->n_id)) return ERR_NOMEM;
        if (c->n_id) memcpy(out->v + out->n, c->id, c->n_id * sizeof *c->id);
        out->n += c->n_id;
        return 0;
    }
    int from = out->n, status = merge_word(m, w, s, n, out);
    int made = out->n - from;
    if (status || made > WORD_IDS) return status;
    c->len = (uint16_t)n;
    c->n_id = (uint16_t)made;
    memcpy(c->text, s, n);
    if (made) memcpy(c->id, out->v + from, (size_t)made * sizeof *c->id);
    return 0;
}

int bpe_encode(const struct bpe *m, struct bpe_work *w, const char *s, size_t n, struct vec_i32 *out)
{
    if (m->ignore_merges) {
        int32_t id = dict_find(&m->vocab, s, n);
        if (id >= 0) return vec_i32_push(out, id);
    }
    if (!m->joint) return encode_word(m, w, s, n, out);
    size_t from = 0;
    uint32_t last = BPE_CLASSES, cp = 0;
    for (size_t i = 0; i < n;) {
        int k = utf8_next(s + i, n - i, &cp);
        uint32_t c = class_of(cp);
        if (last < BPE_CLASSES && !is_joint(m, last, c)) {
            if (encode_word(m, w, s + from, i - from, out)) return ERR_NOMEM;
            from = i;
        }
        last = c;
        i += k > 0 ? (size_t)k : 1;
    }
    return encode_word(m, w, s + from, n - from, out);
}
