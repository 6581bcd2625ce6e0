#include "launch.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "file.h"
#include "log.h"
#include "ranks.h"
#include "template.h"
#include "recipe.h"

static int set_logging(const struct options *o, struct err *e)
{
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    int level = -1;
    for (int i = 0; i < 4; i++)
        if (!strcasecmp(o->log_level, levels[i])) level = i;
    if (!strcasecmp(o->log_level, "warning")) level = LOG_WARN;
    if (level < 0)
        return err_param(e, ERR_INVALID, "log-level", "--log-level: must be error, warn, info or debug");
    bool json = !strcmp(o->log_format, "json");
    if (!json && strcmp(o->log_format, "text"))
        return err_param(e, ERR_INVALID, "log-format", "--log-format: must be text or json");
    log_setup((enum log_level)level, json ? LOG_JSON : LOG_TEXT);
    return 0;
}

/* Options that other servers have and this one knows, but does not do yet: refused, never ignored. */
static int refuse_unimplemented(const struct options *o, struct err *e)
{
    enum recipe recipe;
    if (strcmp(o->quantization, "fp8") && recipe_parse(o->quantization, &recipe, e)) return e->code;
    if (strcmp(o->load_format, "auto") && strcmp(o->load_format, "dummy"))
        return err_param(e, ERR_INVALID, "load-format", "--load-format: must be auto or dummy");
    if (strcmp(o->generation_config, "auto") && strcmp(o->generation_config, "vllm"))
        return err_param(e, ERR_INVALID, "generation-config", "--generation-config: must be auto or vllm");
    return 0;
}

int launch_options(struct launch *l, char command, int argc, char **argv, struct err *e)
{
    *l = (struct launch){0};
    int status = options_load(&l->opt, command, argc, argv, e);
    if (!status) status = set_logging(&l->opt, e);
    if (!status) status = refuse_unimplemented(&l->opt, e);
    return status;
}

/* A folder of the user's cache. */
static void cache_folder(const char *name, struct buf *out)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg)
        buf_fmt(out, "%s/inferd/%s", xdg, name);
    else
        buf_fmt(out, "%s/.cache/inferd/%s", home ? home : "", name);
}

int launch_find(struct launch *l, struct err *e)
{
    const char *name = *l->opt.model ? l->opt.model : l->opt.n_arg ? l->opt.arg[0] : NULL;
    if (!name)
        return err_param(
            e, ERR_INVALID, "model",
            "MODEL: a GGUF file, a Hugging Face folder or a name under the model cache is needed");
    const char *cache = getenv("INFERD_MODELS");
    struct buf folder = {0}, path = {0};
    if (cache)
        buf_str(&folder, cache);
    else
        cache_folder("models", &folder);
    buf_str(&path, name);
    static const char *const endings[] = {"", ".gguf"};
    for (int i = 0; i < 2 && access(path.data ? path.data : "", F_OK); i++) {
        buf_clear(&path);
        buf_fmt(&path, "%s/%s%s", folder.data ? folder.data : "", name, endings[i]);
    }
    int status = 0;
    if (path.failed || folder.failed)
        status = err_set(e, ERR_NOMEM, "out of memory");
    else if (access(path.data, F_OK))
        status = err_param(e, ERR_NOTFOUND, "model", "%.120s: no such file, folder, or model in %.120s", name,
                           folder.data);
    if (!status) {
        l->path = path.data;
        path = (struct buf){0};
    }
    buf_free(&path);
    buf_free(&folder);
    return status;
}

int launch_backend(struct launch *l, struct err *e)
{
    const char *device = l->opt.device;
    char own[32];
    enum cpu_isa isa;
    if (cpu_isa_parse(l->opt.cpu_isa, &isa))
        return err_param(e, ERR_INVALID, "cpu-isa",
                         "--cpu-isa: must be auto, scalar, avx2, avx512, vnni or bf16");
    int threads = l->opt.threads;
    if (l->comm) { /* ranks on the same cores share them; on GPUs each has one */
        threads = (threads ? threads : pool_cpus()) / l->sharers;
        if (threads < 1) threads = 1;
        snprintf(own, sizeof own, "cuda:%d", l->local);
        device = strcmp(device, "cuda") ? !strcmp(device, "auto") ? "cpu" : device : own;
        if (!strncmp(l->opt.device, "cuda:", 5))
            return err_param(e, ERR_INVALID, "device",
                             "--device: several ranks take a device each: say cuda");
    }
    int status = pool_open(threads, &l->pool, e);
    if (status) return status;
    struct device_config c = {.device = device,
                              .isa = isa,
                              .pool = l->pool,
                              .deterministic = l->opt.deterministic,
                              .fp8 = !strcmp(l->opt.quantization, "fp8"),
                              .attention = l->opt.attention_backend,
                              .norm = l->opt.norm_backend};
    return backend_open(&c, &l->backend, e);
}

/* Ranks that are threads begin here, since to join may take all of them. */
static int join_ranks(struct launch *l, bool alone, struct err *e)
{
    if (!l->comm) return 0;
    if (alone && !l->backend->host)
        return err_param(e, ERR_UNSUPPORTED, "device", "--device %.40s: several ranks are checked on the CPU",
                         l->opt.device);
    int status = alone ? 0 : launch_workers(l, e);
    return status ? status : l->backend->ops->join(l->backend, l->comm, e);
}

int launch_model(struct launch *l, bool metadata_only, const volatile int *cancel, struct err *e)
{
    const char *kept = l->opt.quantization_cache;
    struct buf folder = {0};
    int status = join_ranks(l, metadata_only, e);
    if (status) return status;
    if (kept && !strcmp(kept, "auto")) {
        cache_folder("quantized", &folder);
        kept = folder.data;
    }
    struct model_options mo = {.metadata_only = metadata_only,
                               .dummy = !strcmp(l->opt.load_format, "dummy"),
                               .dummy_seed = (uint64_t)l->opt.seed,
                               .dtype = l->opt.dtype,
                               .tokenizer = *l->opt.tokenizer ? l->opt.tokenizer : NULL,
                               .quantization =
                                   strcmp(l->opt.quantization, "fp8") ? l->opt.quantization : NULL,
                               .quant_cache = kept && strcmp(kept, "none") ? kept : NULL,
                               .pool = l->pool,
                               .no_tokenizer = l->backend->rank > 0,
                               .comm = metadata_only ? NULL : l->comm,
                               .cancel = cancel};
    status = model_load(l->path, l->backend, &mo, &l->model, e);
    buf_free(&folder);
    return status;
}

int launch_template(struct launch *l, struct err *e)
{
    struct buf text = {0};
    const char *file = l->opt.chat_template, *src = l->model->chat_template;
    int status = 0;
    if (*file && !(status = file_read(file, 1 << 20, &text, e))) {
        status = template_compile(text.data ? text.data : "", text.len, &l->tmpl, e);
        if (status) err_prefix(e, "%s: ", file);
    } else if (!*file && src) {
        struct err why = {0};
        if (template_compile(src, strlen(src), &l->tmpl, &why))
            log_warn("the model's chat template cannot be used: %s", why.msg);
    }
    buf_free(&text);
    return status;
}

static int parse_kv_type(const char *name, enum dtype *out)
{
    static const struct {
        const char *name;
        enum dtype type;
    } types[] = {{"auto", DT_COUNT}, {"fp8", DT_E4M3},      {"float16", DT_F16}, {"f16", DT_F16},
                 {"half", DT_F16},   {"bfloat16", DT_BF16}, {"bf16", DT_BF16},   {"float32", DT_F32},
                 {"f32", DT_F32},    {"float", DT_F32},     {"int8", DT_I8},     {"q8", DT_I8}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(name, types[i].name)) continue;
        *out = types[i].type;
        return 0;
    }
    return ERR_INVALID;
}

int launch_engine_config(const struct launch *l, struct engine_config *c, struct err *e)
{
    const struct options *o = &l->opt;
    engine_config_init(c);
    if (o->max_model_len > 1 << 24)
        return err_param(e, ERR_INVALID, "max-model-len", "--max-model-len: at most %d", 1 << 24);
    if (o->max_num_batched_tokens > 65536)
        return err_param(e, ERR_INVALID, "max-num-batched-tokens",
                         "--max-num-batched-tokens: must be between 1 and 65536, or 0 for the default");
    if (o->max_num_seqs > 4096)
        return err_param(e, ERR_INVALID, "max-num-seqs", "--max-num-seqs: must be between 1 and 4096");
    if (o->block_size < 8 || o->block_size > 1024 || (o->block_size & (o->block_size - 1)))
        return err_param(e, ERR_INVALID, "block-size",
                         "--block-size: must be a power of two between 8 and 1024");
    if (!(o->gpu_memory_utilization >= 0 && o->gpu_memory_utilization <= 1))
        return err_param(e, ERR_INVALID, "gpu-memory-utilization",
                         "--gpu-memory-utilization: must be at most 1, or 0 for the default");
    if (parse_kv_type(o->kv_cache_dtype, &c->kv_type))
        return err_param(e, ERR_INVALID, "kv-cache-dtype",
                         "--kv-cache-dtype: must be auto, float32, float16, bfloat16, int8 or fp8");
    if (c->kv_type == DT_COUNT) c->kv_type = l->backend->kv_type;
    c->n_rank = l->backend->size;
    c->available = l->backend->ops->mem_available(l->backend) / (l->backend->host ? (size_t)c->n_rank : 1);
    c->max_model_len = (int)o->max_model_len;
    if (o->max_num_seqs) c->max_num_seqs = o->max_num_seqs;
    c->max_batch_tokens = o->max_num_batched_tokens;
    if (!c->max_batch_tokens) c->max_batch_tokens = l->backend->host ? 512 : 2048;
    if (c->max_num_seqs > c->max_batch_tokens)
        c->max_num_seqs = c->max_batch_tokens; /* every running sequence needs a token a step */
    c->block_size = o->block_size;
    c->n_block = o->num_kv_blocks;
    c->kv_bytes = (size_t)o->kv_cache_memory_bytes;
    c->memory_fraction = o->gpu_memory_utilization;
    if (!(c->memory_fraction > 0)) c->memory_fraction = l->backend->host ? 0.5 : 0.9;
    if (!l->backend->host) c->logit_rows = c->max_num_seqs; /* a step's, so that it is recorded whole */
    c->prefix_cache = o->enable_prefix_caching;
    c->max_queue = o->max_queue;
    c->watchdog_s = o->watchdog_timeout;
    c->target_itl_ms = o->target_itl_ms;
    c->async_steps = o->async_scheduling;
    c->weight_bytes = l->model->weight_bytes;
    return 0;
}

int launch_engine(struct launch *l, struct err *e)
{
    struct engine_config c;
    int status = launch_engine_config(l, &c, e);
    if (!status && l->comm) status = ranks_memory(l->comm, l->backend, &c.available, e);
    if (status) return status;
    if (!l->metrics && !(l->metrics = metrics_new())) return err_set(e, ERR_NOMEM, "out of memory");
    return engine_open(l->model, l->pool, &c, l->metrics, &l->engine, e);
}

void launch_close_rank(struct launch *l)
{
    if (l->engine) engine_close(l->engine);
    template_free(l->tmpl);
    if (l->model) model_free(l->model);
    if (l->backend) backend_close(l->backend);
    pool_close(l->pool);
    comm_close(l->comm);
}

void launch_close(struct launch *l)
{
    launch_close_rank(l);
    launch_close_workers(l);
    metrics_free(l->metrics);
    free(l->path);
    options_free(&l->opt);
}

static void line(struct buf *out, const char *what, size_t bytes, const char *more)
{
    buf_fmt(out, "%-12s %9.1f MiB%s\n", what, (double)bytes / 1048576.0, more);
}

void launch_budget(const struct engine_info *info, struct buf *out)
{
    char blocks[96];
    snprintf(blocks, sizeof blocks, "   %d blocks of %d tokens, context %d", info->n_block, info->block_size,
             info->max_model_len);
    line(out, "weights", info->weight_bytes, "");
    line(out, "KV cache", info->kv_bytes, blocks);
    line(out, "activations", info->activation_bytes, "");
    line(out, "total", info->weight_bytes + info->kv_bytes + info->activation_bytes, "");
}
