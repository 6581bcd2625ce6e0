/* What stands beside the weights: sampling defaults, further EOS tokens, and the chat template. Used while
 * loading. */
#pragma once
#include "gguf.h"
#include "model.h"

void gen_defaults_init(struct gen_defaults *g);
/* generation_config.json of a Hugging Face folder, if it is there. */
int defaults_load_hf(const char *dir, struct model *m, struct err *e);
int template_load_hf(const char *dir, char **out, struct err *e); /* *out NULL = none */
int template_load_gguf(const struct gguf *g, char **out, struct err *e);
void arch_add_eos(struct arch *a, int id); /* unless it is there, out of range, or the list is full */
