/* sample.cu's op, for the table in backend.cu. */
#pragma once
#include "ops.h"

const struct sample_result *cu_sample(struct backend *be, float *logits, int vocab,
                                      const struct sample_row *row, int n);
