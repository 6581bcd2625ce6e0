#include "auth.h"
#include <sha2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "file.h"

#define KEY_FILE_MAX (1u << 20)
#define KEYS_MAX     1024

struct auth {
    int n;
    uint8_t hash[KEYS_MAX][SHA256_DIGEST_LENGTH];
};

static void hash_key(const char *key, size_t n, uint8_t out[SHA256_DIGEST_LENGTH])
{
    SHA2_CTX c;
    SHA256Init(&c);
    SHA256Update(&c, (const uint8_t *)key, n);
    SHA256Final(out, &c);
}

/* Adds the keys of a text, separated by any of sep; a line beginning with # is skipped. */
static int add_keys(struct auth *a, const char *s, size_t n, const char *sep, struct err *e)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && !strchr(sep, s[end])) end++;
        size_t from = i, to = end;
        while (from < to && strchr(" \t\r", s[from])) from++;
        while (to > from && strchr(" \t\r", s[to - 1])) to--;
        i = end + 1;
        if (from == to || s[from] == '#') continue;
        if (a->n == KEYS_MAX) return err_set(e, ERR_INVALID, "more than %d API keys", KEYS_MAX);
        hash_key(s + from, to - from, a->hash[a->n++]);
    }
    return 0;
}

int auth_open(const char *keys, const char *file, struct auth **out, struct err *e)
{
    *out = NULL;
    bool any_keys = keys && *keys, any_file = file && *file;
    if (!any_keys && !any_file) return 0;
    struct auth *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_NOMEM, "out of memory");
    struct buf text = {0};
    int status = any_keys ? add_keys(a, keys, strlen(keys), ",", e) : 0;
    if (!status && any_file) status = file_read(file, KEY_FILE_MAX, &text, e);
    if (!status && any_file) status = add_keys(a, text.data ? text.data : "", text.len, "\n", e);
    /* A file that turns out empty must not leave the server open. */
    if (!status && a->n == 0)
        status = err_param(e, ERR_INVALID, any_keys ? "api-key" : "api-key-file", "--%s: holds no key",
                           any_keys ? "api-key" : "api-key-file");
    if (text.data) explicit_bzero(text.data, text.len);
    buf_free(&text);
    if (status)
        auth_free(a);
    else
        *out = a;
    return status;
}

void auth_free(struct auth *a) { free(a); }

bool auth_check(const struct auth *a, const char *key, size_t n)
{
    uint8_t given[SHA256_DIGEST_LENGTH];
    hash_key(key, n, given);
    unsigned match = 0;
    for (int i = 0; i < a->n; i++) {
        unsigned differ = 0;
        for (int k = 0; k < SHA256_DIGEST_LENGTH; k++) differ |= a->hash[i][k] ^ given[k];
        match |= differ == 0;
    }
    return match != 0;
}
