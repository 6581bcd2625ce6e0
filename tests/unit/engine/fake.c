#include "fake.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fake fake;

struct tokenizer {
    int vocab;
};
static const char *const WORDS[] = {"ab",   "abc",      " hello",   "stop", "\xe2\x82",
                                    "\xac", "\xf0\x9f", "\x98\x80", "st",   "op"};

void fake_reset(void)
{
    fake.delay_us = fake.fail = fake.eos_boost = fake.kv_faults = 0;
    fake.forwards = fake.max_items = fake.prefilled = fake.ahead = 0;
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

uint64_t fake_chain(uint64_t h, int32_t token) { return mix(h * 31 + (uint64_t)token + 1); }

void fake_logits_of(uint64_t h, float *x)
{
    for (int i = 0; i < FAKE_VOCAB; i++)
        x[i] = (float)(mix(h + (uint64_t)i * 0x9e3779b97f4a7c15u) >> 40) * 0x1p-21f - 4.0f;
    x[FAKE_EOS] = fake.eos_boost && h % (uint64_t)fake.eos_boost == 0 ? 20.0f : -20.0f;
}

void fake_logits(const int32_t *tok, int n, float *x)
{
    uint64_t h = 0;
    for (int i = 0; i < n; i++) h = fake_chain(h, tok[i]);
    fake_logits_of(h, x);
}

int fake_greedy(const int32_t *prompt, int n, int32_t *out, int max)
{
    float x[FAKE_VOCAB];
    uint64_t h = 0;
    for (int i = 0; i < n; i++) h = fake_chain(h, prompt[i]);
    for (int k = 0; k < max; k++) {
        int best = 0;
        fake_logits_of(h, x);
        for (int i = 1; i < FAKE_VOCAB; i++)
            if (x[i] > x[best]) best = i;
        out[k] = best;
        if (best == FAKE_EOS) return k + 1;
        h = fake_chain(h, best);
    }
    return max;
}

int arch_kv_layout(const struct arch *a, struct kv_layout *out, struct err *e)
{
    (void)a, (void)e;
    *out = (struct kv_layout){.n_group = 2, .n_slot = 1, .window = {0, FAKE_WINDOW}};
    return 0;
}
