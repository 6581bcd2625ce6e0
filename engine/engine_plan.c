/* The memory plan: context length, KV pool and step buffers, before anything is allocated. */
#include "engine_impl.h"
#include <string.h>
#include "memory.h"

#define MAX_BLOCKS  (1 << 26)
#define MAX_SEQS    4096
#define MAX_BATCH   (1 << 20)
#define MIN_CONTEXT 2 /* one token in, one out */

void engine_config_init(struct engine_config *c)
{
    *c = (struct engine_config){.max_num_seqs = 64,
                                .max_batch_tokens = 512,
                                .block_size = 16,
                                .memory_fraction = 0.5,
                                .kv_type = DT_F16,
                                .prefix_cache = true,
                                .async_steps = true,
                                .max_queue = 256,
                                .watchdog_s = 60};
}

static int check_range(const char *param, int64_t v, int64_t min, int64_t max, struct err *e)
{
    if (v >= min && v <= max) return 0;
    return err_param(e, ERR_INVALID, param, "%s: must be between %lld and %lld", param, (long long)min,
                     (long long)max);
}

static int check_config(const struct arch *a, const struct engine_config *c, struct err *e)
{
    int status = check_range("max-num-seqs", c->max_num_seqs, 1, MAX_SEQS, e);
    if (!status) status = check_range("max-num-batched-tokens", c->max_batch_tokens, 1, MAX_BATCH, e);
    if (!status) status = check_range("block-size", c->block_size, 1, 1 << 16, e);
    if (!status) status = check_range("num-kv-blocks", c->n_block, 0, MAX_BLOCKS, e);
    if (!status) status = check_range("max-queue", c->max_queue, 0, 1 << 20, e);
    if (!status && c->max_model_len)
        status = check_range("max-model-len", c->max_model_len, MIN_CONTEXT, a->max_ctx, e);
    if (status) return status;
    if (c->block_size & (c->block_size - 1))
        return err_param(e, ERR_INVALID, "block-size", "block-size: must be a power of two");
    if (c->max_batch_tokens < c->max_num_seqs)
        return err_param(e, ERR_INVALID, "max-num-batched-tokens",
                         "max-num-batched-tokens (%d) must not be smaller than max-num-seqs (%d)",
                         c->max_batch_tokens, c->max_num_seqs);
    if (!(c->memory_fraction > 0 && c->memory_fraction <= 1))
        return err_param(e, ERR_INVALID, "gpu-memory-utilization",
                         "gpu-memory-utilization: must be in (0, 1]");
    return 0;
}

/* Bytes that the pool may take: what was asked for, or the given share of the memory that is left, less what
 * weights and step buffers take out of that share. `loaded` is 0 when the weights are still to come. */
static size_t pool_bytes(const struct engine_config *c, size_t weights, size_t loaded, size_t activations)
{
    if (c->kv_bytes) return c->kv_bytes;
    size_t available = c->available ? c->available : memory_available();
    if (available > SIZE_MAX / 4) available = SIZE_MAX / 4;
    double share =
        c->memory_fraction * ((double)available + (double)loaded) - (double)weights - (double)activations;
    size_t bytes = share > 0 ? (size_t)share : 0,
           free = available - (available / 20); /* never above what is free */
    size_t taken = weights - loaded + activations;
    free = free > taken ? free - taken : 0;
    return bytes < free ? bytes : free;
}

/* The longest context of which n_block blocks hold one sequence. */
static int longest_context(const struct kv_config *k, int chunk)
{
    int lo = 0, hi = k->max_tokens;
    while (lo < hi) {
        int mid = lo + (hi - lo + 1) / 2;
        if (kv_blocks_needed(k, mid, chunk) <= k->n_block) {
            lo = mid;
        } else {
            hi = mid - 1;
        }
    }
    return lo;
}

static int fill_kv_config(const struct arch *a, const struct engine_config *c, int max_ctx,
                          struct kv_config *k, struct err *e)
{
    struct kv_layout layout;
    int status = arch_kv_layout(a, &layout, e);
    if (status) return status;
    *k = (struct kv_config){.n_block = c->n_block,
                            .block_size = c->block_size,
                            .n_group = layout.n_group,
                            .max_tokens = max_ctx,
                            .prefix_cache = c->prefix_cache};
    for (int g = 0; g < layout.n_group; g++) k->group[g].window = layout.window[g];
    return 0;
}

static int choose_blocks(const struct engine_config *c, struct kv_config *k, size_t block_bytes,
                         size_t weights, size_t loaded, size_t activations, struct err *e)
{
    if (c->n_block) return 0;
    size_t bytes = pool_bytes(c, weights, loaded, activations);
    int64_t fit = (int64_t)(bytes / block_bytes),
            one = kv_blocks_needed(k, k->max_tokens, c->max_batch_tokens);
    /* More than all sequences can use at once is waste; kv_bytes is taken at its word. */
    if (!c->kv_bytes && fit > one * c->max_num_seqs) fit = one * c->max_num_seqs;
    k->n_block = (int)(fit < MAX_BLOCKS ? fit : MAX_BLOCKS);
    if (k->n_block >= kv_blocks_needed(k, MIN_CONTEXT, c->max_batch_tokens)) return 0;
    return err_set(e, ERR_NOMEM,
                   "no memory for the KV cache: %zu MiB are available to it, a block takes %zu KiB; raise "
                   "gpu-memory-utilization or free memory",
                   bytes >> 20, block_bytes >> 10);
}

int engine_plan_all(const struct arch *a, const struct engine_config *c, size_t loaded, struct kv_config *k,
                    struct engine_info *out, struct err *e)
{
    int status = check_config(a, c, e);
    int ctx = c->max_model_len ? c->max_model_len : a->max_ctx;
    if (!status) status = fill_kv_config(a, c, ctx, k, e);
    if (status) return status;
    size_t weights = loaded ? loaded : c->weight_bytes;
    struct runner_config r = {.n_block = 1,
                              .block_size = c->block_size,
                              .max_batch_tokens = c->max_batch_tokens,
                              .max_seqs = c->max_num_seqs,
                              .max_ctx = ctx,
                              .kv_type = c->kv_type,
                              .logit_rows = c->logit_rows,
                              .n_rank = c->n_rank};
    struct runner_budget b;
    if ((status = runner_measure(a, &r, &b, e))) return status;
    if ((status = choose_blocks(c, k, b.block_bytes, weights, loaded, b.activations, e))) return status;
    int fits = longest_context(k, c->max_batch_tokens);
    if (fits < MIN_CONTEXT)
        return err_param(e, ERR_INVALID, "num-kv-blocks",
                         "num-kv-blocks: %d blocks hold no sequence of %d tokens", k->n_block, MIN_CONTEXT);
    if (!c->max_model_len && fits < ctx) {
        k->max_tokens = r.max_ctx = ctx = fits;
        if ((status = runner_measure(a, &r, &b, e))) return status;
    }
    *out = (struct engine_info){.max_model_len = ctx,
                                .n_block = k->n_block,
                                .block_size = c->block_size,
                                .kv_bytes = (size_t)k->n_block * b.block_bytes,
                                .activation_bytes = b.activations,
                                .weight_bytes = weights,
                                .max_prompt = fits < ctx - 1 ? fits : ctx - 1};
    return 0;
}

int engine_plan(const struct arch *a, const struct engine_config *c, struct engine_info *out, struct err *e)
{
    struct kv_config k;
    return engine_plan_all(a, c, 0, &k, out, e);
}
