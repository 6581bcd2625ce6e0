#include "gguf.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "file.h"
#include "gguf_scalar.h"
#include "utf8.h"

#define MAX_KV     (1u << 20)
#define MAX_TENSOR (1u << 20)
#define MAX_KEY    65535 /* as the format's description says */
#define MAX_NAME   255
#define MAX_ALIGN  65536

struct gguf {
    struct file_map map; /* data NULL when the bytes are the caller's */
    int n_kv, n_tensor;
    struct gguf_kv *kv; /* in the file's order */
    struct gguf_tensor *tensor;
    const struct gguf_kv **kv_by_key; /* sorted: look-up and the search for duplicates */
    const struct gguf_tensor **tensor_by_name;
};

/* What is left of the bytes. Every read goes through take(), so nothing is followed before it is known to be
 * there. */
struct cursor {
    const unsigned char *data;
    size_t n, i;
    struct err *e;
};

static int fail(const struct cursor *c, const char *what)
{
    return err_set(c->e, ERR_FORMAT, "%s (offset %zu)", what, c->i);
}

static int take(struct cursor *c, uint64_t n, const unsigned char **out)
{
    if (n > c->n - c->i) return fail(c, "the file ends in the middle of the header");
    *out = c->data + c->i;
    c->i += (size_t)n;
    return 0;
}

static int take_u32(struct cursor *c, uint32_t *out)
{
    const unsigned char *p;
    if (take(c, 4, &p)) return c->e->code;
    *out = load_u32(p);
    return 0;
}

static int take_u64(struct cursor *c, uint64_t *out)
{
    const unsigned char *p;
    if (take(c, 8, &p)) return c->e->code;
    *out = load_u64(p);
    return 0;
}

/* Keys and tensor names are printed in messages and compared: not empty, no control characters, UTF-8. */
static int take_name(struct cursor *c, size_t max, const char *what, struct gguf_str *out)
{
    const unsigned char *p;
    uint64_t n;
    if (take_u64(c, &n)) return c->e->code;
    if (n == 0 || n > max)
        return err_set(c->e, ERR_FORMAT, "%s of %" PRIu64 " bytes (offset %zu)", what, n, c->i - 8);
    if (take(c, n, &p)) return c->e->code;
    *out = (struct gguf_str){(const char *)p, (size_t)n};
    for (size_t i = 0; i < out->n; i++)
        if (p[i] < 0x20 || p[i] == 0x7f) return fail(c, "control character in a key or tensor name");
    return utf8_valid(out->s, out->n) ? 0 : fail(c, "invalid UTF-8 in a key or tensor name");
}

static int take_type(struct cursor *c, const struct gguf_kv *kv, enum gguf_type *out)
{
    uint32_t t;
    if (take_u32(c, &t)) return c->e->code;
    if (t >= GGUF_TYPE_COUNT)
        return err_set(c->e, ERR_FORMAT, "unknown value type %u (key %.*s)", t, (int)kv->key.n, kv->key.s);
    *out = (enum gguf_type)t;
    return 0;
}

static int take_strings(struct cursor *c, struct gguf_kv *kv)
{
    const unsigned char *p;
    uint64_t len, *off;
    if (kv->n > (c->n - c->i) / 8) return fail(c, "more strings claimed than the file has room for");
    off = malloc((size_t)(kv->n ? kv->n : 1) * sizeof *off);
    if (!off) return err_set(c->e, ERR_NOMEM, "out of memory");
    kv->str_off = off;
    for (uint64_t i = 0; i < kv->n; i++) {
        off[i] = (uint64_t)(c->data + c->i - kv->data);
        if (take_u64(c, &len) || take(c, len, &p)) return c->e->code;
    }
    return 0;
}

static int take_scalars(struct cursor *c, struct gguf_kv *kv, enum gguf_type t)
{
    unsigned size = scalar_size(t);
    if (kv->n > (c->n - c->i) / size) return fail(c, "an array reaches beyond the file");
    c->i += (size_t)kv->n * size;
    for (uint64_t i = 0; t == GGUF_BOOL && i < kv->n; i++)
        if (kv->data[i] > 1)
            return err_set(c->e, ERR_FORMAT, "a bool that is neither 0 nor 1 (key %.*s)", (int)kv->key.n,
                           kv->key.s);
    return 0;
}

static int take_kv(struct cursor *c, struct gguf_kv *kv)
{
    const unsigned char *p;
    uint64_t len;
    if (take_name(c, MAX_KEY, "key", &kv->key) || take_type(c, kv, &kv->type)) return c->e->code;
    kv->elem = kv->type;
    kv->n = 1;
    if (kv->type == GGUF_ARRAY) {
        if (take_type(c, kv, &kv->elem) || take_u64(c, &kv->n)) return c->e->code;
        if (kv->elem == GGUF_ARRAY)
            return err_set(c->e, ERR_FORMAT, "an array of arrays (key %.*s)", (int)kv->key.n, kv->key.s);
    }
    kv->data = c->data + c->i;
    if (kv->elem != GGUF_STRING) return take_scalars(c, kv, kv->elem);
    if (kv->type == GGUF_ARRAY) return take_strings(c, kv);
    return take_u64(c, &len) ? c->e->code : take(c, len, &p);
}

/* Codes of the format's tensor types; those missing here are refused by number. */
static const struct {
    uint32_t code;
    enum dtype type;
} tensor_types[] = {{0, DT_F32},   {1, DT_F16},   {30, DT_BF16}, {8, DT_Q8_0},  {2, DT_Q4_0},
                    {3, DT_Q4_1},  {6, DT_Q5_0},  {7, DT_Q5_1},  {10, DT_Q2_K}, {11, DT_Q3_K},
                    {12, DT_Q4_K}, {13, DT_Q5_K}, {14, DT_Q6_K}};
#define N_TENSOR_TYPE (sizeof tensor_types / sizeof *tensor_types)

static bool tensor_type(uint32_t code, enum dtype *out)
{
    for (size_t i = 0; i < N_TENSOR_TYPE; i++)
        if (tensor_types[i].code == code) {
            *out = tensor_types[i].type;
            return true;
        }
    return false;
}

uint32_t gguf_type_code(enum dtype t)
{
    for (size_t i = 0; i < N_TENSOR_TYPE; i++)
        if (tensor_types[i].type == t) return tensor_types[i].code;
    return UINT32_MAX;
}

static int tensor_fail(const struct cursor *c, const struct gguf_tensor *t, const char *what)
{
    char name[64];
    int n = t->name.n < 64 ? (int)t->name.n : 63;
    memcpy(name, t->name.s, (size_t)n);
    name[n] = 0;
    return err_param(c->e, ERR_FORMAT, name, "%s (tensor %s)", what, name);
}

/* One entry of the tensor table. data holds the offset until the place of the data section is known. */
static int take_tensor(struct cursor *c, struct gguf_tensor *t)
{
    uint32_t n_dim, code;
    uint64_t dim, off;
    if (take_name(c, MAX_NAME, "tensor name", &t->name) || take_u32(c, &n_dim)) return c->e->code;
    if (n_dim < 1 || n_dim > 4) return tensor_fail(c, t, "a number of dimensions other than 1 to 4");
    t->n_dim = (int)n_dim;
    for (int i = 0; i < 4; i++) {
        t->dim[i] = 1;
        if (i >= t->n_dim) continue;
        if (take_u64(c, &dim)) return c->e->code;
        if (dim < 1 || dim > INT32_MAX) return tensor_fail(c, t, "a dimension out of range");
        t->dim[i] = (int64_t)dim;
    }
    if (take_u32(c, &code) || take_u64(c, &off)) return c->e->code;
    if (!tensor_type(code, &t->type)) {
        tensor_fail(c, t, "unsupported tensor type");
        return err_prefix(c->e, "type %u: ", code);
    }
    t->bytes = dtype_row_bytes(t->type, t->dim[0]);
    if (!t->bytes) return tensor_fail(c, t, "rows that are not whole blocks of the type");
    for (int i = 1; i < 4; i++)
        if (__builtin_mul_overflow(t->bytes, (size_t)t->dim[i], &t->bytes))
            return tensor_fail(c, t, "a size that overflows");
    t->data = (const void *)(uintptr_t)off;
    return 0;
}

static int str_cmp(const struct gguf_str *a, const struct gguf_str *b)
{
    int d = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n);
    return d ? d : (a->n > b->n) - (a->n < b->n);
}

/* kv and tensors both begin with their name, so one comparison serves both indexes. */
_Static_assert(offsetof(struct gguf_kv, key) == 0 && offsetof(struct gguf_tensor, name) == 0, "name first");
static int by_name(const void *a, const void *b)
{
    return str_cmp(*(const struct gguf_str *const *)a, *(const struct gguf_str *const *)b);
}

static int by_data(const void *a, const void *b)
{
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a,
                             *y = *(const struct gguf_tensor *const *)b;
    return (x->data > y->data) - (x->data < y->data);
}

/* Sorts an index by name and finds duplicates. */
static int index_names(const struct cursor *c, const struct gguf_str **index, int n, const char *what)
{
    qsort(index, (size_t)n, sizeof *index, by_name);
    for (int i = 1; i < n; i++)
        if (!str_cmp(index[i - 1], index[i]))
            return err_set(c->e, ERR_FORMAT, "duplicate %s %.*s", what,
                           (int)(index[i]->n > 200 ? 200 : index[i]->n), index[i]->s);
    return 0;
}

static int read_counts(struct cursor *c, uint64_t *n_tensor, uint64_t *n_kv)
{
    const unsigned char *magic = NULL;
    uint32_t version;
    if (take(c, 4, &magic)) return c->e->code;
    if (memcmp(magic, "GGUF", 4)) return err_set(c->e, ERR_FORMAT, "no GGUF file (wrong magic bytes)");
    if (take_u32(c, &version)) return c->e->code;
    if (version && !(version & 0xffff))
        return err_set(c->e, ERR_UNSUPPORTED,
                       "a big-endian GGUF file (byte order of the version); only little endian is read");
    if (version != 2 && version != 3)
        return err_set(c->e, ERR_UNSUPPORTED, "GGUF version %u; versions 2 and 3 are read", version);
    if (take_u64(c, n_tensor) || take_u64(c, n_kv)) return c->e->code;
    /* the smallest entries: key 8+1, type 4, value 1; name 8+1, dimensions 4+8, type 4, offset 8 */
    if (*n_kv > MAX_KV || *n_kv > (c->n - c->i) / 14)
        return fail(c, "more keys claimed than the file has room for");
    if (*n_tensor > MAX_TENSOR || *n_tensor > (c->n - c->i) / 33)
        return fail(c, "more tensors claimed than the file has room for");
    return 0;
}

static int read_alignment(const struct gguf *g, const struct cursor *c, size_t *out)
{
    int64_t align = 32;
    if (gguf_find(g, "general.alignment") && !gguf_int(g, "general.alignment", &align)) align = 0;
    if (align < 1 || align > MAX_ALIGN || (align & (align - 1)))
        return err_set(c->e, ERR_FORMAT, "must be a power of two up to %d (key general.alignment)",
                       MAX_ALIGN);
    *out = (size_t)align;
    return 0;
}

/* Turns offsets into pointers: aligned, inside the file, not overlapping. Uses tensor_by_name as scratch. */
static int place_tensors(struct gguf *g, struct cursor *c, size_t align)
{
    size_t base = (c->i + align - 1) & ~(align - 1);
    const struct gguf_tensor **by_place = g->tensor_by_name;
    for (int i = 0; i < g->n_tensor; i++) {
        struct gguf_tensor *t = &g->tensor[i];
        uint64_t off = (uint64_t)(uintptr_t)t->data;
        if (off % align) return tensor_fail(c, t, "data that is not aligned");
        if (base > c->n || off > c->n - base || t->bytes > c->n - base - off)
            return tensor_fail(c, t, "data beyond the end of the file");
        t->data = c->data + base + off;
        by_place[i] = t;
    }
    qsort(by_place, (size_t)g->n_tensor, sizeof *by_place, by_data);
    for (int i = 1; i < g->n_tensor; i++)
        if ((const unsigned char *)by_place[i - 1]->data + by_place[i - 1]->bytes >
            (const unsigned char *)by_place[i]->data)
            return tensor_fail(c, by_place[i], "data that overlaps another tensor's");
    return 0;
}

static int parse(struct gguf *g, struct cursor *c)
{
    uint64_t n_tensor, n_kv;
    size_t align = 0;
    if (read_counts(c, &n_tensor, &n_kv)) return c->e->code;
    g->kv = calloc(n_kv + 1, sizeof *g->kv);
    g->tensor = calloc(n_tensor + 1, sizeof *g->tensor);
    g->kv_by_key = calloc(n_kv + 1, sizeof *g->kv_by_key);
    g->tensor_by_name = calloc(n_tensor + 1, sizeof *g->tensor_by_name);
    if (!g->kv || !g->tensor || !g->kv_by_key || !g->tensor_by_name)
        return err_set(c->e, ERR_NOMEM, "out of memory");
    for (; g->n_kv < (int)n_kv; g->n_kv++) {
        g->kv_by_key[g->n_kv] = &g->kv[g->n_kv];
        if (take_kv(c, &g->kv[g->n_kv])) {
            g->n_kv++; /* its string table is freed too */
            return c->e->code;
        }
    }
    if (index_names(c, (const struct gguf_str **)g->kv_by_key, g->n_kv, "key")) return c->e->code;
    if (read_alignment(g, c, &align)) return c->e->code;
    for (; g->n_tensor < (int)n_tensor; g->n_tensor++)
        if (take_tensor(c, &g->tensor[g->n_tensor])) return c->e->code;
    if (place_tensors(g, c, align)) return c->e->code;
    return index_names(c, (const struct gguf_str **)g->tensor_by_name, g->n_tensor, "tensor");
}

int gguf_parse(const void *data, size_t n, struct gguf **out, struct err *e)
{
    struct err own = {0};
    struct cursor c = {data, n, 0, e ? e : &own};
    struct gguf *g = calloc(1, sizeof *g);
    *out = NULL;
    if (!g) return err_set(e, ERR_NOMEM, "out of memory");
    if (parse(g, &c)) {
        gguf_close(g);
        return c.e->code;
    }
    *out = g;
    return 0;
}

int gguf_open(const char *path, struct gguf **out, struct err *e)
{
    struct file_map map;
    struct err own = {0};
    if (!e) e = &own;
    *out = NULL;
    if (file_map_open(path, &map, e)) return e->code;
    if (gguf_parse(map.data, map.size, out, e)) {
        file_map_close(&map);
        return err_prefix(e, "%s: ", path);
    }
    (*out)->map = map;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g) return;
    for (int i = 0; i < g->n_kv; i++) free((void *)g->kv[i].str_off);
    free(g->kv);
    free(g->tensor);
    free(g->kv_by_key);
    free(g->tensor_by_name);
    if (g->map.data) file_map_close(&g->map);
    free(g);
}

static const void *find(const void *index, int n, const char *name)
{
    struct gguf_str key = {name, strlen(name)};
    const struct gguf_str *k = &key;
    const void *const *hit = bsearch(&k, index, (size_t)n, sizeof(void *), by_name);
    return hit ? *hit : NULL;
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    return find(g->kv_by_key, g->n_kv, key);
}
int gguf_n_kv(const struct gguf *g) { return g->n_kv; }
const struct gguf_kv *gguf_kv_at(const struct gguf *g, int i) { return &g->kv[i]; }
int gguf_n_tensor(const struct gguf *g) { return g->n_tensor; }
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int i) { return &g->tensor[i]; }

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    return find(g->tensor_by_name, g->n_tensor, name);
}
