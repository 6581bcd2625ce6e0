/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one code point of s[0..n). Returns its length 1..4 and sets *cp; 0 if the bytes are invalid,
 * -1 if they are a valid but unfinished beginning (n too short). n must be > 0. */
int utf8_next(const char *s, size_t n, uint32_t *cp);
int utf8_put(char out[4], uint32_t cp); /* length written, 0 if cp is not a scalar value */
bool utf8_valid(const char *s, size_t n);
/* Length of the longest prefix of s that does not end within a code point (invalid bytes count as whole). */
size_t utf8_whole(const char *s, size_t n);
/* Appends s to b with every maximal invalid part replaced by U+FFFD, as the WHATWG decoder does. */
struct buf;
void utf8_clean(struct buf *b, const char *s, size_t n);
