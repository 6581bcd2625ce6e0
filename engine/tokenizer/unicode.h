/* What the tokenizers need of Unicode: character classes as Rust's `char` and regex crate define them, normal
 * forms and lower case (data: utf8proc), and GPT-2's byte alphabet. Stateless; any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "buf.h"

bool uni_is_space(uint32_t cp);   /* White_Space */
bool uni_is_numeric(uint32_t cp); /* Nd, Nl, No */
bool uni_is_punct(uint32_t cp);   /* P*, and all of ASCII's punctuation and symbols */
bool uni_is_mark(uint32_t cp);    /* M* */
bool uni_is_word(uint32_t cp);    /* \w: Alphabetic, M, Nd, Pc, Join_Control */

enum uni_form { UNI_NFC, UNI_NFD, UNI_NFKC, UNI_NFKD };
/* Appends; s is valid UTF-8. ERR_NOMEM or 0. Linear, also for long runs of marks out of order. */
int uni_normalize(enum uni_form form, const char *s, size_t n, struct buf *out);
void uni_lower(const char *s, size_t n, struct buf *out);

/* GPT-2's printable stand-ins for bytes: '!'..'~', 0xA1..0xAC, 0xAE..0xFF stand for themselves, the other 68
 * bytes for U+0100 onwards in order. */
void uni_bytes_encode(const char *s, size_t n, struct buf *out);
/* Back to bytes; false (and nothing appended) if a character is not of the alphabet. */
bool uni_bytes_decode(const char *s, size_t n, struct buf *out);
