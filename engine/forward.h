/* One pass of a batch through all layers. Internal to the runner: forward.c computes, runner.c owns the
 * memory and translates plans. Engine thread. */
#pragma once
#include "model.h"

struct forward { /* set up once by the runner */
    const struct model *m;
    struct kv_store *kv;
    const struct kv_layout *layout;
    int rope_of[2]; /* rope used where a layer asks for 0 or 1 (longrope swaps) */
    /* activations for as many rows as the step may have */
    float *x, *h,
        *delta;     /* [n][dim] residual stream, normed input (final states in the end), branch output */
    float *q, *att; /* [n][n_head * head_dim] */
    float *k, *v;   /* [n][n_kv_head * head_dim] */
    float *ff;      /* [n][ffn_dim] */
    float *cs[2];   /* [n][rot] of each rope */
};
struct step { /* one batch */
    int n, n_item, n_out, n_out_item;
    const int32_t *ids, *pos; /* [n] */
    const int *out_row;       /* [n_out] ascending: the rows whose final state is wanted */
    const struct attn_item *item[KV_LAYOUT_MAX_GROUPS]; /* [n_item], with the tables of each group */
    const struct attn_item
        *out_item[KV_LAYOUT_MAX_GROUPS]; /* [n_out_item]: of item, only the rows in out_row */
};
/* Leaves the normed final states of out_row in f->h [n_out][dim]. */
void forward_run(const struct forward *f, const struct step *s);
