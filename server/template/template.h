/* Chat templates: an interpreter of the part of Jinja that chat templates use, as Hugging Face's transformers
 * sets it up (trim_blocks, lstrip_blocks, loop controls, generation blocks, tojson without HTML escapes,
 * raise_exception, strftime_now). No attribute protocol, no imports, no I/O: a template reaches nothing but
 * its variables. A compiled template is immutable and may be rendered by any number of threads at once.
 *
 * Different from Jinja: no template inheritance, includes and recursive loops; integers have 64 bits; filters
 * that yield generators there give lists; lists and dicts may be changed (append, update), which the sandbox
 * forbids. */
#pragma once
#include <stdint.h>
#include "buf.h"
#include "err.h"
#include "json.h"

struct template;
/* Steps are operations, and bytes worked on (256 a step); about 60 ns each. depth bounds macro calls within
 * each other; other nesting gets 8 times that. The memory of a rendering is bounded by the output's limit and
 * the variables. */
struct template_budget {
    int64_t steps;
    int depth;
    size_t output;
};
#define TEMPLATE_BUDGET ((struct template_budget){4000000, 64, 16u << 20})

/* Compiles. ERR_FORMAT (not a template), ERR_UNSUPPORTED (unknown tag, filter or test) or ERR_BUDGET (too
 * large or too deeply nested); the message says the line. */
int template_compile(const char *src, size_t n, struct template **out, struct err *e);
void template_free(struct template *t);
/* Renders with the members of the JSON object `vars` as global variables (messages, add_generation_prompt,
 * bos_token, eos_token, tools, ...). now: Unix seconds for strftime_now (local time). Appends to out; on an
 * error out is as it was. ERR_INVALID: the template called raise_exception, the message is its text, of
 * which at most 64 bytes come from the variables.
 * ERR_FORMAT: it failed (a variable missing or of the wrong type); ERR_BUDGET: it takes too long or writes
 * too much. */
int template_render(const struct template *t, const cJSON *vars, int64_t now, struct template_budget b,
                    struct buf *out, struct err *e);
