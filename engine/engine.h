/* The engine: one thread that owns the scheduler, the KV bookkeeping, the runner and every sequence. Readers
 * talk to it through submit and cancel (a mutex-protected inbox, taken whole at each step) and the requests'
 * mailboxes. */
#pragma once
#include <stdbool.h>
#include "kv.h"
#include "metrics.h"
#include "model.h"
#include "pool.h"
#include "request.h"
#include "runner.h"

struct engine_config {
    int max_model_len;    /* 0 = the model's, lowered to what the KV pool can hold */
    int max_num_seqs;     /* running at once */
    int max_batch_tokens; /* token budget of a step */
    int block_size;
    int n_block;     /* KV blocks; 0 = from kv_bytes */
    size_t kv_bytes; /* 0 = from memory_fraction of what the machine has available */
    double memory_fraction;
    int logit_rows;   /* as runner_config: more where they stay on a device */
    size_t available; /* bytes free where weights and KV lie; 0 = ask the machine */
    enum dtype kv_type;
    bool prefix_cache;
    int max_queue;        /* waiting requests beyond which submit says ERR_FULL */
    double watchdog_s;    /* no step for so long while requests wait: unhealthy */
    size_t weight_bytes;  /* for engine_plan: what weights will take that are not loaded yet */
    double target_itl_ms; /* 0 = off: limit prefill beside decodes so that steps stay near this */
    bool async_steps;     /* launch a step before the outcome of the last is known, where the back end can */
    int n_rank; /* that compute the model; 0 is 1. Several: a step that fails is the end of the engine */
};
void engine_config_init(struct engine_config *c);

enum engine_state {
    ENGINE_WARMING,
    ENGINE_READY,
    ENGINE_DRAINING,
    ENGINE_STALLED,
    ENGINE_FAILED,
    ENGINE_STOPPED
};

struct engine_info { /* fixed after engine_open */
    int max_model_len, n_block, block_size;
    size_t kv_bytes, activation_bytes, weight_bytes;
    int max_prompt; /* longest prompt that fits context and KV pool, with room for one token of answer */
};
struct engine;

/* Sizes everything, starts the thread and makes a warm token; ready when engine_state says so. Borrows model,
 * pool and metrics (NULL = none). */
int engine_open(struct model *m, struct pool *pool, const struct engine_config *c, struct metrics *metrics,
                struct engine **out, struct err *e);
/* Plans the memory without allocating or starting anything: for `inferd check`. */
int engine_plan(const struct arch *a, const struct engine_config *c, struct engine_info *out, struct err *e);
const struct engine_info *engine_info(const struct engine *en);
enum engine_state engine_state(struct engine *en);

/* ERR_TOO_LONG if it can never fit, ERR_FULL if the queue is full, ERR_CLOSED while draining or failed,
 * ERR_INVALID for a token id out of range. On success the engine holds its own reference. */
int engine_submit(struct engine *en, struct request *r, struct err *e);
/* Any thread, any state (even before submit), any number of times. The reader gets done with FINISH_ABORT
 * unless it was done already. */
void engine_cancel(struct engine *en, struct request *r);
/* No new requests; waits up to timeout_s for the running ones; true if all finished. engine_abort_all ends
 * them. */
void engine_drain(struct engine *en);
bool engine_wait_idle(struct engine *en, double timeout_s);
void engine_abort_all(struct engine *en);
void engine_close(struct engine *en); /* aborts what is left, stops the thread, frees */

struct engine_stats {
    int running, waiting;
    struct kv_stats kv;
    uint64_t preemptions, steps;
};
struct engine_stats engine_stats(struct engine *en); /* a snapshot, at most one step old */
/* When idle: scheduler and KV invariants. For tests and the idle self-check. */
int engine_check(struct engine *en, struct err *e);
/* Tests only: the engine sleeps for so long before its next step (watchdog), or preempts at random (seeded, 1
 * in n steps). */
void engine_test_stall(struct engine *en, double seconds);
void engine_test_preempt(struct engine *en, int one_in);
