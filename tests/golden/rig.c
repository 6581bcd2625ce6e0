#include "rig.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "backend.h"
#include "pool.h"

#define BLOCK 16

int rig_open(struct rig *g, const char *path, struct backend *be, const struct model_options *o, int n_seq,
             int max_tokens, struct err *e)
{
    return rig_open_kv(g, path, be, o, DT_F32, NULL, n_seq, max_tokens, e);
}

int rig_open_kv(struct rig *g, const char *path, struct backend *be, const struct model_options *o,
                enum dtype kv_type, void (*adjust)(struct arch *), int n_seq, int max_tokens, struct err *e)
{
    struct kv_layout layout;
    memset(g, 0, sizeof *g);
    if (model_load(path, be, o, &g->m, e) || arch_kv_layout(&g->m->arch, &layout, e)) return e->code;
    if (adjust) adjust(&g->m->arch);
    g->n_seq = n_seq;
    g->max_tokens = max_tokens;
    int per_table = (max_tokens + BLOCK - 1) / BLOCK, n_block = per_table * layout.n_group * n_seq, block = 0;
    struct runner_config c = {.n_block = n_block,
                              .block_size = BLOCK,
                              .max_batch_tokens = max_tokens,
                              .max_seqs = n_seq,
                              .max_ctx = max_tokens,
                              .kv_type = kv_type};
    for (int s = 0; s < n_seq; s++) {
        g->seq[s].tok = calloc((size_t)max_tokens, sizeof(int32_t));
        if (!g->seq[s].tok) return err_set(e, ERR_NOMEM, "out of memory");
        for (int i = 0; i < layout.n_group; i++) {
            int32_t *t = g->seq[s].kv.table[i] = calloc((size_t)per_table, sizeof *t);
            if (!t) return err_set(e, ERR_NOMEM, "out of memory");
            for (int k = 0; k < per_table; k++) t[k] = n_block - 1 - block++;
        }
    }
    return runner_open(g->m, &c, &g->r, e);
}

void rig_close(struct rig *g)
{
    runner_close(g->r);
    for (int s = 0; s < g->n_seq; s++) {
        free(g->seq[s].tok);
        for (int i = 0; i < KV_MAX_GROUPS; i++) free(g->seq[s].kv.table[i]);
    }
    model_free(g->m);
}

void rig_start(struct rig *g, int seq, const int32_t *tok, int n)
{
    memcpy(g->seq[seq].tok, tok, (size_t)n * sizeof *tok);
    g->seq[seq].n_tok = n;
    g->seq[seq].n_computed = 0;
}

void rig_push(struct rig *g, int seq, int32_t tok) { g->seq[seq].tok[g->seq[seq].n_tok++] = tok; }

int rig_step(struct rig *g, const int *seq, int n, int chunk, int n_logits, struct err *e)
{
    struct batch_plan p = {.item = g->item};
    for (int i = 0; i < n; i++) {
        struct seq *s = &g->seq[seq[i]];
        int len = s->n_tok - s->n_computed < chunk ? s->n_tok - s->n_computed : chunk;
        int out = n_logits < len ? n_logits : len;
        g->item[i] = (struct plan_item){.seq = s, .q_start = s->n_computed, .q_len = len, .n_logits = out};
        s->n_computed += len;
        p.n_item++;
        p.n_tok += len;
        p.n_logits += out;
    }
    return runner_forward(g->r, &p, e);
}

static struct pool *pool;
static struct backend *cpu[ISA_COUNT], *device;

static void close_all(void)
{
    for (int i = 0; i < ISA_COUNT; i++)
        if (cpu[i]) backend_close(cpu[i]);
    backend_close(device);
    pool_close(pool);
}

/* Deterministic, so that chunks and neighbours change nothing. */
static struct backend *open_device(const char *name)
{
    struct err e = {0};
    struct device_config c = {.device = name, .deterministic = true};
    if (!device && backend_open(&c, &device, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    return device;
}

/* The level of index i; -1 is the reference. On an emulated machine there is only its highest. */
#ifdef EMULATED
static int level_of(int i) { return i ? ISA_COUNT : (int)cpu_isa_detect(); }
#else
static int level_of(int i) { return i - 1; }
#endif

struct backend *rig_backend(int i)
{
    struct err e = {0};
    int isa = level_of(i);
    const char *name = getenv("TEST_DEVICE");
    if (name) return i ? NULL : open_device(name);
    if (isa < 0) return ref_backend();
    if (isa > (int)cpu_isa_detect()) return NULL;
    if (!pool) {
        if (pool_open(2, &pool, &e)) return NULL;
        atexit(close_all);
    }
    if (!cpu[isa] && cpu_backend_open(pool, (enum cpu_isa)isa, &cpu[isa], &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return NULL;
    }
    return cpu[isa];
}
