#include "rig.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "utf8.h"

struct rig rig;

void rig_init(void)
{
    fake_reset();
    server_config_init(&rig.c);
    rig.c.port = 0;
    rig.metrics = metrics_new();
    rig.c.metrics = rig.metrics;
}

void rig_start(void)
{
    struct err e = {0};
    ck_assert_msg(!server_open(&rig.c, &rig.server, &e), "%s", e.msg);
    rig.port = server_port(rig.server);
    rig.engine = fake_open(4096);
    static char a_template_stands_here;
    ck_assert(
        !server_attach(rig.server, rig.engine, fake_model(), (struct template *)&a_template_stands_here, &e));
}

void rig_stop(void)
{
    server_close(rig.server);
    fake_close(rig.engine);
    metrics_free(rig.metrics);
    rig = (struct rig){0};
}

void rig_check_alive(void)
{
    struct answer a;
    double took = 1;
    for (int i = 0; i < 3 && took > 0.25; i++) { /* the machine may be busy with something else */
        double start = now_s();
        client_get(rig.port, "/health", "", &a);
        took = now_s() - start;
        ck_assert_int_eq(a.status, 200);
        answer_free(&a);
    }
    ck_assert_msg(took < 0.25, "/health took %.3f s", took);
    static const char body[] = "{\"prompt\":\"control\",\"max_tokens\":24,\"temperature\":0}";
    char headers[128] = "", want[25];
    if (rig.c.api_key) snprintf(headers, sizeof headers, "Authorization: Bearer %.40s\r\n", "secret");
    client_post(rig.port, "/v1/completions", headers, body, &a);
    ck_assert_msg(a.status == 200, "control: %d %s", a.status, a.body.data);
    int32_t prompt[8] = {256, 'c', 'o', 'n', 't', 'r', 'o', 'l'};
    fake_answer(prompt, 8, 0, 24, want);
    ck_assert_msg(strstr(a.body.data, want) != NULL, "control: %s lacks %s", a.body.data, want);
    answer_free(&a);
}

const char *rig_check_error(const struct answer *a, int status)
{
    static char param[128];
    char type[64] = "";
    struct err e = {0};
    cJSON *j = NULL;
    ck_assert_msg(a->status == status, "%d instead of %d: %s", a->status, status,
                  a->body.data ? a->body.data : "");
    ck_assert_msg(a->body.len <= 4096 && utf8_valid(a->body.data, a->body.len), "error body");
    answer_header(a, "Content-Type", type, sizeof type);
    ck_assert_str_eq(type, "application/json");
    ck_assert_msg(!json_parse(a->body.data, a->body.len, JSON_LIMITS_REQUEST, &j, &e), "%s: %s", e.msg,
                  a->body.data);
    const cJSON *err = json_get(j, "error");
    ck_assert_ptr_nonnull(json_get_cstr(err, "message"));
    ck_assert_ptr_nonnull(json_get_cstr(err, "type"));
    ck_assert_int_eq((int)json_get(err, "code")->valuedouble, status);
    const char *p = json_get_cstr(err, "param");
    snprintf(param, sizeof param, "%s", p ? p : "");
    cJSON_Delete(j);
    return param;
}

long rig_peak_kib(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0;
#else
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_maxrss;
#endif
}

bool rig_wait_idle(double within_s)
{
    double until = now_s() + within_s;
    while (fake_live(rig.engine) && now_s() < until) sleep_s(0.005);
    return fake_live(rig.engine) == 0;
}
