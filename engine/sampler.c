#include "sampler.h"
#include <math.h>
#include <stdlib.h>
#include "rng.h"
#include "rng.h"
#include "sampler_vec.h"

#define GREEDY_BELOW 1e-5f /* temperatures that count as 0 */

struct undo {
    int32_t id;
    float old;
};
struct sampler {
    const struct vec_ops *vec;
    int vocab, n_block;
    int32_t *q;         /* [vocab] weights of the row */
    int64_t *block_sum; /* [n_block] of q, over BLOCK ids each */
    int32_t *block_top; /* [n_block] the largest of them */
    int32_t *cand;      /* [vocab] ids that survived so far, ascending */
    int n_cand;
    struct undo *undo; /* [cap_undo] logits changed in the row, in order */
    int n_undo;
};

size_t penalty_set_bytes(int max_tokens)
{
    size_t slots = 16;
    while (slots < (size_t)max_tokens * 2) slots *= 2;
    return (size_t)max_tokens * sizeof(struct penalty) + slots * sizeof(int32_t);
}

void penalty_set_init(struct penalty_set *s, int max_tokens, void *mem)
{
    size_t entries = (size_t)max_tokens * sizeof(struct penalty);
    *s = (struct penalty_set){.entry = mem, .slot = (int32_t *)((char *)mem + entries)};
    s->mask = (uint32_t)((penalty_set_bytes(max_tokens) - entries) / sizeof(int32_t)) - 1;
}

void penalty_set_add(struct penalty_set *s, int32_t token, bool in_answer)
{
    uint32_t i = (uint32_t)token * 2654435761u; /* Fibonacci hashing */
    for (i &= s->mask; s->slot[i]; i = (i + 1) & s->mask)
        if (s->entry[s->slot[i] - 1].token == token) break;
    if (!s->slot[i]) {
        s->entry[s->n] = (struct penalty){.token = token};
        s->slot[i] = ++s->n;
    }
    s->entry[s->slot[i] - 1].n_out += in_answer;
}

int sampler_open(int vocab, int max_ctx, struct sampler **out, struct err *e)
{
    *out = NULL;
    struct sampler *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NOMEM, "out of memory");
    size_t distinct = (size_t)(max_ctx < vocab ? max_ctx : vocab);
    s->vec = vec_ops();
    s->vocab = vocab;
    s->n_block = (vocab + BLOCK - 1) / BLOCK;
    s->q = malloc((size_t)vocab * sizeof *s->q);
    s->cand = malloc((size_t)vocab * sizeof *s->cand);
    s->block_sum = malloc((size_t)s->n_block * sizeof *s->block_sum);
    s->block_top = malloc((size_t)s->n_block * sizeof *s->block_top);
    s->undo = malloc((distinct + LOGIT_BIAS_MAX + 2 * SAMPLER_BAN_MAX) * sizeof *s->undo);
    if (!s->q || !s->cand || !s->block_sum || !s->block_top || !s->undo) {
        sampler_close(s);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    *out = s;
    return 0;
}

void sampler_close(struct sampler *s)
{
    if (!s) return;
    free(s->q);
    free(s->cand);
    free(s->block_sum);
    free(s->block_top);
    free(s->undo);
    free(s);
}

/* The position-th number of the SplitMix64 stream that starts at the mixed seed. */
uint64_t sampler_random(uint64_t seed, int position)
{
    return rng_mix(rng_mix(seed + RNG_STEP) + (uint64_t)(position + 1) * RNG_STEP);
}

static void set_logit(struct sampler *s, float *x, int32_t id, float v)
{
    s->undo[s->n_undo++] = (struct undo){id, x[id]};
    x[id] = v;
}

/* Repetition divides positive and multiplies negative logits (Keskar et al. 2019); frequency and presence
 * subtract. */
static float penalised(float v, const struct gen_params *p, int n_out)
{
    if (p->repetition_penalty != 1) v = v > 0 ? v / p->repetition_penalty : v * p->repetition_penalty;
    if (n_out) v -= p->frequency_penalty * (float)n_out + p->presence_penalty;
    return v;
}

static void adjust_logits(struct sampler *s, float *x, const struct sample_in *in)
{
    const struct gen_params *p = in->p;
    s->n_undo = 0;
    for (int i = 0; i < p->n_bias; i++)
        set_logit(s, x, p->bias[i].token, x[p->bias[i].token] + p->bias[i].bias);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < in->n_ban[k]; i++) set_logit(s, x, in->ban[k][i], -INFINITY);
    if (!in->seen) return;
    for (int i = 0; i < in->seen->n; i++) {
        const struct penalty *t = &in->seen->entry[i];
        set_logit(s, x, t->token, penalised(x[t->token], p, t->n_out));
    }
}

static void undo_adjust(struct sampler *s, float *x)
{
    while (s->n_undo) {
        struct undo u = s->undo[--s->n_undo];
        x[u.id] = u.old;
    }
}

/* Fills q, block_sum and block_top; returns the whole weight. A block far below the maximum weighs nothing
 * and skips exp. */
static int64_t fill_weights(struct sampler *s, const float *x, float max, float inv_t)
{
    int64_t total = 0;
    for (int b = 0; b < s->n_block; b++) {
        int at = b * BLOCK, n = s->vocab - at < BLOCK ? s->vocab - at : BLOCK;
        if ((s->vec->max(x + at, n) - max) * inv_t < WEIGHT_FLOOR) {
            s->block_sum[b] = s->block_top[b] = 0;
        } else {
            s->block_sum[b] = s->vec->weights(x + at, n, max, inv_t, s->q + at, &s->block_top[b]);
        }
        total += s->block_sum[b];
    }
    return total;
}

/* Candidates: every id with q >= floor. Returns their weight. */
static int64_t gather(struct sampler *s, int32_t floor)
{
    int64_t mass = 0;
    int n = 0;
    for (int b = 0; b < s->n_block; b++) {
        if (s->block_top[b] < floor) continue;
        int end = (b + 1) * BLOCK < s->vocab ? (b + 1) * BLOCK : s->vocab;
        for (int i = b * BLOCK; i < end; i++) {
            bool in = s->q[i] >= floor;
            s->cand[n] = i;
            n += in;
            mass += in ? s->q[i] : 0;
        }
    }
    s->n_cand = n;
    return mass;
}

/* A leading part of the candidates in (q, id) order: all with q > cut.q, and the first `ties` by id with q ==
 * cut.q. */
struct cut {
    int32_t q;
    int64_t ties, mass;
};

/* The shortest leading part that has `count` tokens or weighs `mass`: a radix descent over q, 11 + 10 + 10
 * bits. */
static struct cut find_cut(const struct sampler *s, int64_t count, int64_t mass)
{
    struct {
        int64_t n, mass;
    } bin[1025];
    int64_t n_above = 0, mass_above = 0;
    int32_t prefix = 0;
    for (int shift = 20; shift >= 0; shift -= 10) {
        memset(bin, 0, sizeof bin);
        for (int i = 0; i < s->n_cand; i++) {
            int32_t q = s->q[s->cand[i]];
            if (shift < 20 && q >> (shift + 10) != prefix) continue;
            int b = shift == 20 ? q >> 20 : q >> shift & 1023;
            bin[b].n++;
            bin[b].mass += q;
        }
        int b = 1024;
        for (; b >= 0 && n_above + bin[b].n < count && mass_above + bin[b].mass < mass; b--) {
            n_above += bin[b].n;
            mass_above += bin[b].mass;
        }
        if (b < 0) return (struct cut){.mass = mass_above}; /* all of them */
        prefix = prefix << 10 | b;
    }
    int64_t by_mass = (mass - mass_above + prefix - 1) / prefix, by_count = count - n_above;
    int64_t ties = by_mass < by_count ? by_mass : by_count;
    return (struct cut){prefix, ties, mass_above + ties * prefix};
}

static int64_t share(float p, int64_t mass)
{
    int64_t m = (int64_t)ceil((double)p * (double)mass);
    return m < 1 ? 1 : m;
}

/* Uniform in [0, n) from 64 random bits (Lemire's multiplication; the bias is below 2^-16 of a weight's
 * unit). */
static int64_t scale_random(uint64_t r, int64_t n)
{
    return (int64_t)((unsigned __int128)r * (uint64_t)n >> 64);
}

/* The token at which the running weight, by id, first exceeds the target. */
static int32_t draw_any(const struct sampler *s, int64_t target)
{
    int b = 0;
    while (b < s->n_block - 1 && target >= s->block_sum[b]) target -= s->block_sum[b++];
    int i = b * BLOCK;
    while (i < s->vocab - 1 && target >= s->q[i]) target -= s->q[i++];
    return i;
}

static int32_t draw_cut(const struct sampler *s, struct cut cut, int64_t target)
{
    for (int i = 0; i < s->n_cand; i++) {
        int32_t q = s->q[s->cand[i]];
        if (q < cut.q || (q == cut.q && cut.ties-- <= 0)) continue;
        if (target < q) return s->cand[i];
        target -= q;
    }
    return s->cand[0]; /* not reached: target < cut.mass */
}

/* min_p, then top_k, then top_p. Candidates are gathered above a weight that falls until they are enough. */
static int32_t draw_filtered(struct sampler *s, const struct gen_params *p, int64_t total, uint64_t r)
{
    bool by_count = p->top_k > 0 && p->top_k < s->vocab, by_mass = p->top_p < 1;
    int32_t least = p->min_p > 0 ? (int32_t)ceil((double)p->min_p * SAMPLER_ONE) : 1;
    int32_t floor = least > 1 ? least : 1 << 18;
    int64_t count = by_count ? p->top_k : INT64_MAX / 2, mass;
    for (;; floor = floor >> 6 > least ? floor >> 6 : least) {
        mass = gather(s, floor);
        if (floor <= least || (by_count ? s->n_cand >= count : mass >= share(p->top_p, total))) break;
    }
    if (least > 1) total = mass;
    struct cut cut = {.mass = mass};
    if (by_count) {
        cut = find_cut(s, count, INT64_MAX / 2);
        total = cut.mass;
    }
    if (by_mass) cut = find_cut(s, count, share(p->top_p, total));
    return draw_cut(s, cut, scale_random(r, cut.mass));
}

/* The largest logit and the first id that has it; ids are looked at one by one in its block only. */
static float find_max(const struct sampler *s, const float *x, int32_t *first)
{
    float max = -INFINITY;
    int32_t i = 0;
    for (int at = 0; at < s->vocab; at += BLOCK) {
        float m = s->vec->max(x + at, s->vocab - at < BLOCK ? s->vocab - at : BLOCK);
        if (m > max) max = m, i = at;
    }
    while (max > -INFINITY && x[i] != max) i++;
    *first = i;
    return max;
}

int32_t sampler_pick(struct sampler *s, const float *x, const struct gen_params *p, uint64_t r)
{
    int32_t first; /* that has the maximum */
    float max = find_max(s, x, &first);
    if (!isfinite(max)) return -1;
    if (p->temperature < GREEDY_BELOW || p->top_k == 1) return first;
    int64_t total = fill_weights(s, x, max, 1 / p->temperature);
    bool filtered = (p->top_k > 0 && p->top_k < s->vocab) || p->top_p < 1 || p->min_p > 0;
    return filtered ? draw_filtered(s, p, total, r) : draw_any(s, scale_random(r, total));
}

/* log(sum(exp(x))) of the row; not finite if no logit is, or one is +inf. */
static double log_sum_exp(const struct sampler *s, const float *x)
{
    float max = s->vec->max(x, s->vocab);
    if (!isfinite(max)) return max;
    double sum = 0;
    for (int at = 0; at < s->vocab; at += BLOCK)
        sum += (double)s->vec->sum(x + at, s->vocab - at < BLOCK ? s->vocab - at : BLOCK, max);
    return max + log(sum);
}

/* The n_top largest logits, by (value descending, id ascending), as log-probabilities. */
static void list_top(const struct sampler *s, const float *x, double lse, int n_top, struct sample_out *out)
{
    out->n_top = n_top < s->vocab ? n_top : s->vocab;
    if (!out->n_top) return;
    struct token_logprob *top = out->top;
    int n = 0;
    for (int at = 0; at < s->vocab; at += BLOCK) {
        int end = at + BLOCK < s->vocab ? at + BLOCK : s->vocab;
        if (n == out->n_top && !(s->vec->max(x + at, end - at) > top[n - 1].logprob)) continue;
        for (int i = at; i < end; i++) {
            float v = x[i] == x[i] ? x[i] : -INFINITY; /* NaN sorts last */
            if (n == out->n_top && !(v > top[n - 1].logprob)) continue;
            int k = n < out->n_top ? n++ : n - 1;
            for (; k && v > top[k - 1].logprob; k--) top[k] = top[k - 1];
            top[k] = (struct token_logprob){i, v};
        }
    }
    for (int k = 0; k < n; k++) top[k].logprob = (float)(top[k].logprob - lse);
}

static int no_finite(struct err *e) { return err_set(e, ERR_INVALID, "the model produced no finite logits"); }

int sampler_score(struct sampler *s, const float *x, int32_t token, int n_top, struct sample_out *out,
                  struct err *e)
{
    double lse = log_sum_exp(s, x);
    if (!isfinite(lse)) return no_finite(e);
    list_top(s, x, lse, n_top, out);
    out->token = token;
    out->logprob = (float)(x[token] - lse);
    out->rank = 1 + s->vec->rank(x, s->vocab, x[token], token);
    return 0;
}

int sampler_row(struct sampler *s, float *x, const struct sample_in *in, struct sample_out *out,
                struct err *e)
{
    adjust_logits(s, x, in);
    int32_t token = sampler_pick(s, x, in->p, sampler_random(in->p->seed, in->position));
    if (token < 0) return no_finite(e);
    out->token = token;
    if (in->p->logprobs < 0) return 0;
    undo_adjust(s, x);
    return sampler_score(s, x, token, in->p->logprobs, out, e);
}
