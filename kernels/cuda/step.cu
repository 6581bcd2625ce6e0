/* Staging: a step's integers and the plans of attention are packed into one pinned block and copied in one
 * piece. Two blocks take turns, so that the next step can be packed while the copy of this one waits for the
 * device.
 *
 * The order within a block depends on the number of rows alone, so that a captured graph of n rows finds
 * every array where it was:   ids, pos, drawn, out_row [n] | for each list: row_item [n], item [seats], its
 * plan | tables, as many as there are. seats = min(n, max_seqs), as an item has a row at least. */
#include "device.cuh"
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 2, ALIGN = 256 };

struct cu_stage {
    char *host[BLOCKS], *device; /* a packed step */
    cudaEvent_t copied[BLOCKS];  /* of one that was never used: at once */
    int turn;
};

static size_t align_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }
static int seats(const struct cuda *c, int n) { return n < c->lim.max_seqs ? n : c->lim.max_seqs; }
static size_t rows_bytes(int n) { return align_up((size_t)n * sizeof(int32_t)); }
static size_t list_bytes(const struct cuda *c, int n)
{
    size_t items = (size_t)seats(c, n) * sizeof(struct cu_item);
    return rows_bytes(n) + align_up(items) + align_up(cu_attn_plan_bytes(seats(c, n)));
}
static size_t header_bytes(const struct cuda *c, int n)
{
    return 4 * rows_bytes(n) + (size_t)c->lim.n_list * list_bytes(c, n);
}

void cu_stage_close(struct cuda *c)
{
    struct cu_stage *s = c->stage;
    if (!s) return;
    for (int i = 0; i < BLOCKS; i++) {
        if (s->host[i]) cudaFreeHost(s->host[i]);
        if (s->copied[i]) cudaEventDestroy(s->copied[i]);
    }
    if (s->device) cudaFree(s->device);
    free(s);
    c->stage = NULL;
}

int cu_stage_reserve(struct cuda *c, struct err *e)
{
    const struct step_limits *l = &c->lim;
    size_t blocks = ((size_t)l->max_ctx + l->block_size - 1) / l->block_size,
           tables = (size_t)(l->n_list + 1) / 2 * seats(c, l->max_rows) * blocks;
    cu_stage_close(c);
    struct cu_stage *s = c->stage = (struct cu_stage *)calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NOMEM, "out of memory");
    size_t all = header_bytes(c, l->max_rows) + tables * sizeof(int32_t);
    for (int i = 0; i < BLOCKS; i++)
        if (cudaHostAlloc((void **)&s->host[i], all, cudaHostAllocDefault) ||
            cudaEventCreateWithFlags(&s->copied[i], cudaEventDisableTiming))
            return err_set(e, ERR_NOMEM, "cuda: no pinned memory for the step's integers (%zu KiB)",
                           all >> 10);
    return cu_alloc(c, all, "the step's integers", (void **)&s->device, e);
}

/* Packs an array of n (from NULL: room only): returns where it is on the host and tells its device address.
 */
struct packer {
    char *host, *device;
    size_t at;
};
static int32_t *put_rows(struct packer *p, int n, const int32_t *from, const int32_t **device)
{
    int32_t *host = (int32_t *)(p->host + p->at);
    if (from) memcpy(host, from, (size_t)n * sizeof *host);
    *device = (const int32_t *)(p->device + p->at);
    p->at += rows_bytes(n);
    return host;
}

/* Copies an item's block table unless the list before had it; entries up to its last row's block. */
struct tables {
    int32_t *host;
    int n, block_size;
    int next; /* where the list before is searched first: the same items come there, in the same order */
};
static int put_table(struct tables *t, const struct attn_item *it, const struct attn_list *before,
                     const struct cu_item *packed)
{
    for (int k = 0; before && k < before->n_item; k++) {
        int i = (t->next + k) % before->n_item;
        if (before->item[i].table == it->table) {
            t->next = i + 1;
            return packed[i].table;
        }
    }
    int at = t->n, n = (it->pos + it->len - 1) / t->block_size + 1;
    memcpy(t->host + at, it->table, (size_t)n * sizeof *t->host);
    t->n += n;
    return at;
}

void cu_begin(struct backend *be, const struct batch *b)
{
    struct cuda *c = cuda_of(be);
    struct cu_stage *s = c->stage;
    int turn = s->turn ^= 1, n = b->n, half = b->n_list / 2;
    cudaSetDevice(c->device); /* of this thread */
    CU(c, cudaEventSynchronize(s->copied[turn]));
    struct packer p = {s->host[turn], s->device, 0};
    struct cu_item *packed[BATCH_MAX_LISTS];
    put_rows(&p, n, b->ids, &c->step.ids);
    put_rows(&p, n, b->pos, &c->step.pos);
    int32_t *drawn = put_rows(&p, n, b->drawn, &c->step.drawn);
    for (int i = 0; i < n && !b->drawn; i++) drawn[i] = -1;
    int32_t *out = put_rows(&p, n, NULL, &c->step.out_row);
    for (int i = 0; i < n; i++) out[i] = i < b->n_out ? b->out_row[i] : 0;
    struct tables t = {(int32_t *)(p.host + header_bytes(c, n)), 0, c->lim.block_size, 0};
    for (int k = 0; k < b->n_list; k++) {
        const struct attn_list *l = &b->list[k];
        int32_t *row_item = put_rows(&p, n, NULL, &c->step.list[k].row_item);
        packed[k] = (struct cu_item *)(p.host + p.at);
        c->step.list[k].item = (const struct cu_item *)(p.device + p.at);
        c->step.list[k].table = (const int32_t *)(p.device + header_bytes(c, n));
        p.at += align_up((size_t)seats(c, n) * sizeof(struct cu_item));
        c->step.list[k].fold = cu_attn_plan(c, l, n, p.host + p.at);
        c->step.list[k].plan = p.device + p.at;
        p.at += align_up(cu_attn_plan_bytes(seats(c, n)));
        for (int i = 0; i < n; i++) row_item[i] = -1;
        for (int i = 0; i < l->n_item; i++) {
            const struct attn_item *it = &l->item[i];
            bool again = k >= half && half > 0;
            packed[k][i] = {
                it->row, it->len, it->pos,
                put_table(&t, it, again ? &b->list[k - half] : NULL, again ? packed[k - half] : NULL)};
            for (int r = 0; r < it->len; r++) row_item[it->row + r] = i;
        }
    }
    size_t bytes = header_bytes(c, n) + (size_t)t.n * sizeof(int32_t);
    CU(c, cudaMemcpyAsync(s->device, p.host, bytes, cudaMemcpyHostToDevice, c->stream));
    CU(c, cudaEventRecord(s->copied[turn], c->stream));
}
