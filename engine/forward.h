/* One pass of a batch through all layers. Internal to the runner: forward.c computes, runner.c owns the
 * memory and translates plans. Engine thread. */
#pragma once
#include "model.h"

struct forward { /* set up once by the runner */
    const struct model *m;
    struct kv_store *kv;
    const struct kv_layout *layout;
    size_t mat_size; /* bytes of a value of h, att and ff */
    int rope_of[2];  /* rope used where a layer asks for 0 or 1 (longrope swaps) */
    /* activations for as many rows as the step may have, in the back end's memory; h, att and ff are inputs
     * of matrices, of its type */
    float *x, *delta; /* [n][dim] residual stream, branch output */
    void *h;          /* [n][dim] normed input */
    float *q, *k, *v; /* [n][n_head * head_dim], [n][n_kv_head * head_dim] */
    void *att, *ff;   /* [n][n_head * head_dim], [n][ffn_dim] */
    float *cs[2];     /* [n][rot] of each rope */
    float *inv_freq[2];
};
/* Places the activations of n rows, each at a 256-byte border, from arena on; with arena NULL nothing is set.
 * Returns their bytes. */
size_t forward_place(struct forward *f, const struct arch *a, int n_row, enum dtype mat, char *arena);
/* Computes the batch, after the back end's begin, and leaves the normed final states of its out_row in f->h
 * [n_out][dim]. Of the batch's lists the first half are the groups' rows, the second half only those rows of
 * them that are in out_row. */
void forward_run(const struct forward *f, const struct batch *b);
