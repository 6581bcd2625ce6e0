/* All tensors of a model under one accessor, wherever they come from: a GGUF file, the safetensors files of a
 * Hugging Face folder, or nothing at all (dummy weights). Each tensor is asked for by name, type and shape;
 * whatever nobody asked for is an error in the end. Used by the loading thread only; weights are copied out,
 * so it lives no longer than the load. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "gguf.h"
#include "ops.h"
#include "safetensors.h"

struct tensor {
    const char *name; /* owned by the store */
    bool plain;       /* false: a type that cannot be used as a weight (I64 buffers, say) */
    enum dtype type;
    int n_dim;
    int64_t dim[SAFETENSORS_MAX_DIM]; /* outermost first, also for GGUF */
    const void *data;
    size_t bytes;
    int shard; /* index of its file */
    bool used;
    enum dtype as; /* a matrix: the type that it was last asked for */
};
struct pool;
struct store;

int store_open_gguf(const struct gguf *g, struct store **out, struct err *e); /* borrows g */
/* model.safetensors, or the shards of model.safetensors.index.json. Errors name the file. */
int store_open_folder(const char *dir, struct store **out, struct err *e);
/* Every name exists, with whatever shape it is asked for, filled with random values of the given plain type.
 */
int store_open_dummy(uint64_t seed, enum dtype type, struct store **out, struct err *e);
void store_close(struct store *s);
/* What tells a file from another, or from itself before a change, added to that of the other files; to be
 * taken before the file is opened. Folders do this themselves. */
uint64_t store_identity(uint64_t others, const char *path);
void store_set_identity(struct store *s, uint64_t identity);
void store_use_pool(struct store *s, struct pool *pool); /* to convert with several threads; borrowed */
/* Forgets what was asked for, except for the matrices' types, so that a model can be bound again. */
void store_restart(struct store *s);

/* NULL if absent. Does not count as use. Never for dummy stores. */
const struct tensor *store_find(const struct store *s, const char *name);
size_t store_total_bytes(const struct store *s);
size_t store_used_bytes(const struct store *s); /* of the tensors asked for so far */
size_t
store_matrix_bytes(const struct store *s); /* of the matrices asked for so far, in the types asked for */
/* The types of the matrices used, most frequent first, as "Q4_K Q6_K". */
void store_types(const struct store *s, char *out, size_t n);

/* Rows [row, row + n_row) of the matrix `name`, whose shape must be [n_out][n_in], packed for `be`. as: the
 * type to convert or quantise plain weights to, or DT_COUNT to keep the file's. Of each row only columns
 * [col, col + n_col), which must be whole blocks of the type; n_col 0: all. be == NULL checks only, and *out
 * stays NULL. */
struct matrix_spec {
    const char *name;
    int n_out, n_in, row, n_row;
    enum dtype as;
    int col, n_col;
};
int store_matrix(struct store *s, struct backend *be, const struct matrix_spec *m, struct weight **out,
                 struct err *e);
/* A vector of n values as floats, plus `offset` each; the caller frees it. check_only leaves *out NULL. */
int store_vector(struct store *s, const char *name, int n, float offset, bool check_only, float **out,
                 struct err *e);
/* Error if a tensor is left that nobody asked for, unless ignorable (see store.c) or `ignore` says so. */
int store_check_leftover(const struct store *s, bool (*ignore)(const char *name, void *ctx), void *ctx,
                         struct err *e);
