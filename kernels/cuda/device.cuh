/* What the files of the CUDA back end share: the device, its stream, and the step that `begin` copied there.
 * One struct cuda belongs to one rank's engine thread. Everything is enqueued on `stream`; no op allocates or
 * waits but those that ops.h says so of. Kernels read the step from fixed device addresses, so that a
 * captured graph stays valid from step to step: launch shapes may depend on the number of rows, never on
 * lengths, positions or the number of items.
 *
 *   backend.cu  opening, memory, the table        step.cu    staging of a step (begin), sync
 *   weight.cu pack.cu  matrices and packing       linear.cu  products: which kernel for how many rows
 *   qkv.cu attn*.cu kv.cu                         norm.cu elementwise.cu sample.cu */
#pragma once
#include "dev.cuh"
#include "module.h"
#include "ops.h"

/* A list of the step (attn_list) on the device. */
struct cu_item {
    int row, len, pos;
    int table; /* entry i of its block table is cu_list.table[table + i] */
};
struct cu_list {
    const struct cu_item *item;
    const int32_t *table;    /* of all lists, one after another */
    const int32_t *row_item; /* [n] item of each row, -1 = padding */
    const void *plan;        /* what cu_attn_plan wrote */
    bool fold;               /* and said */
};
struct cu_step {              /* device addresses; those of a step of n rows are always the same */
    const int32_t *ids, *pos; /* [n] */
    const int32_t *drawn;     /* [n] row of the last sample that makes the id; -1: it is in ids */
    const int32_t *out_row;   /* [n] of which n_out are set */
    struct cu_list list[BATCH_MAX_LISTS];
};
struct cu_pack;   /* weight.cu's: pinned buffers */
struct cu_linear; /* linear.cu's: cublasLt, scratch */
struct cu_attn;   /* attn.cu's: scratch */
struct cu_sample; /* sample.cu's */
struct cu_stage;  /* step.cu's: pinned blocks */
struct cu_record; /* record.cu's: graphs */
struct cu_comm;   /* comm.cu's: peers */

struct cuda {
    struct backend base; /* first, so that a struct backend * can be cast */
    struct cuda_options o;
    int device, n_sm, smem_max; /* smem_max: bytes that a block may ask for */
    int cc;                     /* compute capability, 90 for 9.0 */
    char isa[16];
    cudaStream_t stream;
    cudaError_t bad; /* the first error; sync reports it */
    const char *bad_at;
    struct step_limits lim;
    struct cu_step step;
    struct cu_pack *pack; /* NULL: nothing is being packed */
    struct cu_linear *linear;
    struct cu_attn *attn;
    struct cu_sample *sample;
    struct cu_stage *stage;
    struct cu_record *record;
    struct cu_comm *comm; /* NULL: alone */
};
static inline struct cuda *cuda_of(struct backend *be) { return (struct cuda *)(void *)be; }

/* Keeps the first error for sync. CU(c, call) for runtime calls; CU_LAUNCHED(c) after a launch. */
void cu_note(struct cuda *c, cudaError_t e, const char *where);
#define CU_STR_(x)     #x
#define CU_STR(x)      CU_STR_(x)
#define CU(c, call)    cu_note(c, call, __FILE__ ":" CU_STR(__LINE__))
#define CU_LAUNCHED(c) cu_note(c, cudaPeekAtLastError(), __FILE__ ":" CU_STR(__LINE__))
/* The first error, if there was one. */
int cu_verdict(const struct cuda *c, struct err *e);
/* Device memory with an error that says what for. */
int cu_alloc(struct cuda *c, size_t bytes, const char *what, void **out, struct err *e);

/* Each area: open after the device is set (frees nothing on failure: close does), reserve when the largest
 * step is known (may come again with larger sizes), close frees. */
int cu_linear_open(struct cuda *c, struct err *e);
int cu_linear_reserve(struct cuda *c, struct err *e);
void cu_linear_close(struct cuda *c);
int cu_attn_open(struct cuda *c, struct err *e);
int cu_attn_reserve(struct cuda *c, struct err *e);
void cu_attn_close(struct cuda *c);
int cu_sample_open(struct cuda *c, struct err *e);
int cu_sample_reserve(struct cuda *c, struct err *e);
void cu_sample_close(struct cuda *c);

/* Called by begin for each list of a step of n rows, in host memory, which is copied to cu_list.plan. Tiles
 * of work for prefill and splits for decode, built from the items: cu_attn_plan_bytes of so many. False if
 * attention is done without a second kernel, in this step and in all that may be replayed in its place. */
size_t cu_attn_plan_bytes(int n_item);
bool cu_attn_plan(const struct cuda *c, const struct attn_list *l, int n, void *plan);

/* step.cu: copies a step to the device. reserve comes after cu_attn_reserve. */
int cu_stage_reserve(struct cuda *c, struct err *e);
void cu_stage_close(struct cuda *c);
void cu_begin(struct backend *, const struct batch *b);

void cu_pack_close(struct cuda *c); /* weight.cu; the next matrix opens it */

/* record.cu: steps as CUDA graphs. */
int cu_record(struct backend *, struct err *e);
int cu_record_end(struct backend *, int n, struct err *e);
bool cu_replay(struct backend *, const struct batch *b);
void cu_record_close(struct cuda *c);

/* comm.cu: the ranks of one model. join once, before reserve; cu_add_norm calls cu_reduce_norm first when its
 * delta is a part of a sum: true if that did everything in one kernel, else delta is the sum now. */
struct comm;
int cu_join(struct backend *, struct comm *comm, struct err *e);
void cu_comm_close(struct cuda *c);
/* Waits for the stream; where a rank is gone, notes that within seconds. */
void cu_comm_wait(struct cuda *c);
bool cu_reduce_norm(struct cuda *c, const struct norm_args *a);
void cu_all_reduce(struct backend *, float *x, size_t n);
void cu_all_gather(struct backend *, const float *part, int n, int len, float *all);

/* The ops, by file. */
int cu_weight_pack(struct backend *, enum dtype t, int n_out, int n_in, const void *src, struct weight **out,
                   struct err *e);
void cu_weight_free(struct backend *, struct weight *w);
struct weight_info cu_weight_info(const struct weight *w);
void cu_embed(struct backend *, const struct weight *w, const struct batch *b, float scale, float *y);
void cu_linear(struct backend *, const void *x, int n, const struct linear_out *out, int n_out);
void cu_linear_glu(struct backend *, const void *x, int n, const struct weight *gate, const struct weight *up,
                   enum act act, void *y);
int cu_kv_alloc(struct backend *, const struct kv_geom *g, struct kv_store **out, struct err *e);
void cu_kv_free(struct backend *, struct kv_store *kv);
void cu_qkv_prep(struct backend *, const struct qkv_args *a);
void cu_attn(struct backend *, const struct attn_args *a);
void cu_add_norm(struct backend *, const struct norm_args *a);
void cu_row_norm(struct backend *, float *x, int n, int dim, int stride, const float *w, float eps);
void cu_rope_angles(struct backend *, const struct batch *b, const float *inv_freq, int half, float mscale,
                    float *cs);
void cu_gather(struct backend *, const struct batch *b, const void *x, size_t row_bytes, void *y);
void cu_scale_cap(struct backend *, float *x, int64_t n, float scale, float cap);
const struct sample_result *cu_sample(struct backend *, float *logits, int vocab,
                                      const struct sample_row *row, int n);
int cu_wait(struct backend *, const struct sample_result *, struct err *e);
/* The last sample's results on the device: always at the same address. */
const struct sample_result *cu_drawn(const struct cuda *c);
