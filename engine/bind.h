/* From tensors in a store to the weights of a model: which names, which shapes, for which architecture.
 * Internal to the loading part of engine/ (model.c, bind.c). */
#pragma once
#include "model.h"
#include "recipe.h"
#include "store.h"

struct bind {
    struct store *store;
    struct model *m;
    struct backend *be; /* NULL = only check names, types and shapes */
    bool gguf;
    enum dtype as;      /* for plain matrices; DT_COUNT = as in the file */
    enum recipe recipe; /* to quantise them by, before `as` */
    const volatile int *cancel;
    struct err *e;
};
/* Fills the weights of b->m, whose archs and split are set. On failure what was made stays in the
 * model, for model_free. */
int bind_weights(struct bind *b);
void bind_undo(struct bind *b); /* after a check-only bind: ready for the real one */
