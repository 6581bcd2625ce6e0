/* The SIMD kernels of a step's ops other than the matrix products: one table for each level. All are pure
 * functions of rows or tiles; who runs which is decided in backend.c and attn.c, and never changes a bit of a
 * result.
 *
 * Attention. The rows of one item that read one KV head are numbered token by token, the head's queries side
 * by side (row = token * group + query), and cut into tiles. Keys are walked in steps, aligned to position 0,
 * and the steps of one span make an online softmax of their own (Milakov & Gimelshein 2018); spans are joined
 * in ascending order. Keys that a row may not see get weight 0, which changes nothing in its sums, so a row's
 * result does not depend on the rows beside it. */
#pragma once
#include "ops.h"

enum {
    ATTN_TILE = 24,  /* rows */
    ATTN_STEP = 64,  /* keys */
    ATTN_SPAN = 256, /* keys */
};

/* State of a row: a record of floats, [dim rounded up to 16] sums of weighted values, then largest score, sum
 * of weights. Scores are in units of log 2. */
static inline size_t attn_record(int head_dim) { return ((size_t)head_dim + 15) / 16 * 16 + 16; }
/* Floats of scratch for attn_tile: queries, scores, two sets of records, three factors. */
static inline size_t attn_scratch(int head_dim)
{
    return ATTN_TILE * ((size_t)head_dim + ATTN_STEP + 2 * attn_record(head_dim) + 3);
}

struct attn_tile {
    const struct attn_args *a;
    const struct attn_item *it;
    int kv_head, row, rows; /* rows [row, row + rows) */
};
/* Spans that a tile's rows can see: [first, end). */
static inline void attn_spans(const struct attn_tile *t, int *first, int *end)
{
    int group = t->a->n_head / t->a->n_kv_head;
    int pos = t->it->pos + t->row / group, window = t->a->b->list[t->a->list].window,
        last = t->it->pos + (t->row + t->rows - 1) / group;
    *first = window > 0 && pos >= window ? (pos - window + 1) / ATTN_SPAN : 0;
    *end = last / ATTN_SPAN + 1;
}

struct step_kernels {
    /* The whole of a tile's attention, into a->out. Needs KV tiles of 8 and a head_dim divisible by 8. */
    void (*attn_tile)(const struct attn_tile *t, float *scratch);
    /* One span of it, into rec [rows] records; then the join of records [span - first][stride] into a->out.
     */
    void (*attn_span)(const struct attn_tile *t, int span, float *rec, float *scratch);
    void (*attn_join)(const struct attn_tile *t, float *rec, size_t stride);

    void (*add_norm)(const struct norm_args *a, int r0, int r1);
    void (*row_norm)(float *x, int r0, int r1, int dim, int stride, const float *w, float eps);
    void (*qkv_prep)(const struct qkv_args *a, int r0, int r1);
    void (*scale_cap)(float *x, int64_t i0, int64_t i1, float scale, float cap);
};
extern const struct step_kernels step_avx2, step_avx512, step_vnni, step_bf16;

#ifdef LEVEL /* attn_simd.c's part of the table, for step_simd.c of the same level */
void LEVEL(attn_tile)(const struct attn_tile *t, float *scratch);
void LEVEL(attn_span)(const struct attn_tile *t, int span, float *rec, float *scratch);
void LEVEL(attn_join)(const struct attn_tile *t, float *rec, size_t stride);
#endif
