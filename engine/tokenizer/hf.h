/* The parts of a Hugging Face tokenizer.json, read into a tokenizer under construction; o may be NULL
 * (absent). */
#pragma once
#include <stdio.h>
#include "json.h"
#include "tok.h"

int hf_read_normalizer(const cJSON *o, struct tokenizer *t, struct err *e);
int hf_read_pre_tokenizer(const cJSON *o, struct tokenizer *t, struct err *e);
int hf_read_decoder(const cJSON *o, struct tokenizer *t, struct err *e);
int hf_read_post_processor(const cJSON *o, struct tokenizer *t,
                           struct err *e); /* the vocabulary must be in */
