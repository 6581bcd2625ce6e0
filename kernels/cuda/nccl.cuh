/* NCCL, opened at run time: it is 200 MB, and ranks whose devices see each other's memory can do without it.
 * Its few types are spelled out here, so that building needs no header of it. A struct nccl is one rank's
 * communicator, used by that rank's thread. */
#pragma once
#include "device.cuh"

struct nccl;
struct nccl_id {
    char bytes[128];
};

/* The library; NULL with the reason in e. */
struct nccl *nccl_open(struct err *e);
/* Rank 0 makes the id; then all ranks join, each on its own device, and wait for each other. */
int nccl_make_id(struct nccl *n, struct nccl_id *id, struct err *e);
int nccl_join(struct nccl *n, int size, const struct nccl_id *id, int rank, struct err *e);
/* over: a rank is missing; its kernels that still wait then end at once. NULL is nothing. */
void nccl_close(struct nccl *n, bool over);

/* In the stream's order; NULL, or why not. Sums are in place; their order is NCCL's own. */
const char *nccl_sum(struct nccl *n, float *x, size_t count, cudaStream_t s);
const char *nccl_gather(struct nccl *n, const float *part, size_t count, float *all, cudaStream_t s);
/* For each of rows: part [rows][len] to all [rows][size * len]. */
const char *nccl_gather_rows(struct nccl *n, const float *part, int rows, int len, float *all,
                             cudaStream_t s);
/* Whether it has noticed that another rank is gone. */
bool nccl_is_broken(struct nccl *n);
