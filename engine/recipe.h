/* --quantization: which type each plain matrix becomes, by its place in the model. Pure functions, for any
 * thread. */
#pragma once
#include <stdbool.h>
#include "arch.h"
#include "dtype.h"
#include "err.h"

enum recipe { RECIPE_NONE, RECIPE_Q8, RECIPE_Q4 };

int recipe_parse(const char *name, enum recipe *out, struct err *e); /* NULL, "" and "none": RECIPE_NONE */
/* tensor: its name in GGUF without block and ending ("attn_q", "output"); layer -1 outside of the layers; a:
 * the whole model. DT_COUNT = it stays as it is. */
enum dtype recipe_type(enum recipe r, const struct arch *a, const char *tensor, int layer, int n_in);
