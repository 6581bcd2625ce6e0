/* Statistics by hand-computed values, the printed block byte for byte, JSON keys, arrivals, options. */
#include <math.h>
#include <string.h>
#include "arrivals.h"
#include "json.h"
#include "plot.h"
#include "result.h"
#include "result_json.h"
#include "suites.h"

static struct serve_options load_options(int argc, const char **argv)
{
    struct serve_options o;
    struct err e = {0};
    ck_assert_msg(serve_options_load(&o, argc, (char **)argv, &e) == 0, "%s", e.msg);
    return o;
}
#define OPTIONS(...)                                                                                         \
    load_options((int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)), (const char *[]){__VA_ARGS__})

static double gaps_a[] = {0.1, 0.3}, gaps_b[] = {0.2};

static void fill(struct outcome out[3]) /* two answers and a failure */
{
    out[0] = (struct outcome){.success = true,
                              .start = 100,
                              .ttft = 0.5,
                              .latency = 0.9,
                              .itl = gaps_a,
                              .n_itl = 2,
                              .prompt_len = 10,
                              .output_tokens = 3};
    out[1] = (struct outcome){.success = true,
                              .start = 100.5,
                              .queue_time = 0.25,
                              .ttft = 1,
                              .latency = 1.2,
                              .itl = gaps_b,
                              .n_itl = 1,
                              .prompt_len = 20,
                              .output_tokens = 2};
    out[2] = (struct outcome){.error = "HTTP 500: \"x\"", .prompt_len = 5};
}

START_TEST(percentiles_as_numpy)
{
    const double v[] = {1, 2, 4, 8};
    ck_assert_double_eq_tol(result_percentile(v, 4, 0), 1, 1e-12);
    ck_assert_double_eq_tol(result_percentile(v, 4, 50), 3, 1e-12);
    ck_assert_double_eq_tol(result_percentile(v, 4, 90), 6.8, 1e-12); /* numpy.percentile([1,2,4,8], 90) */
    ck_assert_double_eq_tol(result_percentile(v, 4, 99), 7.88, 1e-12);
    ck_assert_double_eq_tol(result_percentile(v, 4, 100), 8, 1e-12);
    ck_assert_double_eq_tol(result_percentile(v, 1, 99), 1, 1e-12);
    ck_assert_double_eq(result_percentile(v, 0, 99), 0);
}
END_TEST

START_TEST(numbers_as_python)
{
    struct buf b = {0};
    double v[] = {4, 0.1, 99.9, 1e-7, INFINITY, 123456789.123};
    for (int i = 0; i < 6; i++) {
        summary_number(&b, v[i]);
        buf_chr(&b, ' ');
    }
    ck_assert_str_eq(b.data, "4.0 0.1 99.9 1e-07 inf 123456789.123 ");
    buf_free(&b);
}
END_TEST

START_TEST(summary_by_hand)
{
    struct serve_options o = OPTIONS("--goodput", "ttft:600", "e2el:1000", "--metric-percentiles", "50,99.9");
    struct outcome out[3];
    struct summary s;
    fill(out);
    ck_assert_int_eq(summary_fill(&s, &o, out, 3, 2, NULL), 0);
    ck_assert(s.completed == 2 && s.failed == 1 && s.input_tokens == 30 && s.output_tokens == 5);
    ck_assert_double_eq_tol(s.request_rate, 1, 1e-12);
    ck_assert_double_eq_tol(s.request_goodput, 0.5, 1e-12); /* the second is late for its first token */
    ck_assert_double_eq_tol(s.token_rate, 17.5, 1e-12);
    ck_assert_double_eq_tol(s.metric[METRIC_TTFT].mean, 750, 1e-9);
    ck_assert_double_eq_tol(s.metric[METRIC_TTFT].std, 250, 1e-9);  /* numpy.std: divides by n */
    ck_assert_double_eq_tol(s.metric[METRIC_TPOT].mean, 200, 1e-9); /* 0.4 / 2 and 0.2 / 1 */
    ck_assert_double_eq_tol(s.metric[METRIC_ITL].median, 200, 1e-9);
    ck_assert_double_eq_tol(s.metric[METRIC_ITL].percentile[1], 299.8, 1e-9);
    ck_assert_double_eq_tol(s.metric[METRIC_E2EL_QUEUE].mean, 1175, 1e-9);
    ck_assert_double_eq_tol(s.peak_output_rate, 3, 1e-12); /* at 0.5, 0.6, 0.9; then 1.5 and 1.7 */
    ck_assert_int_eq(s.peak_concurrency, 2);
    out[1].start = 100.9; /* one comes as the other leaves */
    ck_assert_int_eq(summary_fill(&s, &o, out, 3, 2, NULL), 0);
    ck_assert_int_eq(s.peak_concurrency, 1);
    for (int i = 0; i < 3; i++) out[i].success = false;
    ck_assert_int_eq(summary_fill(&s, &o, out, 3, 2, NULL), 0);
    ck_assert(s.completed == 0 && s.metric[METRIC_TTFT].mean == 0 && s.peak_concurrency == 0);
}
END_TEST

START_TEST(block_byte_for_byte)
{
    struct serve_options o =
        OPTIONS("--max-concurrency", "8", "--request-rate", "4", "--goodput", "ttft:600",
                "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles=50,99.9");
    struct outcome out[3];
    struct summary s;
    struct buf b = {0};
    fill(out);
    ck_assert_int_eq(summary_fill(&s, &o, out, 3, 2, NULL), 0);
    summary_report(&b, &s, &o);
    ck_assert_str_eq(b.data, "============ Serving Benchmark Result ============\n"
                             "Successful requests:                     2         \n"
                             "Failed requests:                         1         \n"
                             "Maximum request concurrency:             8         \n"
                             "Request rate configured (RPS):           4.00      \n"
                             "Benchmark duration (s):                  2.00      \n"
                             "Total input tokens:                      30        \n"
                             "Total generated tokens:                  5         \n"
                             "Request throughput (req/s):              1.00      \n"
                             "Request goodput (req/s):                 0.50      \n"
                             "Output token throughput (tok/s):         2.50      \n"
                             "Peak output token throughput (tok/s):    3.00      \n"
                             "Peak concurrent requests:                2.00      \n"
                             "Total token throughput (tok/s):          17.50     \n"
                             "---------------Time to First Token----------------\n"
                             "Mean TTFT (ms):                          750.00    \n"
                             "Median TTFT (ms):                        750.00    \n"
                             "P50 TTFT (ms):                           750.00    \n"
                             "P99.9 TTFT (ms):                         999.50    \n"
                             "-----Time per Output Token (excl. 1st token)------\n"
                             "Mean TPOT (ms):                          200.00    \n"
                             "Median TPOT (ms):                        200.00    \n"
                             "P50 TPOT (ms):                           200.00    \n"
                             "P99.9 TPOT (ms):                         200.00    \n"
                             "---------------Inter-token Latency----------------\n"
                             "Mean ITL (ms):                           200.00    \n"
                             "Median ITL (ms):                         200.00    \n"
                             "P50 ITL (ms):                            200.00    \n"
                             "P99.9 ITL (ms):                          299.80    \n"
                             "----------------End-to-end Latency----------------\n"
                             "Mean E2EL (ms):                          1050.00   \n"
                             "Median E2EL (ms):                        1050.00   \n"
                             "P50 E2EL (ms):                           1050.00   \n"
                             "P99.9 E2EL (ms):                         1199.70   \n"
                             "==================================================\n");
    buf_free(&b);
}
END_TEST

START_TEST(json_keys)
{
    struct serve_options o = OPTIONS("--save-detailed", "--metadata", "tp=1", "note=a=b", "--label", "run 1");
    struct outcome out[3];
    struct summary s;
    struct buf b = {0};
    cJSON *j = NULL;
    fill(out);
    ck_assert_int_eq(summary_fill(&s, &o, out, 3, 2, NULL), 0);
    result_json_write(&b, &o, "org/model", "20300102-030405", &s, out, 3);
    ck_assert_int_eq(json_parse(b.data, b.len, JSON_LIMITS_FILE, &j, NULL), 0);
    static const char *const numbers[] = {"num_prompts",
                                          "burstiness",
                                          "duration",
                                          "completed",
                                          "failed",
                                          "total_input_tokens",
                                          "total_output_tokens",
                                          "request_throughput",
                                          "output_throughput",
                                          "total_token_throughput",
                                          "max_output_tokens_per_s",
                                          "max_concurrent_requests",
                                          "mean_ttft_ms",
                                          "median_tpot_ms",
                                          "std_itl_ms",
                                          "p99_itl_ms"};
    static const char *const lists[] = {"input_lens",  "output_lens", "ttfts",           "itls",  "latencies",
                                        "start_times", "queue_times", "generated_texts", "errors"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        ck_assert_msg(cJSON_IsNumber(json_get(j, numbers[i])), "%s", numbers[i]);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        ck_assert_msg(cJSON_GetArraySize(json_get(j, lists[i])) == 3, "%s", lists[i]);
    ck_assert_str_eq(json_get_cstr(j, "request_rate"), "inf");
    ck_assert_str_eq(json_get_cstr(j, "label"), "run 1");
    ck_assert_str_eq(json_get_cstr(j, "note"), "a=b");
    ck_assert_str_eq(json_get_cstr(j, "tokenizer_id"), "org/model");
    ck_assert(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(j, "max_concurrency")));
    ck_assert(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(j, "request_goodput")));
    ck_assert_ptr_null(json_get(j, "mean_e2el_ms"));
    cJSON_Delete(j);
    buf_clear(&b);
    result_json_name(&b, &o, "org/model", "20300102-030405");
    ck_assert_str_eq(b.data, "run 1-infqps-model-20300102-030405.json");
    o.max_concurrency = 8;
    o.request_rate = 4;
    o.result_dir = "dir";
    buf_clear(&b);
    result_json_name(&b, &o, "model", "now");
    ck_assert_str_eq(b.data, "dir/run 1-4.0qps-concurrency8-model-now.json");
    buf_clear(&b);
    plot_svg(&b, &o, "a<b", &s, out, 3);
    ck_assert_ptr_nonnull(strstr(b.data, "a&lt;b"));
    ck_assert_ptr_nonnull(strstr(b.data, "</svg>"));
    buf_free(&b);
}
END_TEST

START_TEST(arrival_times)
{
    enum { N = 4000 };
    static double due[N];
    static const double shape[] = {0.3, 1, 5, INFINITY};
    for (int k = 0; k < 4; k++) {
        uint64_t random = 7;
        double squares = 0;
        arrivals_fill(due, N, 50, shape[k], &random);
        ck_assert_double_eq_tol(due[N - 1], N / 50.0, 1e-6);
        for (int i = 0; i < N; i++) {
            double gap = due[i] - (i ? due[i - 1] : 0);
            ck_assert(gap >= 0);
            squares += (gap * 50 - 1) * (gap * 50 - 1);
        }
        double variance = isinf(shape[k]) ? 0 : 1 / shape[k]; /* of a gamma variate with mean 1 */
        ck_assert_double_eq_tol(squares / N, variance, 0.2 * variance + 1e-9);
    }
    uint64_t random = 7;
    arrivals_fill(due, N, INFINITY, 1, &random);
    ck_assert(due[0] == 0 && due[N - 1] == 0);
}
END_TEST

static void refuse(const char *name, int argc, const char **argv)
{
    struct serve_options o;
    struct err e = {0};
    ck_assert_msg(serve_options_load(&o, argc, (char **)argv, &e) != 0, "%s was accepted", name);
    ck_assert_msg(strstr(e.msg, name) != NULL, "\"%s\" does not name %s", e.msg, name);
}
#define REFUSE(name, ...)                                                                                    \
    refuse(name, (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(char *)), (const char *[]){__VA_ARGS__})

START_TEST(options_taken)
{
    struct serve_options o =
        OPTIONS("--num_prompts=8", "--input-len", "9", "--output-len", "7", "--header", "a=b", "c=d=e",
                "--base-url", "http://[::1]:81/v/", "--backend", "openai-chat", "--top-k", "-1");
    ck_assert(o.num_prompts == 8 && o.random_input_len == 9 && o.random_output_len == 7 && o.top_k == -1);
    ck_assert(o.header.n == 2 && o.chat && o.ignore_eos && isnan(o.temperature));
    ck_assert_str_eq(o.url_host, "::1");
    ck_assert_str_eq(o.url_path, "/v");
    ck_assert_str_eq(o.endpoint, "/v1/chat/completions");
    ck_assert_int_eq(o.url_port, 81);
    o = OPTIONS("--base-url", "http://example");
    ck_assert(o.url_port == 80 && !*o.url_path);
}
END_TEST

START_TEST(options_refused)
{
    REFUSE("--no-such", "--no-such", "1");
    REFUSE("--lora-modules", "--lora-modules", "a");
    REFUSE("stray", "stray");
    REFUSE("--port", "--port", "70000");
    REFUSE("--num-prompts", "--num-prompts", "1.5");
    REFUSE("--num-prompts", "--num-prompts", "--seed", "1");
    REFUSE("--burstiness", "--burstiness", "0");
    REFUSE("--request-rate", "--request-rate", "nan");
    REFUSE("--save-result", "--save-result=1");
    REFUSE("--goodput", "--goodput", "itl:5");
    REFUSE("--goodput", "--goodput", "ttft:-5");
    REFUSE("--header", "--header", "a:b");
    REFUSE("--header", "--header", "a=b\r\nc: d");
    REFUSE("--metric-percentiles", "--metric-percentiles", "50,101");
    REFUSE("--metric-percentiles", "--metric-percentiles", "50,,60");
    REFUSE("--percentile-metrics", "--percentile-metrics", "ttft,pot");
    REFUSE("--base-url", "--base-url", "https://host");
    REFUSE("--base-url", "--base-url", "http://user@host");
    REFUSE("--base-url", "--base-url", "http://host:0");
    REFUSE("--base-url", "--base-url", "http://host:80x/");
    REFUSE("--dataset-path", "--dataset-name", "sharegpt");
    REFUSE("--endpoint", "--backend", "openai-chat", "--endpoint", "/v1/completions");
    REFUSE("--endpoint", "--endpoint", "/v1/chat/completions");
    REFUSE("--timeline-itl-thresholds", "--timeline-itl-thresholds", "25");
}
END_TEST

TCase *numbers_case(void)
{
    TCase *t = tcase_create("numbers");
    tcase_add_test(t, percentiles_as_numpy);
    tcase_add_test(t, numbers_as_python);
    tcase_add_test(t, summary_by_hand);
    tcase_add_test(t, block_byte_for_byte);
    tcase_add_test(t, json_keys);
    tcase_add_test(t, arrival_times);
    tcase_add_test(t, options_taken);
    tcase_add_test(t, options_refused);
    tcase_set_timeout(t, 30);
    return t;
}
