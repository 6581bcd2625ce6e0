/* Memory of packed matrices, and the ops around it. */
#include "weight.h"
#include <stdlib.h>
#include <string.h>
#include "cpu.h"
#include "hugemem.h"

#define X(t, b, g, m, s) [DT_##t] = {b, g, m, s, HEAD_BYTES(m, s), UNIT_BYTES(b, g, m, s)},
static const struct panel_form forms[DT_COUNT] = {PANEL_FORMS(X)};
#undef X

const struct panel_form *panel_form(enum dtype t) { return &forms[t]; }

/* A slab is one mapping in huge pages that many matrices share, so that small ones do not each round up to 2
 * MiB. It is unmapped with its last matrix, never reused, so that padding can rely on fresh zeros. */
#define SLAB_BYTES ((size_t)64 << 20)
struct slab {
    size_t size, used;
    int live; /* matrices, plus one while the back end is filling it */
};

static struct slab *slab_map(size_t size)
{
    size = (size + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
    struct slab *s = hugemem_map(size);
    if (!s) return NULL;
    *s = (struct slab){.size = size, .used = 64, .live = 1};
    return s;
}

static void slab_drop(struct slab *s)
{
    if (s && --s->live == 0) hugemem_unmap(s, s->size);
}

static uint8_t *slab_take(struct cpu_backend *be, size_t n, struct slab **out)
{
    if (n > SIZE_MAX / 4) return NULL;
    n = (n + 63) / 64 * 64;
    if (!be->slab || be->slab->size - be->slab->used < n) {
        struct slab *s = slab_map(n + 64 > SLAB_BYTES ? n + 64 : SLAB_BYTES);
        if (!s) return NULL;
        slab_drop(be->slab);
        be->slab = s;
    }
    struct slab *s = *out = be->slab;
    uint8_t *p = (uint8_t *)s + s->used;
    s->used += n;
    s->live++;
    return p;
}

void cpu_weight_close(struct cpu_backend *be)
{
    slab_drop(be->slab);
    be->slab = NULL;
}

static size_t panel_bytes(enum dtype t, int n_in)
{
    const struct panel_form *f = &forms[t];
    size_t k = (size_t)n_in;
    if (f->bits) return k / UNIT * (size_t)f->unit_bytes + k / 256 * (size_t)f->head_bytes;
    return t == DT_F32 ? k * PANEL * 4 : (k + (t == DT_BF16 && k % 2)) * PANEL * 2;
}

#define MAX_IN (1 << 24) /* so that a block's activations can be counted in ints */

struct pack_job {
    const struct weight *w;
    const uint8_t *src;
    size_t row_bytes;
};
static void pack_task(void *arg, int panel, int worker)
{
    struct pack_job *j = arg;
    const struct weight *w = j->w;
    (void)worker;
    for (int row = panel * PANEL; row < (panel + 1) * PANEL && row < w->n_out; row++)
        panel_pack_row(w->type, w->n_in, j->src + j->row_bytes * (size_t)row,
                       w->data + w->panel_bytes * (size_t)panel, row % PANEL);
}

int cpu_weight_pack(struct backend *base, enum dtype t, int n_out, int n_in, const void *src,
                    struct weight **out, struct err *e)
{
    struct cpu_backend *be = cpu_of(base);
    if ((unsigned)t >= DT_I8) return err_set(e, ERR_UNSUPPORTED, "no matrices of type %d", (int)t);
    size_t row = dtype_row_bytes(t, n_in), total;
    if (n_out <= 0 || row == 0 || n_in > MAX_IN)
        return err_set(e, ERR_INVALID, "%s matrix of %d x %d", dtype_info(t)->name, n_out, n_in);
    struct weight *w = malloc(sizeof *w);
    if (!w) return err_set(e, ERR_NOMEM, "out of memory");
    *w = (struct weight){.type = t, .n_out = n_out, .n_in = n_in, .n_panel = (n_out - 1) / PANEL + 1};
    w->panel_bytes = panel_bytes(t, n_in);
    if (__builtin_mul_overflow(w->panel_bytes, (size_t)w->n_panel, &total) ||
        !(w->data = slab_take(be, total, &w->slab))) {
        free(w);
        return err_set(e, ERR_NOMEM, "no memory for a %s matrix of %d x %d", dtype_info(t)->name, n_out,
                       n_in);
    }
    /* Room for at least a few rows: linear cannot fail later, whatever reserve was told. */
    int rc = cpu_linear_reserve(be, 1, n_in, e);
    if (rc) {
        cpu_weight_free(base, w);
        return rc;
    }
    struct pack_job job = {w, src, row};
    pool_run(be->pool, w->n_panel, pack_task, &job);
    *out = w;
    return 0;
}

void cpu_weight_free(struct backend *base, struct weight *w)
{
    (void)base;
    if (!w) return;
    slab_drop(w->slab);
    free(w);
}

struct weight_info cpu_weight_info(const struct weight *w)
{
    return (struct weight_info){w->type, w->n_out, w->n_in, w->panel_bytes * (size_t)w->n_panel};
}

void cpu_embed(struct backend *base, const struct weight *w, const struct batch *b, float scale, float *y)
{
    (void)base;
    for (int i = 0; i < b->n; i++, y += w->n_in) {
        if (b->ids[i] < 0 || b->ids[i] >= w->n_out) {
            memset(y, 0, (size_t)w->n_in * sizeof *y);
            continue;
        }
        panel_unpack_row(w->type, w->n_in, weight_panel(w, b->ids[i] / PANEL), b->ids[i] % PANEL, y);
        for (int k = 0; k < w->n_in; k++) y[k] *= scale;
    }
}
