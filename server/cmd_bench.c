/* inferd bench: serve is an HTTP client; throughput and latency open an engine in this process; quality runs
 * models without one; ops times kernels. */
#include <stdio.h>
#include <string.h>
#include "bench.h"
#include "bench_ops.h"
#include "command.h"
#include "engine_bench.h"
#include "launch.h"
#include "quality.h"

static void usage(FILE *f)
{
    fputs("usage: inferd bench serve [options]             load-test a running server (vLLM's flags and "
          "output)\n"
          "       inferd bench throughput MODEL [options]  requests through the engine, all at once\n"
          "       inferd bench latency MODEL [options]     one batch at a time\n"
          "       inferd bench quality MODEL [options]     perplexity, and the distance from another model\n"
          "       inferd bench ops [options]               kernels against this machine's limits\n"
          "\n`inferd bench NAME --help` lists the options.\n",
          f);
}

static int engine_help(const char *name)
{
    struct buf text = {0};
    buf_fmt(&text, "usage: inferd bench %s MODEL [options]\n\noptions:\n", name);
    options_help('B', &text);
    fputs(text.failed ? "" : text.data, stdout);
    buf_free(&text);
    return 0;
}

static int check_sizes(const struct engine_bench *b, struct err *e)
{
    if (b->input_len < 1 || b->input_len > 1 << 20)
        return err_param(e, ERR_INVALID, "input-len", "--input-len: must be between 1 and %d", 1 << 20);
    if (b->output_len < 1 || b->output_len > 1 << 20)
        return err_param(e, ERR_INVALID, "output-len", "--output-len: must be between 1 and %d", 1 << 20);
    if (b->batch_size < 1 || b->batch_size > 4096)
        return err_param(e, ERR_INVALID, "batch-size", "--batch-size: must be between 1 and 4096");
    if (b->iterations < 1 || b->iterations > 100000)
        return err_param(e, ERR_INVALID, "num-iters", "--num-iters: must be between 1 and 100000");
    if (b->num_prompts < 1 || b->num_prompts > 1000000)
        return err_param(e, ERR_INVALID, "num-prompts", "--num-prompts: must be between 1 and 1000000");
    return 0;
}

/* Random prompts never meet again, so the prefix cache would only cost; the queue takes all requests. */
static int open_engine(struct launch *l, struct engine_bench *b, struct err *e)
{
    int wanted = b->latency ? b->batch_size : b->num_prompts;
    l->opt.enable_prefix_caching = false;
    if (l->opt.max_queue < wanted) l->opt.max_queue = wanted;
    if (b->latency && l->opt.max_num_seqs < wanted) l->opt.max_num_seqs = wanted;
    if (!l->opt.max_model_len) l->opt.max_model_len = b->input_len + b->output_len;
    int status = launch_find(l, e);
    if (!status) status = launch_ranks(l, false, e);
    if (!status) status = launch_backend(l, e);
    if (!status && l->opt.profile) {
        if (l->comm)
            return err_param(e, ERR_UNSUPPORTED, "profile", "--profile: ops are timed on one rank only");
        if ((status = profile_open(l->backend, &l->backend, e))) return status;
        b->profile = l->backend;
    }
    if (!status) status = launch_model(l, false, NULL, e);
    return status ? status : launch_engine(l, e);
}

static int bench_engine(bool latency, int argc, char **argv)
{
    struct launch l;
    struct engine_bench b;
    struct err e = {0};
    engine_bench_init(&b, latency);
    int status = launch_options(&l, 'B', argc, argv, &e), code = 2;
    if (!status) {
        const struct options *o = &l.opt;
        if (o->input_len) b.input_len = o->input_len;
        if (o->output_len) b.output_len = o->output_len;
        b.batch_size = o->batch_size;
        b.warmup = o->num_iters_warmup;
        b.iterations = o->num_iters;
        b.num_prompts = o->num_prompts;
        b.seed = (uint64_t)o->seed;
        b.json = *o->output_json ? o->output_json : NULL;
        status = check_sizes(&b, &e);
    }
    if (!status) {
        code = 1;
        status = open_engine(&l, &b, &e);
    }
    if (!status) status = engine_bench_run(&b, l.engine, l.model->arch.vocab, &e);
    if (status) code = command_fail(&e, code);
    launch_close(&l);
    return status ? code : 0;
}

/* The base model, beside the one that `l` has opened: on the same threads, but with a back end of its own,
 * since a back end's scratch is reserved for one runner. */
static int open_base(const struct launch *l, struct launch *base, struct err *e)
{
    char *argv[] = {l->opt.base};
    enum cpu_isa isa;
    int status = options_load(&base->opt, 'B', 1, argv, e);
    if (!status) base->opt.model[0] = 0; /* INFERD_MODEL names the other one */
    if (!status) status = launch_find(base, e);
    if (!status) status = cpu_isa_parse(l->opt.cpu_isa, &isa);
    if (!status) status = cpu_backend_open(l->pool, isa, &base->backend, e);
    if (!status) status = model_load(base->path, base->backend, &(struct model_options){0}, &base->model, e);
    return status;
}

static int bench_quality(int argc, char **argv)
{
    struct launch l, base = {0};
    struct err e = {0};
    struct engine_config c;
    int status = launch_options(&l, 'B', argc, argv, &e), code = 2;
    if (!status && !*l.opt.text) status = err_param(&e, ERR_INVALID, "text", "--text: a file is needed");
    if (!status && (l.opt.window < 2 || l.opt.window > 65536))
        status = err_param(&e, ERR_INVALID, "window", "--window: must be between 2 and 65536");
    if (!status && l.opt.tensor_parallel_size > 1)
        status = err_param(&e, ERR_UNSUPPORTED, "tensor-parallel-size",
                           "--tensor-parallel-size: bench quality runs on one rank");
    if (!status) {
        code = 1;
        status = launch_find(&l, &e);
    }
    if (!status) status = launch_backend(&l, &e);
    if (!status) status = launch_model(&l, false, NULL, &e);
    if (!status) status = launch_engine_config(&l, &c, &e);
    if (!status && *l.opt.base) status = open_base(&l, &base, &e);
    const struct quality q = {.text = l.opt.text,
                              .window = l.opt.window,
                              .json = *l.opt.output_json ? l.opt.output_json : NULL,
                              .kv_type = status ? DT_F32 : c.kv_type};
    if (!status) status = quality_run(&q, l.model, base.model, l.pool, &e);
    if (status) code = command_fail(&e, code);
    launch_close(&base);
    launch_close(&l);
    return status ? code : 0;
}

int command_bench(int argc, char **argv)
{
    const char *name = argc ? argv[0] : "";
    if (!strcmp(name, "serve")) return bench_serve_main(argc, argv);
    if (!strcmp(name, "ops")) return bench_ops_main(argc, argv);
    if (!strcmp(name, "throughput") || !strcmp(name, "latency") || !strcmp(name, "quality")) {
        for (int i = 1; i < argc; i++)
            if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return engine_help(name);
        if (!strcmp(name, "quality")) return bench_quality(argc - 1, argv + 1);
        return bench_engine(!strcmp(name, "latency"), argc - 1, argv + 1);
    }
    bool help = !strcmp(name, "--help") || !strcmp(name, "-h");
    if (!help && *name) fprintf(stderr, "error: bench %.40s: no such benchmark\n", name);
    usage(help ? stdout : stderr);
    return help ? 0 : 2;
}
