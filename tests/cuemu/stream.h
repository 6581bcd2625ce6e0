/* Streams, events and graphs as stream.cpp, copy.cpp and graph.cpp share them. One lock guards all queues and
 * captures; it is free while work runs. */
#pragma once
#include "runtime.h"
#include <deque>
#include <memory>
#include <pthread.h>

struct work_item {
    cuemu_work run;
    char hb; /* orders the submitter before the work */
};
struct CUgraph_st {
    std::vector<cuemu_work> work;
    unsigned origin; /* id of the stream whose capture this is */
};
struct CUgraphExec_st {
    std::vector<cuemu_work> work;
};
struct stream {
    unsigned id;
    int device;
    bool blocking; /* takes part in the order of the null stream */
    std::deque<std::unique_ptr<work_item>> q;
    uint64_t pushed = 0, ran = 0;
    bool busy = false;
    CUgraph_st *capture = 0;
    bool unjoined = false; /* captured on a side stream, not yet waited for */
    void *tsan = 0;
    identities ids;
    char hb; /* orders the work before who waited for the stream */
    pthread_t helper;
    bool helped = false, help_ended = false;
};
typedef std::shared_ptr<stream> stream_ref;
struct CUstream_st {
    stream_ref s;
};
struct record { /* one cudaEventRecord */
    stream_ref s;
    uint64_t pos = 0;
    double time = 0;
    CUgraph_st *capture = 0;
    char hb;
};
struct CUevent_st {
    std::shared_ptr<record> r;
};

extern spin_lock stream_lock;
extern __thread int stream_captures
    __attribute__((tls_model("initial-exec"))); /* begun by this host thread */
std::vector<stream_ref> *stream_all(void);      /* under the lock */
stream_ref stream_of(cudaStream_t h);
uint64_t stream_submit(const stream_ref &s, cuemu_work w); /* its place in the stream */
void stream_drain(stream *s, uint64_t pos);                /* until that place is done */
void stream_wait(const stream_ref &s, uint64_t pos);       /* and the work is ordered before what follows */
cudaError_t stream_query(const stream_ref &s, uint64_t pos);
