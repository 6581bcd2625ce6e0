#include "err.h"
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 4, 0))) static int set(struct err *e, int code, const char *param,
                                                     const char *fmt, va_list ap)
{
    if (!e) return code;
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    return code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set(e, code, "", fmt, ap);
    va_end(ap);
    return code;
}

int err_param(struct err *e, int code, const char *param, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set(e, code, param, fmt, ap);
    va_end(ap);
    return code;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
    if (!e) return ERR_INVALID;
    char tail[sizeof e->msg];
    memcpy(tail, e->msg, sizeof tail);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    if ((size_t)n < sizeof e->msg) snprintf(e->msg + n, sizeof e->msg - (size_t)n, "%s", tail);
    return e->code;
}
