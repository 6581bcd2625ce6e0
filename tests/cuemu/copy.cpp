/* Copies and fills, in their stream's order, with the checks the driver makes. No state. */
#include "stream.h"

extern "C" {
static bool is_device(const void *p, size_t n, bool *fits) { return cuemu_place(p, n, fits) == DEVICE; }
static bool kind_ok(void *d, const void *s, size_t n, cudaMemcpyKind k)
{
    bool fits_d, fits_s, dev_d = is_device(d, n, &fits_d), dev_s = is_device(s, n, &fits_s);
    if (!fits_d || !fits_s) return false;
    if (k == cudaMemcpyDefault) return true;
    return dev_d == (k == cudaMemcpyHostToDevice || k == cudaMemcpyDeviceToDevice) &&
           dev_s == (k == cudaMemcpyDeviceToHost || k == cudaMemcpyDeviceToDevice);
}

static cudaError_t copy(void *d, const void *s, size_t n, cudaMemcpyKind k, const stream_ref &on)
{
    quiet q;
    bool fits;
    if (!n) return cudaSuccess;
    if (!kind_ok(d, s, n, k)) return cuemu_error(cudaErrorInvalidValue);
    if (cuemu_place(s, n, &fits) == PAGEABLE &&
        !on->capture) { /* the driver takes it away before it returns */
        auto staged = std::make_shared<std::vector<char>>((const char *)s, (const char *)s + n);
        stream_submit(on, [=] { copy_bytes(d, staged->data(), n); });
    } else
        stream_submit(on, [=] { memcpy(d, s, n); });
    if (cuemu_place(d, n, &fits) == PAGEABLE && !on->capture) stream_wait(on, on->pushed);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind k, cudaStream_t h)
{
    return copy(d, s, n, k, stream_of(h));
}
cudaError_t CUDARTAPI cudaMemcpyPeerAsync(void *d, int, const void *s, int, size_t n, cudaStream_t h)
{
    return copy(d, s, n, cudaMemcpyDeviceToDevice, stream_of(h));
}
cudaError_t CUDARTAPI cudaMemcpy(void *d, const void *s, size_t n, cudaMemcpyKind k)
{
    quiet q;
    if (stream_captures) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    stream_ref on = stream_of(0);
    cudaError_t e = copy(d, s, n, k, on);
    stream_wait(on, on->pushed);
    return e;
}
cudaError_t CUDARTAPI cudaMemcpy2DAsync(void *d, size_t dpitch, const void *s, size_t spitch, size_t width,
                                        size_t height, cudaMemcpyKind k, cudaStream_t h)
{
    if (width > dpitch || width > spitch) return cuemu_error(cudaErrorInvalidPitchValue);
    cudaError_t e = cudaSuccess;
    for (size_t i = 0; i < height && e == cudaSuccess; i++)
        e = copy((char *)d + i * dpitch, (const char *)s + i * spitch, width, k, stream_of(h));
    return e;
}
cudaError_t CUDARTAPI cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t h)
{
    bool fits;
    if (!n) return cudaSuccess;
    if (!is_device(d, n, &fits) || !fits) return cuemu_error(cudaErrorInvalidValue);
    cuemu_submit(h, [=] { memset(d, v, n); });
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaMemset(void *d, int v, size_t n)
{
    if (stream_captures) return cuemu_error(cudaErrorStreamCaptureUnsupported);
    return cudaMemsetAsync(d, v, n, 0);
}
}
