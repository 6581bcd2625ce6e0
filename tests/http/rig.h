/* A server over the fake engine, in this process. */
#pragma once
#include "client.h"
#include "fake_engine.h"
#include "metrics.h"
#include "server.h"

struct rig {
    struct server_config c; /* change before rig_start */
    struct server *server;
    struct engine *engine;
    struct metrics *metrics;
    int port;
};
extern struct rig rig;
void rig_init(void);  /* defaults; any free port */
void rig_start(void); /* opens and attaches */
void rig_stop(void);
/* The server is alive and answers as it always does: /health within 250 ms, the control prompt's bytes
 * unchanged. */
void rig_check_alive(void);
/* An error body of the contract's shape: valid JSON and UTF-8, at most 4 KiB, code == status. Returns param.
 */
const char *rig_check_error(const struct answer *a, int status);
/* The most memory that this process, server and client, has had so far, in KiB; 0 under a sanitizer. */
long rig_peak_kib(void);
bool rig_wait_idle(double within_s); /* no live requests */
