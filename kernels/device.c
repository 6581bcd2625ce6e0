/* Which back end a device name stands for. */
#include <stdlib.h>
#include <string.h>
#include "backend.h"
#include "cuda/module.h"
#include "log.h"
#include "module.h"

/* The number of `name` in a list that ends with NULL; "auto" is the first. */
static int choose(const char *option, const char *name, const char *const list[], int *out, struct err *e)
{
    *out = 0;
    if (!name || !strcmp(name, "auto")) return 0;
    for (; list[*out]; ++*out)
        if (!strcmp(name, list[*out])) return 0;
    return err_param(e, ERR_INVALID, option, "--%s: must be auto, %s or %s", option, list[0], list[1]);
}

static int open_cuda(const struct device_config *c, int ordinal, struct backend **out, struct err *e)
{
    static const char *const attention[] = {"mma", "plain", NULL}, *const norm[] = {"block", "plain", NULL};
    const void *table;
    int a, n, status = choose("attention-backend", c->attention, attention, &a, e);
    if (!status) status = choose("norm-backend", c->norm, norm, &n, e);
    if (!status) status = module_open("inferd_cuda", CUDA_MODULE_SYMBOL, CUDA_MODULE_ABI, &table, e);
    if (status) return status;
    const struct cuda_module *m = table;
    struct cuda_options o = {.device = ordinal,
                             .deterministic = c->deterministic,
                             .fp8 = c->fp8,
                             .attention = (enum cuda_attention)a,
                             .norm = (enum cuda_norm)n,
                             .run = pool_run,
                             .pool = c->pool};
    return m->open(&o, out, e);
}

static int open_cpu(const struct device_config *c, struct backend **out, struct err *e)
{
    const struct {
        const char *option, *kind;
    } chosen[] = {{"attention-backend", c->attention}, {"norm-backend", c->norm}};
    for (int i = 0; i < 2; i++)
        if (chosen[i].kind && strcmp(chosen[i].kind, "auto"))
            return err_param(e, ERR_UNSUPPORTED, chosen[i].option, "--%s %.40s: the CPU has one kind, auto",
                             chosen[i].option, chosen[i].kind);
    if (c->fp8)
        return err_param(e, ERR_UNSUPPORTED, "quantization", "--quantization fp8 needs a CUDA device");
    return cpu_backend_open(c->pool, c->isa, out, e);
}

int backend_open(const struct device_config *c, struct backend **out, struct err *e)
{
    struct err why = {0};
    *out = NULL;
    if (!strcmp(c->device, "cpu")) return open_cpu(c, out, e);
    if (!strcmp(c->device, "auto")) {
        int status = open_cuda(c, 0, out, &why);
        if (!status) return 0;
        if (status == ERR_INVALID) {
            if (e) *e = why;
            return status;
        }
        if (status != ERR_NOTFOUND) log_info("no CUDA: %s; using the CPU", why.msg);
        return open_cpu(c, out, e);
    }
    char *end;
    unsigned long n = 0;
    bool known = !strncmp(c->device, "cuda", 4);
    if (known && c->device[4] == ':') {
        n = strtoul(c->device + 5, &end, 10);
        known = end != c->device + 5 && !*end && n < 1024;
    } else {
        known = known && !c->device[4];
    }
    if (!known) return err_param(e, ERR_INVALID, "device", "--device: must be auto, cpu, cuda or cuda:N");
    int status = open_cuda(c, (int)n, out, e);
    return status ? err_prefix(e, "--device %s: ", c->device) : 0;
}
