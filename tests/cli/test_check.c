/* `inferd check` over every malformed model file of the corpus: exit code 1 within 5 seconds, no signal,
 * nothing on stdout, and one line on stderr that names the file. */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "corpus.h"

static const char *program;
static char dir[] = "/tmp/inferd-check-XXXXXX";

/* area: the file takes this place in a golden model's folder; NULL: it is the whole model. */
static const struct {
    const char *area, *place;
} areas[] = {{"gguf", NULL},
             {"safetensors", "model.safetensors"},
             {"config", "config.json"},
             {"tokenizer", "tokenizer.json"}};

static const char *in_dir(const char *file)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    return path;
}

static void link_to(const char *folder, const char *file, const char *place)
{
    char target[1024];
    snprintf(target, sizeof target, "%s/%s", folder, file);
    unlink(in_dir(place));
    ck_assert_int_eq(symlink(target, in_dir(place)), 0);
}

/* Runs the program; its exit status as waitpid gives it, and what it wrote (stdout and stderr). */
static int run(const char *model, char *out, size_t n_out)
{
    int p[2];
    ck_assert_int_eq(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(5); /* a hang ends by a signal */
        dup2(p[1], 1);
        dup2(p[1], 2);
        close(p[0]);
        execl(program, program, "check", model, (char *)NULL);
        _exit(127);
    }
    close(p[1]);
    size_t n = 0;
    for (ssize_t k; (k = read(p[0], out + n, n_out - 1 - n)) > 0;) n += (size_t)k;
    out[n] = 0;
    close(p[0]);
    int status = -1;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status;
}

START_TEST(malformed)
{
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    const char *area = areas[_i].area, *place = areas[_i].place, *name;
    char out[4096], corpus[512];
    snprintf(corpus, sizeof corpus, "%s/%s", CORPUS, area);
    for (int i = 0; (name = corpus_name(area, i)); i++) {
        if (!strncmp(name, "valid", 5)) continue;
        for (int k = 0; k < 4; k++) link_to(GOLDEN_DATA "/llama3", files[k], files[k]);
        link_to(corpus, name, place ? place : "model.gguf");
        int status = run(place ? dir : in_dir("model.gguf"), out, sizeof out);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "%s/%s: status %x: %s", area, name,
                      (unsigned)status, out);
        const char *end = strchr(out, '\n');
        ck_assert_msg(!strncmp(out, "error: ", 7) && end && !end[1] && strstr(out, dir) &&
                          strstr(out, place ? place : "model.gguf"),
                      "%s/%s: %s", area, name, out);
    }
}
END_TEST

/* The control: what the cases are made from is a good model. */
START_TEST(sound)
{
    char out[4096];
    ck_assert_msg(run(GOLDEN_DATA "/llama3", out, sizeof out) == 0, "%s", out);
}
END_TEST

static void setup(void)
{
    strcpy(dir + strlen(dir) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
    static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json", "model.gguf"};
    for (int i = 0; i < 5; i++) unlink(in_dir(files[i]));
    rmdir(dir);
}

int main(int argc, char **argv)
{
    if (argc != 2) return EXIT_FAILURE;
    program = argv[1];
    Suite *s = suite_create("inferd check");
    TCase *t = tcase_create("files");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, sound);
    tcase_add_loop_test(t, malformed, 0, (int)(sizeof areas / sizeof areas[0]));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
