/* What the files of the CPU back end share. One cpu_backend belongs to the engine thread; pool workers touch
 * it only inside pool_run. linear.c owns `linear`, everything else is backend.c's and attn's. */
#pragma once
#include "backend.h"
#include "ops.h"
#include "pool.h"

struct linear_state; /* scratch and kernels of the matrix products: linear.c */
struct attn_state;   /* scratch of attention: attn.c */
struct step_kernels; /* step.h */
struct slab;

struct cpu_backend {
    struct backend base; /* first, so that a struct backend * can be cast */
    struct pool *pool;
    enum cpu_isa isa;
    struct linear_state *linear;
    struct attn_state *attn;
    const struct step_kernels *step; /* NULL at the scalar level */
    struct slab *slab;               /* memory for matrices, being filled: weight.c */
    struct comm *comm;               /* the way to the other ranks, or NULL: ranks.c */
    float *gathered;                 /* scratch of all_gather */
    struct err failed;               /* the first failure between ranks */
};
static inline struct cpu_backend *cpu_of(struct backend *be) { return (struct cpu_backend *)(void *)be; }

/* linear.c, weight.c: opened by cpu_backend_open after pool and isa are set (slab is NULL at first); reserve
 * may be called again with larger sizes. Weights may be freed after close. */
int cpu_linear_open(struct cpu_backend *be, struct err *e);
void cpu_linear_close(struct cpu_backend *be);
void cpu_weight_close(struct cpu_backend *be);
int cpu_linear_reserve(struct cpu_backend *be, int max_rows, int max_in, struct err *e);

/* Ops of weight.c and linear.c. */
int cpu_weight_pack(struct backend *, enum dtype t, int n_out, int n_in, const void *src, struct weight **out,
                    struct err *);
void cpu_weight_free(struct backend *, struct weight *);
struct weight_info cpu_weight_info(const struct weight *);
void cpu_embed(struct backend *, const struct weight *w, const struct batch *b, float scale, float *y);
void cpu_linear(struct backend *, const void *x, int n, const struct linear_out *out, int n_out);
void cpu_linear_glu(struct backend *, const void *x, int n, const struct weight *gate,
                    const struct weight *up, enum act act, void *y);

/* ranks.c */
int cpu_join(struct backend *, struct comm *comm, struct err *e);
void cpu_all_reduce(struct backend *, float *x, size_t n);
void cpu_all_gather(struct backend *, const float *part, int n, int len, float *all);
int cpu_sync(struct backend *, struct err *);

/* attn.c; reserve may be called again, with new sizes. */
int cpu_attn_reserve(struct cpu_backend *be, int max_rows, int max_heads, int max_head_dim, int max_ctx,
                     struct err *e);
void cpu_attn_close(struct cpu_backend *be);
void cpu_attn(struct backend *, const struct attn_args *a);
