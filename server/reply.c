#include "reply.h"
#include <string.h>
#include "utf8.h"

#define MESSAGE_MAX 512

static const struct {
    int status;
    const char *reason, *type;
} statuses[] = {
    {200, "OK", ""},
    {204, "No Content", ""},
    {400, "Bad Request", "invalid_request_error"},
    {401, "Unauthorized", "authentication_error"},
    {404, "Not Found", "not_found_error"},
    {405, "Method Not Allowed", "invalid_request_error"},
    {408, "Request Timeout", "invalid_request_error"},
    {413, "Content Too Large", "invalid_request_error"},
    {414, "URI Too Long", "invalid_request_error"},
    {415, "Unsupported Media Type", "invalid_request_error"},
    {417, "Expectation Failed", "invalid_request_error"},
    {429, "Too Many Requests", "rate_limit_error"},
    {431, "Request Header Fields Too Large", "invalid_request_error"},
    {500, "Internal Server Error", "server_error"},
    {503, "Service Unavailable", "server_error"},
    {505, "HTTP Version Not Supported", "invalid_request_error"},
};
#define N_STATUS (sizeof statuses / sizeof statuses[0])

const char *reply_error_type(int status)
{
    for (size_t i = 0; i < N_STATUS; i++)
        if (statuses[i].status == status) return statuses[i].type;
    return status >= 500 ? "server_error" : "invalid_request_error";
}

const char *reply_reason(int status)
{
    for (size_t i = 0; i < N_STATUS; i++)
        if (statuses[i].status == status) return statuses[i].reason;
    return "Error";
}

int reply_status_of(int err_code)
{
    switch (err_code) {
    case ERR_INVALID:
    case ERR_UNSUPPORTED:
    case ERR_FORMAT:
    case ERR_TOO_LONG:
    case ERR_BUDGET: return 400;
    case ERR_NOTFOUND: return 404;
    case ERR_FULL: return 429;
    case ERR_CLOSED:
    case ERR_NOMEM: return 503;
    default: return 500;
    }
}

void reply_error_json(struct buf *out, int status, const char *type, const char *param, const char *message)
{
    struct buf clean = {0};
    utf8_clean(&clean, message, strlen(message));
    for (size_t i = 0; i < clean.len; i++)
        if ((unsigned char)clean.data[i] < ' ') clean.data[i] = ' ';
    size_t n = clean.len > MESSAGE_MAX ? utf8_whole(clean.data, MESSAGE_MAX) : clean.len;
    buf_str(out, "{\"error\":{\"message\":");
    buf_json(out, n ? clean.data : "", n);
    buf_fmt(out, ",\"type\":\"%s\",\"param\":", type);
    if (param && *param && utf8_valid(param, strlen(param)))
        buf_json(out, param, strlen(param));
    else
        buf_str(out, "null");
    buf_fmt(out, ",\"code\":%d}}", status);
    buf_free(&clean);
}

void reply_raw(struct buf *out, int status, const char *message)
{
    struct buf body = {0};
    reply_error_json(&body, status, reply_error_type(status), NULL, message);
    buf_fmt(out,
            "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: "
            "close\r\n%s\r\n",
            status, reply_reason(status), body.len, status == 503 ? "Retry-After: 1\r\n" : "");
    buf_add(out, body.data, body.len);
    out->failed |= body.failed;
    buf_free(&body);
}
