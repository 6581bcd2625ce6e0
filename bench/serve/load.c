#include "load.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "clock.h"
#include "log.h"
#include "sse.h"

#define ERROR_BYTES 4096 /* kept of the body of a refusal */
#define BURST       64   /* starts between two looks at the sockets */

struct run;

struct flight { /* one request under way */
    struct exchange x;
    struct run *run;
    struct outcome *out;
    struct sse sse;
    struct buf refusal;
    double now; /* when the bytes being read arrived */
};

struct run {
    const struct load *load;
    struct buf body;
    struct flight *flight; /* [n] */
    int n, arrived, started, ended;
    double *arrival; /* [n] */
};

static int take_event(void *ctx, const char *data, size_t n, struct err *e)
{
    struct flight *f = ctx;
    return outcome_event(f->out, data, n, f->now, e);
}

static int take_body(struct exchange *x, int http_status, const char *p, size_t n, double now, struct err *e)
{
    struct flight *f = (struct flight *)x;
    f->now = now;
    if (http_status == 200) return sse_feed(&f->sse, p, n, take_event, f, e);
    size_t room = ERROR_BYTES - f->refusal.len;
    buf_add(&f->refusal, p, n < room ? n : room);
    return 0;
}

/* {"error": {"message": ...}}, {"error": "..."}, {"message": ...} or nothing of the kind. */
static void describe_refusal(const struct flight *f, int http_status, char *text, size_t size)
{
    cJSON *json = NULL;
    const char *why = NULL;
    if (f->refusal.len && !json_parse(f->refusal.data, f->refusal.len, JSON_LIMITS_REQUEST, &json, NULL)) {
        why = json_get_cstr(json_get(json, "error"), "message");
        if (!why) why = json_get_cstr(json, "error");
        if (!why) why = json_get_cstr(json, "message");
    }
    snprintf(text, size, why ? "HTTP %d: %.200s" : "HTTP %d", http_status, why);
    cJSON_Delete(json);
}

static void take_end(struct exchange *x, int http_status, const struct err *failure)
{
    struct flight *f = (struct flight *)x;
    struct err why = {0};
    if (failure) {
        outcome_fail(f->out, failure->msg);
    } else if (http_status != 200) {
        char text[256];
        describe_refusal(f, http_status, text, sizeof text);
        outcome_fail(f->out, text);
    } else if (sse_end(&f->sse, take_event, f, &why)) {
        outcome_fail(f->out, why.msg);
    } else {
        outcome_end(f->out);
    }
    sse_free(&f->sse);
    buf_free(&f->refusal);
    buf_free(&f->x.request);
    f->run->ended++;
    if (f->run->load->what) log_progress(f->run->load->what, f->run->ended, f->run->n);
}

static int start(struct run *r, const struct prompt *p, struct outcome *out, struct err *e)
{
    const struct load *l = r->load;
    int i = r->started;
    struct flight *f = &r->flight[i];
    char path[1200], id[192];
    snprintf(path, sizeof path, "%s%s", l->opt->url_path, l->opt->endpoint);
    snprintf(id, sizeof id, "x-request-id: %s%d\r\n", l->opt->id_prefix, i);
    f->x.on_body = take_body;
    f->x.on_end = take_end;
    f->run = r;
    f->out = out;
    out->keep_text = l->opt->save_detailed;
    out->prompt_len = p->input_len;
    int status = dataset_body(p, l->opt, l->model, l->extra, &r->body, e);
    if (!status) status = client_request(l->client, &f->x, "POST", path, id, &r->body, e);
    out->start = clock_s();
    out->queue_time = out->start - r->arrival[i];
    return status ? status : client_start(l->client, &f->x, e);
}

/* Milliseconds until the next request is due, rounded up. */
static int wait_time(const struct run *r, const double *due, double since_begin, bool may_start)
{
    if (may_start && r->started < r->arrived) return 0;
    if (r->arrived == r->n || !due) return 50;
    double ms = ceil((due[r->arrived] - since_begin) * 1e3);
    return ms < 0 ? 0 : ms > 50 ? 50 : (int)ms;
}

int load_run(const struct load *l, const struct prompt *p, int step, int n, const double *due,
             struct outcome *out, double *duration, struct err *e)
{
    struct run r = {.load = l, .n = n};
    int status = 0;
    r.flight = calloc((size_t)n, sizeof *r.flight);
    r.arrival = calloc((size_t)n, sizeof *r.arrival);
    if (!r.flight || !r.arrival) status = err_set(e, ERR_NOMEM, "out of memory");
    int limit = l->max_active ? l->max_active : n;
    double begin = clock_s();
    while (!status && r.ended < n) {
        double now = clock_s();
        while (r.arrived < n && (!due || due[r.arrived] <= now - begin)) r.arrival[r.arrived++] = now;
        for (int k = 0; !status && k < BURST && r.started < r.arrived && r.started - r.ended < limit; k++) {
            status = start(&r, &p[(size_t)r.started * step], &out[r.started], e);
            r.started++;
        }
        int wait = wait_time(&r, due, clock_s() - begin, r.started - r.ended < limit);
        if (!status) status = client_poll(l->client, wait, e);
    }
    *duration = clock_s() - begin;
    for (int i = 0; r.flight && i < r.started; i++) { /* only after an error are there any left */
        sse_free(&r.flight[i].sse);
        buf_free(&r.flight[i].refusal);
        buf_free(&r.flight[i].x.request);
    }
    buf_free(&r.body);
    free(r.flight);
    free(r.arrival);
    return status;
}
