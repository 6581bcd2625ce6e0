/* The host's side of sampling: a batch of rows is packed with its edits into one pinned block and copied in
 * one piece; the results come back into another. Two pairs of blocks take turns, so that the next step can be
 * enqueued while the results of this one are read. The launches follow from the number of rows, the
 * vocabulary, and whether any row is edited, drawn by weight, or wants logprobs. */
#include "sample.cuh"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GREEDY_BELOW 1e-5f /* engine/sampler.c: temperatures that count as 0 */
enum { PAIRS = 2, EDITS_AT_FIRST = 1 << 14 };

struct sample_pair {
    char *in; /* [n] tasks, then the edits */
    int cap_edit;
    struct sample_result *out; /* [max_rows] */
    cudaEvent_t done;
};
struct cu_sample {
    struct sample_pair pair[PAIRS];
    int turn, cap_edit; /* edits that the device has room for */
    char *device;       /* as pair.in */
    float *old;         /* [cap_edit] */
    char *scratch;
    struct sample_view view;
};

/* Places arrays one after another from `at` on; with at NULL, only counts. */
static void *place(char *at, size_t *used, size_t bytes)
{
    void *p = at ? at + *used : NULL;
    *used += (bytes + 255) / 256 * 256;
    return p;
}

static size_t place_scratch(struct sample_view *v, char *at, size_t rows, size_t max_rows)
{
    size_t n = 0;
    v->best = (uint64_t *)place(at, &n, rows * v->n_chunk * sizeof *v->best);
    v->mass = (int64_t *)place(at, &n, rows * v->n_span * sizeof *v->mass);
    v->n_list = (int *)place(at, &n, rows * 2 * sizeof *v->n_list);
    v->list = (uint2 *)place(at, &n, rows * 2 * LIST_MAX * sizeof *v->list);
    v->sum = (float *)place(at, &n, rows * v->n_span * sizeof *v->sum);
    v->above = (int *)place(at, &n, rows * sizeof *v->above);
    v->top = (uint64_t *)place(at, &n, rows * v->n_chunk * SAMPLE_TOP_MAX * sizeof *v->top);
    v->result = (struct sample_result *)place(at, &n, max_rows * sizeof *v->result);
    return n;
}

static size_t in_bytes(const struct cuda *c, int cap_edit)
{
    return (size_t)cap_edit * sizeof(struct sample_edit) +
           (size_t)c->lim.max_rows * sizeof(struct sample_task);
}

/* Room for n edits in the pair and on the device. Lists of penalties have no useful bound, so they grow in
 * use. */
static int grow(struct cuda *c, struct sample_pair *p, int n, struct err *e)
{
    struct cu_sample *s = c->sample;
    int cap = EDITS_AT_FIRST;
    while (cap < n) cap *= 2;
    if (cap > s->cap_edit) {
        cudaStreamSynchronize(c->stream);
        cudaFree(s->device);
        cudaFree(s->old);
        s->device = NULL, s->old = NULL, s->cap_edit = 0;
        int rc = cu_alloc(c, in_bytes(c, cap), "sampling parameters", (void **)&s->device, e);
        if (!rc) rc = cu_alloc(c, (size_t)cap * sizeof *s->old, "sampling parameters", (void **)&s->old, e);
        if (rc) return rc;
        s->cap_edit = cap;
    }
    if (cap > p->cap_edit) {
        if (p->in) cudaFreeHost(p->in);
        p->in = NULL, p->cap_edit = 0;
        if (cudaHostAlloc((void **)&p->in, in_bytes(c, cap), cudaHostAllocDefault)) {
            cudaGetLastError();
            return err_set(e, ERR_NOMEM, "cuda: no pinned memory for sampling parameters");
        }
        p->cap_edit = cap;
    }
    return 0;
}

int cu_sample_open(struct cuda *c, struct err *e)
{
    c->sample = (struct cu_sample *)calloc(1, sizeof *c->sample);
    return c->sample ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

static void release(struct cu_sample *s)
{
    for (int i = 0; i < PAIRS; i++) {
        struct sample_pair *p = &s->pair[i];
        if (p->in) cudaFreeHost(p->in);
        if (p->out) cudaFreeHost(p->out);
        if (p->done) cudaEventDestroy(p->done);
    }
    cudaFree(s->device);
    cudaFree(s->old);
    cudaFree(s->scratch);
    *s = {};
}

void cu_sample_close(struct cuda *c)
{
    if (!c->sample) return;
    release(c->sample);
    free(c->sample);
    c->sample = NULL;
}

int cu_sample_reserve(struct cuda *c, struct err *e)
{
    struct cu_sample *s = c->sample;
    release(s);
    size_t max_rows = (size_t)c->lim.max_rows, rows = max_rows < SAMPLE_ROWS ? max_rows : SAMPLE_ROWS;
    s->view.n_chunk = (c->lim.vocab + CHUNK - 1) / CHUNK;
    s->view.n_span = (c->lim.vocab + SPAN - 1) / SPAN;
    size_t bytes = place_scratch(&s->view, NULL, rows, max_rows);
    int rc = cu_alloc(c, bytes, "sampling", (void **)&s->scratch, e);
    if (rc) return rc;
    place_scratch(&s->view, s->scratch, rows, max_rows);
    for (int i = 0; i < PAIRS; i++) {
        struct sample_pair *p = &s->pair[i];
        rc = grow(c, p, 0, e);
        if (rc) return rc;
        if (cudaHostAlloc((void **)&p->out, max_rows * sizeof *p->out, cudaHostAllocDefault) ||
            cudaEventCreateWithFlags(&p->done, cudaEventDisableTiming))
            return err_set(e, ERR_NOMEM, "cuda: no pinned memory for the results of sampling");
        memset(p->out, 0, max_rows * sizeof *p->out);
    }
    return 0;
}

static int count_edits(const struct sample_row *r)
{
    return r->score >= 0 ? 0 : r->n_bias + r->n_ban[0] + r->n_ban[1] + r->n_seen;
}

/* Writes the row's edits from e on and returns how many; the kernels read them in this order. */
static int pack_edits(const struct sample_row *r, struct sample_edit *e, struct sample_task *t)
{
    int n = 0;
    if (r->score >= 0) return 0;
    for (int i = 0; i < r->n_bias; i++, n++) e[n].token = r->bias[i].token, e[n].bias = r->bias[i].bias;
    t->n_bias = n;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < r->n_ban[k]; i++, n++) e[n].token = r->ban[k][i], e[n].n_out = 0;
    t->n_ban = n - t->n_bias;
    for (int i = 0; i < r->n_seen; i++) { /* tokens of the prompt matter to the repetition penalty only */
        if (r->repetition == 1 && !r->seen[i].n_out) continue;
        e[n].token = r->seen[i].token;
        e[n++].n_out = r->seen[i].n_out;
    }
    t->n_seen = n - t->n_bias - t->n_ban;
    return n;
}

static struct sample_task task_of(const struct sample_row *r, int vocab)
{
    struct sample_task t = {};
    t.random = r->random;
    t.inv_t = 1 / r->temperature;
    t.top_p = r->top_p;
    t.repetition = r->repetition;
    t.frequency = r->frequency;
    t.presence = r->presence;
    t.least = r->min_p > 0 ? (int32_t)ceil((double)r->min_p * ONE) : 1;
    t.top_k = r->top_k > 0 && r->top_k < vocab ? r->top_k : 0;
    t.n_top = r->n_top;
    t.score = r->score;
    if (r->score >= 0) {
        t.how = HOW_SCORE;
    } else if (r->temperature < GREEDY_BELOW || r->top_k == 1) {
        t.how = HOW_GREEDY;
    } else {
        t.how = t.top_k || r->top_p < 1 || t.least > 1 ? HOW_FILTERED : HOW_ANY;
    }
    return t;
}

/* What the launches depend on. */
struct batch_needs {
    bool edits, draws, scores, raw; /* raw: logprobs of an edited row */
    size_t bytes;                   /* packed */
};

/* Packs tasks, then edits; the tasks' place on the device does not depend on the edits. */
static struct batch_needs pack_rows(char *in, const struct sample_row *row, int n, int vocab)
{
    struct batch_needs b = {};
    struct sample_task *task = (struct sample_task *)in;
    struct sample_edit *edit = (struct sample_edit *)(task + n);
    int at = 0;
    for (int i = 0; i < n; i++) {
        struct sample_task *t = &task[i];
        *t = task_of(&row[i], vocab);
        t->edit = at;
        int k = pack_edits(&row[i], edit + at, t);
        at += k;
        b.edits |= k > 0;
        b.draws |= t->how >= HOW_ANY;
        b.scores |= t->n_top >= 0;
        b.raw |= k > 0 && t->n_top >= 0;
    }
    b.bytes = (size_t)n * sizeof *task + (size_t)at * sizeof *edit;
    return b;
}

const struct sample_result *cu_sample(struct backend *be, float *logits, int vocab,
                                      const struct sample_row *row, int n)
{
    struct cuda *c = cuda_of(be);
    struct cu_sample *s = c->sample;
    struct sample_pair *p = &s->pair[s->turn ^= 1];
    int n_edit = 0;
    CU(c, cudaEventSynchronize(p->done));
    if (n <= 0) {
        CU(c, cudaEventRecord(p->done, c->stream));
        return p->out;
    }
    for (int i = 0; i < n; i++) n_edit += count_edits(&row[i]);
    if (grow(c, p, n_edit, NULL)) {
        memset(p->out, 0, (size_t)n * sizeof *p->out);
        for (int i = 0; i < n; i++) p->out[i].status = ERR_NOMEM;
        return p->out;
    }
    struct batch_needs b = pack_rows(p->in, row, n, vocab);
    CU(c, cudaMemcpyAsync(s->device, p->in, b.bytes, cudaMemcpyHostToDevice, c->stream));
    struct sample_view v = s->view;
    v.vocab = vocab;
    v.n_chunk = (vocab + CHUNK - 1) / CHUNK;
    v.n_span = (vocab + SPAN - 1) / SPAN;
    v.edit = (const struct sample_edit *)(s->device + (size_t)n * sizeof(struct sample_task));
    v.old = s->old;
    for (int at = 0; at < n; at += SAMPLE_ROWS) {
        int rows = n - at < SAMPLE_ROWS ? n - at : SAMPLE_ROWS;
        v.task = (const struct sample_task *)s->device + at;
        v.x = logits + (size_t)at * vocab;
        v.result = s->view.result + at;
        sample_draw(c, &v, rows, b.edits, b.draws);
        if (b.raw) sample_raw(c, &v, rows);
        if (b.scores) sample_score(c, &v, rows);
    }
    CU(c, cudaMemcpyAsync(p->out, s->view.result, (size_t)n * sizeof *p->out, cudaMemcpyDeviceToHost,
                          c->stream));
    CU(c, cudaEventRecord(p->done, c->stream));
    return p->out;
}

int cu_wait(struct backend *be, const struct sample_result *out, struct err *e)
{
    struct cuda *c = cuda_of(be);
    if (c->comm) cu_comm_wait(c); /* whose patience has an end */
    for (int i = 0; i < PAIRS; i++)
        if (c->sample->pair[i].out == out) CU(c, cudaEventSynchronize(c->sample->pair[i].done));
    return cu_verdict(c, e);
}

const struct sample_result *cu_drawn(const struct cuda *c) { return c->sample->view.result; }
