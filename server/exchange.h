/* One request and its answer, between the HTTP library and a handler: waiting, waking and sending. Used by
 * http.c only. What an exchange is waiting for is guarded by its mutex; everything else belongs to whoever
 * runs the exchange: the HTTP thread, or a parse thread while job_runs. Lock order: gate, exchange, library.
 */
#pragma once
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include "gate.h"
#include "http.h"
#include "jobs.h"

struct exchange {
    struct http_x x;
    struct http *h;
    struct MHD_Connection *conn;
    struct gate_conn *gate;
    struct job job;
    enum { STAGE_HEAD, STAGE_BODY, STAGE_ANSWER } stage;
    bool refused; /* answered before the body was read */
    bool ended;   /* pull said so */
    size_t sent;  /* of x.out */
    char method[16];
    char *path;

    pthread_mutex_t mu;
    bool suspended, signalled, gone, ping, job_runs, completed;
    int64_t t_sent; /* monotonic ns: last output of a stream */
};
struct http {
    struct http_config c;
    struct http_handler handler;
    struct MHD_Daemon *daemon;
    struct gate *gate;
    struct jobs *jobs;
    atomic_int n_exchange;
    atomic_bool closing;
};

struct exchange *exchange_new(struct http *h, struct MHD_Connection *conn, struct gate_conn *gate);
/* The library is done with it: freed now, or when its job has ended. */
void exchange_completed(struct exchange *ex);
void exchange_poke(struct exchange *ex, enum gate_poke what);         /* any thread */
void exchange_fail(struct exchange *ex, int status, const char *why); /* makes an error the answer */
enum MHD_Result exchange_run(struct exchange *ex);    /* the body has arrived: handles it, here or in a job */
enum MHD_Result exchange_answer(struct exchange *ex); /* makes the answer, or suspends until it can be made */
enum MHD_Result exchange_send(struct exchange *ex);   /* queues the answer that is there */
