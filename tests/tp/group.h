/* A model computed by several ranks that are threads of the test: rank 0 is the caller's, the others follow
 * it, one runner after another, until the group is closed. */
#pragma once
#include "backend.h"
#include "runner.h"

#define GROUP_MAX 8
struct group;
struct group_config {
    int size;
    enum cpu_isa isa;
    void (*adjust)(struct arch *); /* NULL = nothing */
    const char *quantization;      /* as model_options */
};
struct group *group_open(const char *path, const struct group_config *c);
struct pool *group_pool(struct group *g); /* of rank 0, as is all below */
struct backend *group_backend(struct group *g);
struct comm *group_comm(struct group *g);
/* What was computed by a rank > 0 so far: a digest of the hidden states after each message. */
uint64_t group_digest(struct group *g, int rank);
uint64_t group_hash(uint64_t h, const struct runner *r);
void group_kill(struct group *g, int rank); /* as if that rank had failed */
/* After rank 0's models and runners are closed; the error that the workers ended with goes to e. */
void group_close(struct group *g, struct err *e);
