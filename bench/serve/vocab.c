#include "vocab.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include "json.h"
#include "log.h"

/* Common and rare words, several scripts, digits and code, so that high ids occur in any vocabulary. */
static const char sample[] =
    "The quick brown fox jumps over the lazy dog while 1234567890 engineers reconsider thermodynamic "
    "equilibrium. "
    "Pourquoi les oiseaux chantent-ils au printemps? Zwischen den B\xc3\xa4umen flie\xc3\x9ft ein kleiner "
    "Bach. "
    "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82, \xd0\xbc\xd0\xb8\xd1\x80! "
    "\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96"
    "\xe7\x95\x8c \xe3\x81\x93\xe3\x82\x93\xe3\x81\xab\xe3\x81\xa1\xe3\x81\xaf "
    "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d "
    "for (int i = 0; i < n; i++) { sum += values[i] * weights[i]; } return sqrt(sum); /* photosynthesis, "
    "xylophone, "
    "quixotic, zephyr, jurisprudence, archaeology, kaleidoscope, municipality, Wednesday, Vancouver */ ";

/* Below this, vocabularies keep control, reserved and byte tokens (Tekken reserves the first 1000). */
#define LOW_IDS 1000

static int ask(struct client *c, const char *path, const char *model, const char *text, struct vec_i32 *ids,
               struct err *e)
{
    struct buf body = {0}, answer = {0};
    cJSON *json = NULL;
    int http = 0;
    buf_str(&body, "{\"model\": ");
    buf_json(&body, model, strlen(model));
    buf_str(&body, ", \"prompt\": ");
    buf_json(&body, text, strlen(text));
    buf_str(&body, ", \"add_special_tokens\": false}");
    int status = client_call(c, "POST", path, &body, &http, &answer, e);
    if (!status && http != 200) status = err_set(e, ERR_UNSUPPORTED, "%s: HTTP %d", path, http);
    if (!status) status = json_parse(answer.data ? answer.data : "", answer.len, JSON_LIMITS_FILE, &json, e);
    const cJSON *tokens = json_get(json, "tokens");
    if (!status && !cJSON_IsArray(tokens))
        status = err_set(e, ERR_UNSUPPORTED, "%s: no tokens in the answer", path);
    for (const cJSON *t = tokens ? tokens->child : NULL; !status && t; t = t->next) {
        if (!cJSON_IsNumber(t) || t->valuedouble < 0 || t->valuedouble > INT_MAX)
            status = err_set(e, ERR_FORMAT, "%s: not a token id", path);
        else if (vec_i32_push(ids, (int32_t)t->valuedouble))
            status = err_set(e, ERR_NOMEM, "out of memory");
    }
    cJSON_Delete(json);
    buf_free(&body);
    buf_free(&answer);
    return status;
}

int vocab_tokenize(struct client *c, const char *prefix, const char *model, const char *text,
                   struct vec_i32 *ids, struct err *e)
{
    char path[600];
    snprintf(path, sizeof path, "%s/tokenize", prefix);
    ids->n = 0;
    return ask(c, path, model, text, ids, e);
}

int vocab_ask(struct vocab *v, struct client *c, const char *prefix, const char *model, struct err *e)
{
    struct err why = {0};
    int high = 0;
    int status = vocab_tokenize(c, prefix, model, sample, &v->list, &why);
    if (status == ERR_NOMEM || status == ERR_IO) {
        if (e) *e = why;
        return status;
    }
    if (status || !v->list.n) { /* bytes or rare characters in the vocabularies known */
        log_warn("no token ids from /tokenize (%s): random prompts use the ids 10 to 249", why.msg);
        v->list.n = 0;
        v->low = 10;
        v->count = 240;
        return 0;
    }
    for (int i = 0; i < v->list.n; i++)
        if (v->list.v[i] > high) high = v->list.v[i];
    if (high < 2 * LOW_IDS) return 0; /* a small vocabulary: the sample's own ids */
    v->list.n = 0;
    v->low = LOW_IDS;
    v->count = high - LOW_IDS + 1;
    return 0;
}
