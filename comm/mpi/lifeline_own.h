/* What lifeline.c (the running connections) and lifeline_open.c (making them) share. */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include "comm.h"
#include "lifeline.h"

struct peer {
    int fd; /* the same from start to close */
    int rank;
    bool lost;    /* written by the watcher, under lock */
    char in[512]; /* what has come and is not complete; the watcher's */
    size_t n_in;
};

struct lifeline {
    int rank, n_peer; /* rank 0: size - 1 peers, by rank; the others: rank 0 */
    struct peer peer[COMM_MAX_RANKS - 1];
    int listener; /* rank 0 until all have come; otherwise -1 */
    unsigned char secret[sizeof((struct lifeline_home *)0)->secret];
    int stop; /* ends the watcher */
    bool started;
    pthread_t thread;
    pthread_mutex_t lock; /* of sending, and of what follows */
    struct err why;
    bool has_left[COMM_MAX_RANKS];
    int n_left;
    _Atomic int leaver;
    _Atomic bool over, all_left;
    _Atomic uint32_t bell;
};

int lifeline_new(int rank, int size, struct lifeline **out, struct err *e);
/* Once all connections are there. */
int lifeline_start(struct lifeline *l, struct err *e);
