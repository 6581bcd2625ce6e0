/* Opening back ends. */
#pragma once
#include "ops.h"
#include "pool.h"

/* CPU instruction levels, ascending; each includes those before it. AVX-512 is split because machines differ:
 * VNNI adds int8 dot products, BF16 bfloat16 dot products. */
enum cpu_isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AVX512_VNNI, ISA_AVX512_BF16, ISA_COUNT };
enum cpu_isa cpu_isa_detect(void);
const char *cpu_isa_name(enum cpu_isa isa);             /* "scalar", "avx2", "avx512", "vnni", "bf16" */
int cpu_isa_parse(const char *name, enum cpu_isa *out); /* "auto" is the best one; ERR_INVALID */

struct backend *ref_backend(void); /* scalar oracle; stateless, one thread */
/* The pool is borrowed and must outlive the back end. isa must not exceed cpu_isa_detect(): ERR_UNSUPPORTED.
 */
int cpu_backend_open(struct pool *pool, enum cpu_isa isa, struct backend **out, struct err *e);
struct comm;

/* The back end of a device: "cpu", "cuda" or "cuda:N" (which takes the module inferd_cuda), or "auto": CUDA
 * where module and device are there, else the CPU, with a line in the log where the module is there and
 * cannot be used. */
struct device_config {
    const char *device;
    enum cpu_isa isa; /* of the CPU */
    struct pool *pool;
    bool deterministic, fp8;      /* of CUDA: module.h */
    const char *attention, *norm; /* of CUDA: "auto" or one of its kinds */
};
int backend_open(const struct device_config *c, struct backend **out, struct err *e);
static inline void backend_close(struct backend *be)
{
    if (be) be->ops->close(be);
}
