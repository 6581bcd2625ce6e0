/* The result file, with vLLM's keys and in its order. */
#pragma once
#include "summary.h"

/* One JSON object, without a newline. date is YYYYmmdd-HHMMSS. */
void result_json_write(struct buf *b, const struct serve_options *o, const char *model, const char *date,
                       const struct summary *s, const struct outcome *out, int n);
void result_json_name(struct buf *b, const struct serve_options *o, const char *model, const char *date);
