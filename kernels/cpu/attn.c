/* Cuts a step's attention into tiles, and long contexts into spans, and deals them to the pool. */
#include <stdlib.h>
#include <string.h>
#include "cpu.h"
#include "kv_store.h"
#include "ref.h"
#include "step.h"

/* One item's part of the step. Units are numbered over all jobs; in a job: KV head, then tile, then span if
 * split. */
struct job {
    const struct attn_item *it;
    int rows, tiles;  /* of one KV head */
    int first, spans; /* of the item; spans is 0 unless they are computed apart */
    float *rec;       /* [kv head][span][row] records, if split */
    int64_t end;      /* first unit of the next job */
    int64_t join_end; /* the same for joins: units without spans, of split jobs only */
};
struct attn_state {
    int max_rows;
    struct job *job; /* [max_rows] */
    size_t scratch, n_rec;
    float *mem; /* [threads][scratch], then n_rec floats for records */
};
struct step_run {
    const struct attn_args *a;
    struct cpu_backend *be;
    int n_job;
};

int cpu_attn_reserve(struct cpu_backend *be, int max_rows, int max_heads, int max_head_dim, int max_ctx,
                     struct err *e)
{
    cpu_attn_close(be);
    size_t threads = (size_t)pool_size(be->pool), spans = (size_t)(max_ctx + ATTN_SPAN - 1) / ATTN_SPAN,
           total;
    struct attn_state *s = calloc(1, sizeof *s);
    be->attn = s;
    if (!s) return err_set(e, ERR_NOMEM, "out of memory");
    s->max_rows = max_rows;
    s->scratch = (attn_scratch(max_head_dim) + 15) / 16 * 16;
    /* Room to split a few decodes of full length: more of them keep the threads busy anyway. */
    total = attn_record(max_head_dim) * (size_t)max_heads;
    if (__builtin_mul_overflow(total, spans * (1 + threads / 8), &s->n_rec) ||
        __builtin_add_overflow(s->n_rec, threads * s->scratch, &total) ||
        total > PTRDIFF_MAX / sizeof(float) - 64)
        return err_set(e, ERR_NOMEM, "attention scratch too large");
    s->job = calloc((size_t)max_rows, sizeof *s->job);
    s->mem = aligned_alloc(64, (total * sizeof(float) + 63) / 64 * 64);
    if (!s->job || !s->mem) return err_set(e, ERR_NOMEM, "no memory for attention scratch");
    memset(s->mem, 0, threads * s->scratch * sizeof(float));
    return 0;
}

void cpu_attn_close(struct cpu_backend *be)
{
    if (!be->attn) return;
    free(be->attn->job);
    free(be->attn->mem);
    free(be->attn);
    be->attn = NULL;
}

/* Key rows that the last tile of an item reads, about: what a unit costs. */
static int64_t tile_cost(const struct attn_args *a, const struct job *j)
{
    int64_t keys = j->it->pos + j->it->len, rows = j->rows < ATTN_TILE ? j->rows : ATTN_TILE;
    int window = a->b->list[a->list].window;
    if (window > 0 && keys > window + j->it->len) keys = window + j->it->len;
    return keys * (rows + 4);
}

static int plan(struct attn_state *s, const struct attn_args *a, int threads)
{
    const struct attn_list *l = &a->b->list[a->list];
    int group = a->n_head / a->n_kv_head;
    int64_t units = 0, joins = 0, total = 0;
    size_t record = attn_record(a->head_dim), left = s->n_rec, threads_mem = (size_t)threads * s->scratch;
    for (int i = 0; i < l->n_item; i++) {
        struct job *j = &s->job[i];
        *j = (struct job){.it = &l->item[i], .rows = l->item[i].len * group};
        j->tiles = (j->rows + ATTN_TILE - 1) / ATTN_TILE;
        total += tile_cost(a, j) * j->tiles * a->n_kv_head;
    }
    for (int i = 0; i < l->n_item; i++) {
        struct job *j = &s->job[i];
        int64_t tiles = (int64_t)j->tiles * a->n_kv_head, spans;
        int end;
        struct attn_tile all = {a, j->it, 0, 0, j->rows};
        attn_spans(&all, &j->first, &end);
        spans = end - j->first;
        /* A unit above a quarter of a thread's share would leave others waiting at the end. */
        size_t need = record * (size_t)j->rows * (size_t)a->n_kv_head * (size_t)spans;
        if (threads > 1 && spans > 1 && tile_cost(a, j) * threads * 4 > total && need <= left) {
            j->spans = (int)spans;
            j->rec = s->mem + threads_mem + (s->n_rec - left);
            left -= need;
            joins += tiles;
        }
        units += tiles * (j->spans ? j->spans : 1);
        j->end = units;
        j->join_end = joins;
    }
    return l->n_item;
}

static struct attn_tile tile_of(const struct attn_args *a, const struct job *j, int64_t unit)
{
    int row = (int)(unit % j->tiles) * ATTN_TILE, left = j->rows - row;
    return (struct attn_tile){a, j->it, (int)(unit / j->tiles), row, left < ATTN_TILE ? left : ATTN_TILE};
}

/* Records of a tile's rows in one span of its job. */
static float *records(const struct attn_tile *t, const struct job *j, int span)
{
    size_t row = ((size_t)t->kv_head * j->spans + (size_t)(span - j->first)) * j->rows + t->row;
    return j->rec + row * attn_record(t->a->head_dim);
}

static void run_unit(const struct step_kernels *k, const struct attn_args *a, const struct job *j,
                     int64_t unit, float *scratch)
{
    if (!j->spans) {
        struct attn_tile t = tile_of(a, j, unit);
        k->attn_tile(&t, scratch);
        return;
    }
    struct attn_tile t = tile_of(a, j, unit / j->spans);
    int span = j->first + (int)(unit % j->spans), first, end;
    attn_spans(&t, &first, &end);
    if (span >= first && span < end) k->attn_span(&t, span, records(&t, j, span), scratch);
}

/* The job of unit u, or of join u; *u becomes its number in the job. */
static const struct job *job_of(const struct step_run *r, int64_t *u, bool join)
{
    const struct job *job = r->be->attn->job;
    int lo = 0, hi = r->n_job - 1;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (*u < (join ? job[mid].join_end : job[mid].end))
            hi = mid;
        else
            lo = mid + 1;
    }
    if (lo) *u -= join ? job[lo - 1].join_end : job[lo - 1].end;
    return job + lo;
}

static void unit_task(void *arg, int task, int worker)
{
    const struct step_run *r = arg;
    struct attn_state *s = r->be->attn;
    int64_t u = task;
    const struct job *j = job_of(r, &u, false);
    run_unit(r->be->step, r->a, j, u, s->mem + (size_t)worker * s->scratch);
}

static void join_task(void *arg, int task, int worker)
{
    const struct step_run *r = arg;
    int64_t u = task;
    const struct job *j = job_of(r, &u, true);
    struct attn_tile t = tile_of(r->a, j, u);
    int first, end;
    (void)worker;
    attn_spans(&t, &first, &end);
    r->be->step->attn_join(&t, records(&t, j, first), attn_record(r->a->head_dim) * (size_t)j->rows);
}

/* Head sizes and blocks that the SIMD kernels do not take: with the scalar ones. Task: head h of the step's
 * row u. */
static void scalar_task(void *arg, int task, int worker)
{
    const struct step_run *r = arg;
    const struct attn_args *a = r->a;
    const struct attn_item *it = a->b->list[a->list].item;
    int u = task / a->n_head;
    (void)worker;
    for (; u >= it->len; it++) u -= it->len;
    ref_attn_head(a, it, u, task % a->n_head);
}

void cpu_attn(struct backend *base, const struct attn_args *a)
{
    struct cpu_backend *be = cpu_of(base);
    const struct attn_list *l = &a->b->list[a->list];
    struct step_run r = {a, be, 0};
    if (l->n_item == 0) return;
    if (!be->step || a->kv->kt != KV_TILE || a->head_dim % 8) {
        int rows = 0;
        for (int i = 0; i < l->n_item; i++) rows += l->item[i].len;
        pool_run(be->pool, rows * a->n_head, scalar_task, &r);
        return;
    }
    r.n_job = plan(be->attn, a, pool_size(be->pool));
    const struct job *last = &be->attn->job[r.n_job - 1];
    pool_run(be->pool, (int)last->end, unit_task, &r);
    if (last->join_end) pool_run(be->pool, (int)last->join_end, join_task, &r);
}
