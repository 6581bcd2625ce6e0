/* An HTTP server of one thread for the tests of the load tester, on a free loopback port. It keeps
 * connections, answers one at a time and sends its streams in small pieces. */
#pragma once
#include <pthread.h>
#include <stdbool.h>

struct fake_server {
    int listener, port, tokens; /* tokens of an answer */
    const char *mode;           /* NULL: well behaved; "503", "error", "cut", "silent", "close", "garbage" */
    int fail_every;             /* apply mode to each n-th completion only; 0: to all */
    int completions;            /* served so far; read after fake_stop */
    int accepted;               /* connections */
    char last_body[4096];       /* of the last completion */
    char last_head[1024];
    volatile bool stop;
    pthread_t thread;
};

void fake_start(struct fake_server *f);
void fake_stop(struct fake_server *f);
