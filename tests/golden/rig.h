/* A model and a runner without scheduler and KV bookkeeping: every sequence has its own blocks, in an order
 * that is not theirs by number, and the caller says what each step computes. For tests. */
#pragma once
#include "model.h"
#include "runner.h"

#define RIG_SEQS 16
struct rig {
    struct model *m;
    struct runner *r;
    int n_seq, max_tokens;
    struct seq seq[RIG_SEQS];
    struct plan_item item[RIG_SEQS];
};
/* With a cache of float32, or of another type; adjust (NULL = nothing) may change the model before the runner
 * sees it. */
int rig_open(struct rig *g, const char *path, struct backend *be, const struct model_options *o, int n_seq,
             int max_tokens, struct err *e);
int rig_open_kv(struct rig *g, const char *path, struct backend *be, const struct model_options *o,
                enum dtype kv_type, void (*adjust)(struct arch *), int n_seq, int max_tokens, struct err *e);
void rig_close(struct rig *g);
void rig_start(struct rig *g, int seq, const int32_t *tok, int n); /* a new text in sequence seq */
void rig_push(struct rig *g, int seq, int32_t tok);
/* Computes the next `chunk` tokens of each listed sequence (or what is left), with logits of the last
 * n_logits. */
int rig_step(struct rig *g, const int *seq, int n, int chunk, int n_logits, struct err *e);
/* Back ends to test with: 0 is the reference, then one for each CPU level; or, with TEST_DEVICE in the
 * environment, that device alone. NULL after the last. Freed at exit. */
struct backend *rig_backend(int i);
