#include <signal.h>
#include <stdlib.h>
#include "log.h"
#include "suites.h"

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    log_setup(LOG_ERROR, LOG_TEXT);
    SRunner *r = srunner_create(suite_malformed());
    srunner_add_suite(r, suite_transport());
    srunner_add_suite(r, suite_routes());
    srunner_add_suite(r, suite_json());
    srunner_add_suite(r, suite_fields());
    srunner_add_suite(r, suite_api());
    srunner_add_suite(r, suite_stream());
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
