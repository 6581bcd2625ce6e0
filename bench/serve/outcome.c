#include "outcome.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "json.h"

void outcome_free(struct outcome *o)
{
    free(o->itl);
    buf_free(&o->text);
    *o = (struct outcome){0};
}

static int push_gap(struct outcome *o, double gap, struct err *e)
{
    if (o->n_itl == o->cap_itl) {
        int cap = o->cap_itl ? o->cap_itl * 2 : 64;
        double *itl = cap < 1 << 26 ? realloc(o->itl, (size_t)cap * sizeof *itl) : NULL;
        if (!itl) return err_set(e, ERR_NOMEM, "out of memory");
        o->itl = itl;
        o->cap_itl = cap;
    }
    o->itl[o->n_itl++] = gap;
    return 0;
}

/* A chunk with choices counts as a token even if its text is empty: text held back until it is whole is
 * normal. */
static int take_choice(struct outcome *o, const cJSON *choice, double now, struct err *e)
{
    double since_start = now - o->start;
    if (o->has_first) {
        if (push_gap(o, since_start - o->latency, e)) return e->code;
    } else {
        o->has_first = true;
        o->ttft = since_start;
    }
    o->latency = since_start;
    if (!o->keep_text) return 0;
    const cJSON *delta = json_get(choice, "delta"),
                *text = json_get(delta ? delta : choice, delta ? "content" : "text");
    if (cJSON_IsString(text)) json_str(text, &o->text);
    return o->text.failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

static void take_usage(struct outcome *o, const cJSON *usage)
{
    int64_t n = 0;
    struct err ignored = {0};
    if (json_get_int(usage, "completion_tokens", 0, INT32_MAX, &n, &ignored)) {
        o->output_tokens = (int)n;
        o->has_usage = true;
    }
    if (json_get_int(usage, "prompt_tokens", 0, INT32_MAX, &n, &ignored)) o->prompt_len = (int)n;
}

static int take_error(const cJSON *error, struct err *e)
{
    const char *msg = cJSON_IsString(error) ? error->valuestring : json_get_cstr(error, "message");
    return err_set(e, ERR_IO, "error event: %.200s", msg ? msg : "without a message");
}

int outcome_event(struct outcome *o, const char *data, size_t n, double now, struct err *e)
{
    struct err local = {0};
    cJSON *event = NULL;
    if (n == 6 && !memcmp(data, "[DONE]", 6)) return 0;
    if (json_parse(data, n, JSON_LIMITS_REQUEST, &event, &local)) {
        err_prefix(&local, "event: ");
    } else {
        const cJSON *choices = json_get(event, "choices"), *error = json_get(event, "error");
        const cJSON *usage = json_get(event, "usage");
        if (error)
            take_error(error, &local);
        else if (cJSON_IsArray(choices) && choices->child)
            take_choice(o, choices->child, now, &local);
        if (usage) take_usage(o, usage);
    }
    cJSON_Delete(event);
    if (e && local.code) *e = local;
    return local.code;
}

void outcome_end(struct outcome *o)
{
    if (!o->has_first) {
        outcome_fail(o, "the stream ended without a chunk that has choices");
        return;
    }
    if (!o->has_usage) o->output_tokens = 1 + o->n_itl;
    o->success = true;
}

void outcome_fail(struct outcome *o, const char *why)
{
    o->success = false;
    snprintf(o->error, sizeof o->error, "%s", *why ? why : "failed");
}
