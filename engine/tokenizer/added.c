#include "added.h"
#include <stdlib.h>
#include <string.h>
#include "utf8.h"

int matcher_init(struct matcher *m)
{
    *m = (struct matcher){.n_node = 1, .cap_node = 64};
    m->term = malloc((size_t)m->cap_node * sizeof *m->term);
    if (!m->term || pairs_init(&m->edge)) return ERR_NOMEM;
    m->term[0] = -1;
    return 0;
}

void matcher_free(struct matcher *m)
{
    pairs_free(&m->edge);
    free(m->term);
    *m = (struct matcher){0};
}

static int new_node(struct matcher *m)
{
    if (m->n_node == m->cap_node) {
        int32_t *term = realloc(m->term, (size_t)m->cap_node * 2 * sizeof *term);
        if (!term) return ERR_NOMEM;
        m->term = term;
        m->cap_node *= 2;
    }
    m->term[m->n_node] = -1;
    return m->n_node++;
}

int matcher_add(struct matcher *m, const char *s, size_t n, int32_t index)
{
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        const struct pair *e = pairs_find(&m->edge, node, c);
        if (!e) {
            int next = new_node(m);
            if (next < 0 || pairs_put(&m->edge, node, c, 0, next)) return ERR_NOMEM;
            node = (uint32_t)next;
        } else {
            node = (uint32_t)e->id;
        }
    }
    if (m->term[node] >= 0) return ERR_FULL;
    m->term[node] = index;
    m->first[(unsigned char)s[0]] = true;
    return 0;
}

int32_t matcher_find(const struct matcher *m, const char *s, size_t n, size_t from, size_t *start,
                     size_t *end)
{
    for (size_t i = from; i < n; i++) {
        if (!m->first[(unsigned char)s[i]]) continue;
        uint32_t node = 0;
        int32_t best = -1;
        for (size_t j = i; j < n; j++) {
            const struct pair *e = pairs_find(&m->edge, node, (unsigned char)s[j]);
            if (!e) break;
            node = (uint32_t)e->id;
            if (m->term[node] < 0) continue;
            best = m->term[node];
            *end = j + 1;
        }
        if (best >= 0) {
            *start = i;
            return best;
        }
    }
    return -1;
}

static uint32_t char_before(const char *s, size_t i, size_t *at)
{
    size_t j = i - 1;
    uint32_t cp = 0;
    while (j && (s[j] & 0xc0) == 0x80) j--;
    utf8_next(s + j, i - j, &cp);
    *at = j;
    return cp;
}

static bool is_single_word(const char *s, size_t n, size_t start, size_t end)
{
    uint32_t cp = 0;
    size_t at;
    if (start && uni_is_word(char_before(s, start, &at))) return false;
    return end == n || utf8_next(s + end, n - end, &cp) <= 0 || !uni_is_word(cp);
}

static int cut_span(const struct matcher *m, const struct added *added, bool parse_special, const char *s,
                    const struct span *sp, struct text *out)
{
    size_t start, end, last = 0; /* last: end of what has been pushed */
    for (size_t from = 0; from < sp->len; from = end) {
        int32_t index = matcher_find(m, s, sp->len, from, &start, &end);
        if (index < 0) break;
        const struct added *t = &added[index];
        if (t->special && !parse_special) continue;
        if (t->single_word && !is_single_word(s, sp->len, start, end)) continue;
        size_t l = start, r = end, at;
        while (t->lstrip && l > last && uni_is_space(char_before(s, l, &at))) l = at;
        for (uint32_t cp; t->rstrip && r < sp->len;) {
            int k = utf8_next(s + r, sp->len - r, &cp);
            if (k <= 0 || !uni_is_space(cp)) break;
            r += (size_t)k;
        }
        /* A token of white space may begin within what the one before it stripped: then nothing lies between.
         */
        if (l > last && text_push(out, sp->off + last, l - last, last ? SPAN_TEXT : sp->id)) return ERR_NOMEM;
        if (text_push(out, sp->off + l, r - l, t->id)) return ERR_NOMEM;
        last = r;
    }
    if (last >= sp->len) return 0;
    return text_push(out, sp->off + last, sp->len - last, last ? SPAN_TEXT : sp->id);
}

int matcher_cut(const struct matcher *m, const struct added *added, bool parse_special, struct work *w,
                struct err *e)
{
    if (m->n_node <= 1) return 0;
    text_clear(&w->b);
    for (size_t i = 0; i < w->a.n; i++) {
        const struct span *sp = &w->a.v[i];
        int status = sp->id >= 0 ? text_push(&w->b, sp->off, sp->len, sp->id)
                                 : cut_span(m, added, parse_special, w->a.bytes.data + sp->off, sp, &w->b);
        if (status) return err_set(e, ERR_NOMEM, "out of memory");
    }
    struct buf bytes = w->a.bytes;
    w->a.bytes = w->b.bytes;
    w->b.bytes = bytes;
    struct text t = w->a;
    w->a = w->b;
    w->b = t;
    return 0;
}
