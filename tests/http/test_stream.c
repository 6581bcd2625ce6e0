/* Streams: frames, keep-alive, departures at every stage, many at once, slow readers, shutdown, leaks. */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "rig.h"
#include "suites.h"

static int start_post(const char *path, const char *body)
{
    struct buf b = {0};
    int fd = client_connect(rig.port);
    buf_fmt(&b,
            "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            path, strlen(body), body);
    client_send(fd, b.data, b.len);
    buf_free(&b);
    return fd;
}

static int count_entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static long resident_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    ck_assert(fscanf(f, "%*d %ld", &pages) == 1);
    fclose(f);
    return pages * 4;
}

struct events {
    int n_chunk, n_role, n_finish, n_usage, n_done, n_error, n_comment;
    struct buf text;
    char finish[16];
    bool role_first; /* the role came in the chunk before the first content */
};

static void take_choice(struct events *ev, const cJSON *c, int index)
{
    const cJSON *delta = json_get(c, "delta"), *role = json_get(delta, "role");
    if ((int)json_get(c, "index")->valuedouble != index) return;
    if (role) {
        ev->n_role++;
        ev->role_first = ev->text.len == 0;
    }
    const char *text = delta ? json_get_cstr(delta, "content") : json_get_cstr(c, "text");
    if (text) buf_str(&ev->text, text);
    const char *finish = json_get_cstr(c, "finish_reason");
    if (finish) {
        ev->n_finish++;
        snprintf(ev->finish, sizeof ev->finish, "%s", finish);
    }
}

/* Every frame must be a comment, [DONE], or strict JSON. index: which choice to collect. */
static void read_events(const struct answer *a, int index, struct events *ev)
{
    *ev = (struct events){0};
    ck_assert_msg(a->status == 200 && !a->cut, "status %d cut %d", a->status, a->cut);
    char *copy = strdup(a->body.data), *at = copy, *end;
    for (; (end = strstr(at, "\n\n")); at = end + 2) {
        *end = 0;
        ck_assert_msg(!ev->n_done, "something after [DONE]: %s", at);
        if (*at == ':') {
            ev->n_comment++;
            continue;
        }
        ck_assert_msg(!strncmp(at, "data: ", 6) && !strchr(at, '\n'), "frame: %s", at);
        if (!strcmp(at, "data: [DONE]")) {
            ev->n_done++;
            continue;
        }
        cJSON *j;
        struct err e = {0};
        ck_assert_msg(!json_parse(at + 6, strlen(at + 6), JSON_LIMITS_REQUEST, &j, &e), "%s: %s", e.msg, at);
        ev->n_error += json_get(j, "error") != NULL;
        const cJSON *choices = json_get(j, "choices");
        if (choices) ev->n_chunk++;
        if (choices && !choices->child) ev->n_usage++;
        for (const cJSON *c = choices ? choices->child : NULL; c; c = c->next) take_choice(ev, c, index);
        cJSON_Delete(j);
    }
    ck_assert_msg(!*at, "unfinished frame: %s", at);
    free(copy);
}

static void stream(const char *path, const char *body, int index, struct events *ev)
{
    struct answer a;
    int fd = start_post(path, body);
    client_recv(fd, 10, &a);
    char type[64] = "";
    answer_header(&a, "Content-Type", type, sizeof type);
    ck_assert_msg(!strncmp(type, "text/event-stream", 17), "%d %s", a.status, a.body.data);
    read_events(&a, index, ev);
    answer_free(&a);
    close(fd);
}

START_TEST(completion_stream)
{
    struct events ev;
    int32_t prompt[] = {256, 'h', 'i'};
    char want[41];
    fake_answer(prompt, 3, 0, 40, want);
    stream("/v1/completions", "{\"prompt\":\"hi\",\"temperature\":0,\"max_tokens\":40,\"stream\":true}", 0,
           &ev);
    ck_assert_str_eq(ev.text.data, want);
    ck_assert_int_eq(ev.n_finish, 1);
    ck_assert_int_eq(ev.n_usage, 0);
    ck_assert_int_eq(ev.n_done, 1);
    ck_assert_str_eq(ev.finish, "length");
    buf_free(&ev.text);
    stream("/v1/completions",
           "{\"prompt\":\"hi\",\"temperature\":0,\"max_tokens\":40,\"stream\":true,\"echo\":true,"
           "\"logprobs\":1,\"stream_options\":{\"include_usage\":true}}",
           0, &ev);
    ck_assert_msg(!strncmp(ev.text.data, "hi", 2) && !strcmp(ev.text.data + 2, want), "%s", ev.text.data);
    ck_assert_int_eq(ev.n_usage, 1);
    buf_free(&ev.text);
}
END_TEST

START_TEST(chat_stream)
{
    struct events ev;
    stream("/v1/chat/completions",
           "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"n\":2,\"max_tokens\":9,\"stream\":true,"
           "\"logprobs\":true,"
           "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}",
           1, &ev);
    ck_assert_int_eq(ev.n_role, 1);
    ck_assert(ev.role_first);
    ck_assert_int_eq(ev.n_finish, 1);
    ck_assert_int_eq(ev.n_usage, 1);
    ck_assert_int_eq((int)ev.text.len, 9);
    buf_free(&ev.text);
}
END_TEST

/* Clients measure the time to the first token from the first chunk: nothing is said before there is a token.
 */
START_TEST(no_chunk_before_the_first_token)
{
    struct buf all = {0};
    fake.hold = 1;
    int fd =
        start_post("/v1/chat/completions",
                   "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":3,\"stream\":true}");
    ck_assert(!client_recv_until(fd, "data:", 0.4, &all));
    fake.hold = 0;
    ck_assert(client_recv_until(fd, "data: [DONE]\n\n", 3, &all));
    buf_free(&all);
    close(fd);
}
END_TEST

/* Chunks leave at once, not when a buffer is full or a timer ends. */
START_TEST(chunks_are_not_delayed)
{
    struct buf all = {0};
    fake.delay_us = 20000;
    double start = now_s();
    int fd = start_post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":20,\"stream\":true}");
    ck_assert(client_recv_until(fd, "data:", 3, &all));
    ck_assert_msg(now_s() - start < 0.04, "first after %.3f s", now_s() - start);
    int n = 0;
    while (client_recv_until(fd, "[DONE]", 0.015, &all) == false && n < 200) n++;
    double took = now_s() - start;
    ck_assert_msg(took < 0.6 && took > 0.35, "all after %.3f s", took);
    buf_free(&all);
    close(fd);
}
END_TEST

START_TEST(error_amid_a_stream)
{
    struct events ev;
    fake.fail_after = 4;
    stream("/v1/completions", "{\"prompt\":\"x\",\"stream\":true}", 0, &ev);
    ck_assert_int_eq(ev.n_error, 1);
    ck_assert_int_eq(ev.n_finish, 0);
    ck_assert_int_eq(ev.n_done, 0);
    buf_free(&ev.text);
    fake.fail_after = 0;
    rig_check_alive();
}
END_TEST

/* An error that is known before the stream begins is a plain answer. */
START_TEST(error_before_a_stream)
{
    struct answer a;
    fake.refuse = ERR_FULL;
    client_post(rig.port, "/v1/completions", "", "{\"prompt\":\"x\",\"stream\":true}", &a);
    rig_check_error(&a, 429);
    answer_free(&a);
}
END_TEST

START_TEST(keep_alive_comments)
{
    struct buf all = {0};
    fake.hold = 1;
    int fd = start_post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2,\"stream\":true}");
    ck_assert(client_recv_until(fd, ": keep-alive\n\n", 2, &all));
    buf_clear(&all);
    ck_assert(client_recv_until(fd, ": keep-alive\n\n", 2, &all));
    fake.hold = 0;
    ck_assert(client_recv_until(fd, "[DONE]", 2, &all));
    buf_free(&all);
    close(fd);
}
END_TEST

/* A client leaves by FIN, RST or half-close, while queued or between tokens, streaming or not. */
START_TEST(departures)
{
    int how = _i % 3;
    bool streaming = _i / 3 % 2, queued = _i / 6 % 2, many = _i / 12;
    struct buf all = {0};
    char body[128];
    snprintf(body, sizeof body, "{\"prompt\":\"x\",\"max_tokens\":4000,\"stream\":%s,\"n\":%d}",
             streaming ? "true" : "false", many ? 16 : 1);
    fake.delay_us = 2000;
    fake.hold = queued;
    int fd = start_post("/v1/completions", body);
    if (streaming && !queued)
        ck_assert(client_recv_until(fd, "data:", 3, &all));
    else
        sleep_s(0.1);
    ck_assert_int_eq(fake_live(rig.engine), many ? 16 : 1);
    if (how == 0) close(fd);
    if (how == 1) {
        struct linger l = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
        close(fd);
    }
    if (how == 2) shutdown(fd, SHUT_WR);
    ck_assert_msg(rig_wait_idle(1), "still %d live", fake_live(rig.engine));
    if (how == 2) close(fd);
    fake.hold = 0;
    buf_free(&all);
    rig_check_alive();
}
END_TEST

START_TEST(thousand_streams)
{
    enum { N = 900 };
    static int fd[N];
    struct answer a;
    fake.hold = 1;
    long before = resident_kib();
    for (int i = 0; i < N; i++)
        fd[i] = start_post("/v1/completions",
                           "{\"prompt\":\"x\",\"temperature\":0,\"max_tokens\":10,\"stream\":true}");
    double until = now_s() + 40;
    while (fake_live(rig.engine) < N && now_s() < until) sleep_s(0.01);
    ck_assert_int_eq(fake_live(rig.engine), N);
    int threads = 0;
    DIR *d = opendir("/proc/self/task");
    while (readdir(d)) threads++;
    closedir(d);
    ck_assert_msg(threads - 2 <= 8, "%d threads", threads - 2);
    client_get(rig.port, "/health", "", &a);
    ck_assert_int_eq(a.status, 200);
    answer_free(&a);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    ck_assert_msg(resident_kib() - before < 58000, "%ld KiB", resident_kib() - before);
#else
    (void)before;
#endif
    fake.hold = 0;
    for (int i = 0; i < N; i++) {
        struct events ev;
        client_recv(fd[i], 10, &a);
        read_events(&a, 0, &ev);
        ck_assert_int_eq((int)ev.text.len, 10);
        ck_assert_int_eq(ev.n_done, 1);
        buf_free(&ev.text);
        answer_free(&a);
        close(fd[i]);
    }
    rig_check_alive();
}
END_TEST

/* A reader that never reads is cut off; the others do not notice. */
START_TEST(slow_reader)
{
    static const char body[] = "{\"prompt\":\"x\",\"max_tokens\":4000,\"stream\":true,\"logprobs\":5}";
    int fd[4], small = 4096, before = count_entries("/proc/self/fd");
    for (int i = 0; i < 4; i++) {
        fd[i] = client_connect(rig.port);
        setsockopt(fd[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        char head[160];
        snprintf(head, sizeof head,
                 "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", sizeof body - 1,
                 body);
        client_puts(fd[i], head);
    }
    sleep_s(0.3);
    ck_assert_int_eq(count_entries("/proc/self/fd"), before + 8);
    rig_check_alive();
    sleep_s(3); /* the limit is 1 s */
    rig_check_alive();
    sleep_s(0.1);
    ck_assert_int_eq(fake_live(rig.engine), 0);
    ck_assert_int_eq(count_entries("/proc/self/fd"), before + 4); /* the server's sides are closed */
    for (int i = 0; i < 4; i++) close(fd[i]);
}
END_TEST

START_TEST(drain_lets_streams_finish)
{
    struct buf all = {0};
    struct answer a;
    fake.delay_us = 10000;
    int fd = start_post("/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":50,\"stream\":true}");
    ck_assert(client_recv_until(fd, "data:", 3, &all));
    server_drain(rig.server);
    client_get(rig.port, "/readyz", "", &a);
    rig_check_error(&a, 503);
    answer_free(&a);
    client_post(rig.port, "/v1/completions", "", "{\"prompt\":\"x\"}", &a);
    rig_check_error(&a, 503);
    answer_free(&a);
    client_get(rig.port, "/livez", "", &a);
    ck_assert_int_eq(a.status, 200);
    answer_free(&a);
    ck_assert(client_recv_until(fd, "data: [DONE]\n\n", 3, &all));
    ck_assert_ptr_nonnull(strstr(all.data, "\"finish_reason\":\"length\""));
    buf_free(&all);
    close(fd);
}
END_TEST

START_TEST(abort_ends_streams_properly)
{
    int fd[32];
    fake.delay_us = 5000;
    for (int i = 0; i < 32; i++)
        fd[i] = start_post("/v1/completions", i % 2 ? "{\"prompt\":\"x\",\"max_tokens\":4000,\"stream\":true}"
                                                    : "{\"prompt\":\"x\",\"max_tokens\":4000}");
    double until = now_s() + 5;
    while (fake_live(rig.engine) < 32 && now_s() < until) sleep_s(0.01);
    server_drain(rig.server);
    fake_abort_all(rig.engine);
    server_close(rig.server);
    rig.server = NULL;
    for (int i = 0; i < 32; i++) {
        struct answer a;
        client_recv(fd[i], 3, &a);
        ck_assert_int_eq(a.status, 200);
        ck_assert_msg(!a.cut && strstr(a.body.data, "\"finish_reason\":\"abort\""), "%s", a.body.data);
        if (i % 2) ck_assert_ptr_nonnull(strstr(a.body.data, "data: [DONE]\n\n"));
        answer_free(&a);
        close(fd[i]);
    }
}
END_TEST

/* Closing with everything in mid-air: no hang, nothing left in the engine. */
START_TEST(close_amid_everything)
{
    int fd[24];
    fake.hold = 1;
    for (int i = 0; i < 24; i++) {
        if (i % 4 == 0) {
            fd[i] = client_connect(rig.port);
            client_puts(fd[i], "GET /hea");
        } else if (i % 4 == 1) {
            fd[i] = client_connect(rig.port);
            client_puts(fd[i], "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
        } else {
            fd[i] = start_post("/v1/completions",
                               i % 4 == 2 ? "{\"prompt\":\"x\",\"stream\":true}" : "{\"prompt\":\"x\"}");
        }
    }
    sleep_s(0.2);
    double start = now_s();
    server_close(rig.server);
    rig.server = NULL;
    ck_assert_msg(now_s() - start < 4, "took %.2f s", now_s() - start);
    ck_assert(rig_wait_idle(1));
    for (int i = 0; i < 24; i++) {
        ck_assert(client_is_closed(fd[i], 1));
        close(fd[i]);
    }
}
END_TEST

/* 10,000 requests of every kind: file descriptors and threads as before, memory steady. */
START_TEST(nothing_leaks)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"x\",\"max_tokens\":4}", "{\"prompt\":\"x\",\"max_tokens\":4,\"stream\":true}",
        "{\"prompt\":[\"a\",\"b\"],\"n\":2,\"max_tokens\":2,\"logprobs\":3,\"echo\":true}",
        "{\"prompt\":", "{\"prompt\":\"x\",\"n\":0}"};
    int fds = 0, threads = 0;
    long resident = 0;
    for (int i = 0; i < 10000; i++) {
        if (i == 2000) {
            sleep_s(0.3);
            fds = count_entries("/proc/self/fd");
            threads = count_entries("/proc/self/task");
            resident = resident_kib();
        }
        int fd = start_post(i % 7 ? "/v1/completions" : "/nothing", bodies[i % 5]);
        if (i % 11) {
            struct answer a;
            client_recv(fd, 5, &a);
            ck_assert_int_gt(a.status, 0);
            answer_free(&a);
        }
        close(fd);
    }
    ck_assert(rig_wait_idle(3));
    sleep_s(1.5); /* lingering connections */
    ck_assert_msg(count_entries("/proc/self/fd") <= fds, "%d file descriptors, %d before",
                  count_entries("/proc/self/fd"), fds);
    ck_assert_int_le(count_entries("/proc/self/task"), threads);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    ck_assert_msg(resident_kib() - resident < 4096, "%ld KiB more", resident_kib() - resident);
#else
    (void)resident;
#endif
    rig_check_alive();
}
END_TEST

static void plain_start(void)
{
    rig_init();
    rig_start();
}

static void quick_start(void)
{
    rig_init();
    rig.c.ping_s = 0.3;
    rig.c.write_timeout_s = 1;
    rig_start();
}

Suite *suite_stream(void)
{
    Suite *s = suite_create("stream");
    TCase *t = tcase_create("plain");
    tcase_add_checked_fixture(t, plain_start, rig_stop);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, completion_stream);
    tcase_add_test(t, chat_stream);
    tcase_add_test(t, no_chunk_before_the_first_token);
    tcase_add_test(t, chunks_are_not_delayed);
    tcase_add_test(t, error_amid_a_stream);
    tcase_add_test(t, error_before_a_stream);
    tcase_add_loop_test(t, departures, 0, 24);
    tcase_add_test(t, thousand_streams);
    tcase_add_test(t, drain_lets_streams_finish);
    tcase_add_test(t, abort_ends_streams_properly);
    tcase_add_test(t, close_amid_everything);
    suite_add_tcase(s, t);
    t = tcase_create("quick");
    tcase_add_checked_fixture(t, quick_start, rig_stop);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, keep_alive_comments);
    tcase_add_test(t, slow_reader);
    suite_add_tcase(s, t);
    t = tcase_create("leaks");
    tcase_add_checked_fixture(t, plain_start, rig_stop);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, nothing_leaks);
    suite_add_tcase(s, t);
    return s;
}
