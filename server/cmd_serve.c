/* inferd serve: opens the port, loads the model on a thread of its own, then waits for signals. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"
#include "comm.h"
#include "command.h"
#include "launch.h"
#include "log.h"
#include "server.h"

struct serve {
    struct launch l;
    struct server *server;
    pthread_t loader;
    volatile int cancel; /* asks the loader to give up */
    atomic_bool load_failed, loaded;
    int status; /* of loading; read after the join */
    struct err e;
};

static const int stop_signals[] = {SIGTERM, SIGINT, SIGHUP};

static void stop_set(sigset_t *set)
{
    sigemptyset(set);
    for (size_t i = 0; i < sizeof stop_signals / sizeof *stop_signals; i++) sigaddset(set, stop_signals[i]);
    sigaddset(set, SIGUSR1); /* the loader's word that it failed */
}

static int load(struct serve *s, struct err *e)
{
    double start = clock_s();
    struct buf text = {0};
    int status = launch_model(&s->l, false, &s->cancel, e);
    if (!status) status = launch_template(&s->l, e);
    if (!status) status = launch_engine(&s->l, e);
    if (status) return status;
    launch_budget(engine_info(s->l.engine), &text);
    if (!text.failed) fprintf(stderr, "%s", text.data);
    buf_free(&text);
    while (engine_state(s->l.engine) == ENGINE_WARMING && !s->cancel)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (engine_state(s->l.engine) == ENGINE_FAILED)
        return err_set(e, ERR_IO, "%s: the model could not make its first token", s->l.path);
    status = server_attach(s->server, s->l.engine, s->l.model, s->l.tmpl, e);
    if (!status)
        log_info("ready after %.2f s: %s on http://%s:%d (%s, %s)", clock_s() - start, s->l.model->name,
                 s->l.opt.host, server_port(s->server), s->l.backend->name, s->l.backend->isa);
    return status;
}

static void *loader_main(void *arg)
{
    struct serve *s = arg;
    s->status = load(s, &s->e);
    s->loaded = !s->status;
    if (s->status) {
        s->load_failed = true;
        kill(getpid(), SIGUSR1);
    }
    return NULL;
}

static void configure(const struct launch *l, struct server_config *c)
{
    const struct options *o = &l->opt;
    server_config_init(c);
    c->host = o->host;
    c->port = o->port;
    c->served_name = o->served_model_name;
    c->api_key = o->api_key;
    c->api_key_file = o->api_key_file;
    c->allowed_origins = o->allowed_origins;
    c->vllm_defaults = !strcmp(o->generation_config, "vllm");
    c->seed = (uint64_t)o->seed;
    c->log_requests = o->enable_log_requests;
    c->metrics = l->metrics;
    c->max_connections = o->max_connections;
    c->max_body_bytes = (size_t)o->max_body;
    c->header_timeout_s = o->header_timeout;
    c->body_timeout_s = o->body_timeout;
    c->write_timeout_s = o->write_timeout;
}

/* Streams may finish until the time is up or a second signal comes; then they are aborted. */
static void drain(struct serve *s, const sigset_t *set)
{
    double until = clock_s() + s->l.opt.shutdown_timeout;
    log_info("stopping: waiting up to %g s for running requests (a second signal aborts them)",
             s->l.opt.shutdown_timeout);
    engine_drain(s->l.engine);
    bool idle = false, again = false;
    while (!(idle = engine_wait_idle(s->l.engine, 0.05)) && !again && clock_s() < until)
        again = sigtimedwait(set, NULL, &(struct timespec){0}) > 0;
    if (!idle) {
        log_warn("aborting running requests");
        engine_abort_all(s->l.engine);
        engine_wait_idle(s->l.engine, 5);
    }
}

/* An engine that has failed answers nobody any more, and stays so. */
static bool engine_is_lost(const struct serve *s)
{
    return s->loaded && engine_state(s->l.engine) == ENGINE_FAILED;
}

/* Returns the exit code. */
static int serve(struct serve *s, const sigset_t *set)
{
    int status = pthread_create(&s->loader, NULL, loader_main, s);
    if (status) {
        err_set(&s->e, ERR_IO, "cannot start the loading thread: %s", strerror(status));
        return command_fail(&s->e, 1);
    }
    int got;
    do {
        got = sigtimedwait(set, NULL, &(struct timespec){.tv_nsec = 200000000});
        if (got == SIGUSR1 && !s->load_failed) got = -1; /* somebody else's */
    } while (got < 0 && !engine_is_lost(s));
    s->cancel = 1;
    server_drain(s->server);
    pthread_join(s->loader, NULL);
    if (s->l.engine && !s->status && !engine_is_lost(s)) drain(s, set);
    bool lost = engine_is_lost(s);
    server_close(s->server);
    if (lost) log_error("stopped, because the engine has failed");
    if (got == SIGUSR1) return command_fail(&s->e, 1);
    return lost;
}

/* A rank that is a process and not 0. Signals stay blocked: rank 0 decides when to stop, and says so. After a
 * failure mpirun ends all when the first exits, which must not be this one, as it has nobody to answer. */
static int work(struct serve *s, const sigset_t *set)
{
    enum { PATIENCE_S = 5 };
    int rank = comm_rank(s->l.comm);
    if (!launch_work(&s->l, NULL, &s->e)) return 0;
    log_error("rank %d stops: %s", rank, s->e.msg);
    sigtimedwait(set, NULL, &(struct timespec){.tv_sec = PATIENCE_S});
    return 1;
}

int command_serve(int argc, char **argv)
{
    struct serve s = {0};
    struct server_config c;
    sigset_t set;
    int code = 1;
    /* Before any thread exists, so that all inherit it: signals are taken by sigwaitinfo only. */
    stop_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int status = launch_options(&s.l, 'S', argc, argv, &s.e);
    if (!status && s.l.opt.port > 65535)
        status = err_param(&s.e, ERR_INVALID, "port", "--port: at most 65535");
    if (!status && s.l.opt.n_arg > 1)
        status = err_param(&s.e, ERR_INVALID, "model", "%.80s: one MODEL is enough", s.l.opt.arg[1]);
    if (status) code = 2;
    if (!status) status = launch_find(&s.l, &s.e);
    if (!status) status = launch_ranks(&s.l, true, &s.e);
    if (!status && s.l.comm && comm_rank(s.l.comm)) {
        code = work(&s, &set);
        launch_close(&s.l);
        return code;
    }
    if (!status) status = launch_backend(&s.l, &s.e);
    if (!status && !(s.l.metrics = metrics_new())) status = err_set(&s.e, ERR_NOMEM, "out of memory");
    if (!status) configure(&s.l, &c);
    if (!status) status = server_open(&c, &s.server, &s.e);
    code = status ? command_fail(&s.e, code) : serve(&s, &set);
    launch_close(&s.l);
    return code;
}
