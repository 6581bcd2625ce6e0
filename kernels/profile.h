/* Where a step's time goes: a back end in front of another one, which passes every op on and takes its time.
 * Only of a back end whose ops are done when they return (backend.host). Times are taken by the engine's
 * thread; open, reset and print while no step runs. */
#pragma once
#include <stdio.h>
#include "ops.h"

/* Takes over `be`, which is closed with the new one; on an error it stays the caller's. */
int profile_open(struct backend *be, struct backend **out, struct err *e);
void profile_reset(struct backend *profile);
/* A table of the steps that only decode and one of those with prompts: ops by shape, the most expensive
 * first. */
void profile_print(const struct backend *profile, FILE *f);
