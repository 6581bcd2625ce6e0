/* inferd run: answers in the terminal, tokens as they come. With a chat template PROMPT is a user's message
 * and without PROMPT there is a chat; a base model continues the text. Ctrl-C ends an answer, a second one
 * the program. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "chat.h"
#include "command.h"
#include "launch.h"

static volatile sig_atomic_t interrupted;
static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

struct run {
    struct launch l;
    cJSON *chat, *messages; /* a chat request's body, and in it the messages so far */
};

static void add_message(struct run *r, const char *role, const char *content)
{
    cJSON *m = cJSON_CreateObject();
    cJSON_AddStringToObject(m, "role", role);
    cJSON_AddStringToObject(m, "content", content);
    cJSON_AddItemToArray(r->messages, m);
}

static void set_params(const struct run *r, struct gen_params *p)
{
    api_gen_defaults(&r->l.model->gen, p);
    if (r->l.opt.temperature >= 0) p->temperature = (float)r->l.opt.temperature;
    p->max_tokens = r->l.opt.max_tokens ? r->l.opt.max_tokens : INT32_MAX;
    p->seed = (uint64_t)r->l.opt.seed;
    if (!p->seed && getrandom(&p->seed, sizeof p->seed, 0) < 0) p->seed = (uint64_t)time(NULL);
}

/* Prints the answer to the prompt and appends it to *answer. */
static int generate(struct run *r, const struct vec_i32 *ids, struct buf *answer, struct err *e)
{
    struct gen_params p;
    struct request *req = NULL;
    struct out_batch out = {0};
    set_params(r, &p);
    int status = request_new(ids->v, ids->n, &p, NULL, NULL, &req, e);
    if (!status) status = engine_submit(r->l.engine, req, e);
    while (!status && !out.done) {
        if (!request_take(req, &out, 200)) out.done = false;
        fwrite(out.n_text ? out.text : "", 1, out.n_text, stdout);
        fflush(stdout);
        buf_add(answer, out.text, out.n_text);
        out.n_text = 0;
        if (interrupted) engine_cancel(r->l.engine, req);
    }
    if (!status && out.finish == FINISH_ERROR) {
        *e = out.error;
        status = e->code;
    }
    if (req) request_release(req);
    gen_params_free(&p);
    return status;
}

static int answer_once(struct run *r, const char *prompt, struct err *e)
{
    struct api_env env = {.tok = r->l.model->tok, .tmpl = r->l.tmpl};
    struct vec_i32 ids = {0};
    struct buf answer = {0};
    int status;
    if (r->l.tmpl) {
        add_message(r, "user", prompt);
        status = chat_tokens(r->chat, &env, &ids, e);
    } else {
        status = tok_encode(env.tok, prompt, strlen(prompt), TOK_ADD_SPECIAL, &ids, e);
    }
    if (!status) status = generate(r, &ids, &answer, e);
    if (!status && r->l.tmpl) add_message(r, "assistant", answer.data ? answer.data : "");
    vec_i32_free(&ids);
    buf_free(&answer);
    return status;
}

/* A line at a time until the end of input; a failed answer (context full, say) is reported and the chat goes
 * on. */
static void converse(struct run *r)
{
    char *line = NULL;
    size_t cap = 0;
    for (;;) {
        if (isatty(STDIN_FILENO)) fputs("> ", stdout), fflush(stdout);
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) break;
        if (n && line[n - 1] == '\n') line[n - 1] = 0;
        if (!*line) continue;
        struct err e = {0};
        interrupted = 0;
        if (answer_once(r, line, &e)) fprintf(stderr, "error: %s\n", e.msg);
        putchar('\n');
    }
    free(line);
}

int command_run(int argc, char **argv)
{
    struct run r = {.chat = cJSON_CreateObject()};
    r.messages = cJSON_AddArrayToObject(r.chat, "messages");
    struct err e = {0};
    int status = launch_options(&r.l, 'R', argc, argv, &e), code = status ? 2 : 1;
    int first = !status && *r.l.opt.model ? 0 : 1; /* the positional argument after the model */
    if (!status) status = launch_find(&r.l, &e);
    if (!status) status = launch_ranks(&r.l, false, &e);
    if (!status) status = launch_backend(&r.l, &e);
    if (!status) status = launch_model(&r.l, false, NULL, &e);
    if (!status) status = launch_template(&r.l, &e);
    if (!status) status = launch_engine(&r.l, &e);
    if (!status) {
        struct sigaction act = {.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND};
        sigaction(SIGINT, &act, NULL);
        if (r.l.opt.n_arg > first) {
            status = answer_once(&r, r.l.opt.arg[first], &e);
            putchar('\n');
        } else {
            converse(&r);
        }
    }
    if (status) code = command_fail(&e, code);
    cJSON_Delete(r.chat);
    launch_close(&r.l);
    return status ? code : 0;
}
