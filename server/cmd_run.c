/* inferd run: answers in the terminal, tokens as they come. With a chat template PROMPT is a user's message
 * and without PROMPT there is a chat; a base model continues the text. Ctrl-C ends an answer, a second one
 * the program. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "command.h"
#include "file.h"
#include "json.h"
#include "launch.h"
#include "log.h"
#include "template.h"

static volatile sig_atomic_t interrupted;
static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

struct run {
    struct launch l;
    struct template *tmpl;
    cJSON *messages; /* the chat so far */
};

static int load_template(struct run *r, struct err *e)
{
    struct buf text = {0};
    const char *file = r->l.opt.chat_template, *src = r->l.model->chat_template;
    int status = *file ? file_read(file, 1 << 20, &text, e) : 0;
    if (!status && !*file && src) buf_str(&text, src);
    if (!status && text.len) status = template_compile(text.data, text.len, &r->tmpl, e);
    buf_free(&text);
    return status;
}

static void add_message(struct run *r, const char *role, const char *content)
{
    cJSON *m = cJSON_CreateObject();
    cJSON_AddStringToObject(m, "role", role);
    cJSON_AddStringToObject(m, "content", content);
    cJSON_AddItemToArray(r->messages, m);
}

static int render_chat(struct run *r, struct buf *text, struct err *e)
{
    const struct tokenizer *tok = r->l.model->tok;
    cJSON *vars = cJSON_CreateObject();
    size_t n;
    const char *bos = tok_bos(tok) >= 0 ? tok_token(tok, tok_bos(tok), &n) : NULL;
    const char *eos = tok_eos(tok) >= 0 ? tok_token(tok, tok_eos(tok), &n) : NULL;
    cJSON_AddItemReferenceToObject(vars, "messages", r->messages);
    cJSON_AddBoolToObject(vars, "add_generation_prompt", true);
    cJSON_AddStringToObject(vars, "bos_token", bos ? bos : "");
    cJSON_AddStringToObject(vars, "eos_token", eos ? eos : "");
    int status = template_render(r->tmpl, vars, time(NULL), TEMPLATE_BUDGET, text, e);
    cJSON_Delete(vars);
    return status;
}

static void set_params(const struct run *r, struct gen_params *p)
{
    const struct gen_defaults *d = &r->l.model->gen;
    gen_params_init(p);
    if (!isnan(d->temperature)) p->temperature = d->temperature;
    if (!isnan(d->top_p)) p->top_p = d->top_p;
    if (!isnan(d->min_p)) p->min_p = d->min_p;
    if (!isnan(d->repetition_penalty)) p->repetition_penalty = d->repetition_penalty;
    if (d->top_k >= 0) p->top_k = d->top_k;
    if (r->l.opt.temperature >= 0) p->temperature = (float)r->l.opt.temperature;
    p->max_tokens = r->l.opt.max_tokens ? r->l.opt.max_tokens : INT32_MAX;
    p->seed = (uint64_t)r->l.opt.seed;
    if (!p->seed && getrandom(&p->seed, sizeof p->seed, 0) < 0) p->seed = (uint64_t)time(NULL);
}

/* Prints the answer to `text` and appends it to *answer. */
static int generate(struct run *r, const struct buf *text, unsigned flags, struct buf *answer, struct err *e)
{
    struct vec_i32 ids = {0};
    struct gen_params p;
    struct request *req = NULL;
    struct out_batch out = {0};
    set_params(r, &p);
    int status = tok_encode(r->l.model->tok, text->data ? text->data : "", text->len, flags, &ids, e);
    if (!status) status = request_new(ids.v, ids.n, &p, NULL, NULL, &req, e);
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
    vec_i32_free(&ids);
    gen_params_free(&p);
    return status;
}

static int chat_turn(struct run *r, const char *line, struct err *e)
{
    struct buf text = {0}, answer = {0};
    add_message(r, "user", line);
    int status = render_chat(r, &text, e);
    if (!status) status = generate(r, &text, TOK_PARSE_SPECIAL, &answer, e);
    if (!status) add_message(r, "assistant", answer.data ? answer.data : "");
    buf_free(&text);
    buf_free(&answer);
    return status;
}

static int answer_once(struct run *r, const char *prompt, struct err *e)
{
    if (r->tmpl) return chat_turn(r, prompt, e);
    struct buf text = {0}, answer = {0};
    buf_str(&text, prompt);
    int status = generate(r, &text, TOK_ADD_SPECIAL, &answer, e);
    buf_free(&text);
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
    struct run r = {.messages = cJSON_CreateArray()};
    struct err e = {0};
    int status = launch_options(&r.l, 'R', argc, argv, &e), code = status ? 2 : 1;
    int first = !status && *r.l.opt.model ? 0 : 1; /* the positional argument after the model */
    if (!status) status = launch_find(&r.l, &e);
    if (!status) status = launch_backend(&r.l, &e);
    if (!status) status = launch_model(&r.l, false, NULL, &e);
    if (!status) status = load_template(&r, &e);
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
    cJSON_Delete(r.messages);
    template_free(r.tmpl);
    launch_close(&r.l);
    return status ? code : 0;
}
