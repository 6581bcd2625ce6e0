/* Added tokens: strings that are cut out of the text before anything else happens to it (or after
 * normalisation). Built while loading, read-only afterwards. */
#pragma once
#include "dict.h"
#include "text.h"

struct added {
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
};
/* A trie over the tokens' bytes; nodes are numbered from 0, the root. */
struct matcher {
    struct pairs edge; /* (node, byte) -> node */
    int32_t *term;     /* [cap_node] index of the token that ends here, -1 = none */
    int n_node, cap_node;
    bool first[256]; /* bytes that tokens begin with */
};

int matcher_init(struct matcher *m);
void matcher_free(struct matcher *m);
int matcher_add(struct matcher *m, const char *s, size_t n, int32_t index); /* ERR_FULL: there already */
/* Leftmost-longest match in s[from..n): its index, or -1. */
int32_t matcher_find(const struct matcher *m, const char *s, size_t n, size_t from, size_t *start,
                     size_t *end);
/* Cuts the tokens of m out of the text spans of w->a. Special ones only if parse_special. */
int matcher_cut(const struct matcher *m, const struct added *added, bool parse_special, struct work *w,
                struct err *e);
