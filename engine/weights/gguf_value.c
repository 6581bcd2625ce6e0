/* Metadata values by type, after gguf.c has validated where they are. */
#include <string.h>
#include "gguf_scalar.h"

/* Element i as an integer; false if the elements are no integers, or do not fit. */
static bool element_int(const struct gguf_kv *kv, uint64_t i, int64_t *out)
{
    const unsigned char *p = kv->data + i * scalar_size(kv->elem);
    switch (kv->elem) {
    case GGUF_BOOL:
    case GGUF_U8: *out = p[0]; return true;
    case GGUF_I8: *out = (int8_t)p[0]; return true;
    case GGUF_U16: *out = p[0] | p[1] << 8; return true;
    case GGUF_I16: *out = (int16_t)(p[0] | p[1] << 8); return true;
    case GGUF_U32: *out = load_u32(p); return true;
    case GGUF_I32: *out = (int32_t)load_u32(p); return true;
    case GGUF_U64:
    case GGUF_I64: *out = (int64_t)load_u64(p); return kv->elem == GGUF_I64 || *out >= 0;
    default: return false;
    }
}

static bool element_num(const struct gguf_kv *kv, uint64_t i, double *out)
{
    const unsigned char *p = kv->data + i * scalar_size(kv->elem);
    int64_t v;
    float f;
    if (kv->elem == GGUF_F32) {
        memcpy(&f, p, sizeof f);
        *out = f;
    } else if (kv->elem == GGUF_F64) {
        memcpy(out, p, sizeof *out);
    } else if (element_int(kv, i, &v)) {
        *out = (double)v;
    } else {
        return false;
    }
    return true;
}

bool gguf_int(const struct gguf *g, const char *key, int64_t *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && kv->type != GGUF_ARRAY && kv->type != GGUF_BOOL && element_int(kv, 0, out);
}

bool gguf_num(const struct gguf *g, const char *key, double *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && kv->type != GGUF_ARRAY && kv->type != GGUF_BOOL && element_num(kv, 0, out);
}

bool gguf_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv || kv->type != GGUF_BOOL) return false;
    *out = kv->data[0];
    return true;
}

static struct gguf_str load_str(const unsigned char *p)
{
    return (struct gguf_str){(const char *)p + 8, (size_t)load_u64(p)};
}

bool gguf_string(const struct gguf *g, const char *key, struct gguf_str *out)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv || kv->type != GGUF_STRING) return false;
    *out = load_str(kv->data);
    return true;
}

struct gguf_str gguf_array_str(const struct gguf_kv *kv, uint64_t i)
{
    return kv->elem == GGUF_STRING && kv->str_off ? load_str(kv->data + kv->str_off[i])
                                                  : (struct gguf_str){"", 0};
}

int64_t gguf_array_int(const struct gguf_kv *kv, uint64_t i)
{
    int64_t v = 0;
    return element_int(kv, i, &v) ? v : 0;
}

double gguf_array_num(const struct gguf_kv *kv, uint64_t i)
{
    double v = 0;
    return element_num(kv, i, &v) ? v : 0;
}
