#include "pace.h"

static void blend(double *mean, double x) { *mean = *mean > 0 ? 0.75 * *mean + 0.25 * x : x; }

void pace_note(struct pace *p, int n_decode, int n_prefill, double seconds)
{
    if (!n_prefill) {
        blend(&p->decode_s, seconds);
    } else if (n_prefill >= PACE_LEAST) {
        double rest = n_decode ? seconds - p->decode_s : seconds;
        /* A decode step that got faster since must not make prompts look free. */
        blend(&p->token_s, (rest > 0.1 * seconds ? rest : 0.1 * seconds) / n_prefill);
    }
}

int pace_prefill(const struct pace *p, int full)
{
    if (p->target_s <= 0 || p->token_s <= 0) return full;
    double n = (p->target_s - p->decode_s) / p->token_s;
    return n < PACE_LEAST ? PACE_LEAST : n > full ? full : (int)n;
}
