#include "quant_file.h"
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include "log.h"
#include "quantize.h"

#define PIECE_BYTES (256u << 10) /* of floats */
#define ALIGN       64
#define MAX_NAME    255 /* of a tensor in GGUF */

/* ------------------------------------------------------------------------------------------------- hash */

/* Not against forgery, only to tell versions of a file apart: four chains of 64 x 64 bit products, a step of
 * 64 bytes. The idea is that of wyhash (Wang Yi): the halves of a product, folded, mix all bits of both
 * factors. */
static uint64_t fold(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 r = (unsigned __int128)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

static uint64_t hash_bytes(uint64_t seed, const void *data, size_t n)
{
    static const uint64_t odd[8] = {0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb,
                                    0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db,
                                    0x8ebc6af09c88c6e3, 0x589965cc75374cc3};
    uint64_t lane[4] = {seed, seed ^ odd[1], seed ^ odd[2], seed ^ odd[3]}, w[8];
    const unsigned char *p = data;
    for (size_t left = n; left; p += 64) {
        size_t step = left < 64 ? left : 64;
        if (step < 64) memset(w, 0, sizeof w);
        memcpy(w, p, step);
        for (int k = 0; k < 4; k++)
            lane[k] = fold(w[2 * k] ^ odd[2 * k] ^ lane[k], w[2 * k + 1] ^ odd[2 * k + 1]) + odd[k];
        left -= step;
    }
    return fold(fold(lane[0] ^ n, lane[1] ^ odd[4]) ^ odd[5],
                fold(lane[2] ^ odd[6], lane[3] ^ odd[7]) ^ seed);
}

/* ------------------------------------------------------------------------------------------------- plan */

static int64_t rows_per_piece(const struct tensor *t)
{
    int64_t n = PIECE_BYTES / 4 / t->dim[1];
    return n ? n : 1;
}

static bool wanted(const struct tensor *t)
{
    return t->used && t->plain && !dtype_is_quant(t->type) && dtype_is_quant(t->as) && t->n_dim == 2 &&
           strlen(t->name) <= MAX_NAME;
}

static void hash_plan(struct quant_plan *p)
{
    uint64_t h = QUANTIZE_VERSION;
    for (int i = 0; i < p->n; i++) {
        const struct tensor *t = p->t[i];
        int64_t what[4] = {t->type, t->as, t->dim[0], t->dim[1]};
        h = hash_bytes(h, t->name, strlen(t->name));
        h = hash_bytes(h, what, sizeof what);
    }
    p->key = h;
}

int quant_plan_make(struct store *s, struct quant_plan *p, struct err *e)
{
    *p = (struct quant_plan){0};
    size_t room = (size_t)s->n + 1;
    p->t = calloc(room, sizeof(struct tensor *));
    p->first_piece = calloc(room, sizeof *p->first_piece);
    p->offset = calloc(room, sizeof *p->offset);
    if (!p->t || !p->first_piece || !p->offset) {
        quant_plan_free(p);
        return store_no_memory(e);
    }
    for (int i = 0; i < s->n; i++) {
        struct tensor *t = s->by_name[i];
        if (!wanted(t)) continue;
        int64_t per = rows_per_piece(t);
        p->t[p->n] = t;
        p->offset[p->n] = p->data_bytes;
        p->data_bytes += dtype_row_bytes(t->as, t->dim[1]) * (uint64_t)t->dim[0];
        p->data_bytes = (p->data_bytes + ALIGN - 1) / ALIGN * ALIGN;
        p->first_piece[p->n + 1] = p->first_piece[p->n] + (t->dim[0] + per - 1) / per;
        p->n++;
    }
    hash_plan(p);
    return 0;
}

void quant_plan_free(struct quant_plan *p)
{
    free(p->t);
    free(p->first_piece);
    free(p->offset);
    *p = (struct quant_plan){0};
}

/* --------------------------------------------------------------------------------------- work on pieces */

struct piece {
    int tensor;
    int64_t row, n_row, index;
};
struct job {
    const struct quant_work *w;
    const char *what; /* shown as progress */
    bool hash_source, write;
    const void *const *made; /* [n] quantised tensors to hash, or NULL */
    int fd;
    uint64_t data_at;       /* of the data section in fd */
    uint64_t *source, *out; /* [pieces] hashes */
    size_t scratch_bytes, piece_bytes;
    _Atomic int64_t next, done;
    _Atomic int64_t bad_piece; /* the first that cannot be quantised; INT64_MAX = none */
    _Atomic int io_error;      /* errno */
    _Atomic bool no_memory, cancelled;
};

static struct piece piece_at(const struct quant_plan *p, int64_t index)
{
    int lo = 0, hi = p->n - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (p->first_piece[mid] <= index)
            lo = mid;
        else
            hi = mid - 1;
    }
    const struct tensor *t = p->t[lo];
    int64_t per = rows_per_piece(t), row = (index - p->first_piece[lo]) * per;
    return (struct piece){lo, row, t->dim[0] - row < per ? t->dim[0] - row : per, index};
}

static bool write_all(struct job *j, const unsigned char *p, size_t n, uint64_t at)
{
    while (n) {
        ssize_t k = pwrite(j->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            j->io_error = k ? errno : EIO;
            return false;
        }
        p += k, n -= (size_t)k, at += (uint64_t)k;
    }
    return true;
}

static void piece_write(struct job *j, const struct piece *c, float *f, unsigned char *out)
{
    const struct tensor *t = j->w->plan->t[c->tensor];
    size_t row = dtype_row_bytes(t->as, t->dim[1]);
    for (int64_t i = 0; i < c->n_row; i++)
        if (!store_convert_row(t, c->row + i, t->as, f, out + (size_t)i * row)) {
            int64_t first = j->bad_piece;
            while (c->index < first && !atomic_compare_exchange_weak(&j->bad_piece, &first, c->index)) {}
            return;
        }
    j->out[c->index] = hash_bytes(1, out, row * (size_t)c->n_row);
    write_all(j, out, row * (size_t)c->n_row,
              j->data_at + j->w->plan->offset[c->tensor] + (uint64_t)c->row * row);
}

static void piece_run(struct job *j, const struct piece *c, float *f, unsigned char *out)
{
    const struct tensor *t = j->w->plan->t[c->tensor];
    size_t src_row = dtype_row_bytes(t->type, t->dim[1]), made_row = dtype_row_bytes(t->as, t->dim[1]);
    const unsigned char *src = (const unsigned char *)t->data + (size_t)c->row * src_row;
    if (j->hash_source) j->source[c->index] = hash_bytes(1, src, src_row * (size_t)c->n_row);
    if (j->write) piece_write(j, c, f, out);
    if (j->hash_source) store_drop_pages(src, src_row * (size_t)c->n_row);
    if (!j->made) return;
    const unsigned char *made = (const unsigned char *)j->made[c->tensor] + (size_t)c->row * made_row;
    j->out[c->index] = hash_bytes(1, made, made_row * (size_t)c->n_row);
    store_drop_pages(made, made_row * (size_t)c->n_row);
}

static void job_task(void *arg, int i, int worker)
{
    struct job *j = arg;
    int64_t total = j->w->plan->first_piece[j->w->plan->n];
    float *f = j->write ? malloc(j->scratch_bytes) : NULL;
    unsigned char *out = j->write ? malloc(j->piece_bytes) : NULL;
    (void)worker;
    if (j->write && (!f || !out)) j->no_memory = true;
    while (!j->no_memory && !j->io_error && !j->cancelled) {
        int64_t at = atomic_fetch_add(&j->next, 1);
        if (at >= total || at > j->bad_piece) break;
        struct piece c = piece_at(j->w->plan, at);
        piece_run(j, &c, f, out);
        int64_t done = atomic_fetch_add(&j->done, 1) + 1;
        if (i == 0 && done < total) log_progress(j->what, done, total);
        if (j->w->cancel && *j->w->cancel) j->cancelled = true;
    }
    free(f);
    free(out);
}

static int job_run(struct job *j, struct err *e)
{
    const struct quant_plan *p = j->w->plan;
    int64_t total = p->first_piece[p->n];
    for (int i = 0; i < p->n; i++) {
        const struct tensor *t = p->t[i];
        size_t row = (size_t)t->dim[1] * sizeof(float),
               piece = dtype_row_bytes(t->as, t->dim[1]) * (size_t)rows_per_piece(t);
        if (row > j->scratch_bytes) j->scratch_bytes = row;
        if (piece > j->piece_bytes) j->piece_bytes = piece;
    }
    j->bad_piece = INT64_MAX;
    j->source = calloc((size_t)total, sizeof *j->source);
    j->out = calloc((size_t)total, sizeof *j->out);
    if (!j->source || !j->out) return store_no_memory(e);
    pool_run(j->w->pool, pool_size(j->w->pool), job_task, j);
    if (j->no_memory) return store_no_memory(e);
    if (j->cancelled) return err_set(e, ERR_CLOSED, "loading was given up");
    if (j->io_error) return err_set(e, ERR_IO, "%s", strerror(j->io_error));
    if (j->bad_piece != INT64_MAX) {
        struct piece c = piece_at(p, j->bad_piece);
        return store_bad_weight(p->t[c.tensor], e);
    }
    log_progress(j->what, total, total);
    return 0;
}

static uint64_t combine(const struct job *j, const uint64_t *hash)
{
    const struct quant_plan *p = j->w->plan;
    return hash_bytes(p->key, hash, (size_t)p->first_piece[p->n] * sizeof *hash);
}

static void job_free(struct job *j)
{
    free(j->source);
    free(j->out);
}

int quant_hash_source(const struct quant_work *w, uint64_t *hash, struct err *e)
{
    struct job j = {.w = w, .what = "reading weights", .hash_source = true};
    int rc = job_run(&j, e);
    if (!rc) *hash = combine(&j, j.source);
    job_free(&j);
    return rc;
}

int quant_hash_made(const struct quant_work *w, const void *const *data, uint64_t *hash, struct err *e)
{
    struct job j = {.w = w, .what = "checking the cache", .made = data};
    int rc = job_run(&j, e);
    if (!rc) *hash = combine(&j, j.out);
    job_free(&j);
    return rc;
}

/* ------------------------------------------------------------------------------------------------- file */

static void put(struct buf *b, uint64_t v, size_t bytes) /* little endian */
{
    for (size_t i = 0; i < bytes; i++) buf_chr(b, (char)(v >> 8 * i & 255));
}
static void put_str(struct buf *b, const char *s)
{
    put(b, strlen(s), 8);
    buf_str(b, s);
}
static void put_hex(struct buf *b, const char *key, uint64_t v)
{
    put_str(b, key);
    put(b, GGUF_STRING, 4);
    put(b, 16, 8);
    buf_fmt(b, "%016" PRIx64, v);
}

/* The same length whatever the hashes are, so that it can be written last. */
static int make_header(const struct quant_plan *p, uint64_t source, uint64_t checksum, struct buf *b,
                       struct err *e)
{
    buf_str(b, "GGUF");
    put(b, 3, 4);
    put(b, (uint64_t)p->n, 8);
    put(b, 4, 8);
    put_str(b, "general.alignment");
    put(b, GGUF_U32, 4);
    put(b, ALIGN, 4);
    put_hex(b, QUANT_KEY_PLAN, p->key);
    put_hex(b, QUANT_KEY_SOURCE, source);
    put_hex(b, QUANT_KEY_CHECKSUM, checksum);
    for (int i = 0; i < p->n; i++) {
        const struct tensor *t = p->t[i];
        put_str(b, t->name);
        put(b, 2, 4);
        put(b, (uint64_t)t->dim[1], 8); /* innermost first */
        put(b, (uint64_t)t->dim[0], 8);
        put(b, gguf_type_code(t->as), 4);
        put(b, p->offset[i], 8);
    }
    while (b->len % ALIGN) buf_chr(b, 0);
    return b->failed ? store_no_memory(e) : 0;
}

int quant_write(const struct quant_work *w, int fd, uint64_t *source, struct err *e)
{
    struct job j = {.w = w, .what = "quantising weights", .hash_source = true, .write = true, .fd = fd};
    struct buf header = {0};
    int rc = make_header(w->plan, 0, 0, &header, e);
    j.data_at = header.len;
    if (!rc && ftruncate(fd, (off_t)(j.data_at + w->plan->data_bytes)))
        rc = err_set(e, ERR_IO, "%s", strerror(errno));
    if (!rc && !(rc = job_run(&j, e))) {
        *source = combine(&j, j.source);
        buf_clear(&header);
        rc = make_header(w->plan, *source, combine(&j, j.out), &header, e);
        if (!rc && !write_all(&j, (const unsigned char *)header.data, header.len, 0))
            rc = err_set(e, ERR_IO, "%s", strerror(j.io_error));
    }
    buf_free(&header);
    job_free(&j);
    return rc;
}
