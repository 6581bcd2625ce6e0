#include "jobs.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define JOB_THREADS_MAX 16

struct jobs {
    pthread_mutex_t mu;
    pthread_cond_t more;
    struct job *head, *tail;
    bool closing;
    int n_thread;
    pthread_t thread[JOB_THREADS_MAX];
};

static void *jobs_run(void *arg)
{
    struct jobs *js = arg;
    pthread_mutex_lock(&js->mu);
    for (;;) {
        while (!js->head && !js->closing) pthread_cond_wait(&js->more, &js->mu);
        struct job *j = js->head;
        if (!j) break;
        js->head = j->next;
        if (!js->head) js->tail = NULL;
        pthread_mutex_unlock(&js->mu);
        j->run(j);
        pthread_mutex_lock(&js->mu);
    }
    pthread_mutex_unlock(&js->mu);
    return NULL;
}

int jobs_open(int n_thread, struct jobs **out, struct err *e)
{
    *out = NULL;
    struct jobs *js = calloc(1, sizeof *js);
    if (!js) return err_set(e, ERR_NOMEM, "out of memory");
    pthread_mutex_init(&js->mu, NULL);
    pthread_cond_init(&js->more, NULL);
    for (; js->n_thread < n_thread && js->n_thread < JOB_THREADS_MAX; js->n_thread++) {
        if (!pthread_create(&js->thread[js->n_thread], NULL, jobs_run, js)) continue;
        jobs_close(js);
        return err_set(e, ERR_IO, "cannot start a thread");
    }
    *out = js;
    return 0;
}

void jobs_add(struct jobs *js, struct job *j)
{
    j->next = NULL;
    pthread_mutex_lock(&js->mu);
    if (js->tail)
        js->tail->next = j;
    else
        js->head = j;
    js->tail = j;
    pthread_cond_signal(&js->more);
    pthread_mutex_unlock(&js->mu);
}

void jobs_close(struct jobs *js)
{
    if (!js) return;
    pthread_mutex_lock(&js->mu);
    js->closing = true;
    pthread_cond_broadcast(&js->more);
    pthread_mutex_unlock(&js->mu);
    for (int i = 0; i < js->n_thread; i++) pthread_join(js->thread[i], NULL);
    pthread_cond_destroy(&js->more);
    pthread_mutex_destroy(&js->mu);
    free(js);
}
