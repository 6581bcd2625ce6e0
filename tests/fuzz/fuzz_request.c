/* Bytes to JSON to request parameters, for completions and chat. What is accepted must be within the limits,
 * and what is refused must say why. */
#include <stdlib.h>
#include <string.h>
#include "fake_engine.h"
#include "json.h"
#include "openai_in.h"
#include "utf8.h"

static void check(enum api_kind kind, const cJSON *j, const struct api_env *env)
{
    struct api_request r;
    struct err e = {0};
    int status = api_parse(kind, j, env, &r, &e);
    if (status && (e.code != status || !e.msg[0])) abort();
    if (!status) {
        const struct gen_params *g = &r.gen;
        if (r.n < 1 || r.n > 128 || r.n_prompt < 1 || r.n * r.n_prompt > 1024 || g->max_tokens < 1) abort();
        if (g->n_stop > STOP_MAX || g->n_bias > LOGIT_BIAS_MAX || g->logprobs > LOGPROBS_MAX) abort();
        if (!(g->temperature >= 0 && g->temperature <= 2) || !(g->top_p > 0 && g->top_p <= 1)) abort();
        for (int i = 0; i < g->n_bias; i++)
            if (g->bias[i].token < 0 || g->bias[i].token >= env->vocab ||
                (i && g->bias[i].token <= g->bias[i - 1].token))
                abort();
        for (int i = 0; i < r.n_prompt; i++) {
            if (r.prompt[i].ids.n < 1 || r.prompt[i].ids.n >= env->max_model_len) abort();
            for (int k = 0; k < r.prompt[i].ids.n; k++)
                if (r.prompt[i].ids.v[k] < 0 || r.prompt[i].ids.v[k] >= env->vocab) abort();
        }
    }
    api_request_free(&r);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n)
{
    static char a_template_stands_here;
    const struct model *m = fake_model();
    struct api_env env = {.tok = m->tok,
                          .tmpl = (struct template *)&a_template_stands_here,
                          .name = "fake",
                          .vocab = 512,
                          .max_model_len = 256,
                          .gen = m->gen};
    cJSON *j;
    if (json_parse((const char *)data, n, JSON_LIMITS_REQUEST, &j, NULL)) return 0;
    check(API_COMPLETION, j, &env);
    check(API_CHAT, j, &env);
    cJSON_Delete(j);
    return 0;
}
