#include "record.h"

void record_sizes(struct record *r, int most)
{
    r->n = 0;
    for (int n = 1; r->n < RECORD_MAX_SIZES - 1 && n < most; n += n < 8     ? n
                                                                  : n < 64  ? 8
                                                                  : n < 256 ? 16
                                                                            : n / 8)
        r->size[r->n++] = n;
    if (most > 0) r->size[r->n++] = most;
}

int record_size(const struct record *r, const struct batch *b)
{
    if (b->n_out != b->n || b->list[0].n_item != b->n) return 0;
    for (int i = 0; i < r->n; i++)
        if (r->size[i] >= b->n) return r->size[i];
    return 0;
}
