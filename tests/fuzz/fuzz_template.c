/* Any bytes as a template, rendered with a small conversation: no crash, no leak, no long run. */
#include <stdlib.h>
#include "template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char json[] = "{\"messages\":[{\"role\":\"system\",\"content\":\"a\\u0000b\"},{\"role\":"
                               "\"user\",\"content\":[{\"type\":\"text\","
                               "\"text\":\"\xc3\xa9\"}]},{\"role\":\"assistant\",\"content\":null,\"tool_"
                               "calls\":[{\"function\":{\"name\":\"f\","
                               "\"arguments\":{\"x\":1,\"y\":[1.5,true]}}}]}],\"tools\":[{\"k\":\"v\"}],"
                               "\"n\":7,\"s\":\"The quick brown fox\","
                               "\"l\":[3,1,2],\"bos_token\":\"<s>\",\"add_generation_prompt\":true}";
    struct template *t = NULL;
    struct err e = {0};
    if (template_compile((const char *)data, n, &t, &e)) return 0;
    cJSON *vars = NULL;
    if (json_parse(json, sizeof json - 1, JSON_LIMITS_REQUEST, &vars, &e)) abort();
    struct buf out = {0};
    const struct template_budget budget = {50000, 64, 1u << 20};
    int status = template_render(t, vars, 1732147200, budget, &out, &e);
    if (out.len > budget.output || (status && out.len)) abort();
    buf_free(&out);
    cJSON_Delete(vars);
    template_free(t);
    return 0;
}
