#include "golden.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common.h"

#define N_GREEDY 32

static cJSON *load_golden(const char *name)
{
    char path[512];
    struct err e = {0};
    cJSON *j = NULL;
    snprintf(path, sizeof path, "%s/%s/golden.json", GOLDEN_DATA, name);
    ck_assert_msg(!json_load(path, 16u << 20, &j, &e), "%s", e.msg);
    return j;
}

struct worst {
    double logit, logprob;
};
/* Prefill of one prompt with logits everywhere; leaves the logits of its last position in `last`. */
static void check_prompt(struct rig *g, int seq, const cJSON *prompt, float *last, struct worst *w)
{
    int32_t ids[512];
    int n = golden_ids(json_get(prompt, "ids"), ids, 512), vocab = g->m->arch.vocab,
        max = runner_logits_max(g->r);
    const cJSON *want = json_get(prompt, "prompt_logprobs")->child, *x;
    double sum = 0;
    struct err e = {0};
    float *logits;
    rig_start(g, seq, ids, n);
    ck_assert_msg(!rig_step(g, &seq, 1, n, n, &e), "%s", e.msg);
    for (int row = 0; row < n; row += max) {
        int rows = n - row < max ? n - row : max;
        ck_assert_msg(!runner_logits(g->r, row, rows, &logits, &e), "%s", e.msg);
        for (int i = 0; i < rows && row + i + 1 < n; i++)
            sum += fabs(log_prob(logits + (size_t)i * vocab, vocab, ids[row + i + 1]) -
                        (want = want->next)->valuedouble);
        memcpy(last, logits + (size_t)(rows - 1) * vocab, (size_t)vocab * sizeof *last);
    }
    if (n > 1) w->logprob = fmax(w->logprob, sum / (n - 1));
    int i = 0;
    cJSON_ArrayForEach(x, json_get(prompt, "last_logits")) w->logit =
        fmax(w->logit, fabs(last[i++] - x->valuedouble));
    ck_assert_int_eq(i, vocab);
}

/* Chunks of all prompts together, logits only where a chunk ends: the same bits as whole and alone. */
static void check_chunks(struct rig *g, const cJSON *prompts, const float *last, const char *what)
{
    int seq[RIG_SEQS], n = cJSON_GetArraySize(prompts), vocab = g->m->arch.vocab;
    struct err e = {0};
    float *logits;
    int32_t ids[512];
    for (int i = 0; i < n; i++)
        rig_start(g, i, ids, golden_ids(json_get(cJSON_GetArrayItem(prompts, i), "ids"), ids, 512));
    for (;;) {
        int m = 0;
        for (int i = 0; i < n; i++)
            if (g->seq[i].n_computed < g->seq[i].n_tok) seq[m++] = i;
        if (!m) return;
        ck_assert_msg(!rig_step(g, seq, m, 5, 1, &e), "%s", e.msg);
        ck_assert_msg(!runner_logits(g->r, 0, m, &logits, &e), "%s", e.msg);
        for (int k = 0; k < m; k++)
            if (g->seq[seq[k]].n_computed == g->seq[seq[k]].n_tok)
                ck_assert_msg(!memcmp(logits + (size_t)k * vocab, last + (size_t)seq[k] * vocab,
                                      (size_t)vocab * sizeof *last),
                              "%s: prompt %d differs when it comes in chunks", what, seq[k]);
    }
}

/* All prompts decode together; one that leaves the golden path at a near tie is no longer compared. */
static void check_greedy(struct rig *g, const cJSON *prompts, float *last, double near, const char *what)
{
    int seq[RIG_SEQS], n = cJSON_GetArraySize(prompts), vocab = g->m->arch.vocab;
    bool off[RIG_SEQS] = {false};
    struct err e = {0};
    float *logits = last;
    for (int i = 0; i < n; i++) seq[i] = i;
    for (int t = 0; t < N_GREEDY; t++) {
        for (int i = 0; i < n; i++) {
            const cJSON *p = cJSON_GetArrayItem(prompts, i);
            int got = argmax(logits + (size_t)i * vocab, vocab);
            int want = (int)golden_num(p, "greedy", t);
            double gap = golden_num(p, "gap", t);
            ck_assert_msg(off[i] || got == want || gap <= near,
                          "%s: prompt %d, token %d: %d, not %d (gap %g)", what, i, t, got, want, gap);
            off[i] |= got != want;
            rig_push(g, i, got);
        }
        ck_assert_msg(!rig_step(g, seq, n, 1, 1, &e), "%s", e.msg);
        ck_assert_msg(!runner_logits(g->r, 0, n, &logits, &e), "%s", e.msg);
    }
}

void golden_round_ropes(struct arch *a)
{
    for (int r = 0; r < a->n_rope; r++)
        for (int i = 0; i < a->rope[r].rot / 2; i++) {
            uint16_t half;
            dtype_from_f32(DT_BF16, &a->rope[r].inv_freq[i], &half, 1);
            dtype_to_f32(DT_BF16, &half, &a->rope[r].inv_freq[i], 1);
        }
}

/* Int8 costs about three times as much as bfloat16 does here. What multiplies bfloat16, a device or a
 * processor's level of that name, rounds every input of a matrix to 8 bits. */
static const struct golden_limits exact[GOLDEN_CACHES] = {{DT_F32, 1e-3, 1e-4, 0.03}, {DT_I8, 1, 0.2, 0.5}},
                                  rounded[GOLDEN_CACHES] = {{DT_BF16, 1, 0.1, 0.5}, {DT_I8, 1, 0.2, 0.5}},
                                  device[GOLDEN_CACHES] = {{DT_BF16, 1, 0.1, 0.5}, {DT_E4M3, 4, 0.7, 2}};

const struct golden_limits *golden_limits(const struct backend *be, int i)
{
    return (be->mat == DT_BF16 ? device : strcmp(be->isa, "bf16") ? exact : rounded) + i;
}

void golden_check(const char *name, struct backend *be, struct comm *comm, const struct golden_limits *l)
{
    char path[512], what[64];
    struct rig g;
    struct err e = {0};
    struct worst w = {0, 0};
    cJSON *golden = load_golden(name);
    const cJSON *prompts = json_get(golden, "prompts");
    int n = cJSON_GetArraySize(prompts);
    snprintf(path, sizeof path, "%s/%s", GOLDEN_DATA, name);
    snprintf(what, sizeof what, "%s on %d of %s/%s, %s cache", name, be->size, be->name, be->isa,
             dtype_info(l->kv_type)->name);
    ck_assert_msg(!rig_open_kv(&g, path, be, &(struct model_options){.comm = comm}, l->kv_type,
                               golden_round_ropes, n, 512, &e),
                  "%s: %s", what, e.msg);
    float *last = malloc((size_t)n * g.m->arch.vocab * sizeof *last);
    for (int i = 0; i < n; i++)
        check_prompt(&g, i, cJSON_GetArrayItem(prompts, i), last + (size_t)i * g.m->arch.vocab, &w);
    if (getenv("GOLDEN_VERBOSE"))
        printf("%-34s logits within %.2g, log-probabilities %.2g\n", what, w.logit, w.logprob);
    ck_assert_msg(w.logit < l->logit, "%s: logits off by %g", what, w.logit);
    ck_assert_msg(w.logprob < l->logprob, "%s: prompt log-probabilities off by %g on average", what,
                  w.logprob);
    check_chunks(&g, prompts, last, what);
    check_greedy(&g, prompts, last, l->gap, what);
    free(last);
    rig_close(&g);
    cJSON_Delete(golden);
}
