#include "json.h"
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "file.h"
#include "utf8.h"

/* The scan walks the text once, without recursion: one frame per open array or object. For objects it
 * collects the hashes of their keys, so that duplicates are found without comparing every pair. */
struct scan {
    const char *s;
    size_t n, i;
    struct json_limits lim;
    int nodes, depth;
    struct frame {
        bool object;
        int first_key;
    } * frame;     /* [lim.depth] */
    uint64_t *key; /* keys of all open objects: hash of each */
    int n_key, cap_key;
    struct err *e;
};

static int fail(struct scan *p, const char *what)
{
    return err_set(p->e, ERR_FORMAT, "invalid JSON at byte %zu: %s", p->i, what);
}

static void skip_space(struct scan *p)
{
    while (p->i < p->n &&
           (p->s[p->i] == ' ' || p->s[p->i] == '\t' || p->s[p->i] == '\n' || p->s[p->i] == '\r'))
        p->i++;
}

static int hex4(struct scan *p, size_t at)
{
    if (at + 4 > p->n) return -1;
    int v = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = p->s[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

static uint64_t mix(uint64_t h, uint32_t c) { return (h ^ c) * 0x100000001b3u + (h >> 29); }

/* One escape sequence after its backslash; the character in *cp. */
static int scan_escape(struct scan *p, uint32_t *cp)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p->i >= p->n) return fail(p, "unfinished string");
    char c = p->s[p->i];
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        *cp = (uint32_t)to[at - from];
        p->i++;
        return 0;
    }
    if (c != 'u') return fail(p, "bad escape");
    int u = hex4(p, p->i + 1);
    if (u < 0) return fail(p, "bad \\u escape");
    if (u >= 0xdc00 && u <= 0xdfff) return fail(p, "lone surrogate");
    p->i += 5;
    *cp = (uint32_t)u;
    if (u < 0xd800 || u > 0xdbff) return 0;
    int low = p->i + 1 < p->n && p->s[p->i] == '\\' && p->s[p->i + 1] == 'u' ? hex4(p, p->i + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff) return fail(p, "lone surrogate");
    p->i += 6;
    *cp = 0x10000 + ((uint32_t)(u - 0xd800) << 10) + (uint32_t)(low - 0xdc00);
    return 0;
}

static int scan_string(struct scan *p, uint64_t *hash)
{
    uint64_t h = 0xcbf29ce484222325u;
    p->i++;
    while (p->i < p->n) {
        unsigned char c = (unsigned char)p->s[p->i];
        uint32_t cp = c;
        if (c == '"') {
            p->i++;
            *hash = h;
            return 0;
        }
        if (c < 0x20) return fail(p, "control character in a string");
        if (c == '\\') {
            p->i++;
            if (scan_escape(p, &cp)) return ERR_FORMAT;
        } else if (c < 0x80) {
            p->i++;
        } else {
            int k = utf8_next(p->s + p->i, p->n - p->i, &cp);
            if (k <= 0) return fail(p, "invalid UTF-8");
            p->i += (size_t)k;
        }
        h = mix(h, cp);
    }
    return fail(p, "unfinished string");
}

static int digits(struct scan *p)
{
    size_t from = p->i;
    while (p->i < p->n && p->s[p->i] >= '0' && p->s[p->i] <= '9') p->i++;
    return (int)(p->i - from > INT_MAX ? INT_MAX : p->i - from);
}

static int scan_number(struct scan *p)
{
    size_t from = p->i;
    if (p->s[p->i] == '-') p->i++;
    if (p->i < p->n && p->s[p->i] == '0') {
        p->i++;
    } else if (!digits(p)) {
        return fail(p, "bad number");
    }
    if (p->i < p->n && p->s[p->i] == '.') {
        p->i++;
        if (!digits(p)) return fail(p, "bad number");
    }
    if (p->i < p->n && (p->s[p->i] == 'e' || p->s[p->i] == 'E')) {
        p->i++;
        if (p->i < p->n && (p->s[p->i] == '+' || p->s[p->i] == '-')) p->i++;
        if (!digits(p)) return fail(p, "bad number");
    }
    /* cJSON copies a number into a small buffer; a longer one would be cut, so refuse it. */
    if (p->i - from > 60) return fail(p, "number too long");
    char copy[64];
    memcpy(copy, p->s + from, p->i - from);
    copy[p->i - from] = 0;
    if (!isfinite(strtod(copy, NULL))) return fail(p, "number out of range");
    return 0;
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int close_frame(struct scan *p)
{
    struct frame *f = &p->frame[--p->depth];
    p->i++;
    if (!f->object) return 0;
    int n = p->n_key - f->first_key;
    p->n_key = f->first_key;
    if (!n) return 0;
    uint64_t *key = p->key + f->first_key;
    qsort(key, (size_t)n, sizeof *key, compare_u64);
    for (int i = 1; i < n; i++)
        if (key[i] == key[i - 1]) return fail(p, "duplicate key in an object");
    return 0;
}

static int scan_key(struct scan *p)
{
    uint64_t h;
    if (p->i >= p->n || p->s[p->i] != '"') return fail(p, "expected a key");
    if (scan_string(p, &h)) return ERR_FORMAT;
    if (p->n_key == p->cap_key) {
        int cap = p->cap_key ? p->cap_key * 2 : 64;
        uint64_t *key = realloc(p->key, (size_t)cap * sizeof *key);
        if (!key) return err_set(p->e, ERR_NOMEM, "out of memory");
        p->key = key;
        p->cap_key = cap;
    }
    p->key[p->n_key++] = h;
    skip_space(p);
    if (p->i >= p->n || p->s[p->i] != ':') return fail(p, "expected ':'");
    p->i++;
    skip_space(p);
    return 0;
}

static bool literal(struct scan *p, const char *word)
{
    size_t n = strlen(word);
    if (p->n - p->i < n || memcmp(p->s + p->i, word, n)) return false;
    p->i += n;
    return true;
}

/* One value; *opened tells that it is a container with members to come. */
static int scan_value(struct scan *p, bool *opened)
{
    uint64_t h;
    *opened = false;
    if (p->i >= p->n) return fail(p, "unexpected end");
    if (++p->nodes > p->lim.nodes) return fail(p, "too many values");
    char c = p->s[p->i];
    if (c == '"') return scan_string(p, &h);
    if (c == '-' || (c >= '0' && c <= '9')) return scan_number(p);
    if (c != '{' && c != '[')
        return literal(p, "true") || literal(p, "false") || literal(p, "null")
                   ? 0
                   : fail(p, "unexpected character");
    if (p->depth == p->lim.depth) return fail(p, "nested too deeply");
    p->frame[p->depth++] = (struct frame){c == '{', p->n_key};
    p->i++;
    skip_space(p);
    if (p->i < p->n && p->s[p->i] == (c == '{' ? '}' : ']')) return close_frame(p);
    *opened = true;
    return c == '{' ? scan_key(p) : 0;
}

static int scan_text(struct scan *p)
{
    bool opened;
    skip_space(p);
    do {
        int status = scan_value(p, &opened);
        if (status) return status;
        while (!opened && p->depth) { /* after a member: another one, or the end of its container */
            skip_space(p);
            bool object = p->frame[p->depth - 1].object;
            if (p->i >= p->n) return fail(p, "unexpected end");
            if (p->s[p->i] == ',') {
                p->i++;
                skip_space(p);
                if (object && (status = scan_key(p))) return status;
                opened = true;
            } else if (p->s[p->i] == (object ? '}' : ']')) {
                if (close_frame(p)) return ERR_FORMAT;
            } else {
                return fail(p, object ? "expected ',' or '}'" : "expected ',' or ']'");
            }
        }
    } while (p->depth);
    skip_space(p);
    return p->i == p->n ? 0 : fail(p, "trailing bytes");
}

int json_scan(const char *text, size_t n, struct json_limits lim, struct err *e)
{
    struct scan p = {.s = text, .n = n, .lim = lim, .e = e};
    p.frame = malloc((size_t)lim.depth * sizeof *p.frame);
    int status = p.frame ? scan_text(&p) : err_set(e, ERR_NOMEM, "out of memory");
    free(p.frame);
    free(p.key);
    return status;
}

/* A copy in which each NUL escape is the two bytes C0 80 followed by nothing: shorter, so it fits. */
static char *keep_nul(const char *text, size_t n, size_t *n_out)
{
    char *copy = malloc(n + 1);
    size_t w = 0;
    for (size_t i = 0; copy && i < n; i++) {
        if (text[i] != '\\' || i + 1 >= n) {
            copy[w++] = text[i];
        } else if (n - i >= 6 && !memcmp(text + i, "\\u0000", 6)) {
            copy[w++] = (char)0xc0;
            copy[w++] = (char)0x80;
            i += 5;
        } else {
            copy[w++] = text[i++];
            copy[w++] = text[i];
        }
    }
    if (copy) copy[w] = 0;
    *n_out = w;
    return copy;
}

int json_parse(const char *text, size_t n, struct json_limits lim, cJSON **out, struct err *e)
{
    *out = NULL;
    int status = json_scan(text, n, lim, e);
    if (status) return status;
    char *copy = NULL;
    if (memmem(text, n, "\\u0000", 6)) {
        copy = keep_nul(text, n, &n);
        if (!copy) return err_set(e, ERR_NOMEM, "out of memory");
    }
    *out = cJSON_ParseWithLength(copy ? copy : text, n);
    free(copy);
    return *out ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

int json_load(const char *path, size_t max, cJSON **out, struct err *e)
{
    struct buf text = {0};
    *out = NULL;
    int status = file_read(path, max, &text, e);
    if (!status) {
        status = json_parse(text.data ? text.data : "", text.len, JSON_LIMITS_FILE, out, e);
        if (status) err_prefix(e, "%s: ", path);
    }
    buf_free(&text);
    return status;
}

const cJSON *json_get(const cJSON *obj, const char *key)
{
    if (!cJSON_IsObject(obj)) return NULL;
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, key);
    return v && !cJSON_IsNull(v) ? v : NULL;
}

void json_str(const cJSON *s, struct buf *out)
{
    if (!cJSON_IsString(s)) return;
    const char *at = s->valuestring, *nul;
    while ((nul = strstr(at, "\xc0\x80"))) {
        buf_add(out, at, (size_t)(nul - at));
        buf_chr(out, 0);
        at = nul + 2;
    }
    buf_str(out, at);
}

bool json_get_num(const cJSON *obj, const char *key, double min, double max, double *out, struct err *e)
{
    const cJSON *v = json_get(obj, key);
    if (!v) return false;
    if (!cJSON_IsNumber(v)) return err_param(e, ERR_INVALID, key, "%s: must be a number", key), false;
    if (!(v->valuedouble >= min && v->valuedouble <= max))
        return err_param(e, ERR_INVALID, key, "%s: must be between %g and %g", key, min, max), false;
    *out = v->valuedouble;
    return true;
}

bool json_get_int(const cJSON *obj, const char *key, int64_t min, int64_t max, int64_t *out, struct err *e)
{
    const cJSON *v = json_get(obj, key);
    if (!v) return false;
    double d = cJSON_IsNumber(v) ? v->valuedouble : NAN;
    if (!(fabs(d) < 9.2e18) || d != floor(d))
        return err_param(e, ERR_INVALID, key, "%s: must be an integer", key), false;
    int64_t i = (int64_t)d;
    if (i < min || i > max)
        return err_param(e, ERR_INVALID, key, "%s: must be between %lld and %lld", key, (long long)min,
                         (long long)max),
               false;
    *out = i;
    return true;
}

bool json_get_bool(const cJSON *obj, const char *key, bool *out, struct err *e)
{
    const cJSON *v = json_get(obj, key);
    if (!v) return false;
    if (!cJSON_IsBool(v)) return err_param(e, ERR_INVALID, key, "%s: must be true or false", key), false;
    *out = cJSON_IsTrue(v);
    return true;
}

const char *json_get_cstr(const cJSON *obj, const char *key)
{
    const cJSON *v = json_get(obj, key);
    return cJSON_IsString(v) ? v->valuestring : NULL;
}
