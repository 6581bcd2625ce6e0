#include "safetensors.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "file.h"
#include "json.h"

#define MAX_HEADER 100000000 /* the format's own limit */

struct safetensors {
    struct file_map map; /* data NULL when the bytes are the caller's */
    int n;
    struct safetensor *t;
};

static int tensor_fail(struct err *e, const char *name, const char *what)
{
    return err_param(e, ERR_FORMAT, name, "%s (tensor %.200s)", what, name);
}

/* Sizes of every type of the format, so that unusable tensors still take part in the checks. */
static int parse_type(const cJSON *j, struct safetensor *t, size_t *size, struct err *e)
{
    static const struct {
        const char *name;
        int size;
        bool plain;
        enum dtype type;
    } types[] = {{"F32", 4, true, DT_F32}, {"F16", 2, true, DT_F16}, {"BF16", 2, true, DT_BF16},
                 {"F64", 8, false, 0},     {"I64", 8, false, 0},     {"I32", 4, false, 0},
                 {"I16", 2, false, 0},     {"I8", 1, false, 0},      {"U64", 8, false, 0},
                 {"U32", 4, false, 0},     {"U16", 2, false, 0},     {"U8", 1, false, 0},
                 {"BOOL", 1, false, 0},    {"F8_E4M3", 1, false, 0}, {"F8_E5M2", 1, false, 0},
                 {"F8_E8M0", 1, false, 0}};
    const char *name = json_get_cstr(j, "dtype");
    if (!name) return tensor_fail(e, t->name, "no dtype");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(name, types[i].name)) continue;
        t->plain = types[i].plain;
        t->type = types[i].type;
        *size = (size_t)types[i].size;
        memcpy(t->type_name, name, strlen(name) + 1);
        return 0;
    }
    return tensor_fail(e, t->name, "unknown dtype");
}

/* A whole number in [0, max] (2^53 and beyond cannot be told exactly from a double). */
static bool whole(const cJSON *j, double max, int64_t *out)
{
    if (!cJSON_IsNumber(j) || !(j->valuedouble >= 0 && j->valuedouble <= max)) return false;
    if (floor(j->valuedouble) != j->valuedouble) return false;
    *out = (int64_t)j->valuedouble;
    return true;
}

static int parse_shape(const cJSON *j, struct safetensor *t, size_t size, struct err *e)
{
    const cJSON *shape = json_get(j, "shape"), *d;
    if (!cJSON_IsArray(shape)) return tensor_fail(e, t->name, "no shape");
    t->bytes = size;
    cJSON_ArrayForEach(d, shape)
    {
        if (t->n_dim == SAFETENSORS_MAX_DIM) return tensor_fail(e, t->name, "too many dimensions");
        if (!whole(d, INT32_MAX, &t->dim[t->n_dim]))
            return tensor_fail(e, t->name, "a dimension out of range");
        if (__builtin_mul_overflow(t->bytes, (size_t)t->dim[t->n_dim], &t->bytes))
            return tensor_fail(e, t->name, "a size that overflows");
        t->n_dim++;
    }
    return 0;
}

static int parse_tensor(const cJSON *j, struct safetensor *t, const unsigned char *base, size_t n_data,
                        struct err *e)
{
    const cJSON *off = json_get(j, "data_offsets");
    struct buf name = {0};
    int64_t begin, end;
    size_t size = 0;
    json_str(&(cJSON){.type = cJSON_String, .valuestring = j->string}, &name);
    t->name = name.data ? name.data : calloc(1, 1);
    if (name.failed || !t->name) return err_set(e, ERR_NOMEM, "out of memory");
    if (!*t->name || strlen(t->name) != name.len)
        return err_set(e, ERR_FORMAT, "an empty or broken tensor name");
    for (const char *p = t->name; *p; p++)
        if ((unsigned char)*p < 0x20) return err_set(e, ERR_FORMAT, "a control character in a tensor name");
    if (!cJSON_IsObject(j)) return tensor_fail(e, t->name, "no object");
    if (parse_type(j, t, &size, e) || parse_shape(j, t, size, e)) return e->code;
    if (!cJSON_IsArray(off) || cJSON_GetArraySize(off) != 2 ||
        !whole(cJSON_GetArrayItem(off, 0), 0x1p53, &begin) ||
        !whole(cJSON_GetArrayItem(off, 1), 0x1p53, &end) || end < begin)
        return tensor_fail(e, t->name, "broken data_offsets");
    if ((uint64_t)end > n_data) return tensor_fail(e, t->name, "data beyond the end of the file");
    if ((uint64_t)(end - begin) != t->bytes)
        return tensor_fail(e, t->name, "data_offsets do not agree with the shape");
    t->data = base + begin;
    return 0;
}

static int by_data(const void *a, const void *b)
{
    const struct safetensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

/* The data section must be covered exactly: a gap may hide something, an overlap aliases two weights. */
static int check_cover(struct safetensors *s, const unsigned char *base, size_t n_data, struct err *e)
{
    const unsigned char *at = base;
    qsort(s->t, (size_t)s->n, sizeof *s->t, by_data);
    for (int i = 0; i < s->n; i++) {
        if ((const unsigned char *)s->t[i].data != at)
            return tensor_fail(e, s->t[i].name,
                               (const unsigned char *)s->t[i].data < at
                                   ? "data that overlaps another tensor's"
                                   : "a gap before its data");
        at += s->t[i].bytes;
    }
    return at == base + n_data
               ? 0
               : err_set(e, ERR_FORMAT, "%zu bytes after the last tensor", (size_t)(base + n_data - at));
}

static int parse(struct safetensors *s, const unsigned char *data, size_t n, struct err *e)
{
    cJSON *root = NULL;
    const cJSON *j;
    uint64_t len = 0;
    int rc;
    if (n < 8) return err_set(e, ERR_FORMAT, "too short for a safetensors file (%zu bytes)", n);
    for (int i = 7; i >= 0; i--) len = len << 8 | data[i];
    if (len < 2 || len > MAX_HEADER || len > n - 8)
        return err_set(e, ERR_FORMAT, "a header of %" PRIu64 " bytes in a file of %zu", len, n);
    if (data[8] != '{') return err_set(e, ERR_FORMAT, "the header does not begin with '{'");
    if (json_parse((const char *)data + 8, (size_t)len, JSON_LIMITS_FILE, &root, e))
        return err_prefix(e, "header: ");
    s->t = calloc((size_t)cJSON_GetArraySize(root) + 1, sizeof *s->t);
    rc = s->t ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    for (j = root->child; j && !rc; j = j->next) {
        if (!strcmp(j->string, "__metadata__")) continue;
        rc = parse_tensor(j, &s->t[s->n++], data + 8 + len, n - 8 - (size_t)len, e);
    }
    cJSON_Delete(root);
    return rc ? rc : check_cover(s, data + 8 + len, n - 8 - (size_t)len, e);
}

int safetensors_parse(const void *data, size_t n, struct safetensors **out, struct err *e)
{
    struct err own = {0};
    struct safetensors *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!e) e = &own;
    if (!s) return err_set(e, ERR_NOMEM, "out of memory");
    if (parse(s, data, n, e)) {
        safetensors_close(s);
        return e->code;
    }
    *out = s;
    return 0;
}

int safetensors_open(const char *path, struct safetensors **out, struct err *e)
{
    struct file_map map;
    struct err own = {0};
    *out = NULL;
    if (!e) e = &own;
    if (file_map_open(path, &map, e)) return e->code;
    if (safetensors_parse(map.data, map.size, out, e)) {
        file_map_close(&map);
        return err_prefix(e, "%s: ", path);
    }
    (*out)->map = map;
    return 0;
}

void safetensors_close(struct safetensors *s)
{
    if (!s) return;
    for (int i = 0; i < s->n; i++) free(s->t[i].name);
    free(s->t);
    if (s->map.data) file_map_close(&s->map);
    free(s);
}

int safetensors_count(const struct safetensors *s) { return s->n; }
const struct safetensor *safetensors_at(const struct safetensors *s, int i) { return &s->t[i]; }
