#include "chat.h"
#include <string.h>
#include <time.h>
#include "template.h"
#include "tokenizer.h"

/* Variables that the server sets: a client that could replace them could forge a conversation. */
static const char *const reserved[] = {
    "messages",
    "conversation",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
    "bos_token",
    "eos_token",
    "return_dict",
    "padding",
    "truncation",
    "max_length",
};

static int wrong(struct err *e, int i, const char *what)
{
    return err_param(e, ERR_INVALID, "messages", "messages[%d]%s", i, what);
}

/* A content list as one string, its texts on lines of their own. */
static int join_parts(const cJSON *parts, int i, struct buf *out, struct err *e)
{
    static const char *const media[] = {"image_url", "image", "input_image", "input_audio", "audio",
                                        "video_url", "video", "file",        "input_file"};
    for (const cJSON *p = parts->child; p; p = p->next) {
        const char *type = json_get_cstr(p, "type"), *text = json_get_cstr(p, "text");
        for (size_t k = 0; type && k < sizeof media / sizeof media[0]; k++)
            if (!strcmp(type, media[k]))
                return err_param(e, ERR_UNSUPPORTED, "messages",
                                 "messages[%d].content: %s is not supported, only text", i, media[k]);
        if (!type || (strcmp(type, "text") && strcmp(type, "input_text")) || !text)
            return wrong(e, i, ".content: a part must be {\"type\": \"text\", \"text\": a string}");
        if (p != parts->child) buf_chr(out, '\n');
        buf_str(out, text);
    }
    return 0;
}

static int set_content(cJSON *m, const char *text, struct err *e)
{
    cJSON *s = cJSON_CreateString(text);
    bool old = cJSON_GetObjectItemCaseSensitive(m, "content") != NULL;
    bool ok = s && (old ? cJSON_ReplaceItemInObjectCaseSensitive(m, "content", s)
                        : cJSON_AddItemToObject(m, "content", s));
    if (ok) return 0;
    cJSON_Delete(s);
    return err_set(e, ERR_NOMEM, "out of memory");
}

/* Checks one message and makes its content a string. */
static int normalise(cJSON *m, int i, struct err *e)
{
    if (!cJSON_IsObject(m)) return wrong(e, i, ": must be an object");
    const char *role = json_get_cstr(m, "role");
    if (!role || !*role) return wrong(e, i, ".role: must be a string");
    const cJSON *content = json_get(m, "content");
    if (cJSON_IsString(content)) return 0;
    struct buf text = {0};
    int status = 0;
    if (cJSON_IsArray(content))
        status = join_parts(content, i, &text, e);
    else if (content)
        status = wrong(e, i, ".content: must be a string or a list of text parts");
    else if (!json_get(m, "tool_calls") && strcmp(role, "assistant"))
        status = wrong(e, i, ".content: is required");
    if (!status && text.failed) status = err_set(e, ERR_NOMEM, "out of memory");
    if (!status) status = set_content(m, text.len ? text.data : "", e);
    buf_free(&text);
    return status;
}

static int get_messages(const cJSON *body, cJSON **out, struct err *e)
{
    const cJSON *list = json_get(body, "messages");
    if (!cJSON_IsArray(list) || !list->child)
        return err_param(e, ERR_INVALID, "messages", "messages: must be a list of at least one message");
    *out = cJSON_Duplicate(list, true);
    if (!*out) return err_set(e, ERR_NOMEM, "out of memory");
    int status = 0, i = 0;
    for (cJSON *m = (*out)->child; m && !status; m = m->next) status = normalise(m, i++, e);
    return status;
}

static void add_token(cJSON *vars, const char *name, const struct tokenizer *tok, int32_t id)
{
    struct buf text = {0};
    size_t n = 0;
    const char *s = id >= 0 ? tok_token(tok, id, &n) : NULL;
    if (s) buf_add(&text, s, n);
    cJSON_AddStringToObject(vars, name, text.len ? text.data : "");
    buf_free(&text);
}

static int add_kwargs(const cJSON *body, cJSON *vars, struct err *e)
{
    const cJSON *kw = json_get(body, "chat_template_kwargs");
    const cJSON *effort = json_get(body, "reasoning_effort");
    if (effort && !cJSON_IsString(effort))
        return err_param(e, ERR_INVALID, "reasoning_effort", "reasoning_effort: must be a string");
    if (effort) cJSON_AddStringToObject(vars, "reasoning_effort", effort->valuestring);
    if (!kw) return 0;
    if (!cJSON_IsObject(kw))
        return err_param(e, ERR_INVALID, "chat_template_kwargs", "chat_template_kwargs: must be an object");
    for (const cJSON *v = kw->child; v; v = v->next) {
        for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
            if (!strcmp(v->string, reserved[i]))
                return err_param(e, ERR_INVALID, "chat_template_kwargs",
                                 "chat_template_kwargs: %s cannot be set", reserved[i]);
        cJSON_DeleteItemFromObjectCaseSensitive(vars, v->string);
        cJSON *copy = cJSON_Duplicate(v, true);
        if (!copy || !cJSON_AddItemToObject(vars, v->string, copy)) {
            cJSON_Delete(copy);
            return err_set(e, ERR_NOMEM, "out of memory");
        }
    }
    return 0;
}

/* Cuts the rendered text after the last message's content, so that the answer goes on where it ends. */
static int cut_after_final(const cJSON *messages, struct buf *text, struct err *e)
{
    const cJSON *last = messages->child;
    while (last->next) last = last->next;
    struct buf content = {0};
    json_str(json_get(last, "content"), &content);
    size_t from = 0, to = content.len;
    while (from < to && strchr(" \t\r\n", content.data[from]) && content.data[from]) from++;
    while (to > from && strchr(" \t\r\n", content.data[to - 1]) && content.data[to - 1]) to--;
    size_t n = to - from, at = n && n <= text->len ? text->len - n + 1 : 0;
    bool found = false;
    while (at > 0 && !found) found = !memcmp(text->data + --at, content.data + from, n);
    buf_free(&content);
    if (!found)
        return err_param(e, ERR_INVALID, "continue_final_message",
                         "continue_final_message: the final message is empty or the template changes it");
    text->len = at + n;
    text->data[text->len] = 0;
    return 0;
}

struct chat_flags {
    bool add_generation, continue_final, add_special;
};
static int get_flags(const cJSON *body, struct chat_flags *f, struct err *e)
{
    *f = (struct chat_flags){.add_generation = true};
    e->code = 0;
    bool given = json_get_bool(body, "add_generation_prompt", &f->add_generation, e);
    if (!e->code) json_get_bool(body, "continue_final_message", &f->continue_final, e);
    if (!e->code) json_get_bool(body, "add_special_tokens", &f->add_special, e);
    if (e->code) return e->code;
    if (f->continue_final && given && f->add_generation)
        return err_param(e, ERR_INVALID, "continue_final_message",
                         "continue_final_message: cannot be combined with add_generation_prompt");
    if (f->continue_final) f->add_generation = false;
    return 0;
}

static int render(const cJSON *body, const struct api_env *env, const struct chat_flags *f, struct buf *text,
                  struct err *e)
{
    cJSON *messages = NULL, *vars = cJSON_CreateObject();
    int status = vars ? get_messages(body, &messages, e) : err_set(e, ERR_NOMEM, "out of memory");
    if (!status) {
        cJSON_AddItemReferenceToObject(vars, "messages", messages);
        cJSON_AddBoolToObject(vars, "add_generation_prompt", f->add_generation);
        add_token(vars, "bos_token", env->tok, tok_bos(env->tok));
        add_token(vars, "eos_token", env->tok, tok_eos(env->tok));
        status = add_kwargs(body, vars, e);
    }
    if (!status) {
        status = template_render(env->tmpl, vars, time(NULL), TEMPLATE_BUDGET, text, e);
        if (!status && text->failed) status = err_set(e, ERR_NOMEM, "out of memory");
        if (status && !*e->param) {
            struct err why = *e;
            err_param(e, status, "messages", "the chat template refused the messages: %.200s", why.msg);
        }
    }
    if (!status && f->continue_final) status = cut_after_final(messages, text, e);
    cJSON_Delete(vars);
    cJSON_Delete(messages);
    return status;
}

int chat_tokens(const cJSON *body, const struct api_env *env, struct vec_i32 *ids, struct err *e)
{
    struct chat_flags f;
    struct buf text = {0};
    if (!env->tmpl)
        return err_param(
            e, ERR_INVALID, "messages",
            "this model has no chat template: start the server with --chat-template FILE, or use "
            "/v1/completions");
    int status = get_flags(body, &f, e);
    if (!status) status = render(body, env, &f, &text, e);
    if (!status)
        status = tok_encode(env->tok, text.data ? text.data : "", text.len,
                            TOK_PARSE_SPECIAL | (f.add_special ? TOK_ADD_SPECIAL : 0), ids, e);
    buf_free(&text);
    return status;
}
