/* The files of tests/corpus/AREA: one hostile input each, read by the tests and, as seeds, by the fuzz
 * targets. An input that broke something stays here. CORPUS is the folder. */
#pragma once
#include "buf.h"

int corpus_count(const char *area);
const char *corpus_name(const char *area,
                        int i); /* in the order of names, valid until the next call; or NULL */
int corpus_read(const char *area, const char *name, struct buf *out); /* 0, or -1 if it cannot be read */
