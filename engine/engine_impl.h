/* The inside of the engine, for engine.c (the door: submit, cancel, state), engine_thread.c (the loop) and
 * engine_step.c (one step). Three kinds of state: fixed after engine_open; guarded by `mu`; and the engine
 * thread's own. */
#pragma once
#include <pthread.h>
#include "engine.h"
#include "engine_metrics.h"
#include "pace.h"
#include "request_impl.h"
#include "sampler.h"
#include "scheduler.h"

#define ENGINE_MAX_EOS 64

/* One row of logits of the step: whose it is, and what it is for. */
struct row_job {
    struct request *r;
    int pos; /* position of the token that the row predicts */
    enum { ROW_UNUSED, ROW_PROMPT, ROW_DRAW } kind;
    int status; /* of the sampler */
};
/* A step that was launched and whose outcome has not been taken. Two take turns: where tokens are drawn on a
 * device, a step is launched before the outcome of the last is known, so that the device never waits. */
struct flight {
    bool up;
    struct batch_plan plan; /* its items [max_num_seqs] are its own; seq is NULL of who has left */
    struct row_job *row;    /* [max_batch_tokens] of which n_row; r is NULL of who has left */
    const struct sample_result *result; /* [n_result] of the rows from first on; NULL: they have theirs */
    int n_row, first, n_result;
    double start;
};
struct verdict { /* on one item of the plan, after its token */
    enum finish_reason finish;
    int stop_token, stop_string;
    bool news;
};
/* What other threads asked for since the last turn. */
struct inbox {
    struct request *submit, **submit_end; /* list by next_inbox, in order; one reference each */
    struct request *cancel;               /* list by next_cancel, one reference each */
    bool abort_all;
    int check;    /* tickets of engine_check */
    double stall; /* seconds */
};

struct engine {
    struct model *model;
    struct pool *pool; /* NULL: everything on the engine thread */
    struct engine_config c;
    struct engine_info info;
    struct kv_config kv_config;
    int32_t eos[ENGINE_MAX_EOS];
    int n_eos;
    size_t text_bound;
    pthread_t thread;

    pthread_mutex_t mu;  /* guards this group */
    pthread_cond_t work; /* for the engine thread */
    pthread_cond_t calm; /* idle, or a check was done */
    struct inbox inbox;
    int live; /* requests submitted and not finished */
    int64_t arrivals;
    bool warming, draining, stopping, failed, idle;
    int check_done;
    struct err check_error;
    int preempt_one_in;
    int64_t progress_ns; /* when a step last ended, a request left, or work came to an idle engine */
    struct engine_stats stats;

    struct kv *kv;
    struct sched *sched;
    struct runner *runner;
    struct sampler **sampler; /* [n_sampler] one for each pool thread */
    int n_sampler;
    struct stop_scratch scratch;
    struct flight flight[2];
    int last;                /* the flight launched last */
    struct sample_row *draw; /* [runner_logits_max] where the back end draws */
    struct step_item *item;  /* [max_num_seqs] */
    struct verdict *verdict; /* [max_num_seqs] */
    struct engine_metrics metrics;
    int failures;    /* steps that failed in a row */
    int empty_plans; /* in a row */
    struct pace pace;
    double landed; /* when the last outcome was taken */
    uint64_t steps;
    struct {
        double since;
        uint64_t prompt_tokens, generation_tokens;
        struct kv_stats kv;
    } log; /* the stats line's window */
};

/* engine_plan.c: engine_plan with the kv_config that follows; loaded: bytes of weights in memory. */
int engine_plan_all(const struct arch *a, const struct engine_config *c, size_t loaded, struct kv_config *k,
                    struct engine_info *out, struct err *e);
/* engine.c: the memory that a request needs before the engine thread may have it. */
int engine_prepare(struct engine *en, struct request *r, struct err *e);
/* engine_thread.c */
void *engine_main(void *arg);
bool engine_has_work(const struct engine *en);
/* Takes r out of whatever state it is in and tells its reader; drops the engine's reference. */
void engine_end(struct engine *en, struct request *r, enum finish_reason f, const struct err *e);
/* The last act for a request that the scheduler has let go. */
void engine_let_go(struct engine *en, struct request *r, const struct verdict *v, const struct err *e);
/* Publishes the statistics; `gone` requests have left. */
void engine_settle(struct engine *en, int gone);
void engine_fail(struct engine *en, const struct err *e); /* ends every request; submit refuses from now on */
/* engine_rows.c: what the plan's rows of logits are for; after the forward pass, a token or a score for each
 * of them, which on a device is only begun; and the wait for these, nothing if that is over. A flight that is
 * up beside one of more rows than are drawn at once must have been taken. */
void engine_rows_fill(struct flight *f);
int engine_rows_draw(struct engine *en, struct flight *f, struct err *e);
int engine_rows_take(struct engine *en, struct flight *f, struct err *e);
/* engine_step.c */
void engine_step(struct engine *en);
void engine_forget(struct engine *en, const struct request *r); /* r leaves, maybe out of launched steps */
