/* The answers that an exchange waits for: one engine request for each choice. Engine threads only push the
 * choice that has news onto a ready list and wake the exchange; the HTTP thread takes the news and writes
 * JSON. Ends with the exchange, cancelling what still runs. */
#pragma once
#include "engine.h"
#include "http.h"
#include "openai_in.h"

/* Submits everything and makes the exchange wait for it; on an error nothing stays submitted. Takes over
 * *req, which is emptied whatever is returned. */
int answer_start(struct http_x *x, struct engine *en, const struct api_env *env, struct api_request *req,
                 struct err *e);
