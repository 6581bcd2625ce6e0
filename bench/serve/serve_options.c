#include "serve_options.h"
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "draw.h"
#include "summary.h"

enum kind { STR, INT, NUM, FLAG, LIST };
#define AT(field) offsetof(struct serve_options, field)

static const struct option {
    const char *name;
    enum kind kind;
    size_t at;
    double min, max; /* INT, NUM */
    const char *help;
} table[] = {
    {"backend", STR, AT(backend), 0, 0, "vllm or openai (completions), openai-chat (openai)"},
    {"base-url", STR, AT(base_url), 0, 0, "http://HOST:PORT[/PATH], instead of --host and --port"},
    {"host", STR, AT(host), 0, 0, "server's name or address (127.0.0.1)"},
    {"port", INT, AT(port), 1, 65535, "server's port (8000)"},
    {"endpoint", STR, AT(endpoint), 0, 0, "path (/v1/completions; chat: /v1/chat/completions)"},
    {"model", STR, AT(model), 0, 0, "model's name (the first of /v1/models)"},
    {"served-model-name", STR, AT(served_model_name), 0, 0, "name to send, if it differs from --model"},
    {"tokenizer", STR, AT(tokenizer), 0, 0, "recorded in the result; the server does the counting"},
    {"dataset-name", STR, AT(dataset_name), 0, 0, "random, sharegpt or prefix_repetition (random)"},
    {"dataset-path", STR, AT(dataset_path), 0, 0, "sharegpt: the JSON file"},
    {"num-prompts", INT, AT(num_prompts), 1, 1000000, "requests (1000)"},
    {"input-len", INT, AT(input_len), 1, 1 << 20, "sets --random-input-len"},
    {"output-len", INT, AT(output_len), 1, 1 << 20, "sets the output length of any data set"},
    {"random-input-len", INT, AT(random_input_len), 1, 1 << 20, "tokens of a prompt (1024)"},
    {"random-output-len", INT, AT(random_output_len), 1, 1 << 20, "tokens of an answer (128)"},
    {"random-range-ratio", NUM, AT(random_range_ratio), 0, 0.999999, "lengths vary by this part (0)"},
    {"random-prefix-len", INT, AT(random_prefix_len), 0, 1 << 20, "tokens shared by all prompts (0)"},
    {"sharegpt-output-len", INT, AT(sharegpt_output_len), 1, 1 << 20,
     "instead of the recorded answer's length"},
    {"prefix-repetition-prefix-len", INT, AT(prefix_len), 0, 1 << 20, "tokens of a prefix (256)"},
    {"prefix-repetition-suffix-len", INT, AT(suffix_len), 1, 1 << 20, "tokens after it (256)"},
    {"prefix-repetition-num-prefixes", INT, AT(num_prefixes), 1, 1000000, "different prefixes (10)"},
    {"prefix-repetition-output-len", INT, AT(prefix_output_len), 1, 1 << 20, "tokens of an answer (128)"},
    {"request-rate", NUM, AT(request_rate), 1e-6, INFINITY, "requests per second (inf: all at once)"},
    {"burstiness", NUM, AT(burstiness), 1e-3, INFINITY, "shape of the gamma-distributed gaps (1: Poisson)"},
    {"max-concurrency", INT, AT(max_concurrency), 1, 1000000, "requests running at once (no limit)"},
    {"num-warmups", INT, AT(num_warmups), 0, 1000000, "requests before the measurement (0)"},
    {"ready-check-timeout-sec", INT, AT(ready_timeout), 0, 1 << 20, "wait for a first answer (0: no check)"},
    {"silence-timeout-sec", INT, AT(silence_timeout), 1, 1 << 20,
     "a request without a byte for this long fails (3600)"},
    {"ignore-eos", FLAG, AT(ignore_eos), 0, 0, "answers go on to their full length (always so for random)"},
    {"seed", INT, AT(seed), INT_MIN, INT_MAX, "of prompts and arrivals (0)"},
    {"temperature", NUM, AT(temperature), 0, 100, "sampling; not sent unless given, as the six that follow"},
    {"top-p", NUM, AT(top_p), 0, 1, ""},
    {"top-k", INT, AT(top_k), -1, INT_MAX, ""},
    {"min-p", NUM, AT(min_p), 0, 1, ""},
    {"frequency-penalty", NUM, AT(frequency_penalty), -2, 2, ""},
    {"presence-penalty", NUM, AT(presence_penalty), -2, 2, ""},
    {"repetition-penalty", NUM, AT(repetition_penalty), 0, 100, ""},
    {"logprobs", INT, AT(logprobs), 0, 1000, "ask for log probabilities (completions)"},
    {"percentile-metrics", STR, AT(percentile_metrics), 0, 0,
     "of ttft, tpot, itl, e2el, client_queue_time, e2el_including_client_queue (ttft,tpot,itl)"},
    {"metric-percentiles", STR, AT(metric_percentiles), 0, 0, "e.g. 50,90,99.9 (99)"},
    {"goodput", LIST, AT(goodput), 0, 0, "limits in ms: ttft:X tpot:Y e2el:Z"},
    {"header", LIST, AT(header), 0, 0, "KEY=VALUE, sent with each request"},
    {"extra-body", STR, AT(extra_body), 0, 0, "JSON object merged into each request"},
    {"request-id-prefix", STR, AT(request_id_prefix), 0, 0, "of x-request-id (bench-RANDOM-)"},
    {"save-result", FLAG, AT(save_result), 0, 0, "write a JSON file"},
    {"save-detailed", FLAG, AT(save_detailed), 0, 0, "with the numbers and texts of every request"},
    {"append-result", FLAG, AT(append_result), 0, 0, "append to the JSON file"},
    {"result-dir", STR, AT(result_dir), 0, 0, "folder of the JSON file (.)"},
    {"result-filename", STR, AT(result_filename), 0, 0, "its name (LABEL-RATEqps-MODEL-DATE.json)"},
    {"metadata", LIST, AT(metadata), 0, 0, "KEY=VALUE, recorded in the JSON file"},
    {"label", STR, AT(label), 0, 0, "recorded, and the start of the file's name (the backend)"},
    {"plot", STR, AT(plot), 0, 0, "write distributions and a timeline to this SVG file"},
    {"plot-timeline", FLAG, AT(plot_timeline), 0, 0, "the same as NAME.timeline.html beside the JSON file"},
    {"timeline-itl-thresholds", STR, AT(itl_thresholds), 0, 0,
     "ms where the timeline's colours change (25,50)"},
    {"disable-tqdm", FLAG, AT(no_progress), 0, 0, "no progress bar"},
    {"help", FLAG, AT(help), 0, 0, "this text"},
};
#define N_TABLE ((int)(sizeof table / sizeof *table))

static const char *const foreign[] = {/* vLLM's, not offered here */
                                      "lora-modules",
                                      "lora-assignment",
                                      "profile",
                                      "probe-request-rate",
                                      "insecure",
                                      "ramp-up-strategy",
                                      "ramp-up-start-rps",
                                      "ramp-up-end-rps",
                                      "use-beam-search",
                                      "skip-tokenizer-init",
                                      "tokenizer-mode",
                                      "trust-remote-code",
                                      "self-timed",
                                      "chat-template-kwargs",
                                      "plot-dataset-stats",
                                      "no-oversample",
                                      "disable-shuffle",
                                      "no-stream",
                                      "random-batch-size"};

void serve_options_help(struct buf *out)
{
    static const char *const metavar[] = {"TEXT", "N", "X", "", "ENTRY ..."};
    buf_str(out,
            "usage: inferd bench serve [options]\n\nMeasures a running server that speaks the OpenAI API "
            "(http only).\nOPENAI_API_KEY is sent if set.\n\noptions:\n");
    for (int i = 0; i < N_TABLE; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s %s", table[i].name, metavar[table[i].kind]);
        buf_fmt(out, "  %-42s %s\n", left, table[i].help);
    }
}

static int wrong(struct err *e, const char *name, const char *what)
{
    return err_param(e, ERR_INVALID, name, "--%s: %s", name, what);
}

/* "--num_prompts=8" -> "num-prompts" and "8", as vLLM's parser has it. */
static const struct option *find(const char *arg, char name[64], const char **value, struct err *e)
{
    const char *equals = strchr(arg, '=');
    snprintf(name, 64, "%.*s", equals ? (int)(equals - arg - 2) : 60, arg + 2);
    *value = equals ? equals + 1 : NULL;
    for (char *c = name; *c; c++)
        if (*c == '_') *c = '-';
    for (int i = 0; i < N_TABLE; i++)
        if (!strcmp(name, table[i].name)) return &table[i];
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (!strcmp(name, foreign[i])) {
            err_param(e, ERR_UNSUPPORTED, name, "--%s: not supported here", name);
            return NULL;
        }
    err_param(e, ERR_INVALID, name, "--%s: no such option (see --help)", name);
    return NULL;
}

static int store_number(struct serve_options *o, const struct option *opt, const char *text, struct err *e)
{
    char *end;
    double v = strtod(text, &end);
    bool whole = opt->kind == NUM || (fabs(v) < 1e15 && v == floor(v));
    if (end == text || *end || isnan(v) || !whole)
        return wrong(e, opt->name, opt->kind == INT ? "must be a whole number" : "must be a number");
    if (v < opt->min || v > opt->max)
        return err_param(e, ERR_INVALID, opt->name, "--%s: must be between %.10g and %.10g", opt->name,
                         opt->min, opt->max);
    char *at = (char *)o + opt->at;
    if (opt->kind == INT)
        *(int *)at = (int)v;
    else
        *(double *)at = v;
    return 0;
}

static int store(struct serve_options *o, const struct option *opt, const char *text, struct err *e)
{
    char *at = (char *)o + opt->at;
    if (opt->kind == INT || opt->kind == NUM) return store_number(o, opt, text, e);
    if (opt->kind == STR) {
        *(const char **)at = text;
        return 0;
    }
    struct serve_list *list = (struct serve_list *)at;
    if (list->n == SERVE_LIST_MAX) return wrong(e, opt->name, "too many entries");
    list->v[list->n++] = text;
    return 0;
}

static int parse(struct serve_options *o, int argc, char **argv, struct err *e)
{
    for (int i = 0; i < argc; i++) {
        char name[64];
        const char *value;
        if (!strcmp(argv[i], "-h")) {
            o->help = true;
            continue;
        }
        if (strncmp(argv[i], "--", 2))
            return err_set(e, ERR_INVALID, "%.100s: not an option (see --help)", argv[i]);
        const struct option *opt = find(argv[i], name, &value, e);
        if (!opt) return ERR_INVALID;
        if (opt->kind == FLAG) {
            if (value) return wrong(e, name, "takes no value");
            *(bool *)((char *)o + opt->at) = true;
            continue;
        }
        if (!value) {
            if (i + 1 == argc || !strncmp(argv[i + 1], "--", 2)) return wrong(e, name, "needs a value");
            value = argv[++i];
        }
        int status = store(o, opt, value, e);
        while (!status && opt->kind == LIST && i + 1 < argc && strncmp(argv[i + 1], "--", 2))
            status = store(o, opt, argv[++i], e);
        if (status) return status;
    }
    return 0;
}

static int split_numbers(const char *name, const char *text, double *v, int *n, int max, struct err *e)
{
    char *end;
    for (*n = 0;; text = end + 1) {
        double x = strtod(text, &end);
        if (end == text || (*end && *end != ',') || !isfinite(x) || x < 0)
            return wrong(e, name, "must be numbers separated by commas");
        if (*n == max) return wrong(e, name, "too many numbers");
        v[(*n)++] = x;
        if (!*end) return 0;
    }
}

static int check_goodput(struct serve_options *o, struct err *e)
{
    static const char *const names[] = {"ttft:", "tpot:", "e2el:"};
    for (int i = 0; i < o->goodput.n; i++) {
        const char *s = o->goodput.v[i];
        int k = 0;
        while (k < 3 && strncmp(s, names[k], 5)) k++;
        char *end;
        double v = k < 3 ? strtod(s + 5, &end) : 0;
        if (k == 3 || end == s + 5 || *end || !(v >= 0))
            return wrong(e, "goodput", "entries are ttft:MS, tpot:MS or e2el:MS");
        o->slo[k] = v;
    }
    return 0;
}

static int check_url(struct serve_options *o, struct err *e)
{
    o->url_port = o->port;
    snprintf(o->url_host, sizeof o->url_host, "%s", o->host);
    const char *url = o->base_url;
    if (!url) return 0;
    if (!strncmp(url, "https://", 8)) return wrong(e, "base-url", "https is not supported");
    if (strncmp(url, "http://", 7)) return wrong(e, "base-url", "must start with http://");
    const char *host = url + 7, *path = host + strcspn(host, "/?#"), *end = path;
    const char *bracket = *host == '[' ? memchr(host, ']', (size_t)(path - host)) : NULL;
    const char *colon = memchr(bracket ? bracket : host, ':', (size_t)(path - (bracket ? bracket : host)));
    if (colon) end = colon;
    if (bracket) host++, end = bracket;
    char *rest = NULL;
    long port = colon ? strtol(colon + 1, &rest, 10) : 80;
    size_t tail = strlen(path);
    while (tail && path[tail - 1] == '/') tail--;
    if (host == end || end - host > 255 || memchr(host, '@', (size_t)(path - host)) ||
        strpbrk(path, "?# \r\n") || tail >= sizeof o->url_path || port < 1 || port > 65535 ||
        (colon && rest != path))
        return wrong(e, "base-url", "must be http://HOST[:PORT][/PATH]");
    snprintf(o->url_host, sizeof o->url_host, "%.*s", (int)(end - host), host);
    snprintf(o->url_path, sizeof o->url_path, "%.*s", (int)tail, path);
    o->url_port = (int)port;
    return 0;
}

static bool is_metric(const char *s, size_t n)
{
    for (int m = 0; m < METRIC_COUNT; m++)
        if (strlen(metric_names[m].key) == n && !strncmp(s, metric_names[m].key, n)) return true;
    return false;
}

static int check_lists(const struct serve_options *o, struct err *e)
{
    for (int i = 0; i < o->header.n; i++) {
        size_t key = strcspn(o->header.v[i], "=");
        if (!key || !o->header.v[i][key] || strpbrk(o->header.v[i], "\r\n") ||
            memchr(o->header.v[i], ':', key))
            return wrong(e, "header", "must be KEY=VALUE");
    }
    for (int i = 0; i < o->metadata.n; i++)
        if (!strchr(o->metadata.v[i], '=')) return wrong(e, "metadata", "must be KEY=VALUE");
    for (const char *s = o->percentile_metrics; *s; s += strcspn(s, ","), s += *s == ',')
        if (!is_metric(s, strcspn(s, ",")))
            return wrong(e, "percentile-metrics",
                         "knows ttft, tpot, itl, e2el, client_queue_time and e2el_including_client_queue");
    return 0;
}

static int check_names(struct serve_options *o, struct err *e)
{
    const char *set = o->dataset_name;
    o->chat = !strcmp(o->backend, "openai-chat");
    if (!o->chat && strcmp(o->backend, "vllm") && strcmp(o->backend, "openai"))
        return wrong(e, "backend", "vllm, openai and openai-chat are supported");
    if (!o->endpoint) o->endpoint = o->chat ? "/v1/chat/completions" : "/v1/completions";
    const char *suffix = o->chat ? "chat/completions" : "completions";
    size_t n = strlen(o->endpoint), want = strlen(suffix);
    if (*o->endpoint != '/' || strpbrk(o->endpoint, " \r\n") || n < want ||
        strcmp(o->endpoint + n - want, suffix) || (!o->chat && strstr(o->endpoint, "chat/completions")))
        return err_param(e, ERR_INVALID, "endpoint",
                         "--endpoint: must start with / and end with %s for this backend", suffix);
    bool random = !strcmp(set, "random"), sharegpt = !strcmp(set, "sharegpt");
    if (!random && !sharegpt && strcmp(set, "prefix_repetition"))
        return wrong(e, "dataset-name", "random, sharegpt and prefix_repetition are supported");
    if (sharegpt != (o->dataset_path != NULL))
        return wrong(e, "dataset-path", sharegpt ? "sharegpt needs it" : "is for sharegpt only");
    if (!random && !sharegpt && o->num_prompts < o->num_prefixes)
        return wrong(e, "num-prompts", "must not be below --prefix-repetition-num-prefixes");
    if (random) o->ignore_eos = true; /* nonsense prompts would end at random */
    return 0;
}

int serve_options_load(struct serve_options *o, int argc, char **argv, struct err *e)
{
    *o = (struct serve_options){.backend = "openai",
                                .host = "127.0.0.1",
                                .port = 8000,
                                .dataset_name = "random",
                                .num_prompts = 1000,
                                .random_input_len = 1024,
                                .random_output_len = 128,
                                .prefix_len = 256,
                                .suffix_len = 256,
                                .num_prefixes = 10,
                                .prefix_output_len = 128,
                                .request_rate = INFINITY,
                                .burstiness = 1,
                                .silence_timeout = 3600,
                                .percentile_metrics = "ttft,tpot,itl",
                                .metric_percentiles = "99",
                                .itl_thresholds = "25,50",
                                .logprobs = INT_MIN,
                                .top_k = INT_MIN,
                                .temperature = NAN,
                                .top_p = NAN,
                                .min_p = NAN,
                                .frequency_penalty = NAN,
                                .presence_penalty = NAN,
                                .repetition_penalty = NAN,
                                .slo = {NAN, NAN, NAN}};
    int n = 0, status = parse(o, argc, argv, e);
    if (status || o->help) return status;
    if (o->input_len) o->random_input_len = o->input_len;
    if (o->output_len) o->random_output_len = o->sharegpt_output_len = o->prefix_output_len = o->output_len;
    uint64_t unique = (uint64_t)clock_ns();
    if (o->request_id_prefix &&
        (strlen(o->request_id_prefix) >= sizeof o->id_prefix || strpbrk(o->request_id_prefix, "\r\n")))
        return wrong(e, "request-id-prefix", "is too long");
    if (o->request_id_prefix)
        snprintf(o->id_prefix, sizeof o->id_prefix, "%s", o->request_id_prefix);
    else
        snprintf(o->id_prefix, sizeof o->id_prefix, "bench-%08x-", (unsigned)rng_next(&unique));
    status = check_names(o, e);
    if (!status) status = check_url(o, e);
    if (!status) status = check_goodput(o, e);
    if (!status) status = check_lists(o, e);
    if (!status)
        status = split_numbers("metric-percentiles", o->metric_percentiles, o->percentile, &o->n_percentile,
                               PERCENTILES_MAX, e);
    for (int i = 0; !status && i < o->n_percentile; i++)
        if (o->percentile[i] > 100) status = wrong(e, "metric-percentiles", "must be between 0 and 100");
    if (!status)
        status = split_numbers("timeline-itl-thresholds", o->itl_thresholds, o->itl_threshold, &n, 2, e);
    if (!status && n != 2) status = wrong(e, "timeline-itl-thresholds", "must be two numbers");
    return status;
}
