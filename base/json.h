/* Strict JSON for hostile bytes. cJSON itself accepts trailing bytes, invalid UTF-8, raw control characters
 * and NUL escapes that truncate strings, so every text is scanned first (RFC 8259 grammar, UTF-8, escapes,
 * surrogate pairs, duplicate keys, depth, node count) and only then handed to cJSON.
 *
 * "\u0000" survives as the two bytes C0 80 inside cJSON's C strings (they cannot occur in valid UTF-8);
 * json_str() turns them back into a NUL byte. Look keys up with json_get(), which is case sensitive. */
#pragma once
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "buf.h"
#include "err.h"

struct json_limits {
    int depth; /* nesting of arrays and objects */
    int nodes; /* values in all */
};
#define JSON_LIMITS_REQUEST ((struct json_limits){64, 1000000})
#define JSON_LIMITS_FILE    ((struct json_limits){64, 20000000})

/* Whole text must be one JSON value. The caller frees *out with cJSON_Delete. ERR_FORMAT or ERR_NOMEM. */
int json_parse(const char *text, size_t n, struct json_limits lim, cJSON **out, struct err *e);
/* Only the scan; 0 if json_parse would accept the text. */
int json_scan(const char *text, size_t n, struct json_limits lim, struct err *e);
/* Reads a file of at most max bytes and parses it; errors name the file. */
int json_load(const char *path, size_t max, cJSON **out, struct err *e);

const cJSON *json_get(const cJSON *obj,
                      const char *key);         /* NULL if absent, or obj is no object, or value null */
void json_str(const cJSON *s, struct buf *out); /* appends the string's bytes, C0 80 -> NUL */
/* Typed look-ups for configuration files: false leaves *out as it was (the default) when the key is absent;
 * a value of the wrong type or out of range is an error in e and also returns false: check e->code. */
bool json_get_int(const cJSON *obj, const char *key, int64_t min, int64_t max, int64_t *out, struct err *e);
bool json_get_num(const cJSON *obj, const char *key, double min, double max, double *out, struct err *e);
bool json_get_bool(const cJSON *obj, const char *key, bool *out, struct err *e);
const char *json_get_cstr(const cJSON *obj, const char *key); /* NULL unless a string */
