/* inferd check: validates a model's files without loading weights, and says what serving it would cost. */
#include <stdio.h>
#include "command.h"
#include "launch.h"
#include "log.h"

int command_check(int argc, char **argv)
{
    struct launch l;
    struct err e = {0};
    struct buf text = {0};
    struct engine_config c;
    struct engine_info info = {0};
    int status = launch_options(&l, 'C', argc, argv, &e), code = status ? 2 : 1;
    if (!status) status = launch_find(&l, &e);
    if (!status) status = launch_ranks(&l, false, &e);
    if (!status) status = launch_backend(&l, &e);
    if (!status) status = launch_model(&l, true, NULL, &e);
    if (!status) status = launch_engine_config(&l, &c, &e);
    if (!status) status = engine_plan(&l.model->arch, &c, &info, &e);
    if (!status) {
        model_card(l.model, &text);
        buf_str(&text, l.backend->size > 1 ? "\nmemory of each rank:\n" : "\nmemory:\n");
        launch_budget(&info, &text);
        fputs(text.failed ? "" : text.data, stdout);
    }
    buf_free(&text);
    launch_close(&l);
    return status ? command_fail(&e, code) : 0;
}

int command_fail(const struct err *e, int code)
{
    fprintf(stderr, "error: %s\n", e->msg);
    return code;
}
