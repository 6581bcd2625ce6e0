/* Events, stream capture and graphs. A graph is the list of closures that would have been submitted; side
 * streams that joined a capture add to the same list. Captures are guarded by the streams' lock. */
#include "stream.h"

extern "C" {
/* ---- events ---- */

cudaError_t CUDARTAPI cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new CUevent_st();
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t CUDARTAPI cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaEventRecord(cudaEvent_t e, cudaStream_t h)
{
    quiet q;
    auto r = std::make_shared<record>();
    r->s = stream_of(h);
    e->r = r;
    r->capture = r->s->capture;
    if (r->capture) return cudaSuccess;
    r->pos = stream_submit(r->s, [r] {
        r->time = cuemu_clock();
        hb_release(&r->hb);
    });
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaEventSynchronize(cudaEvent_t e)
{
    quiet q;
    if (!e->r) return cudaSuccess;
    if (e->r->capture) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    stream_drain(e->r->s.get(), e->r->pos);
    hb_acquire(&e->r->hb);
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaEventQuery(cudaEvent_t e)
{
    if (!e->r) return cudaSuccess;
    if (e->r->capture) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    cudaError_t q = stream_query(e->r->s, e->r->pos);
    if (q == cudaSuccess) hb_acquire(&e->r->hb);
    return q;
}
cudaError_t CUDARTAPI cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
    if (!a->r || !b->r) return cuemu_error(cudaErrorInvalidResourceHandle);
    if (a->r->time == 0 || b->r->time == 0) return cudaErrorNotReady;
    *ms = (float)((b->r->time - a->r->time) * 1e3);
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaStreamWaitEvent(cudaStream_t h, cudaEvent_t e, unsigned)
{
    quiet q;
    stream_ref s = stream_of(h);
    std::shared_ptr<record> r = e->r;
    if (!r) return cudaSuccess;
    if (r->capture) { /* the stream joins that capture, or the capture's side stream is joined */
        locked l(stream_lock);
        if (s->capture && s->capture != r->capture) return cuemu_error(cudaErrorStreamCaptureMerge);
        s->capture = r->capture;
        r->s->unjoined = false;
        return cudaSuccess;
    }
    if (s->capture) return cuemu_error(cudaErrorStreamCaptureIsolation);
    if (r->s != s)
        stream_submit(s, [r] {
            stream_drain(r->s.get(), r->pos);
            hb_acquire(&r->hb);
        });
    return cudaSuccess;
}

/* ---- capture and graphs ---- */

cudaError_t CUDARTAPI cudaStreamBeginCapture(cudaStream_t h, cudaStreamCaptureMode)
{
    quiet q;
    if (!h || h == cudaStreamLegacy) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    locked l(stream_lock);
    if (h->s->capture) return cuemu_error(cudaErrorIllegalState);
    h->s->capture = new CUgraph_st{{}, h->s->id};
    stream_captures++;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaStreamEndCapture(cudaStream_t h, cudaGraph_t *g)
{
    quiet q;
    locked l(stream_lock);
    *g = 0;
    CUgraph_st *cap = h ? h->s->capture : 0;
    if (!cap || cap->origin != h->s->id) return cuemu_error(cudaErrorIllegalState);
    bool unjoined = false;
    for (stream_ref &s : *stream_all())
        if (s->capture == cap) {
            unjoined |= s->unjoined;
            s->capture = 0;
            s->unjoined = false;
        }
    stream_captures--;
    if (unjoined) {
        delete cap;
        return cuemu_error(cudaErrorStreamCaptureUnjoined);
    }
    *g = cap;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaStreamIsCapturing(cudaStream_t h, cudaStreamCaptureStatus *s)
{
    *s = stream_of(h)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *) { return cudaSuccess; }
cudaError_t CUDARTAPI cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    quiet q;
    *x = new CUgraphExec_st{g->work};
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t h)
{
    quiet q;
    stream_ref s = stream_of(h);
    for (cuemu_work &w : x->work) stream_submit(s, w);
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t CUDARTAPI cudaGraphDestroy(cudaGraph_t g)
{
    quiet q;
    delete g;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaGraphExecDestroy(cudaGraphExec_t x)
{
    quiet q;
    cuemu_drain_device(cuemu_device());
    delete x;
    return cudaSuccess;
}
}
