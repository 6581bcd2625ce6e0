/* The one interface between the engine and the kernels. A back end is a table of these ops over its own
 * memory.
 *
 * Conventions. Activations are row-major [n][dim] in the back end's memory; a stride is in elements. They are
 * float32, but for the inputs of matrices, which are of the type that the back end multiplies (backend.mat)
 * and which only ops read and write: `void *` here. n is the number of tokens of the step. Views never own
 * memory. All ops are called from the engine thread, one at a time, and cannot fail: shapes were checked when
 * the model was bound, memory was reserved by `reserve`; a device's errors come out of `sync` and `wait`. An
 * op may return before its work is done; works are done in the order of the calls.
 *
 * Batch invariance (bit for bit; on a device where the back end was asked for it): the result of a row
 * depends on that row alone, never on n, on the row's place, on the thread count, on the KV block size or on
 * how a prefill was cut. So every reduction runs in a fixed order: linear accumulates over K in ascending
 * groups; attention walks keys in fixed steps aligned to absolute position 0 and merges spans of a fixed
 * length, in order.
 *
 * kernels/ref has the scalar oracle of each op; every back end is tested against it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "dtype.h"
#include "err.h"
#ifdef __cplusplus
extern "C" {
#endif

struct backend;
struct comm;
struct weight;   /* a packed matrix [n_out][n_in], opaque; owned by the caller through weight_free */
struct kv_store; /* the KV cache's memory, opaque; owned by the caller through kv_free */

enum act { ACT_SILU, ACT_GELU_TANH, ACT_GELU, ACT_RELU };

struct weight_info {
    enum dtype type; /* as given to weight_pack */
    int n_out, n_in;
    size_t bytes; /* of the packed form */
};
struct linear_out {
    const struct weight *w;
    const float *bias; /* [n_out] or NULL */
    float *y;          /* [n][y_stride] */
    int y_stride;
};
/* x += scale * (post_w ? rmsnorm(delta) * post_w : delta), unless delta is NULL; then
 * y = pre_w ? rmsnorm(x) * pre_w : x.  rmsnorm(v) = v / sqrt(mean(v^2) + eps)   (Zhang & Sennrich 2019) */
struct norm_args {
    int n, dim;
    float *x;     /* [n][dim] residual stream, updated in place */
    float *delta; /* [n][dim] or NULL */
    bool reduce; /* delta is this rank's part: first it becomes the sum over the ranks, as all_reduce makes it
                  */
    float scale;
    const float *post_w; /* [dim] or NULL */
    const float *pre_w;  /* [dim] or NULL */
    void *y;             /* [n][dim] */
    float eps;
};
struct kv_geom {
    int n_block, block_size; /* blocks in the pool, tokens in a block */
    int n_slot;              /* layers that share a block: the layers of one group */
    int n_kv_head, head_dim;
    enum dtype type; /* DT_F32, DT_F16, DT_BF16, DT_I8 or DT_E4M3; a back end may refuse some */
};
/* A run of consecutive tokens of one sequence within the step. */
struct attn_item {
    int row;              /* first row in the step's [n] rows */
    int len;              /* rows */
    int pos;              /* position of the first row's token; the KV of [0, pos) is already stored */
    const int32_t *table; /* block table of this layer's group: entry i covers [i*bs, (i+1)*bs) */
};
struct attn_list { /* what the layers of one group see of the step */
    const struct attn_item *item;
    int n_item;
    int window; /* a row at t sees (t - window, t]; 0 = all up to t */
};
#define BATCH_MAX_LISTS 128
/* One step's integers, in host memory, unchanged until its last op was called. A device copies them once, in
 * `begin`. Rows that no item covers are padding: their results are finite and nobody's, and they store
 * nothing. */
struct batch {
    int n;
    const int32_t *ids, *pos; /* [n] */
    const int32_t
        *drawn; /* [n] >= 0: the row's id is the token of that result of the sample before, which need
                   not be there yet; -1: it is in ids. NULL: they all are. Only where there is sample */
    int n_out;
    const int *out_row; /* [n_out] ascending: the rows whose logits are wanted */
    int n_list;
    struct attn_list list[BATCH_MAX_LISTS];
};
enum rope_style { ROPE_NEOX, ROPE_PAIRS }; /* halves (i, i + rot/2), or neighbours (2i, 2i+1) */
/* Per-head norm of q and k (if q_norm, k_norm), rotary embedding of q and k, then k and v into the cache.
 * q and k are changed in place.   RoPE: Su et al. 2021 */
struct qkv_args {
    int n, n_head, n_kv_head, head_dim;
    float *q;
    int q_stride; /* [n][n_head][head_dim] */
    float *k;
    int k_stride; /* [n][n_kv_head][head_dim] */
    float *v;
    int v_stride;
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
    float eps;
    int rot; /* dimensions rotated, even, <= head_dim; 0 = none */
    enum rope_style style;
    const float *cs; /* [n][rot/2][2] cosine and sine, from rope_angles */
    struct kv_store *kv;
    int slot;
    const struct batch *b;
    int list; /* of b */
};
/* out[t] = softmax(scale * q[t].k, soft-capped by cap*tanh(./cap) if cap > 0) . v over the stored tokens that
 * the list lets t see. Ragged: decodes and prefill chunks in one call. Query head h reads KV head h /
 * (n_head / n_kv_head). */
struct attn_args {
    int n, n_head, n_kv_head, head_dim;
    const float *q;
    int q_stride;
    void *out;
    int out_stride; /* [n][n_head][head_dim] */
    float scale, cap;
    const struct kv_store *kv;
    int slot;
    const struct batch *b;
    int list; /* of b */
};
#define SAMPLE_TOP_MAX 20 /* alternatives of a row */

struct logit_bias {
    int32_t token;
    float bias;
};
struct penalty { /* a token that a sequence has seen */
    int32_t token;
    int32_t n_out; /* times in the answer; 0: only in the prompt */
};
struct token_logprob {
    int32_t token;
    float logprob;
};
/* What to do with one row of logits. The arrays are the caller's and read before sample returns. The result
 * is a function of the row's logits and of this alone, bit for bit, and the same as engine/sampler.h's:
 * logprobs of the raw logits; bias, banned ids, penalties; temperature; min_p; top_k; top_p; the draw. */
struct sample_row {
    float temperature, top_p, min_p; /* 0 = greedy; 1 = off; 0 = off */
    int top_k;                       /* <= 0 = off */
    float repetition, frequency, presence;
    uint64_t random;               /* 64 bits of the generator for the row's seed and position */
    int32_t score;                 /* >= 0: nothing is drawn, this token's logprob is wanted; -1: draw */
    int n_top;                     /* alternatives, 0..SAMPLE_TOP_MAX; -1: no logprobs */
    const struct logit_bias *bias; /* [n_bias] */
    const int32_t *ban[2];         /* [n_ban[i]] ids that may not come */
    const struct penalty *seen;    /* [n_seen] distinct tokens for the penalties */
    int n_bias, n_ban[2], n_seen;
};
struct sample_result {
    int32_t token;
    int status;    /* 0, or ERR_INVALID: no finite logit */
    float logprob; /* this and below only with n_top >= 0 */
    int rank;      /* 1 = most likely; ties by id */
    int n_top;
    struct token_logprob top[SAMPLE_TOP_MAX]; /* by (logprob descending, id ascending) */
};
/* The largest step: what memory must be there before it. */
struct step_limits {
    int max_rows, max_seqs, max_ctx;
    int max_in; /* widest matrix input */
    int n_head, n_kv_head, head_dim, vocab;
    int n_list, block_size;
};

struct ops {
    /* Memory that only ops touch: activations, norm weights, biases. write and read are in order with the
     * ops; read waits for its data. */
    int (*mem_alloc)(struct backend *, size_t bytes, void **out, struct err *);
    void (*mem_free)(struct backend *, void *);
    void (*mem_write)(struct backend *, void *dst, const void *src, size_t bytes);
    void (*mem_read)(struct backend *, void *dst, const void *src, size_t bytes);
    size_t (*mem_available)(struct backend *); /* bytes that may still be allocated, SIZE_MAX if not known */
    /* weight_pack copies src (n_out rows of type t, each dtype_row_bytes long, any alignment) into the back
     * end's layout; src may be unmapped afterwards. May use the pool; called from one thread at a time. */
    int (*weight_pack)(struct backend *, enum dtype t, int n_out, int n_in, const void *src,
                       struct weight **out, struct err *);
    void (*weight_free)(struct backend *, struct weight *);
    struct weight_info (*weight_info)(const struct weight *);
    int (*kv_alloc)(struct backend *, const struct kv_geom *, struct kv_store **out, struct err *);
    void (*kv_free)(struct backend *, struct kv_store *);
    int (*reserve)(struct backend *, const struct step_limits *, struct err *);

    void (*begin)(struct backend *, const struct batch *); /* before the other ops of a step */
    /* y[i] = row ids[i] of w times scale;  y [n][n_in of w]. An id outside of w's rows gives zeros. */
    void (*embed)(struct backend *, const struct weight *w, const struct batch *b, float scale, float *y);
    /* y[i] = x[out_row[i]], rows of row_bytes; x and y do not overlap */
    void (*gather)(struct backend *, const struct batch *b, const void *x, size_t row_bytes, void *y);
    /* For each out: y = x . w^T + bias;  x [n][n_in]. All weights share n_in; x is read (and quantised) once.
     */
    void (*linear)(struct backend *, const void *x, int n, const struct linear_out *out, int n_out);
    /* y[n][f] = act(x . gate^T) * (x . up^T); gate and up have the same shape and, usually, type */
    void (*linear_glu)(struct backend *, const void *x, int n, const struct weight *gate,
                       const struct weight *up, enum act act, void *y);
    void (*add_norm)(struct backend *, const struct norm_args *);
    /* In-place RMS norm of rows with a stride: q or k as a whole (OLMo 2) */
    void (*row_norm)(struct backend *, float *x, int n, int dim, int stride, const float *w, float eps);
    /* cs[i][j] = mscale * (cos, sin)(pos[i] * inv_freq[j]);  inv_freq in the back end's memory */
    void (*rope_angles)(struct backend *, const struct batch *b, const float *inv_freq, int half,
                        float mscale, float *cs);
    void (*qkv_prep)(struct backend *, const struct qkv_args *);
    void (*attn)(struct backend *, const struct attn_args *);
    /* x[i] = cap * tanh(x[i] * scale / cap), or x[i] * scale when cap is 0: final logits */
    void (*scale_cap)(struct backend *, float *x, int64_t n, float scale, float cap);
    /* Makes the back end one of several ranks, before any weight is packed: sets backend.rank and size. comm
     * (comm/comm.h) is borrowed and must outlive the back end. NULL where there can be only one. */
    int (*join)(struct backend *, struct comm *comm, struct err *);
    /* Between the ranks of one model (backend.size of them; not called when it is 1). all_reduce: x becomes
     * the sum over the ranks, taken in their order, so with equal bits on each. all_gather: all[i] = the
     * ranks' part[i] one after another;  part [n][len], all [n][size * len] */
    void (*all_reduce)(struct backend *, float *x, size_t n);
    void (*all_gather)(struct backend *, const float *part, int n, int len, float *all);
    /* One token for each of n <= max_rows rows; logits [n][vocab] may be changed. The results [n], in host
     * memory of the back end, are there when wait returns for them, and until the second sample after this
     * one. n may be 0, to wait for what was called before. NULL where logits are in host memory anyway: there
     * engine/sampler.c draws. */
    const struct sample_result *(*sample)(struct backend *, float *logits, int vocab,
                                          const struct sample_row *row, int n);
    /* Waits for all that was called up to the sample that gave these, and no longer; errors as in sync. NULL
     * where sample is. */
    int (*wait)(struct backend *, const struct sample_result *, struct err *);
    /* Recorded steps; all NULL where there is nothing to gain. A step of n rows whose items have a row each
     * and whose logits are all wanted makes the same calls whatever its integers are. Ops called between
     * record and record_end do not run but are kept under n, instead of what was there; after begin, replay
     * runs what is kept under b->n, or says false. */
    int (*record)(struct backend *, struct err *);
    int (*record_end)(struct backend *, int n, struct err *);
    bool (*replay)(struct backend *, const struct batch *b);
    int (*sync)(struct backend *, struct err *);
    void (*close)(struct backend *); /* after everything that it gave was freed, but for packed weights */
};
struct backend {
    const char *name; /* "cpu", "ref", "cuda" */
    const char *isa;  /* "avx2", "avx512", "scalar", "sm_90" */
    const struct ops *ops;
    enum dtype mat;     /* of the inputs of matrices: DT_F32 or DT_BF16 */
    enum dtype kv_type; /* of the KV cache unless something else is asked for */
    bool host;          /* its memory is main memory, and its ops are done when they return */
    int rank, size;     /* among the ranks of one model: 0 of 1 */
};

/* Size in bytes of one block of the store: 2 * n_slot * block_size * n_kv_head * head_dim values (and the
 * scales of I8 and E4M3). */
size_t kv_block_bytes(const struct kv_geom *g);
#ifdef __cplusplus
}
#endif
