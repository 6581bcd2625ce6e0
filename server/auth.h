/* API keys. Only their SHA-256 hashes are kept; immutable after auth_open, so any thread may check. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "err.h"

struct auth;
/* keys: comma separated; file: one a line, # begins a comment. Either may be NULL or "". *out is NULL if
 * there is no key. */
int auth_open(const char *keys, const char *file, struct auth **out, struct err *e);
void auth_free(struct auth *a);
/* Compares hashes in a time that depends neither on the key given nor on which one matches. */
bool auth_check(const struct auth *a, const char *key, size_t n);
