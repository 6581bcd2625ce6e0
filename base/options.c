#include "options.h"
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "file.h"

enum option_type { STR, INT, NUM, SIZE, BOOL };
struct def {
    enum option_type type;
    size_t offset;
    const char *flag, *metavar, *def, *commands, *help;
};
static const struct def table[] = {
#define X(field, type, flag, metavar, def, commands, help)                                                   \
    {type, offsetof(struct options, field), flag, metavar, def, commands, help},
#include "options.def"
#undef X
};
#define N_TABLE (sizeof table / sizeof table[0])

/* Other servers' names for the same thing. */
static const char *const alias[][2] = {
    {"num-gpu-blocks-override", "num-kv-blocks"},
    {"tp", "tensor-parallel-size"},
    {"max-num-queued-reqs", "max-queue"},
};

int options_parse_size(const char *text, int64_t *out)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {
        {"", 1},     {"k", 1e3},    {"m", 1e6},       {"g", 1e9},          {"kb", 1e3},           {"mb", 1e6},
        {"gb", 1e9}, {"kib", 1024}, {"mib", 1048576}, {"gib", 1073741824}, {"tib", 1099511627776}};
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (end == text || errno || !(v >= 0)) return ERR_INVALID;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcasecmp(end, units[i].name)) continue;
        v *= units[i].factor;
        if (!(v <= 9e18) || v != floor(v)) return ERR_INVALID;
        *out = (int64_t)v;
        return 0;
    }
    return ERR_INVALID;
}

static int parse_bool(const char *text, bool *out)
{
    if (!strcasecmp(text, "true") || !strcmp(text, "1") || !strcasecmp(text, "yes") ||
        !strcasecmp(text, "on"))
        *out = true;
    else if (!strcasecmp(text, "false") || !strcmp(text, "0") || !strcasecmp(text, "no") ||
             !strcasecmp(text, "off"))
        *out = false;
    else
        return ERR_INVALID;
    return 0;
}

static int set_value(struct options *o, const struct def *d, const char *text, struct err *e)
{
    void *at = (char *)o + d->offset;
    char *end = NULL;
    const char *want = "";
    errno = 0;
    switch (d->type) {
    case STR: {
        char *copy = strdup(text);
        if (!copy) return err_set(e, ERR_NOMEM, "out of memory");
        free(*(char **)at);
        *(char **)at = copy;
        return 0;
    }
    case INT: {
        long v = strtol(text, &end, 10);
        if (end != text && !*end && !errno && v >= 0 && v <= INT_MAX) {
            *(int *)at = (int)v;
            return 0;
        }
        want = "a whole number from 0 on";
        break;
    }
    case NUM: {
        double v = strtod(text, &end);
        if (end != text && !*end && !errno && isfinite(v)) {
            *(double *)at = v;
            return 0;
        }
        want = "a number";
        break;
    }
    case SIZE:
        if (!options_parse_size(text, at)) return 0;
        want = "a size such as 4096, 32k or 2GiB";
        break;
    case BOOL:
        if (!parse_bool(text, at)) return 0;
        want = "true or false";
        break;
    }
    return err_param(e, ERR_INVALID, d->flag, "--%s: must be %s, not \"%.40s\"", d->flag, want, text);
}

static const struct def *find(const char *flag, size_t n)
{
    for (size_t i = 0; i < sizeof alias / sizeof alias[0]; i++)
        if (strlen(alias[i][0]) == n && !strncmp(alias[i][0], flag, n))
            return find(alias[i][1], strlen(alias[i][1]));
    for (size_t i = 0; i < N_TABLE; i++) {
        if (strlen(table[i].flag) != n) continue;
        size_t k = 0;
        while (k < n && (flag[k] == '_' ? '-' : flag[k]) == table[i].flag[k]) k++;
        if (k == n) return &table[i];
    }
    return NULL;
}

static int unknown(const char *where, const char *flag, size_t n, struct err *e)
{
    const struct def *near = NULL;
    size_t best = 3; /* a hint needs a common beginning */
    for (size_t i = 0; i < N_TABLE; i++) {
        size_t k = 0;
        while (k < n && table[i].flag[k] && table[i].flag[k] == flag[k]) k++;
        if (k > best) best = k, near = &table[i];
    }
    return err_set(e, ERR_INVALID, "%s%.*s: unknown option%s%s%s", where, (int)(n > 60 ? 60 : n), flag,
                   near ? " (did you mean --" : "", near ? near->flag : "", near ? "?)" : "");
}

/* `key: value` lines with # comments: the part of YAML that a flat file of scalars needs. */
static int load_file(struct options *o, const char *path, struct err *e)
{
    struct buf text = {0};
    int status = file_read(path, 1 << 20, &text, e), line = 0;
    for (char *at = text.data, *next; !status && at && *at; at = next) {
        line++;
        next = at + strcspn(at, "\n");
        if (*next) *next++ = 0;
        at += strspn(at, " \t\r-");
        if (!*at || *at == '#') continue;
        size_t n_key = strcspn(at, ": \t\r");
        char *value = at + n_key + strspn(at + n_key, " \t");
        const struct def *d = find(at, n_key);
        if (!d) {
            status = unknown("", at, n_key, e);
        } else if (*value != ':') {
            status = err_set(e, ERR_INVALID, "expected `%s: value`", d->flag);
        } else {
            value += 1 + strspn(value + 1, " \t");
            char quote = *value == '"' || *value == '\'' ? *value++ : 0;
            char *end = quote ? strchr(value, quote) : strstr(value, " #");
            if (!end) end = value + strlen(value);
            while (!quote && end > value && isspace((unsigned char)end[-1])) end--;
            *end = 0;
            status = set_value(o, d, value, e);
        }
        if (status) err_prefix(e, "%s: line %d: ", path, line);
    }
    buf_free(&text);
    return status;
}

static int load_environment(struct options *o, char command, struct err *e)
{
    for (size_t i = 0; i < N_TABLE; i++) {
        char name[64] = "INFERD_";
        size_t k = strlen(name);
        for (const char *c = table[i].flag; *c && k < sizeof name - 1; c++)
            name[k++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
        name[k] = 0;
        const char *value = getenv(name);
        if (value && strchr(table[i].commands, command) && set_value(o, &table[i], value, e))
            return err_prefix(e, "%s: ", name);
    }
    return 0;
}

/* One argument that begins with --; *used is 2 if it took the next one as its value. */
static int load_flag(struct options *o, char command, char **argv, int left, int *used, struct err *e)
{
    const char *flag = argv[0] + 2, *value = strchr(flag, '=');
    size_t n = value ? (size_t)(value - flag) : strlen(flag);
    const struct def *d = find(flag, n);
    *used = 1;
    if (!d && !strncmp(flag, "no-", 3)) {
        d = find(flag + 3, n - 3);
        if (!d || d->type != BOOL || value) return unknown("--", flag, n, e);
        return set_value(o, d, "false", e);
    }
    if (!d) return unknown("--", flag, n, e);
    if (!strchr(d->commands, command))
        return err_param(e, ERR_INVALID, d->flag, "--%s: not an option of this command", d->flag);
    if (value) return set_value(o, d, value + 1, e);
    if (d->type == BOOL) return set_value(o, d, "true", e);
    if (left < 2) return err_param(e, ERR_INVALID, d->flag, "--%s: needs a value", d->flag);
    *used = 2;
    return set_value(o, d, argv[1], e);
}

int options_load(struct options *o, char command, int argc, char **argv, struct err *e)
{
    int status, used;
    *o = (struct options){0};
    o->arg = calloc((size_t)argc + 1, sizeof *o->arg);
    if (!o->arg) return err_set(e, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < N_TABLE; i++)
        if ((status = set_value(o, &table[i], table[i].def, e))) return status;
    /* The config file's name must be known before the rest of the command line is read over it. */
    const char *config = getenv("INFERD_CONFIG");
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--config") && i + 1 < argc) config = argv[i + 1];
        if (!strncmp(argv[i], "--config=", 9)) config = argv[i] + 9;
    }
    if (config && (status = load_file(o, config, e))) return status;
    if ((status = load_environment(o, command, e))) return status;
    for (int i = 0; i < argc; i += used) {
        used = 1;
        if (!strcmp(argv[i], "--")) {
            while (++i < argc) o->arg[o->n_arg++] = argv[i];
            break;
        }
        if (!strncmp(argv[i], "--", 2)) {
            if ((status = load_flag(o, command, argv + i, argc - i, &used, e))) return status;
        } else if (argv[i][0] == '-' && argv[i][1]) {
            return unknown("", argv[i], strlen(argv[i]), e);
        } else {
            o->arg[o->n_arg++] = argv[i];
        }
    }
    return 0;
}

void options_free(struct options *o)
{
    for (size_t i = 0; i < N_TABLE; i++)
        if (table[i].type == STR) free(*(char **)((char *)o + table[i].offset));
    free(o->arg);
    *o = (struct options){0};
}

void options_help(char command, struct buf *out)
{
    for (size_t i = 0; i < N_TABLE; i++) {
        const struct def *d = &table[i];
        if (!strchr(d->commands, command)) continue;
        char left[64];
        snprintf(left, sizeof left, d->type == BOOL ? "--[no-]%s" : "--%s %s", d->flag, d->metavar);
        buf_fmt(out, "  %-34s %s", left, d->help);
        if (*d->def && !strstr(d->help, "default") && !strstr(d->help, "0:")) buf_fmt(out, " (%s)", d->def);
        buf_chr(out, '\n');
    }
}

void options_markdown(struct buf *out)
{
    buf_str(out, "| option | default | commands | meaning |\n| --- | --- | --- | --- |\n");
    for (size_t i = 0; i < N_TABLE; i++) {
        const struct def *d = &table[i];
        buf_fmt(out, d->type == BOOL ? "| `--[no-]%s%s%s`" : "| `--%s%s%s`", d->flag, *d->metavar ? " " : "",
                d->metavar);
        buf_fmt(out, " | %s | ", *d->def ? d->def : "");
        static const char *const names[] = {"S", "serve", "R", "run", "C", "check", "B", "bench"};
        for (int k = 0; k < 8; k += 2)
            if (strstr(d->commands, names[k]))
                buf_fmt(out, "%s%s", strchr(d->commands, names[k][0]) == d->commands ? "" : ", ",
                        names[k + 1]);
        buf_str(out, " | ");
        for (const char *c = d->help; *c; c++) { /* a bar would end the cell */
            if (*c == '|') buf_chr(out, '\\');
            buf_chr(out, *c);
        }
        buf_str(out, " |\n");
    }
}
