/* The `inferd` command: picks a subcommand and turns its outcome into an exit code: 0 done, 1 failed at run
 * time, 2 wrong usage. */
#include <stdio.h>
#include <string.h>
#include "buf.h"
#include "command.h"
#include "options.h"

static const struct command {
    const char *name, *args, *what;
    char options; /* its letter in options.def */
    int (*run)(int argc, char **argv);
} commands[] = {
    {"serve", "MODEL [options]", "serve a model over HTTP with OpenAI's API", 'S', command_serve},
    {"run", "MODEL [PROMPT] [options]", "one answer in the terminal, or a chat when no PROMPT is given", 'R',
     command_run},
    {"check", "MODEL [options]", "validate a model's files; print its card and the memory budget", 'C',
     command_check},
    {"bench", "serve|throughput|latency|ops [options]", "load-test a server, the engine or the kernels", 'B',
     command_bench},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void usage(FILE *f)
{
    fputs("inferd " INFERD_VERSION ": a self-contained LLM inference server\n\nusage:\n", f);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  inferd %-6s %-40s %s\n", commands[i].name, commands[i].args, commands[i].what);
    fputs("  inferd --version\n\n`inferd COMMAND --help` lists a command's options. MODEL is a GGUF file, a "
          "Hugging Face folder, or a name under\n"
          "the model cache ($INFERD_MODELS, else ~/.cache/inferd/models). Every option is also INFERD_NAME "
          "in the environment.\n",
          f);
}

static int command_help(const struct command *c)
{
    struct buf text = {0};
    buf_fmt(&text, "usage: inferd %s %s\n%s\n\noptions:\n", c->name, c->args, c->what);
    options_help(c->options, &text);
    fputs(text.failed ? "" : text.data, stdout);
    buf_free(&text);
    return 0;
}

static bool asks_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return false;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--version") || !strcmp(name, "-V")) {
        puts("inferd " INFERD_VERSION);
        return 0;
    }
    if (!strcmp(name, "--options-markdown")) { /* makes the option table of docs/api.md */
        struct buf text = {0};
        options_markdown(&text);
        fputs(text.failed ? "" : text.data, stdout);
        buf_free(&text);
        return 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(name, commands[i].name)) continue;
        /* `bench` has subcommands with options of their own */
        if (commands[i].run != command_bench && asks_help(argc - 2, argv + 2))
            return command_help(&commands[i]);
        return commands[i].run(argc - 2, argv + 2);
    }
    bool help = !strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help");
    if (!help && *name) fprintf(stderr, "error: %.60s: no such command\n", name);
    usage(help ? stdout : stderr);
    return help ? 0 : 2;
}
