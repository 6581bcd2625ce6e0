/* Pretended devices: how many, what they say about themselves, which one a host thread uses, its last error.
 */
#include "runtime.h"
#include <stdio.h>
#include <stdlib.h>

static __thread int chosen __attribute__((tls_model("initial-exec")));
static __thread cudaError_t last_error __attribute__((tls_model("initial-exec")));
static bool peers[DEVICES_MAX]
                 [DEVICES_MAX]; /* [device][peer], set without a lock: each device has one host thread */

size_t cuemu_env(const char *name, size_t otherwise)
{
    const char *v = getenv(name);
    return v && *v ? strtoull(v, 0, 0) : otherwise;
}
int cuemu_device(void) { return chosen; }
cudaError_t cuemu_error(cudaError_t e)
{
    if (e != cudaSuccess) last_error = e;
    return e;
}
static int device_count(void)
{
    size_t n = cuemu_env("CUEMU_DEVICES", 2);
    return n > DEVICES_MAX ? (int)DEVICES_MAX : (int)n;
}
size_t cuemu_memory_size(void) { return cuemu_env("CUEMU_MEM", (size_t)1 << 30); }

#define NO_SUCH_DEVICE(d)                                                                                    \
    if ((d) < 0 || (d) >= device_count()) return cuemu_error(cudaErrorInvalidDevice)

extern "C" {
cudaError_t CUDARTAPI cudaGetDeviceCount(int *n)
{
    *n = device_count();
    return *n ? cudaSuccess : cuemu_error(cudaErrorNoDevice);
}
cudaError_t CUDARTAPI cudaSetDevice(int d)
{
    NO_SUCH_DEVICE(d);
    chosen = d;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaGetDevice(int *d)
{
    *d = chosen;
    return cudaSuccess;
}
/* The limits of an H100, with few multiprocessors so that a persistent grid stays small. */
cudaError_t CUDARTAPI cudaGetDeviceProperties(cudaDeviceProp *p, int d)
{
    NO_SUCH_DEVICE(d);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "cuemu %d", d);
    p->totalGlobalMem = cuemu_memory_size();
    p->major = 9;
    p->multiProcessorCount = 4;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = INT32_MAX;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = SMEM_MAX;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->reservedSharedMemPerBlock = 1 << 10;
    p->l2CacheSize = 50 << 20;
    p->unifiedAddressing = p->canMapHostMemory = p->cooperativeLaunch = p->concurrentKernels = 1;
    p->asyncEngineCount = 3;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int d)
{
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, d);
    if (e != cudaSuccess) return e;
    switch ((int)a) {
    case cudaDevAttrMultiProcessorCount: *v = p.multiProcessorCount; break;
    case cudaDevAttrComputeCapabilityMajor: *v = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *v = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrL2CacheSize: *v = p.l2CacheSize; break;
    case cudaDevAttrCooperativeLaunch: *v = 1; break;
    case cudaDevAttrClockRate: *v = 1700000; break;
    case cudaDevAttrMemoryClockRate: *v = 2600000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *v = 5120; break;
    default: return cuemu_error(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaDeviceCanAccessPeer(int *can, int d, int peer)
{
    NO_SUCH_DEVICE(d);
    NO_SUCH_DEVICE(peer);
    *can = d != peer;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaDeviceEnablePeerAccess(int peer, unsigned)
{
    NO_SUCH_DEVICE(peer);
    if (peer == chosen) return cuemu_error(cudaErrorInvalidDevice);
    bool *p = &peers[chosen][peer];
    if (*p) return cuemu_error(cudaErrorPeerAccessAlreadyEnabled);
    *p = true;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaDriverGetVersion(int *v)
{
    *v = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t CUDARTAPI cudaRuntimeGetVersion(int *v)
{
    *v = CUDART_VERSION;
    return cudaSuccess;
}

/* ---- errors ---- */

cudaError_t CUDARTAPI cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}
cudaError_t CUDARTAPI cudaPeekAtLastError(void) { return last_error; }
const char *CUDARTAPI cudaGetErrorString(cudaError_t e)
{
    switch ((int)e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorPeerAccessAlreadyEnabled: return "peer access is already enabled";
    default: return "an error the emulator has no words for";
    }
}
const char *CUDARTAPI cudaGetErrorName(cudaError_t e)
{
    return e == cudaSuccess ? "cudaSuccess" : "cudaError";
}
}
