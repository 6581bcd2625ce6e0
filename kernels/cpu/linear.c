/* The matrix products: activations are prepared once for a call (quantised, or only reordered, in blocks of
 * rows), then threads take panels of outputs. K is never split and a row's arithmetic
 * depends on nothing but the row, so results do not depend on n, on the row's place or on the threads. */
#include <stdlib.h>
#include "cpu.h"
#include "panel.h"

#define MAX_ROWS  512 /* rows prepared at once; a longer call is done in pieces */
#define TASK_ROWS 80  /* rows that a thread runs through one panel */
#define FEW_ROWS  32  /* so few that the first block's wait for weights shows: blocks may be larger */

struct worker {
    struct panel_tile tile;
    float f[2][TASK_ROWS * PANEL]; /* [gate, up][row][PANEL] */
};
struct linear_state {
    const struct panel_kernels *kernels;
    int rows, n_in;         /* capacity */
    struct act_unit *quant; /* [block][unit][row of block] */
    float *plain;           /* [block][k][row of block], k padded to even */
    uint16_t *bf16;         /* [block][k/2][row of block][2] */
    struct worker *worker;  /* [threads] */
};

struct job {
    const struct linear_state *st;
    const float *x; /* [n][n_in], row row0 of the call onwards */
    int row0, n, n_in, n_block;
    bool quant, plain, bf16; /* forms of activations that some weight needs */
    const struct linear_out *out;
    int n_out;
    bool glu; /* out[0] is the gate and out[1] the up projection; out[0].y gets act(gate) * up */
    enum act act;
    int n_part;          /* pieces of K in which a block is prepared */
    int n_panel;         /* of all outs; with glu of one */
    int blocks, n_piece; /* row blocks of a task; pieces of the rows */
    int panels, n_chunk; /* panels of a task; chunks of the panels */
};

static const struct panel_kernels *kernels_of(enum cpu_isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case ISA_AVX2: return &panel_avx2;
    case ISA_AVX512: return &panel_avx512;
    case ISA_AVX512_VNNI: return &panel_vnni;
    case ISA_AVX512_BF16: return &panel_bf16;
#endif
    default: return &panel_scalar;
    }
}

static void *aligned_array(size_t n, size_t size)
{
    if (n > SIZE_MAX / 2 / size) return NULL;
    return aligned_alloc(64, (n * size + 63) / 64 * 64);
}

int cpu_linear_open(struct cpu_backend *be, struct err *e)
{
    struct linear_state *st = calloc(1, sizeof *st);
    be->linear = st;
    if (st) st->worker = aligned_array((size_t)pool_size(be->pool), sizeof *st->worker);
    if (!st || !st->worker) {
        cpu_linear_close(be);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    st->kernels = kernels_of(be->isa);
    return 0;
}

void cpu_linear_close(struct cpu_backend *be)
{
    struct linear_state *st = be->linear;
    if (!st) return;
    free(st->quant);
    free(st->plain);
    free(st->bf16);
    free(st->worker);
    free(st);
    be->linear = NULL;
}

int cpu_linear_reserve(struct cpu_backend *be, int max_rows, int max_in, struct err *e)
{
    struct linear_state *st = be->linear;
    int rows = max_rows > MAX_ROWS ? MAX_ROWS : max_rows < BLOCK_ROWS ? BLOCK_ROWS : max_rows;
    if (rows < st->rows) rows = st->rows;
    if (max_in < st->n_in) max_in = st->n_in;
    if (rows == st->rows && max_in == st->n_in) return 0;
    size_t n_unit = (size_t)max_in / UNIT + 1, n = (size_t)rows * ((size_t)max_in + 1);
    struct act_unit *quant = aligned_array(n_unit * (size_t)rows, sizeof *quant);
    float *plain = aligned_array(n, sizeof *plain);
    uint16_t *bf16 = aligned_array(n, sizeof *bf16);
    if (!quant || !plain || !bf16) {
        free(quant);
        free(plain);
        free(bf16);
        return err_set(e, ERR_NOMEM, "no memory for %d rows of %d activations", rows, max_in);
    }
    free(st->quant);
    free(st->plain);
    free(st->bf16);
    st->quant = quant;
    st->plain = plain;
    st->bf16 = bf16;
    st->rows = rows;
    st->n_in = max_in;
    return 0;
}

/* Rows are cut into blocks whose sizes differ by at most one. */
static int block_start(const struct job *j, int b) { return (int)((int64_t)b * j->n / j->n_block); }
static int padded_in(const struct job *j) { return j->n_in + (j->n_in & 1); }

/* [k][rows] */
static void prepare_plain(const float *x, int n_in, int rows, int k0, int k1, float *a)
{
    for (int k = k0; k < k1; k++)
        for (int r = 0; r < rows; r++) *a++ = k < n_in ? x[(size_t)r * (size_t)n_in + (size_t)k] : 0;
}

/* [k/2][rows][2] */
static void prepare_bf16(const float *x, int n_in, int rows, int k0, int k1, uint16_t *a)
{
    for (int k = k0; k < k1; k += 2)
        for (int r = 0; r < rows; r++) {
            const float *pair = x + (size_t)r * (size_t)n_in + k;
            *a++ = bf16_from_f32(pair[0]);
            *a++ = k + 1 < n_in ? bf16_from_f32(pair[1]) : 0;
        }
}

/* Few rows are one block: K is cut too, so that all threads take part. */
static void prepare_task(void *arg, int t, int worker)
{
    const struct job *j = arg;
    int b = t % j->n_block, part = t / j->n_block, n_unit = (j->n_in + UNIT - 1) / UNIT;
    int u0 = part * n_unit / j->n_part, u1 = (part + 1) * n_unit / j->n_part;
    int k0 = u0 * UNIT, k1 = u1 * UNIT < j->n_in ? u1 * UNIT : padded_in(j);
    int row = block_start(j, b), rows = block_start(j, b + 1) - row;
    const float *x = j->x + (size_t)row * (size_t)j->n_in;
    size_t at = (size_t)row * (size_t)padded_in(j) + (size_t)(k0 * rows);
    (void)worker;
    if (j->quant)
        j->st->kernels->quantise(x + k0, j->n_in, rows, u1 - u0,
                                 j->st->quant + (size_t)row * (size_t)n_unit + (size_t)(u0 * rows));
    if (j->plain) prepare_plain(x, j->n_in, rows, k0, k1, j->st->plain + at);
    if (j->bf16) prepare_bf16(x, j->n_in, rows, k0, k1, j->st->bf16 + at);
}

/* Units [u, u + units) of panel p, or the same k of plain weights, times block b. */
static void block_product(const struct job *j, const struct weight *w, int p, int b, int u, int units,
                          bool tile, const struct worker *worker, float *f)
{
    const struct panel_kernels *k = j->st->kernels;
    const uint8_t *panel = weight_panel(w, p);
    int row = block_start(j, b), rows = block_start(j, b + 1) - row;
    if (dtype_is_quant(w->type)) {
        const struct act_unit *a = j->st->quant + (size_t)row * (size_t)(j->n_in / UNIT) + (size_t)(u * rows);
        if (tile)
            k->dot_tile(w->type, rows, &worker->tile, a, units, f);
        else
            k->dot(w->type, rows, panel, u, a, units, f);
        return;
    }
    int k0 = u * UNIT, n = j->n_in - k0 < units * UNIT ? j->n_in - k0 : units * UNIT;
    size_t at = (size_t)row * (size_t)padded_in(j) + (size_t)(k0 * rows);
    panel += (size_t)k0 * PANEL * (size_t)dtype_info(w->type)->bytes;
    if (w->type == DT_BF16 && k->dot_bf16)
        k->dot_bf16(rows, panel, j->st->bf16 + at, n, f);
    else
        k->dot_plain(w->type, rows, panel, j->st->plain + at, n, f);
}

/* Blocks [b0, b1) times panel p of w; f [rows][PANEL]. One block streams the panel; several take it in pieces
 * that stay in the L1 cache. */
static void panel_product(const struct job *j, const struct weight *w, int p, int b0, int b1,
                          struct worker *worker, float *f)
{
    const struct panel_kernels *k = j->st->kernels;
    int row0 = block_start(j, b0), n_unit = (j->n_in + UNIT - 1) / UNIT,
        step = b1 - b0 > 1 ? TILE_UNITS : n_unit;
    bool tile = dtype_is_quant(w->type) && k->expand && j->n > k->many_rows;
    if (tile) step = TILE_UNITS;
    memset(f, 0, (size_t)(block_start(j, b1) - row0) * PANEL * sizeof *f);
    for (int u = 0; u < n_unit; u += step) {
        int units = n_unit - u < step ? n_unit - u : step;
        if (tile) k->expand(w->type, weight_panel(w, p), u, units, &worker->tile);
        for (int b = b0; b < b1; b++)
            block_product(j, w, p, b, u, units, tile, worker, f + PANEL * (block_start(j, b) - row0));
    }
}

static void store_rows(const struct linear_out *o, int col, int row, int n, const float *f)
{
    int cols = o->w->n_out - col < PANEL ? o->w->n_out - col : PANEL;
    for (int r = 0; r < n; r++, f += PANEL) {
        float *y = o->y + (size_t)(row + r) * (size_t)o->y_stride + col;
        if (o->bias)
            for (int c = 0; c < cols; c++) y[c] = f[c] + o->bias[col + c];
        else
            memcpy(y, f, (size_t)cols * sizeof *y);
    }
}

static void run_panel(const struct job *j, int p, int b0, int b1, struct worker *worker)
{
    const struct linear_out *o = j->out;
    int row = block_start(j, b0), n = block_start(j, b1) - row;
    while (p >= o->w->n_panel) p -= (o++)->w->n_panel;
    panel_product(j, o->w, p, b0, b1, worker, worker->f[0]);
    if (j->glu) {
        panel_product(j, o[1].w, p, b0, b1, worker, worker->f[1]);
        j->st->kernels->glu(j->act, worker->f[0], worker->f[1], worker->f[0], n * PANEL);
    }
    store_rows(o, PANEL * p, j->row0 + row, n, worker->f[0]);
}

static void panel_task(void *arg, int t, int worker)
{
    const struct job *j = arg;
    int b0 = t / j->n_chunk * j->blocks, p0 = t % j->n_chunk * j->panels;
    int b1 = b0 + j->blocks < j->n_block ? b0 + j->blocks : j->n_block;
    for (int p = p0; p < p0 + j->panels && p < j->n_panel; p++)
        run_panel(j, p, b0, b1, &j->st->worker[worker]);
}

/* What takes a microsecond or two is not worth waking anyone for: the caller does it alone. */
static struct pool *helpers(const struct cpu_backend *be, bool large) { return large ? be->pool : NULL; }

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

static int block_limit(const struct job *j)
{
    const struct panel_kernels *k = j->st->kernels;
    if (!j->quant && !j->plain) return k->bf16_rows;
    return j->n > FEW_ROWS ? k->many_rows : k->few_rows;
}

/* At most st->rows rows. */
static void run_piece(struct cpu_backend *be, struct job *j)
{
    const struct linear_state *st = j->st;
    int threads = pool_size(be->pool), limit = block_limit(j);
    j->n_block = ceil_div(j->n, limit);
    j->n_part = ceil_div(threads, j->n_block);
    pool_run(helpers(be, (int64_t)j->n * j->n_in > 16384), j->n_block * j->n_part, prepare_task, j);

    int rows = TASK_ROWS, row_bytes = j->n_in / UNIT * (int)sizeof(struct act_unit);
    if (j->quant && st->kernels->act_bytes / row_bytes < rows) rows = st->kernels->act_bytes / row_bytes;
    j->blocks = rows < limit ? 1 : rows / limit;
    j->n_piece = ceil_div(j->n_block, j->blocks);
    j->blocks = ceil_div(j->n_block, j->n_piece);
    /* A few tasks a thread even out one that lost its core for a while; more of them would be too short a run
     * of memory for the hardware to read ahead. */
    j->panels = ceil_div(j->n_panel, 4 * threads);
    j->n_chunk = ceil_div(j->n_panel, j->panels);
    pool_run(helpers(be, (int64_t)j->n * j->n_panel * PANEL * j->n_in >= 1 << 17), j->n_piece * j->n_chunk,
             panel_task, j);
}

static void run(struct cpu_backend *be, struct job *j, const float *x, int n)
{
    const struct linear_state *st = j->st = be->linear;
    j->n_in = j->out->w->n_in;
    for (int i = 0; i < j->n_out; i++) {
        const struct weight *w = j->out[i].w;
        if (i == 0 || !j->glu) j->n_panel += w->n_panel;
        if (dtype_is_quant(w->type))
            j->quant = true;
        else if (w->type == DT_BF16 && st->kernels->dot_bf16)
            j->bf16 = true;
        else
            j->plain = true;
    }
    for (; j->row0 < n; j->row0 += j->n) {
        j->x = x + (size_t)j->row0 * (size_t)j->n_in;
        j->n = n - j->row0 < st->rows ? n - j->row0 : st->rows;
        run_piece(be, j);
    }
}

void cpu_linear(struct backend *base, const void *x, int n, const struct linear_out *out, int n_out)
{
    struct job j = {.out = out, .n_out = n_out};
    run(cpu_of(base), &j, x, n);
}

void cpu_linear_glu(struct backend *base, const void *x, int n, const struct weight *gate,
                    const struct weight *up, enum act act, void *y)
{
    struct linear_out out[2] = {{.w = gate, .y = y, .y_stride = gate->n_out}, {.w = up}};
    struct job j = {.out = out, .n_out = 2, .glu = true, .act = act};
    run(cpu_of(base), &j, x, n);
}
