#include "dataset.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "json.h"
#include "log.h"
#include "draw.h"
#include "vocab.h"

static const char *const words[] = {"time",  "water", "house", "music", "paper", "green", "light", "small",
                                    "river", "story", "table", "world", "north", "plant", "money", "point",
                                    "sound", "white", "night", "place", "group", "study", "early", "learn",
                                    "heart", "cloud", "stone", "train", "field", "glass"};
#define N_WORDS ((int)(sizeof words / sizeof *words))

static int no_memory(struct err *e) { return err_set(e, ERR_NOMEM, "out of memory"); }

static int add_random_ids(struct vec_i32 *ids, int n, const struct vocab *v, uint64_t *random)
{
    if (vec_i32_reserve(ids, n)) return ERR_NOMEM;
    for (int i = 0; i < n; i++)
        ids->v[ids->n++] =
            v->list.n ? v->list.v[draw_below(random, v->list.n)] : v->low + draw_below(random, v->count);
    return 0;
}

/* A prompt of `shared` (may be NULL) followed by n tokens: ids, or for chat as many short words. */
static int make_random(struct prompt *p, const struct prompt *shared, int n, bool chat, const struct vocab *v,
                       uint64_t *random, struct err *e)
{
    p->input_len = n + (shared ? shared->input_len : 0);
    if (!chat) {
        if (shared && vec_i32_reserve(&p->ids, shared->ids.n)) return no_memory(e);
        for (int i = 0; shared && i < shared->ids.n; i++) p->ids.v[p->ids.n++] = shared->ids.v[i];
        return add_random_ids(&p->ids, n, v, random) ? no_memory(e) : 0;
    }
    struct buf text = {0};
    buf_str(&text, shared && shared->text ? shared->text : "");
    for (int i = 0; i < n; i++) buf_fmt(&text, "%s ", words[draw_below(random, N_WORDS)]);
    p->text = text.data;
    return text.failed ? no_memory(e) : 0;
}

/* Uniform in floor(n (1 - ratio)) .. ceil(n (1 + ratio)), at least 1. */
static int vary(int n, double ratio, uint64_t *random)
{
    int low = (int)floor(n * (1 - ratio)), high = (int)ceil(n * (1 + ratio));
    if (low < 1) low = 1;
    return high > low ? low + draw_below(random, high - low + 1) : low;
}

static int make_all_random(struct dataset *d, const struct serve_options *o, const struct vocab *v,
                           uint64_t *random, struct err *e)
{
    struct prompt shared = {0};
    int status = make_random(&shared, NULL, o->random_prefix_len, o->chat, v, random, e);
    for (; !status && d->n < o->num_prompts; d->n++) {
        struct prompt *p = &d->prompt[d->n];
        p->output_len = vary(o->random_output_len, o->random_range_ratio, random);
        status = make_random(p, &shared, vary(o->random_input_len, o->random_range_ratio, random), o->chat, v,
                             random, e);
    }
    free(shared.text);
    vec_i32_free(&shared.ids);
    return status;
}

static void shuffle(struct prompt *p, int n, uint64_t *random)
{
    for (int i = n - 1; i > 0; i--) {
        int k = draw_below(random, i + 1);
        struct prompt t = p[i];
        p[i] = p[k];
        p[k] = t;
    }
}

static int make_prefixes(struct dataset *d, const struct serve_options *o, const struct vocab *v,
                         uint64_t *random, struct err *e)
{
    int each = o->num_prompts / o->num_prefixes, status = 0;
    for (int i = 0; !status && i < o->num_prefixes; i++) {
        struct prompt shared = {0};
        status = make_random(&shared, NULL, o->prefix_len, o->chat, v, random, e);
        for (int k = 0; !status && k < each; k++, d->n++) {
            d->prompt[d->n].output_len = o->prefix_output_len;
            status = make_random(&d->prompt[d->n], &shared, o->suffix_len, o->chat, v, random, e);
        }
        free(shared.text);
        vec_i32_free(&shared.ids);
    }
    shuffle(d->prompt, d->n, random);
    return status;
}

/* Tokens of a text; without /tokenize one for four bytes. */
static int text_tokens(const struct serve_options *o, struct client *c, const char *model, const char *text,
                       bool *asks)
{
    struct vec_i32 ids = {0};
    struct err why = {0};
    int n = (int)(strlen(text) / 4);
    if (*asks && !vocab_tokenize(c, o->url_path, model, text, &ids, &why)) {
        n = ids.n;
    } else if (*asks) {
        log_warn("lengths are estimated from bytes: %s", why.msg);
        *asks = false;
    }
    vec_i32_free(&ids);
    return n;
}

/* The first two turns of a conversation: prompt and the length of the answer. Too short and too long ones are
 * left out (vLLM's limits). */
static int take_conversation(struct dataset *d, const cJSON *entry, const struct serve_options *o,
                             struct client *c, const char *model, bool *asks, struct err *e)
{
    const cJSON *turns = json_get(entry, "conversations");
    const cJSON *first = cJSON_IsArray(turns) ? turns->child : NULL, *second = first ? first->next : NULL;
    const char *question = json_get_cstr(first, "value"), *answer = json_get_cstr(second, "value");
    if (!question || !answer) return 0;
    if (strlen(question) > 16384 || strlen(answer) > 32768) return 0;
    int in = text_tokens(o, c, model, question, asks);
    int out = o->sharegpt_output_len ? o->sharegpt_output_len : text_tokens(o, c, model, answer, asks);
    if (in < 4 || in > 1024 || (!o->sharegpt_output_len && out < 4) || in + out > 2048) return 0;
    struct prompt *p = &d->prompt[d->n];
    p->text = strdup(question);
    p->input_len = in;
    p->output_len = out;
    if (!p->text) return no_memory(e);
    d->n++;
    return 0;
}

static int load_sharegpt(struct dataset *d, const struct serve_options *o, struct client *c,
                         const char *model, uint64_t *random, struct err *e)
{
    cJSON *file = NULL;
    int status = json_load(o->dataset_path, (size_t)1 << 30, &file, e);
    if (status) return status;
    int n = cJSON_IsArray(file) ? cJSON_GetArraySize(file) : 0;
    const cJSON **entry = calloc((size_t)n + 1, sizeof *entry);
    if (!entry) status = no_memory(e);
    const cJSON *item = file->child;
    for (int i = 0; entry && i < n; i++, item = item->next) entry[i] = item;
    bool asks = true;
    for (int i = n; !status && i > 0 && d->n < o->num_prompts; i--) { /* a shuffle, as far as it is needed */
        int k = draw_below(random, i);
        status = take_conversation(d, entry[k], o, c, model, &asks, e);
        entry[k] = entry[i - 1];
    }
    if (!status && !d->n) status = err_set(e, ERR_FORMAT, "%s: no usable conversation", o->dataset_path);
    for (int found = d->n; !status && d->n < o->num_prompts; d->n++) { /* too few: some come again */
        struct prompt *p = &d->prompt[d->n];
        *p = d->prompt[d->n % found];
        if (!(p->text = strdup(p->text))) status = no_memory(e);
    }
    free(entry);
    cJSON_Delete(file);
    return status;
}

int dataset_make(struct dataset *d, const struct serve_options *o, struct client *c, const char *model,
                 uint64_t *random, struct err *e)
{
    struct vocab v = {0};
    *d = (struct dataset){.prompt = calloc((size_t)o->num_prompts, sizeof *d->prompt)};
    if (!d->prompt) return no_memory(e);
    bool sharegpt = !strcmp(o->dataset_name, "sharegpt");
    int status = sharegpt || o->chat ? 0 : vocab_ask(&v, c, o->url_path, model, e);
    if (!status && sharegpt)
        status = load_sharegpt(d, o, c, model, random, e);
    else if (!status && !strcmp(o->dataset_name, "random"))
        status = make_all_random(d, o, &v, random, e);
    else if (!status)
        status = make_prefixes(d, o, &v, random, e);
    vec_i32_free(&v.list);
    return status;
}

void dataset_free(struct dataset *d)
{
    for (int i = 0; d->prompt && i < d->n; i++) {
        free(d->prompt[i].text);
        vec_i32_free(&d->prompt[i].ids);
    }
    free(d->prompt);
    *d = (struct dataset){0};
}
