/* The prompts of a load. Made before the measurement, with the server's help: /tokenize tells which token ids
 * are ordinary text, and how long texts are. */
#pragma once
#include <stdint.h>
#include "buf.h"
#include "client.h"
#include "err.h"
#include "json.h"
#include "serve_options.h"
#include "vec.h"

struct prompt {
    struct vec_i32 ids; /* completions with random prompts */
    char *text;         /* else */
    int input_len;      /* tokens; an estimate for texts, until the server's usage tells */
    int output_len;     /* tokens */
};

struct dataset {
    struct prompt *prompt; /* [n] */
    int n;
};

int dataset_make(struct dataset *d, const struct serve_options *o, struct client *c, const char *model,
                 uint64_t *random, struct err *e);
void dataset_free(struct dataset *d);
/* The JSON body of the request for p; extra is the parsed --extra-body or NULL. */
int dataset_body(const struct prompt *p, const struct serve_options *o, const char *model, const cJSON *extra,
                 struct buf *out, struct err *e);
