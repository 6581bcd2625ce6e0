/* Engine output to OpenAI's response JSON: whole answers and stream chunks. Used by one thread at a time, the
 * HTTP thread; knows nothing of sockets. */
#pragma once
#include "buf.h"
#include "logprobs.h"
#include "openai_in.h"
#include "request.h"

struct choice { /* zero-initialised but for index */
    int index;
    bool begun;     /* its first batch was digested */
    bool announced; /* stream: its first chunk was written */
    bool unwritten; /* something was digested since the last chunk */
    bool done;
    struct tok_stream stream;
    struct buf text;    /* whole: all; stream: since the last chunk */
    struct vec_i32 ids; /* likewise */
    struct logprob_arrays lp;
    struct buf prompt_lp; /* the prompt_logprobs value */
    enum finish_reason finish;
    struct buf stop_reason; /* JSON, when done */
    struct request_usage usage;
};
struct reply_head { /* what every chunk of an answer begins with */
    char id[48];
    int64_t created; /* Unix seconds */
    const char *model;
};
struct answer_view { /* everything that writing needs */
    const struct api_request *req;
    const struct tokenizer *tok;
    struct reply_head head;
    struct choice *choice; /* [n] */
    int n;
};
void choice_free(struct choice *c);

/* Takes over what a batch brings. */
void choice_digest(const struct answer_view *v, struct choice *c, const struct out_batch *b);
/* The whole answer; all choices are done. */
void out_whole(const struct answer_view *v, struct buf *out);
/* The next chunk of a choice as an SSE event, then clears what it said. */
void out_chunk(const struct answer_view *v, struct choice *c, struct buf *out);
/* The end of a stream: the usage chunk, if asked for, and [DONE]. */
void out_end(const struct answer_view *v, struct buf *out);
void out_error_event(struct buf *out, const struct err *e);
