/* Runs every program of the self-test in a child process: clean ones under four schedules, eagerly and
 * lazily; bugs until one schedule reports them. selftest NAME runs one program here, for a debugger. */
#include "selftest.h"
#include <string>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *self;
static const char *const orders[] = {"forward", "reverse", "random:1", "random:2"};

#if defined(__SANITIZE_THREAD__)
static const needs this_build = TSAN;
#elif defined(__SANITIZE_ADDRESS__)
static const needs this_build = ASAN;
#else
static const needs this_build = ANY;
#endif

static void set(const char *name_value)
{
    const char *eq = strchr(name_value, '=');
    setenv(std::string(name_value, (size_t)(eq - name_value)).c_str(), eq + 1, 1);
}

/* Output of a child; *status as waitpid gives it. */
static std::string run_child(const program *p, const char *order, const char *setting, int *status)
{
    int pipes[2];
    std::string out;
    if (pipe(pipes)) return "no pipe";
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 1);
        dup2(pipes[1], 2);
        close(pipes[0]);
        setenv("CUEMU_ORDER", order, 1);
        setenv("TSAN_OPTIONS", "atexit_sleep_ms=0", 0);
        if (setting) set(setting);
        if (p->setting) set(p->setting);
        alarm(120);
        execl(self, self, p->name, (char *)0);
        _exit(127);
    }
    close(pipes[1]);
    char buf[4096];
    for (ssize_t n; (n = read(pipes[0], buf, sizeof buf)) > 0;) out.append(buf, (size_t)n);
    close(pipes[0]);
    waitpid(child, status, 0);
    return out;
}

static bool clean_passes(const program *p)
{
    static const char *const settings[] = {0, "CUEMU_LAZY=1", "CUEMU_STRICT=1"};
    bool ok = true;
    for (const char *order : orders)
        for (const char *setting : settings) {
            int status = 0;
            std::string out = run_child(p, order, setting, &status);
            if (status == 0) continue;
            ok = false;
            printf("FAIL clean: %s (%s %s)\n%s\n", p->name, order, setting ? setting : "", out.c_str());
        }
    return ok;
}

static bool bug_is_reported(const program *p)
{
    std::string out;
    for (const char *order : orders) {
        int status = 0;
        out = run_child(p, order, 0, &status);
        if (status && out.find(p->expect) != std::string::npos) return true;
    }
    printf("FAIL bug: %s: no \"%s\" in\n%s\n", p->name, p->expect, out.c_str());
    return false;
}

int main(int argc, char **argv)
{
    int run = 0, failed = 0;
    self = "/proc/self/exe";
    setvbuf(stdout, 0, _IOLBF, 0);
    for (int bug = 0; bug < 2; bug++)
        for (const program *p = bug ? bug_programs : clean_programs; p->name; p++) {
            if (argc > 1) {
                if (!strcmp(argv[1], p->name)) return p->run();
                continue;
            }
            if (p->build != ANY && p->build != this_build) continue;
            if (p->build == ANY && bug && this_build != ANY)
                continue; /* the plain build reports it already */
            run++;
            failed += !(bug ? bug_is_reported(p) : clean_passes(p));
        }
    printf("%d programs, %d failed\n", run, failed);
    return failed || !run;
}
