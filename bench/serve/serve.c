#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include "arrivals.h"
#include "bench.h"
#include "clock.h"
#include "dataset.h"
#include "file.h"
#include "load.h"
#include "log.h"
#include "plot.h"
#include "result_json.h"
#include "draw.h"

struct session {
    struct serve_options opt;
    struct client *client;
    struct buf headers, model, name; /* model: its id; name: what requests carry */
    cJSON *extra;
    struct dataset data;
    double *due;         /* [data.n] */
    struct outcome *out; /* [data.n] */
    struct summary sum;
    uint64_t random;
};

/* Thousands of connections need as many descriptors as the system grants. */
static void raise_descriptor_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r)) return;
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
}

static int build_headers(struct session *s, struct err *e)
{
    const char *key = getenv("OPENAI_API_KEY");
    bool own = false;
    for (int i = 0; i < s->opt.header.n; i++) {
        const char *h = s->opt.header.v[i];
        size_t n = strcspn(h, "=");
        own |= n == 13 && !strncasecmp(h, "authorization", n);
        buf_fmt(&s->headers, "%.*s: %s\r\n", (int)n, h, h + n + 1);
    }
    if (key && *key && strpbrk(key, "\r\n"))
        return err_set(e, ERR_INVALID, "OPENAI_API_KEY contains a line end");
    if (key && *key && !own) buf_fmt(&s->headers, "Authorization: Bearer %s\r\n", key);
    return s->headers.failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

static int parse_extra(struct session *s, struct err *e)
{
    const char *text = s->opt.extra_body;
    if (!text) return 0;
    int status = json_parse(text, strlen(text), JSON_LIMITS_REQUEST, &s->extra, e);
    if (!status && !cJSON_IsObject(s->extra)) status = err_set(e, ERR_INVALID, "must be a JSON object");
    return status ? err_prefix(e, "--extra-body: ") : 0;
}

static int open_client(struct session *s, struct err *e)
{
    struct client_config config = {.host = s->opt.url_host,
                                   .port = s->opt.url_port,
                                   .headers = s->headers.data,
                                   .connect_timeout = 30,
                                   .silence_timeout = s->opt.silence_timeout};
    if (!config.headers) config.headers = "";
    raise_descriptor_limit();
    return client_open(&s->client, &config, e);
}

/* The first model of /v1/models, asked for until the ready time is over. */
static int ask_model(struct session *s, struct err *e)
{
    char path[600];
    double end = clock_s() + s->opt.ready_timeout;
    struct buf answer = {0};
    cJSON *json = NULL;
    int http = 0, status;
    snprintf(path, sizeof path, "%s/v1/models", s->opt.url_path);
    for (;;) {
        buf_clear(&answer);
        status = client_call(s->client, "GET", path, NULL, &http, &answer, e);
        if (!status && http != 200)
            status = err_set(e, ERR_IO, "/v1/models: HTTP %d; name the model with --model", http);
        if (!status || clock_s() >= end) break;
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
    if (!status)
        status = json_parse(answer.data ? answer.data : "", answer.len, JSON_LIMITS_REQUEST, &json, e);
    const cJSON *data = json_get(json, "data");
    const char *id = json_get_cstr(cJSON_IsArray(data) ? data->child : NULL, "id");
    const char *root = json_get_cstr(cJSON_IsArray(data) ? data->child : NULL, "root");
    if (!status && !id) status = err_set(e, ERR_FORMAT, "/v1/models names no model: use --model");
    if (!status) {
        buf_str(&s->name, id);
        buf_str(&s->model, root ? root : id);
    }
    cJSON_Delete(json);
    buf_free(&answer);
    return status;
}

static int find_model(struct session *s, struct err *e)
{
    const struct serve_options *o = &s->opt;
    if (!o->model) {
        int status = ask_model(s, e);
        if (status) return status;
    } else {
        buf_str(&s->model, o->model);
        buf_str(&s->name, o->served_model_name ? o->served_model_name : o->model);
    }
    return s->model.failed || s->name.failed ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

static void free_outcomes(struct outcome *out, int n)
{
    for (int i = 0; out && i < n; i++) outcome_free(&out[i]);
    free(out);
}

static struct load session_load(const struct session *s, const char *what)
{
    return (struct load){.client = s->client,
                         .opt = &s->opt,
                         .model = s->name.data,
                         .extra = s->extra,
                         .what = s->opt.no_progress ? NULL : what,
                         .max_active = s->opt.max_concurrency};
}

/* The first request until it succeeds, for at most --ready-check-timeout-sec. */
static int wait_ready(struct session *s, struct err *e)
{
    struct load l = session_load(s, NULL);
    double end = clock_s() + s->opt.ready_timeout, ignored;
    while (s->opt.ready_timeout) {
        struct outcome one = {0};
        int status = load_run(&l, s->data.prompt, 0, 1, NULL, &one, &ignored, e);
        bool good = one.success;
        if (!status && !good && clock_s() >= end)
            status = err_set(e, ERR_IO, "the server is not ready: %s", one.error);
        outcome_free(&one);
        if (status || good) return status;
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    }
    return 0;
}

static int warm_up(struct session *s, struct err *e)
{
    int n = s->opt.num_warmups;
    if (!n) return 0;
    struct load l = session_load(s, "warm-up");
    struct outcome *out = calloc((size_t)n, sizeof *out);
    double ignored;
    int status = out ? load_run(&l, s->data.prompt, 0, n, NULL, out, &ignored, e)
                     : err_set(e, ERR_NOMEM, "out of memory");
    free_outcomes(out, n);
    return status;
}

static int measure(struct session *s, struct err *e)
{
    int n = s->data.n;
    struct load l = session_load(s, "requests");
    double duration = 0;
    s->out = calloc((size_t)n, sizeof *s->out);
    s->due = calloc((size_t)n, sizeof *s->due);
    if (!s->out || !s->due) return err_set(e, ERR_NOMEM, "out of memory");
    arrivals_fill(s->due, n, s->opt.request_rate, s->opt.burstiness, &s->random);
    log_info("%d requests to %s:%d, model %s", n, s->opt.url_host, s->opt.url_port, s->name.data);
    int status = load_run(&l, s->data.prompt, 1, n, isfinite(s->opt.request_rate) ? s->due : NULL, s->out,
                          &duration, e);
    return status ? status : summary_fill(&s->sum, &s->opt, s->out, n, duration, e);
}

static void report(const struct session *s)
{
    struct buf b = {0};
    int shown = 0;
    for (int i = 0; i < s->data.n && shown < 10; i++) {
        if (s->out[i].success) continue;
        log_warn("request %d failed: %s", i, s->out[i].error);
        shown++;
    }
    summary_report(&b, &s->sum, &s->opt);
    fputs(b.failed ? "" : b.data, stdout);
    fflush(stdout);
    buf_free(&b);
}

static int save_plots(const struct session *s, const char *json_path, struct err *e)
{
    struct buf svg = {0}, html = {0}, path = {0};
    int status = 0;
    if (!s->opt.plot && !s->opt.plot_timeline) return 0;
    plot_svg(&svg, &s->opt, s->model.data, &s->sum, s->out, s->data.n);
    if (s->opt.plot) status = file_write(s->opt.plot, &svg, false, e);
    if (!status && s->opt.plot_timeline && !svg.failed) {
        size_t n = strlen(json_path);
        if (n > 5 && !strcmp(json_path + n - 5, ".json")) n -= 5;
        buf_fmt(&path, "%.*s.timeline.html", (int)n, json_path);
        plot_html(&html, &svg);
        status =
            path.failed ? err_set(e, ERR_NOMEM, "out of memory") : file_write(path.data, &html, false, e);
    }
    buf_free(&svg);
    buf_free(&html);
    buf_free(&path);
    return status;
}

static int save(const struct session *s, struct err *e)
{
    const struct serve_options *o = &s->opt;
    struct buf text = {0}, path = {0};
    char date[32];
    time_t now = time(NULL);
    struct tm tm;
    int status = 0;
    localtime_r(&now, &tm);
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", &tm);
    if (o->result_dir && (o->save_result || o->append_result || o->plot_timeline)) mkdir(o->result_dir, 0777);
    result_json_name(&path, o, s->model.data, date);
    if (path.failed) status = err_set(e, ERR_NOMEM, "out of memory");
    if (!status && (o->save_result || o->append_result)) {
        result_json_write(&text, o, s->model.data, date, &s->sum, s->out, s->data.n);
        status = file_write(path.data, &text, o->append_result, e);
    }
    if (!status) status = save_plots(s, path.data, e);
    buf_free(&text);
    buf_free(&path);
    return status;
}

static void session_free(struct session *s)
{
    client_close(s->client);
    free_outcomes(s->out, s->data.n);
    dataset_free(&s->data);
    free(s->due);
    cJSON_Delete(s->extra);
    buf_free(&s->headers);
    buf_free(&s->model);
    buf_free(&s->name);
}

static int run(struct session *s, struct err *e)
{
    s->random = (uint64_t)(int64_t)s->opt.seed;
    int status = find_model(s, e);
    if (!status) status = dataset_make(&s->data, &s->opt, s->client, s->name.data, &s->random, e);
    if (!status) status = wait_ready(s, e);
    if (!status) status = warm_up(s, e);
    if (!status) status = measure(s, e);
    if (!status) report(s);
    if (!status) status = save(s, e);
    if (!status && !s->sum.completed) status = err_set(e, ERR_IO, "no request succeeded");
    return status;
}

static int print_help(void)
{
    struct buf b = {0};
    serve_options_help(&b);
    fputs(b.failed ? "" : b.data, stdout);
    buf_free(&b);
    return 0;
}

int bench_serve_main(int argc, char **argv)
{
    struct err e = {0};
    struct session *s = calloc(1, sizeof *s);
    if (!s) {
        log_error("out of memory");
        return 1;
    }
    int code = 2, status = serve_options_load(&s->opt, argc - 1, argv + 1, &e);
    if (!status && s->opt.help) {
        free(s);
        return print_help();
    }
    if (!status) status = build_headers(s, &e);
    if (!status) status = parse_extra(s, &e);
    if (!status) {
        code = 1;
        status = open_client(s, &e);
    }
    if (!status) status = run(s, &e);
    if (status) log_error("%s", e.msg);
    session_free(s);
    free(s);
    return status ? code : 0;
}
