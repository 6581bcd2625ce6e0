/* Error answers in OpenAI's shape. Pure functions. */
#pragma once
#include "buf.h"
#include "err.h"

/* {"error":{"message","type","param","code"}}; param may be NULL or "". message is cleaned to valid UTF-8
 * without control characters and shortened. */
void reply_error_json(struct buf *out, int status, const char *type, const char *param, const char *message);
const char *reply_error_type(int status); /* OpenAI's type for a status */
const char *reply_reason(int status);     /* "Not Found" */
int reply_status_of(int err_code);        /* enum err_code -> HTTP status */
/* A whole HTTP/1.1 answer that closes the connection, for errors that the library cannot send. */
void reply_raw(struct buf *out, int status, const char *message);
