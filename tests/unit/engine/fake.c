#include "fake.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLICE 4

struct fake fake;

struct tokenizer {
    int vocab;
};
static const char *const WORDS[] = {"ab",   "abc",      " hello",   "stop", "\xe2\x82",
                                    "\xac", "\xf0\x9f", "\x98\x80", "st",   "op"};

void fake_reset(void)
{
    fake.delay_us = fake.fail = fake.eos_boost = fake.kv_faults = 0;
    fake.forwards = fake.max_items = fake.prefilled = 0;
    fake.nan_token = -1;
}

struct model *fake_model(void)
{
    static struct tokenizer tok = {FAKE_VOCAB};
    static struct model m;
    m = (struct model){.tok = &tok};
    m.arch = (struct arch){.name = "fake", .vocab = FAKE_VOCAB, .max_ctx = FAKE_CTX, .bos = -1, .n_eos = 1};
    m.arch.eos[0] = FAKE_EOS;
    return &m;
}

/* The tokenizer. */
int tok_vocab(const struct tokenizer *t) { return t->vocab; }

int tok_eog(const struct tokenizer *t, int32_t *out, int max)
{
    if (max > 0) out[0] = t->vocab - 1;
    return max > 0;
}

const char *tok_token(const struct tokenizer *t, int32_t id, size_t *n)
{
    static char byte[256];
    *n = 1;
    if (id < 256) {
        byte[id] = (char)id;
        return &byte[id];
    }
    if (id == t->vocab - 1) {
        *n = 5;
        return "<eos>";
    }
    const char *s = WORDS[(size_t)(id - 256) % (sizeof WORDS / sizeof *WORDS)];
    *n = strlen(s);
    return s;
}

void tok_stream_push(const struct tokenizer *t, struct tok_stream *st, int32_t id, bool skip_special,
                     struct buf *out)
{
    size_t n;
    const char *s = tok_token(t, id, &n);
    st->started = 1;
    if (id != t->vocab - 1 || !skip_special) buf_add(out, s, n);
}

/* The model: hash of a prefix -> logits. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t chain(uint64_t h, int32_t token) { return mix(h * 31 + (uint64_t)token + 1); }

static void logits_of(uint64_t h, float *x)
{
    for (int i = 0; i < FAKE_VOCAB; i++)
        x[i] = (float)(mix(h + (uint64_t)i * 0x9e3779b97f4a7c15u) >> 40) * 0x1p-21f - 4.0f;
    x[FAKE_EOS] = fake.eos_boost && h % (uint64_t)fake.eos_boost == 0 ? 20.0f : -20.0f;
}

void fake_logits(const int32_t *tok, int n, float *x)
{
    uint64_t h = 0;
    for (int i = 0; i < n; i++) h = chain(h, tok[i]);
    logits_of(h, x);
}

int fake_greedy(const int32_t *prompt, int n, int32_t *out, int max)
{
    float x[FAKE_VOCAB];
    uint64_t h = 0;
    for (int i = 0; i < n; i++) h = chain(h, prompt[i]);
    for (int k = 0; k < max; k++) {
        int best = 0;
        logits_of(h, x);
        for (int i = 1; i < FAKE_VOCAB; i++)
            if (x[i] > x[best]) best = i;
        out[k] = best;
        if (best == FAKE_EOS) return k + 1;
        h = chain(h, best);
    }
    return max;
}

int arch_kv_layout(const struct arch *a, struct kv_layout *out, struct err *e)
{
    (void)a, (void)e;
    *out = (struct kv_layout){.n_group = 2, .n_slot = 1, .window = {0, FAKE_WINDOW}};
    return 0;
}

/* The runner. */
struct runner {
    struct runner_config c;
    uint64_t *cell; /* [n_block][block_size] */
    uint64_t *hash; /* [max_batch_tokens] of the rows that want logits */
    int32_t *last;  /* [max_batch_tokens] last token of these */
    float *logits;  /* [SLICE][FAKE_VOCAB] */
    int n_row;
};

int runner_measure(const struct arch *a, const struct runner_config *c, struct runner_budget *out,
                   struct err *e)
{
    (void)a, (void)e;
    *out = (struct runner_budget){
        .block_bytes = (size_t)c->block_size * 8, .activations = 1 << 16, .n_group = 2};
    return 0;
}

int runner_open(struct model *m, const struct runner_config *c, struct runner **out, struct err *e)
{
    (void)m;
    struct runner *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NOMEM, "out of memory");
    r->c = *c;
    r->cell = calloc((size_t)c->n_block * (size_t)c->block_size, sizeof *r->cell);
    r->hash = calloc((size_t)c->max_batch_tokens, sizeof *r->hash);
    r->last = calloc((size_t)c->max_batch_tokens, sizeof *r->last);
    r->logits = calloc(SLICE * FAKE_VOCAB, sizeof *r->logits);
    *out = r;
    return 0;
}

void runner_close(struct runner *r)
{
    if (!r) return;
    free(r->cell);
    free(r->hash);
    free(r->last);
    free(r->logits);
    free(r);
}

static uint64_t *cell(struct runner *r, const struct seq *q, int group, int pos)
{
    int32_t block = q->kv.table[group][pos / r->c.block_size];
    if (block < 0 || block >= r->c.n_block) {
        fake.kv_faults++;
        return r->cell;
    }
    return &r->cell[(size_t)block * (size_t)r->c.block_size + (size_t)(pos % r->c.block_size)];
}

static uint64_t compute(struct runner *r, const struct seq *q, int pos)
{
    uint64_t h = chain(pos ? *cell(r, q, 0, pos - 1) : 0, q->tok[pos]);
    *cell(r, q, 0, pos) = h;
    *cell(r, q, 1, pos) = (uint64_t)q->tok[pos];
    for (int t = pos; t >= 0 && t > pos - FAKE_WINDOW; t--)
        if (*cell(r, q, 1, t) != (uint64_t)q->tok[t]) fake.kv_faults++;
    return h;
}

int runner_forward(struct runner *r, const struct batch_plan *p, struct err *e)
{
    int us = fake.delay_us;
    if (us) nanosleep(&(struct timespec){us / 1000000, us % 1000000 * 1000L}, NULL);
    fake.forwards++;
    if (p->n_item > fake.max_items) fake.max_items = p->n_item;
    if (fake.fail) {
        fake.fail--;
        return err_set(e, ERR_IO, "the device is gone");
    }
    r->n_row = 0;
    for (int i = 0; i < p->n_item; i++) {
        const struct plan_item *it = &p->item[i];
        if (it->q_len > 1) fake.prefilled += it->q_len;
        for (int k = 0; k < it->q_len; k++) {
            uint64_t h = compute(r, it->seq, it->q_start + k);
            if (k < it->q_len - it->n_logits) continue;
            r->last[r->n_row] = it->seq->tok[it->q_start + k];
            r->hash[r->n_row++] = h;
        }
    }
    return 0;
}

int runner_ping(struct runner *r, struct err *e)
{
    (void)r, (void)e;
    return 0;
}

int runner_logits_max(const struct runner *r)
{
    (void)r;
    return SLICE;
}

bool runner_draws(const struct runner *r)
{
    (void)r;
    return false;
}

int runner_draw(struct runner *r, int row, int n, const struct sample_row *how,
                const struct sample_result **out, struct err *e)
{
    (void)r, (void)row, (void)n, (void)how, (void)out;
    return err_set(e, ERR_UNSUPPORTED, "the fake does not draw");
}

int runner_logits(struct runner *r, int row, int n, float **logits, struct err *e)
{
    if (row < 0 || n > SLICE || row + n > r->n_row)
        return err_set(e, ERR_INVALID, "no such rows: %d + %d", row, n);
    for (int i = 0; i < n; i++) {
        float *x = r->logits + (size_t)i * FAKE_VOCAB;
        logits_of(r->hash[row + i], x);
        for (int t = 0; t < FAKE_VOCAB && r->last[row + i] == fake.nan_token; t++) x[t] = NAN;
    }
    *logits = r->logits;
    return 0;
}
