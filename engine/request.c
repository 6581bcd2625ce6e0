#include "request_impl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "clock.h"

const char *finish_reason_name(enum finish_reason f)
{
    static const char *const name[] = {NULL, "stop", "length", "abort", "error"};
    return name[f];
}

int request_new(const int32_t *prompt, int n_prompt, const struct gen_params *p, void (*wake)(void *ctx),
                void *ctx, struct request **out, struct err *e)
{
    *out = NULL;
    if (n_prompt < 1) return err_param(e, ERR_INVALID, "prompt", "the prompt is empty");
    struct request *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NOMEM, "out of memory");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->news, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&r->mu, NULL);
    atomic_init(&r->refs, 1);
    r->wake = wake;
    r->wake_ctx = ctx;
    r->n_prompt = n_prompt;
    r->stop_token = r->stop_string = -1;
    r->prompt = malloc((size_t)n_prompt * sizeof *prompt);
    if (!r->prompt || gen_params_copy(&r->p, p)) {
        request_unref(r);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    memcpy(r->prompt, prompt, (size_t)n_prompt * sizeof *prompt);
    *out = r;
    return 0;
}

void request_ref(struct request *r) { atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed); }

void request_unref(struct request *r)
{
    if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) return;
    kv_ref_free(&r->seq.kv);
    if (r->map) munmap(r->map, r->map_size);
    gen_params_free(&r->p);
    free(r->prompt);
    pthread_cond_destroy(&r->news);
    pthread_mutex_destroy(&r->mu);
    free(r);
}

void request_release(struct request *r)
{
    if (!r) return;
    pthread_mutex_lock(&r->mu); /* waits for a wake that is under way */
    r->wake = NULL;
    pthread_mutex_unlock(&r->mu);
    request_unref(r);
}

static int tops(int n) { return n > 0 ? n : 0; }

int request_top_prompt(const struct request *r, int pos) { return (pos - 1) * tops(r->p.prompt_logprobs); }

int request_top_answer(const struct request *r, int i)
{
    int before = r->p.prompt_logprobs > 0 ? r->n_prompt - 1 : 0;
    return before * tops(r->p.prompt_logprobs) + i * tops(r->p.logprobs);
}

/* Takes n items from the mapping; with base NULL only counts. The largest alignment needed is 8. */
static void *carve(char *base, size_t *at, size_t n, size_t item)
{
    void *p = base ? base + *at : NULL;
    *at += (n * item + 7) / 8 * 8;
    return p;
}

static size_t lay_out(struct request *r, char *base, int max_new, size_t text_bound)
{
    size_t at = 0, total = (size_t)r->n_prompt + (size_t)max_new;
    const struct gen_params *p = &r->p;
    r->seq.tok = carve(base, &at, total, sizeof *r->seq.tok);
    r->out = carve(base, &at, (size_t)max_new, sizeof *r->out);
    if (p->prompt_logprobs >= 0) r->prompt_out = carve(base, &at, (size_t)r->n_prompt, sizeof *r->prompt_out);
    r->top = carve(base, &at, (size_t)request_top_answer(r, max_new), sizeof *r->top);
    if (r->penalised) {
        void *mem = carve(base, &at, penalty_set_bytes((int)total), 1);
        if (base) penalty_set_init(&r->seen, (int)total, mem);
    }
    char *text = carve(base, &at, (size_t)max_new, text_bound);
    if (base) stop_text_init(&r->text, text, (size_t)max_new * text_bound);
    return at;
}

int request_reserve(struct request *r, int max_new, size_t text_bound, struct err *e)
{
    const struct gen_params *p = &r->p;
    r->penalised = p->repetition_penalty != 1 || p->frequency_penalty != 0 || p->presence_penalty != 0;
    r->map_size = lay_out(r, NULL, max_new, text_bound);
    void *map =
        mmap(NULL, r->map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return err_set(e, ERR_NOMEM, "out of memory");
    r->map = map;
    lay_out(r, map, max_new, text_bound);
    memcpy(r->seq.tok, r->prompt, (size_t)r->n_prompt * sizeof *r->prompt);
    for (int i = 0; r->penalised && i < r->n_prompt; i++) penalty_set_add(&r->seen, r->prompt[i], false);
    free(r->prompt);
    r->prompt = NULL;
    r->cap_out = max_new;
    r->seq.owner = r;
    r->seq.n_tok = r->seq.n_prompt = r->n_prompt;
    r->seq.cap_tok = r->seq.max_total = r->n_prompt + max_new;
    r->seq.priority = p->priority;
    r->seq.salt = p->cache_salt;
    r->seq.all_logits = p->prompt_logprobs >= 0;
    return 0;
}

static bool has_news(const struct request *r)
{
    return r->published.n_tok > r->taken.n_tok || r->published.n_text > r->taken.n_text ||
           r->published.n_prompt > r->taken.n_prompt || (r->done && !r->done_taken);
}

/* With r->mu held. */
static void announce(struct request *r)
{
    r->published = r->ready;
    r->usage = r->now;
    if (!has_news(r)) return;
    pthread_cond_broadcast(&r->news);
    if (r->wake && !r->woken) r->wake(r->wake_ctx);
    r->woken = true;
}

void request_publish(struct request *r)
{
    pthread_mutex_lock(&r->mu);
    announce(r);
    pthread_mutex_unlock(&r->mu);
}

void request_finish(struct request *r, enum finish_reason f, int stop_token, int stop_string,
                    const struct err *e)
{
    pthread_mutex_lock(&r->mu);
    r->done = true;
    r->finish = f;
    r->stop_token = stop_token;
    r->stop_string = stop_string;
    if (e) r->error = *e;
    announce(r);
    pthread_mutex_unlock(&r->mu);
}

static void wait_news(struct request *r, int timeout_ms)
{
    int64_t until = clock_ns() + (int64_t)timeout_ms * 1000000;
    struct timespec t = {until / 1000000000, until % 1000000000};
    while (!has_news(r) && !r->done) {
        if (timeout_ms < 0) {
            pthread_cond_wait(&r->news, &r->mu);
        } else if (pthread_cond_timedwait(&r->news, &r->mu, &t) == ETIMEDOUT) {
            return;
        }
    }
}

int request_take(struct request *r, struct out_batch *out, int timeout_ms)
{
    pthread_mutex_lock(&r->mu);
    if (timeout_ms) wait_news(r, timeout_ms);
    struct request_counts from = r->taken, to = r->published;
    *out = (struct out_batch){.n_text = to.n_text - from.n_text,
                              .n_tok = to.n_tok - from.n_tok,
                              .n_prompt = to.n_prompt - from.n_prompt,
                              .top = r->top,
                              .done = r->done,
                              .finish = r->finish,
                              .stop_token = r->stop_token,
                              .error = r->error,
                              .usage = r->usage};
    if (out->n_text) out->text = r->text.text + from.n_text;
    if (out->n_tok) out->tok = r->out + from.n_tok;
    if (out->n_prompt) out->prompt = r->prompt_out;
    if (r->stop_string >= 0) out->stop_string = r->p.stop[r->stop_string];
    int news = has_news(r);
    r->taken = to;
    r->done_taken = r->done;
    r->woken = false;
    pthread_mutex_unlock(&r->mu);
    return news;
}
