#include "arch.h"
#include <math.h>
#include <string.h>

struct range {
    const char *what;
    int64_t value, min, max;
};

static int check_ranges(const struct range *r, int n, struct err *e)
{
    for (int i = 0; i < n; i++)
        if (r[i].value < r[i].min || r[i].value > r[i].max)
            return err_param(e, ERR_INVALID, r[i].what, "%s is %lld; between %lld and %lld is supported",
                             r[i].what, (long long)r[i].value, (long long)r[i].min, (long long)r[i].max);
    return 0;
}

struct number {
    const char *what;
    float value, min, max;
};

static int check_numbers(const struct number *r, int n, struct err *e)
{
    for (int i = 0; i < n; i++)
        if (!(r[i].value >= r[i].min && r[i].value <= r[i].max))
            return err_param(e, ERR_INVALID, r[i].what, "%s is %g; between %g and %g is supported", r[i].what,
                             (double)r[i].value, (double)r[i].min, (double)r[i].max);
    return 0;
}

static int check_rope(const struct arch *a, const struct rope_spec *r, struct err *e)
{
    if (r->rot < 0 || r->rot > a->head_dim || r->rot % 2 || r->rot > 2 * ROPE_MAX_HALF)
        return err_set(e, ERR_INVALID, "rotary dimensions: %d of a head of %d", r->rot, a->head_dim);
    for (int i = 0; i < r->rot / 2; i++)
        if (!(r->inv_freq[i] >= 0 && r->inv_freq[i] <= 1e6f))
            return err_set(e, ERR_INVALID, "rotary frequency %d is not a usable number", i);
    return 0;
}

int arch_check(const struct arch *a, struct err *e)
{
    const struct range sizes[] = {
        {"number of layers", a->n_layer, 1, ARCH_MAX_LAYERS},
        {"hidden size", a->dim, 1, 1 << 17},
        {"number of heads", a->n_head, 1, 1024},
        {"number of KV heads", a->n_kv_head, 1, a->n_head},
        {"head size", a->head_dim, 2, 512},
        {"feed-forward size", a->ffn_dim, 1, 1 << 20},
        {"vocabulary size", a->vocab, 1, 1 << 22},
        {"context length", a->max_ctx, 1, 1 << 24},
        {"number of ropes", a->n_rope, 1, 2},
        {"BOS token", a->bos, -1, a->vocab - 1},
        {"number of EOS tokens", a->n_eos, 0, ARCH_MAX_EOS},
    };
    const struct number numbers[] = {
        {"norm epsilon", a->eps, 0, 0.1f},
        {"embedding scale", a->embed_scale, 1e-6f, 1e6f},
        {"residual scale", a->resid_scale, 1e-6f, 1e6f},
        {"attention scale", a->attn_scale, 1e-6f, 1e6f},
        {"logit scale", a->logit_scale, 1e-6f, 1e6f},
        {"attention soft cap", a->attn_cap, 0, 1e6f},
        {"logit soft cap", a->logit_cap, 0, 1e6f},
        {"rope attention factor", a->rope[0].mscale, 1e-3f, 1e3f},
    };
    if (check_ranges(sizes, sizeof sizes / sizeof *sizes, e) ||
        check_numbers(numbers, sizeof numbers / sizeof *numbers, e))
        return e->code;
    if (a->n_head % a->n_kv_head)
        return err_set(e, ERR_INVALID, "%d heads cannot share %d KV heads", a->n_head, a->n_kv_head);
    for (int i = 0; i < a->n_rope; i++)
        if (check_rope(a, &a->rope[i], e)) return e->code;
    for (int i = 0; i < a->n_layer; i++)
        if (a->layer[i].window < 0 || a->layer[i].rope < 0 || a->layer[i].rope >= a->n_rope)
            return err_set(e, ERR_INVALID, "layer %d: window %d, rope %d", i, a->layer[i].window,
                           a->layer[i].rope);
    for (int i = 0; i < a->n_eos; i++)
        if (a->eos[i] < 0 || a->eos[i] >= a->vocab)
            return err_set(e, ERR_INVALID, "EOS token %d is not in the vocabulary of %d", a->eos[i],
                           a->vocab);
    return 0;
}

/* Kinds of layers and how many there are of each. */
struct kinds {
    int n, window[ARCH_MAX_LAYERS], count[ARCH_MAX_LAYERS];
};

static void count_kinds(const struct arch *a, struct kinds *k)
{
    memset(k, 0, sizeof *k);
    for (int l = 0; l < a->n_layer; l++) {
        int i = 0;
        while (i < k->n && k->window[i] != a->layer[l].window) i++;
        if (i == k->n) k->window[k->n++] = a->layer[l].window;
        k->count[i]++;
    }
}

static int groups_of(const struct kinds *k, int size)
{
    int n = 0;
    for (int i = 0; i < k->n; i++) n += (k->count[i] + size - 1) / size;
    return n;
}

/* The largest group size that pads at most a tenth of the layers: padding wastes memory, small groups cost a
 * block table each. Size 1 pads nothing; where that makes too many groups, more padding is allowed. */
static int group_size(const struct kinds *k, int n_layer)
{
    int max_groups = KV_LAYOUT_MAX_GROUPS;
    int smallest = k->count[0];
    for (int i = 1; i < k->n; i++)
        if (k->count[i] < smallest) smallest = k->count[i];
    for (int size = smallest; size > 1; size--)
        if (groups_of(k, size) * size - n_layer <= n_layer / 10 && groups_of(k, size) <= max_groups)
            return size;
    for (int size = 1; size <= n_layer; size++)
        if (groups_of(k, size) <= max_groups) return size;
    return 0;
}

int arch_kv_layout(const struct arch *a, struct kv_layout *out, struct err *e)
{
    struct kinds k;
    int size;
    count_kinds(a, &k);
    memset(out, 0, sizeof *out);
    if (!(size = group_size(&k, a->n_layer)))
        return err_set(e, ERR_UNSUPPORTED, "layers of %d kinds: too many KV groups", k.n);
    out->n_slot = size;
    for (int i = 0; i < k.n; i++) {
        int seen = 0;
        for (int l = 0; l < a->n_layer; l++) {
            if (a->layer[l].window != k.window[i]) continue;
            out->group_of[l] = out->n_group + seen / size;
            out->slot_of[l] = seen % size;
            out->window[out->group_of[l]] = k.window[i];
            seen++;
        }
        out->n_group += (seen + size - 1) / size;
    }
    return 0;
}
