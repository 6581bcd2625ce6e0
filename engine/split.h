/* What one rank of a tensor-parallel group holds of a model: query heads with the KV heads that they read,
 * rows and columns of the feed-forward matrices, and rows of the vocabulary. Pure arithmetic. */
#pragma once
#include "arch.h"

struct share { /* of n rows or columns, [at, at + take) */
    int n, at, take;
};
struct split {
    struct share q, kv; /* of the rows of q, and of k and v; q's are the columns of o too */
    struct share ffn, vocab;
    int rank, size;
};
static inline struct share share_all(int n) { return (struct share){n, 0, n}; }

/* ERR_UNSUPPORTED if the model cannot be split so; param names the option. part: the model as this rank
 * computes it, with its own numbers of heads and feed-forward rows, but the whole vocabulary. */
int split_arch(const struct arch *whole, int rank, int size, struct split *out, struct arch *part,
               struct err *e);
