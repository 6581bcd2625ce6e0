#include "fake_engine.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "clock.h"
#include "template.h"
#include "utf8.h"

struct fake fake;

void fake_reset(void)
{
    fake.delay_us = fake.hold = fake.fail_after = fake.refuse = fake.stalled = fake.bad_utf8 = 0;
}

/* --- requests ---------------------------------------------------------------------------------------------
 */
struct request {
    atomic_int refs;
    pthread_mutex_t mu;
    int32_t *prompt;
    int n_prompt;
    struct gen_params p;
    void (*wake)(void *ctx);
    void *ctx;
    bool woken;
    int n_out, taken, cap;
    struct out_token *out;
    struct out_token *prompt_out;
    struct token_logprob *top;
    char *text;
    int text_taken, text_len;
    bool prompt_taken, done, done_taken, cancelled;
    enum finish_reason finish;
    int stop_token, stop_string;
    struct err error;
    int64_t next; /* ns */
    struct request *link;
};

const char *finish_reason_name(enum finish_reason f)
{
    static const char *const name[] = {NULL, "stop", "length", "abort", "error"};
    return name[f];
}

int request_new(const int32_t *prompt, int n_prompt, const struct gen_params *p, void (*wake)(void *ctx),
                void *ctx, struct request **out, struct err *e)
{
    struct request *r = calloc(1, sizeof *r);
    (void)e;
    atomic_init(&r->refs, 1);
    pthread_mutex_init(&r->mu, NULL);
    r->prompt = malloc((size_t)n_prompt * sizeof *prompt);
    memcpy(r->prompt, prompt, (size_t)n_prompt * sizeof *prompt);
    r->n_prompt = n_prompt;
    gen_params_copy(&r->p, p);
    r->wake = wake;
    r->ctx = ctx;
    r->stop_token = r->stop_string = -1;
    *out = r;
    return 0;
}

static void unref(struct request *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1) return;
    pthread_mutex_destroy(&r->mu);
    gen_params_free(&r->p);
    free(r->prompt);
    free(r->out);
    free(r->prompt_out);
    free(r->top);
    free(r->text);
    free(r);
}

void request_release(struct request *r)
{
    pthread_mutex_lock(&r->mu);
    r->wake = NULL;
    pthread_mutex_unlock(&r->mu);
    unref(r);
}

static void announce(struct request *r)
{
    if (r->wake && !r->woken) r->wake(r->ctx);
    r->woken = true;
}

int request_take(struct request *r, struct out_batch *b, int timeout_ms)
{
    (void)timeout_ms;
    pthread_mutex_lock(&r->mu);
    *b = (struct out_batch){.text = r->text + r->text_taken,
                            .n_text = (size_t)(r->text_len - r->text_taken),
                            .tok = r->out + r->taken,
                            .n_tok = r->n_out - r->taken,
                            .top = r->top,
                            .done = r->done,
                            .finish = r->finish,
                            .stop_token = r->stop_token,
                            .error = r->error};
    if (!r->prompt_taken && r->prompt_out) {
        b->prompt = r->prompt_out;
        b->n_prompt = r->n_prompt;
    }
    if (r->stop_string >= 0) b->stop_string = r->p.stop[r->stop_string];
    b->usage = (struct request_usage){
        .prompt_tokens = r->n_prompt, .completion_tokens = r->n_out, .cached_tokens = r->n_prompt / 2};
    int news = b->n_text || b->n_tok || b->n_prompt || (r->done && !r->done_taken);
    r->taken = r->n_out;
    r->text_taken = r->text_len;
    r->prompt_taken = true;
    r->done_taken = r->done;
    r->woken = false;
    pthread_mutex_unlock(&r->mu);
    return news;
}

/* --- the engine -------------------------------------------------------------------------------------------
 */
struct engine {
    pthread_t thread;
    pthread_mutex_t mu;
    struct request *list;
    struct engine_info info;
    int live, submitted;
    bool stop;
};

static uint64_t hash_of(const int32_t *prompt, int n, uint64_t seed)
{
    uint64_t h = seed * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < n; i++) h = (h ^ (uint64_t)prompt[i]) * 0x100000001b3u;
    return h;
}

static int letter(uint64_t h, int i)
{
    h += (uint64_t)i * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return 'a' + (int)((h >> 33) % 26);
}

void fake_answer(const int32_t *prompt, int n_prompt, uint64_t seed, int n, char *out)
{
    uint64_t h = hash_of(prompt, n_prompt, seed);
    for (int i = 0; i < n; i++) out[i] = (char)letter(h, i);
    out[n] = 0;
}

static int put_alternatives(struct request *r, int first, int n, int32_t token)
{
    for (int k = 0; k < n; k++)
        r->top[first + k] = (struct token_logprob){(token + k) % 256, -0.5f * (float)(k + 1)};
    return n;
}

static void begin(struct request *r, int max_new)
{
    int lp = r->p.logprobs > 0 ? r->p.logprobs : 0, plp = r->p.prompt_logprobs > 0 ? r->p.prompt_logprobs : 0;
    r->cap = max_new;
    r->out = calloc((size_t)max_new + 1, sizeof *r->out);
    r->text = calloc((size_t)max_new + 1, 4);
    r->top = calloc((size_t)max_new * (size_t)lp + (size_t)r->n_prompt * (size_t)plp + 1, sizeof *r->top);
    if (r->p.prompt_logprobs < 0) return;
    r->prompt_out = calloc((size_t)r->n_prompt, sizeof *r->prompt_out);
    for (int i = 0; i < r->n_prompt; i++) {
        int at = max_new * lp + i * plp;
        r->prompt_out[i] = (struct out_token){
            .token = r->prompt[i], .logprob = i == 3 ? -INFINITY : -0.25f, .rank = 2, .top = at};
        r->prompt_out[i].n_top = i ? put_alternatives(r, at, plp, r->prompt[i]) : 0;
    }
}

static void finish(struct request *r, enum finish_reason f)
{
    r->done = true;
    r->finish = f;
}

static void check_stops(struct request *r, int32_t token)
{
    for (int i = 0; i < r->p.n_stop; i++) {
        int n = r->p.stop_len[i];
        if (r->text_len < n || memcmp(r->text + r->text_len - n, r->p.stop[i], (size_t)n)) continue;
        r->stop_string = i;
        if (!r->p.include_stop && r->text_len - n >= r->text_taken) r->text_len -= n;
        finish(r, FINISH_STOP);
        return;
    }
    for (int i = 0; i < r->p.n_stop_token; i++)
        if (r->p.stop_token[i] == token) {
            r->stop_token = token;
            finish(r, FINISH_STOP);
            return;
        }
    if (r->n_out == r->cap) finish(r, FINISH_LENGTH);
}

static void step(struct request *r)
{
    int32_t token =
        fake.bad_utf8
            ? 200
            : letter(hash_of(r->prompt, r->n_prompt, r->p.temperature > 0 ? r->p.seed : 0), r->n_out);
    int lp = r->p.logprobs > 0 ? r->p.logprobs : 0, at = r->n_out * lp;
    struct out_token *t = &r->out[r->n_out++];
    *t = (struct out_token){.token = token, .logprob = -0.125f, .rank = 1, .top = at};
    t->n_top = put_alternatives(r, at, lp, token);
    if (fake.bad_utf8) {
        memcpy(r->text + r->text_len, "\xef\xbf\xbd", 3);
        r->text_len += 3;
    } else {
        r->text[r->text_len++] = (char)token;
    }
    if (fake.fail_after && r->n_out >= fake.fail_after) {
        err_set(&r->error, ERR_IO, "the fake engine fails");
        finish(r, FINISH_ERROR);
    } else {
        check_stops(r, token);
    }
}

/* True if it is over. */
static bool run_request(struct request *r, int64_t now)
{
    pthread_mutex_lock(&r->mu);
    if (r->cancelled && !r->done) {
        finish(r, FINISH_ABORT);
        announce(r);
    } else if (!r->done && !fake.hold && now >= r->next) {
        step(r);
        r->next = now + fake.delay_us * 1000LL;
        announce(r);
    }
    bool done = r->done;
    pthread_mutex_unlock(&r->mu);
    return done;
}

static void *engine_run(void *arg)
{
    struct engine *en = arg;
    for (;;) {
        pthread_mutex_lock(&en->mu);
        bool stop = en->stop;
        int64_t now = clock_ns();
        for (struct request **at = &en->list; *at;) {
            struct request *r = *at;
            if (run_request(r, now)) {
                *at = r->link;
                en->live--;
                unref(r);
            } else {
                at = &r->link;
            }
        }
        bool idle = !en->list;
        pthread_mutex_unlock(&en->mu);
        if (stop) return NULL;
        usleep(idle ? 500 : 100);
    }
}

struct engine *fake_open(int max_model_len)
{
    struct engine *en = calloc(1, sizeof *en);
    en->info.max_model_len = max_model_len;
    pthread_mutex_init(&en->mu, NULL);
    pthread_create(&en->thread, NULL, engine_run, en);
    return en;
}

void fake_abort_all(struct engine *en)
{
    pthread_mutex_lock(&en->mu);
    for (struct request *r = en->list; r; r = r->link) r->cancelled = true;
    pthread_mutex_unlock(&en->mu);
}

void fake_close(struct engine *en)
{
    fake_abort_all(en);
    pthread_mutex_lock(&en->mu);
    en->stop = true;
    pthread_mutex_unlock(&en->mu);
    pthread_join(en->thread, NULL);
    free(en);
}

const struct engine_info *engine_info(const struct engine *en) { return &en->info; }
enum engine_state engine_state(struct engine *en)
{
    (void)en;
    return fake.stalled ? ENGINE_STALLED : ENGINE_READY;
}

int engine_submit(struct engine *en, struct request *r, struct err *e)
{
    if (fake.refuse) return err_set(e, fake.refuse, "refused as the test asked");
    int room = en->info.max_model_len - r->n_prompt;
    if (room < 1) return err_set(e, ERR_TOO_LONG, "too long");
    begin(r, r->p.max_tokens < room ? r->p.max_tokens : room);
    atomic_fetch_add(&r->refs, 1);
    pthread_mutex_lock(&en->mu);
    r->link = en->list;
    en->list = r;
    en->live++;
    en->submitted++;
    pthread_mutex_unlock(&en->mu);
    return 0;
}

void engine_cancel(struct engine *en, struct request *r)
{
    (void)en;
    pthread_mutex_lock(&r->mu);
    r->cancelled = true;
    pthread_mutex_unlock(&r->mu);
}

int fake_live(struct engine *en)
{
    pthread_mutex_lock(&en->mu);
    int n = en->live;
    pthread_mutex_unlock(&en->mu);
    return n;
}

int fake_submitted(struct engine *en)
{
    pthread_mutex_lock(&en->mu);
    int n = en->submitted;
    pthread_mutex_unlock(&en->mu);
    return n;
}

/* --- parameters, tokenizer, template ----------------------------------------------------------------------
 */
void gen_params_init(struct gen_params *p)
{
    *p = (struct gen_params){.temperature = 1,
                             .top_p = 1,
                             .repetition_penalty = 1,
                             .max_tokens = 16,
                             .logprobs = -1,
                             .prompt_logprobs = -1};
}

static void *copy_of(const void *p, size_t n)
{
    char *c = malloc(n + 1);
    if (n) memcpy(c, p, n);
    c[n] = 0;
    return c;
}

int gen_params_copy(struct gen_params *dst, const struct gen_params *src)
{
    *dst = *src;
    for (int i = 0; i < src->n_stop; i++) dst->stop[i] = copy_of(src->stop[i], (size_t)src->stop_len[i]);
    dst->stop_token = copy_of(src->stop_token, (size_t)src->n_stop_token * sizeof *src->stop_token);
    dst->bias = copy_of(src->bias, (size_t)src->n_bias * sizeof *src->bias);
    return 0;
}

void gen_params_free(struct gen_params *p)
{
    for (int i = 0; i < p->n_stop; i++) free(p->stop[i]);
    free(p->stop_token);
    free(p->bias);
    gen_params_init(p);
}

int tok_bos(const struct tokenizer *t) { return (void)t, 256; }
int tok_eos(const struct tokenizer *t) { return (void)t, 257; }
const char *tok_token(const struct tokenizer *t, int32_t id, size_t *n)
{
    static const char bos[] = "<s>", eos[] = "</s>";
    (void)t;
    const char *s = id == 256 ? bos : id == 257 ? eos : NULL;
    if (s && n) *n = strlen(s);
    return s;
}

int tok_encode(const struct tokenizer *t, const char *s, size_t n, unsigned flags, struct vec_i32 *out,
               struct err *e)
{
    (void)t, (void)e;
    if (vec_i32_reserve(out, (int)n + 1)) return err_set(e, ERR_NOMEM, "out of memory");
    if (flags & TOK_ADD_SPECIAL) vec_i32_push(out, 256);
    for (size_t i = 0; i < n;) {
        bool bos = flags & TOK_PARSE_SPECIAL && n - i >= 3 && !memcmp(s + i, "<s>", 3);
        bool eos = flags & TOK_PARSE_SPECIAL && n - i >= 4 && !memcmp(s + i, "</s>", 4);
        vec_i32_push(out, bos ? 256 : eos ? 257 : (unsigned char)s[i]);
        i += bos ? 3 : eos ? 4 : 1;
    }
    return 0;
}

void tok_stream_push(const struct tokenizer *t, struct tok_stream *st, int32_t id, bool skip_special,
                     struct buf *out)
{
    (void)t, (void)st;
    if (id < 256)
        buf_chr(out, (char)id);
    else if (!skip_special)
        buf_str(out, id == 256 ? "<s>" : id == 257 ? "</s>" : "<?>");
}

int tok_decode(const struct tokenizer *t, const int32_t *ids, int n, bool skip_special, struct buf *out)
{
    struct tok_stream st = {0};
    struct buf raw = {0};
    for (int i = 0; i < n; i++) tok_stream_push(t, &st, ids[i], skip_special, &raw);
    utf8_clean(out, raw.data ? raw.data : "", raw.len);
    buf_free(&raw);
    return 0;
}

/* "<s>role: content\n..." and "assistant: " */
int template_render(const struct template *t, const cJSON *vars, int64_t now, struct template_budget b,
                    struct buf *out, struct err *e)
{
    (void)t, (void)now, (void)b;
    buf_str(out, json_get_cstr(vars, "bos_token"));
    const cJSON *list = json_get(vars, "messages");
    for (const cJSON *m = list->child; m; m = m->next) {
        if (!strcmp(json_get_cstr(m, "role"), "villain")) return err_set(e, ERR_INVALID, "no villains");
        buf_fmt(out, "%s: ", json_get_cstr(m, "role"));
        json_str(json_get(m, "content"), out);
        buf_chr(out, '\n');
    }
    const char *style = json_get_cstr(vars, "style");
    if (style) buf_fmt(out, "(%s)", style);
    bool add = false;
    if (json_get_bool(vars, "add_generation_prompt", &add, e) && add) buf_str(out, "assistant: ");
    return 0;
}

const struct model *fake_model(void)
{
    static struct model m;
    static char tokenizer_stands_here;
    m.tok = (struct tokenizer *)&tokenizer_stands_here;
    m.arch.vocab = 512;
    m.gen = (struct gen_defaults){.temperature = NAN,
                                  .top_p = NAN,
                                  .min_p = NAN,
                                  .repetition_penalty = NAN,
                                  .top_k = -1,
                                  .max_new_tokens = -1};
    snprintf(m.name, sizeof m.name, "fake");
    return &m;
}
