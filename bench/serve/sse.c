#include "sse.h"
#include <string.h>

#define EVENT_MAX_BYTES (8u << 20)

void sse_free(struct sse *s)
{
    buf_free(&s->line);
    buf_free(&s->data);
}

static int dispatch(struct sse *s, sse_event event, void *ctx, struct err *e)
{
    if (!s->has_data) return 0;
    int status = event(ctx, s->data.data, s->data.len, e);
    buf_clear(&s->data);
    s->has_data = false;
    return status;
}

static int end_line(struct sse *s, sse_event event, void *ctx, struct err *e)
{
    const char *line = s->line.data ? s->line.data : "";
    size_t n = s->line.len, skip = 5;
    if (!n) return dispatch(s, event, ctx, e);
    if (n >= 5 && !memcmp(line, "data:", 5)) {
        if (n > skip && line[skip] == ' ') skip++;
        if (s->has_data) buf_chr(&s->data, '\n');
        buf_add(&s->data, line + skip, n - skip);
        s->has_data = true;
    }
    buf_clear(&s->line);
    return s->data.failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

int sse_feed(struct sse *s, const char *p, size_t n, sse_event event, void *ctx, struct err *e)
{
    for (size_t i = 0; i < n;) {
        if (s->after_cr && p[i] == '\n') { /* the second half of CR LF */
            s->after_cr = false;
            i++;
            continue;
        }
        s->after_cr = false;
        size_t end = i;
        while (end < n && p[end] != '\n' && p[end] != '\r') end++;
        if (s->line.len + s->data.len + (end - i) > EVENT_MAX_BYTES)
            return err_set(e, ERR_FORMAT, "an event is longer than %u bytes", EVENT_MAX_BYTES);
        buf_add(&s->line, p + i, end - i);
        if (s->line.failed) return err_set(e, ERR_NOMEM, "out of memory");
        i = end;
        if (end == n) break;
        s->after_cr = p[end] == '\r';
        i++;
        int status = end_line(s, event, ctx, e);
        if (status) return status;
    }
    return 0;
}

int sse_end(struct sse *s, sse_event event, void *ctx, struct err *e)
{
    int status = s->line.len ? end_line(s, event, ctx, e) : 0;
    return status ? status : dispatch(s, event, ctx, e);
}
