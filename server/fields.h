/* What every request field is to this server: used, harmless, or known and refused. One table for completions
 * and chat. */
#pragma once
#include "buf.h"
#include "err.h"
#include "json.h"

/* Walks all members of a request. A refused one whose value is not neutral is ERR_UNSUPPORTED naming it; the
 * names of unknown ones are appended to `unknown`. */
int fields_check(const cJSON *body, struct buf *unknown, struct err *e);
