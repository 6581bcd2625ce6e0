/* The routes that tell: models, health probes, metrics, version, the chat page. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "server_impl.h"

static const char page[] =
#include "chat_html.inc"
    ;

static void answer(struct http_x *x, int status, const char *type)
{
    x->status = status;
    x->type = type;
}

static void put_model(const struct server *s, struct buf *out)
{
    buf_str(out, "{\"id\":");
    buf_json(out, s->name, strlen(s->name));
    buf_fmt(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"inferd\",\"root\":",
            (long long)s->created);
    buf_json(out, s->name, strlen(s->name));
    buf_fmt(out, ",\"parent\":null,\"max_model_len\":%d,\"permission\":[]}", s->env.max_model_len);
}

void route_models(struct server *s, struct http_x *x)
{
    buf_str(&x->out, "{\"object\":\"list\",\"data\":[");
    put_model(s, &x->out);
    buf_str(&x->out, "]}");
    answer(x, 200, "application/json");
}

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Whether a percent-encoded path segment stands for name. */
static bool same_name(const char *path, const char *name)
{
    for (; *path; path++, name++) {
        int c = (unsigned char)*path;
        if (c == '%') {
            int high = hex(path[1]), low = high < 0 ? -1 : hex(path[2]);
            if (low < 0) return false;
            c = high * 16 + low;
            path += 2;
        }
        if (c == 0 || c != (unsigned char)*name) return false;
    }
    return !*name;
}

void route_model(struct server *s, struct http_x *x)
{
    struct err e = {0};
    if (same_name(x->path + strlen("/v1/models/"), s->name)) {
        put_model(s, &x->out);
        answer(x, 200, "application/json");
    } else {
        err_param(&e, ERR_NOTFOUND, "model", "there is no such model");
        routes_fail_err(x, &e);
    }
}

void route_live(struct server *s, struct http_x *x)
{
    (void)s;
    buf_str(&x->out, "{\"status\":\"ok\"}");
    answer(x, 200, "application/json");
}

void route_ready(struct server *s, struct http_x *x)
{
    struct err e = {0};
    const char *why;
    if (server_is_ready(s, &why)) {
        route_live(s, x);
    } else {
        err_set(&e, ERR_CLOSED, "%s", why);
        routes_fail_err(x, &e);
    }
}

static int count_files(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the directory itself */
}

static void put_process_metrics(struct buf *out)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                 (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%*d %ld", &pages) != 1) pages = 0;
        fclose(f);
    }
    static const char gauge[] = "# HELP %s %s\n# TYPE %s gauge\n%s %.0f\n";
    buf_fmt(out, gauge, "process_resident_memory_bytes", "Resident memory of the process.",
            "process_resident_memory_bytes", "process_resident_memory_bytes",
            (double)pages * (double)sysconf(_SC_PAGESIZE));
    buf_fmt(out, gauge, "process_open_fds", "Open file descriptors.", "process_open_fds", "process_open_fds",
            (double)count_files("/proc/self/fd"));
    buf_fmt(out,
            "# HELP process_cpu_seconds_total CPU time used.\n# TYPE process_cpu_seconds_total counter\n"
            "process_cpu_seconds_total %.3f\n",
            cpu);
}

void route_metrics(struct server *s, struct http_x *x)
{
    /* The engine registers its metrics while it opens: until then only the process is shown. */
    if (s->c.metrics && atomic_load(&s->attached)) metrics_render(s->c.metrics, s->name, &x->out);
    put_process_metrics(&x->out);
    answer(x, 200, "text/plain; version=0.0.4; charset=utf-8");
}

void route_version(struct server *s, struct http_x *x)
{
    (void)s;
    buf_str(&x->out, "{\"version\":\"" INFERD_VERSION "\"}");
    answer(x, 200, "application/json");
}

void route_page(struct server *s, struct http_x *x)
{
    (void)s;
    buf_add(&x->out, page, sizeof page - 1);
    http_header(
        x, "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'");
    http_header(x, "X-Content-Type-Options", "nosniff");
    answer(x, 200, "text/html; charset=utf-8");
}
