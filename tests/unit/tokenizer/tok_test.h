/* What the tokenizer's test files share. */
#pragma once
#include <check.h>
#include "json.h"
#include "tokenizer.h"

Suite *suite_cases(void);
Suite *suite_hostile(void);
Suite *suite_gguf(void);
Suite *suite_parts(void);

/* tests/unit/tokenizer/data and tests/golden/data */
#define DATA   TOK_TEST_DATA
#define GOLDEN TOK_TEST_GOLDEN

cJSON *load_json(const char *dir, const char *name);
struct tokenizer *load_tokenizer(const char *dir, const char *name); /* a tokenizer.json without its config */
/* Fails the test unless text encodes to the ids of the JSON list. */
void check_encode(const struct tokenizer *t, const char *label, const cJSON *text, unsigned flags,
                  const cJSON *ids);
void check_decode(const struct tokenizer *t, const char *label, const cJSON *ids, bool skip,
                  const cJSON *text);
