#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "hugemem.h"
#include "pool.h"
#include "quantize.h"
#include "rng.h"
#include "store_impl.h"

/* Tensors that carry no weight: tables that are computed from the configuration. */
static const char *const ignorable[] = {
    "rotary_emb.inv_freq", "rope_freqs.weight",     "rope_factors_long.weight", "rope_factors_short.weight",
    "attn.masked_bias",    "rotary_emb.cos_cached", "rotary_emb.sin_cached",
};

static struct tensor *find(const struct store *s, const char *name)
{
    struct tensor key = {.name = name}, *k = &key;
    struct tensor **hit =
        s->n ? bsearch(&k, s->by_name, (size_t)s->n, sizeof *s->by_name, store_by_name) : NULL;
    return hit ? *hit : NULL;
}

const struct tensor *store_find(const struct store *s, const char *name) { return find(s, name); }
size_t store_total_bytes(const struct store *s) { return s->total; }
size_t store_used_bytes(const struct store *s) { return s->used; }
void store_use_pool(struct store *s, struct pool *pool) { s->pool = pool; }

size_t store_matrix_bytes(const struct store *s)
{
    size_t sum = 0;
    for (int t = 0; t < DT_COUNT; t++) sum += s->type_bytes[t];
    return sum;
}

void store_restart(struct store *s)
{
    for (int i = 0; i < s->n; i++) s->t[i].used = false;
    memset(s->type_bytes, 0, sizeof s->type_bytes);
    s->used = 0;
}

void store_replace(struct store *s, struct tensor *t, const struct gguf_tensor *by)
{
    s->total = s->total - t->bytes + by->bytes;
    t->type = by->type;
    t->data = by->data;
    t->bytes = by->bytes;
}

void store_types(const struct store *s, char *out, size_t n)
{
    bool done[DT_COUNT] = {false};
    size_t len = 0;
    *out = 0;
    for (;;) {
        int best = -1;
        for (int t = 0; t < DT_COUNT; t++)
            if (!done[t] && s->type_bytes[t] && (best < 0 || s->type_bytes[t] > s->type_bytes[best]))
                best = t;
        if (best < 0 || len + 8 > n) return;
        done[best] = true;
        len +=
            (size_t)snprintf(out + len, n - len, "%s%s", len ? " " : "", dtype_info((enum dtype)best)->name);
    }
}

/* The checked accessor: present, a usable type, and of shape [n_out][n_in] (n_out 0: a vector of n_in). */
static int take(struct store *s, const char *name, int n_out, int n_in, struct tensor **out, struct err *e)
{
    struct tensor *t = find(s, name);
    bool same;
    if (!t) return err_param(e, ERR_FORMAT, name, "tensor %s is missing", name);
    if (!t->plain)
        return err_param(e, ERR_UNSUPPORTED, name, "tensor %s has a type that is not supported", name);
    same =
        n_out ? t->n_dim == 2 && t->dim[0] == n_out && t->dim[1] == n_in : t->n_dim == 1 && t->dim[0] == n_in;
    if (!same && n_out)
        return err_param(e, ERR_FORMAT, name,
                         "tensor %s has shape [%lld, %lld], not [%d, %d] as the configuration says", name,
                         (long long)t->dim[0], (long long)(t->n_dim > 1 ? t->dim[1] : 1), n_out, n_in);
    if (!same)
        return err_param(e, ERR_FORMAT, name, "tensor %s has %lld values, not %d as the configuration says",
                         name, (long long)t->dim[0], n_in);
    if (!t->used) s->used += t->bytes;
    t->used = true;
    *out = t;
    return 0;
}

void store_drop_pages(const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)data + page - 1) & ~(page - 1),
              to = ((uintptr_t)data + bytes) & ~(page - 1);
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

/* Of a counter: any part of a dummy tensor can be made alone. */
static uint64_t mix(uint64_t x) { return rng_mix(x + RNG_STEP); }

static uint64_t name_key(const struct store *s, const char *name)
{
    uint64_t h = s->seed;
    for (; *name; name++) h = mix(h ^ (unsigned char)*name);
    return h;
}

/* Uniform in +-sqrt(3 / n): unit variance in gives unit variance out. Four at a time, of 16 bits each: out
 * has room for FOURS(n). */
#define FOURS(n) (((size_t)(n) + 3) / 4 * 4)
static void dummy_row(uint64_t key, int64_t row, int n, float *out)
{
    float scale = sqrtf(3.0f / (float)n) * 0x1p-15f;
    for (int i = 0; i < n; i += 4) {
        uint64_t r = mix(key ^ ((uint64_t)row << 32 | (uint32_t)i));
        for (int k = 0; k < 4; k++) out[i + k] = (float)(int16_t)(r >> 16 * k) * scale;
    }
}

static bool convert(const float *f, enum dtype as, void *dst, int64_t n)
{
    if (dtype_is_quant(as)) return quantize_row(as, f, dst, n);
    if (as == DT_F32)
        memcpy(dst, f, (size_t)n * sizeof *f);
    else
        dtype_from_f32(as, f, dst, n);
    return true;
}

static const unsigned char *row_at(const struct tensor *t, int64_t row)
{
    return (const unsigned char *)t->data + (size_t)row * dtype_row_bytes(t->type, t->dim[1]);
}

bool store_convert_row(const struct tensor *t, int64_t row, enum dtype as, float *f, void *dst)
{
    dtype_to_f32(t->type, row_at(t, row), f, t->dim[1]);
    return convert(f, as, dst, t->dim[1]);
}

int store_bad_weight(const struct tensor *t, struct err *e)
{
    return err_param(e, ERR_INVALID, t->name,
                     "tensor %s has a weight that is NaN, infinite or beyond %d: it cannot be quantised",
                     t->name, QUANTIZE_MAX);
}

/* Fills dst with the rows' columns in type `as`: from the tensor, or, without one, with dummy weights. */
struct rows_job {
    const struct store *s;
    const struct tensor *t;
    const struct matrix_spec *m;
    enum dtype as;
    unsigned char *dst;
    int parts;
    _Atomic bool bad, no_memory;
};
static void rows_task(void *arg, int i, int worker)
{
    struct rows_job *j = arg;
    const struct matrix_spec *m = j->m;
    size_t row = dtype_row_bytes(j->as, m->n_col);
    uint64_t key = name_key(j->s, m->name);
    float *f = malloc(FOURS(m->n_in) * sizeof *f);
    if (!f) j->no_memory = true;
    (void)worker;
    int64_t first = (int64_t)m->n_row * i / j->parts, last = (int64_t)m->n_row * (i + 1) / j->parts;
    for (int64_t r = first; f && r < last && !j->bad; r++) {
        unsigned char *to = j->dst + (size_t)r * row;
        if (j->t && j->t->type == j->as) {
            memcpy(to, row_at(j->t, m->row + r) + dtype_row_bytes(j->as, m->col), row);
            continue;
        }
        if (!j->t)
            dummy_row(key, m->row + r, m->n_in, f);
        else
            dtype_to_f32(j->t->type, row_at(j->t, m->row + r), f, m->n_in);
        if (!convert(f + m->col, j->as, to, m->n_col)) j->bad = true;
    }
    free(f);
}

static int make_rows(const struct store *s, const struct tensor *t, const struct matrix_spec *m,
                     enum dtype as, void *dst, struct err *e)
{
    struct rows_job j = {.s = s, .t = t, .m = m, .as = as, .dst = dst};
    j.parts = 4 * pool_size(s->pool);
    pool_run(s->pool, j.parts, rows_task, &j);
    if (j.no_memory) return store_no_memory(e);
    return j.bad && t ? store_bad_weight(t, e) : 0;
}

/* Whether the spec's columns can be cut out of rows of the type. */
static int check_columns(const struct matrix_spec *m, enum dtype as, struct err *e)
{
    if (!dtype_row_bytes(as, m->n_in))
        return err_param(e, ERR_FORMAT, m->name, "tensor %s: rows of %d are not whole blocks", m->name,
                         m->n_in);
    if ((m->col && !dtype_row_bytes(as, m->col)) || !dtype_row_bytes(as, m->n_col))
        return err_param(e, ERR_UNSUPPORTED, m->name,
                         "tensor %s: columns %d to %d are not whole blocks of type %s", m->name, m->col,
                         m->col + m->n_col, dtype_info(as)->name);
    return 0;
}

int store_matrix(struct store *s, struct backend *be, const struct matrix_spec *spec, struct weight **out,
                 struct err *e)
{
    struct matrix_spec own = *spec;
    const struct matrix_spec *m = &own;
    struct tensor *t = NULL;
    if (!own.n_col) own.n_col = own.n_in;
    void *made = NULL; /* in huge pages: the first touch of small ones takes longer than what is written */
    size_t made_bytes = 0;
    const void *src;
    *out = NULL;
    if (!s->dummy && take(s, m->name, m->n_out, m->n_in, &t, e)) return e->code;
    enum dtype type = t ? t->type : s->dummy_type,
               as = dtype_is_quant(type) || m->as == DT_COUNT ? type : m->as;
    if (check_columns(m, as, e)) return e->code;
    size_t row = dtype_row_bytes(as, m->n_col);
    s->type_bytes[as] += row * (size_t)m->n_row;
    if (t) t->as = as;
    if (!be) return 0;
    if (t && as == type && m->n_col == m->n_in) {
        src = row_at(t, m->row);
    } else {
        made_bytes = (row * (size_t)m->n_row + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
        if (!(made = hugemem_map(made_bytes))) return store_no_memory(e);
        if (make_rows(s, t, m, as, made, e)) {
            hugemem_unmap(made, made_bytes);
            return e->code;
        }
        src = made;
    }
    int rc = be->ops->weight_pack(be, as, m->n_row, m->n_col, src, out, e);
    if (rc) err_prefix(e, "tensor %s: ", m->name);
    if (t) store_drop_pages(row_at(t, m->row), dtype_row_bytes(t->type, m->n_in) * (size_t)m->n_row);
    if (made) hugemem_unmap(made, made_bytes);
    return rc;
}

int store_vector(struct store *s, const char *name, int n, float offset, bool check_only, float **out,
                 struct err *e)
{
    struct tensor *t = NULL;
    *out = NULL;
    if (!s->dummy && take(s, name, 0, n, &t, e)) return e->code;
    if (t && !dtype_row_bytes(t->type, n))
        return err_param(e, ERR_FORMAT, name, "tensor %s: %d values are not whole blocks", name, n);
    if (check_only) return 0;
    if (!(*out = malloc(FOURS(n) * sizeof **out))) return store_no_memory(e);
    /* dummy norms are near one, whatever offset the architecture adds; dummy biases do no harm there */
    if (!t)
        dummy_row(name_key(s, name), 0, n, *out);
    else
        dtype_to_f32(t->type, t->data, *out, n);
    for (int i = 0; i < n; i++) (*out)[i] += t ? offset : 1.0f;
    return 0;
}

static bool is_ignorable(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ignorable / sizeof *ignorable; i++) {
        size_t k = strlen(ignorable[i]);
        if (n >= k && !strcmp(name + n - k, ignorable[i])) return true;
    }
    return false;
}

int store_check_leftover(const struct store *s, bool (*ignore)(const char *name, void *ctx), void *ctx,
                         struct err *e)
{
    int left = 0;
    const char *first = NULL;
    for (int i = 0; i < s->n; i++) {
        if (s->by_name[i]->used || is_ignorable(s->by_name[i]->name) ||
            (ignore && ignore(s->by_name[i]->name, ctx)))
            continue;
        if (!left++) first = s->by_name[i]->name;
    }
    if (!left) return 0;
    return err_param(e, ERR_FORMAT, first,
                     "tensor %s is in the file, but the configuration has no place for it (%d such)", first,
                     left);
}
