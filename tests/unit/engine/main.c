#include <stdlib.h>
#include "log.h"
#include "suites.h"

int main(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    SRunner *r = srunner_create(sampler_suite());
    srunner_add_suite(r, stop_suite());
    srunner_add_suite(r, pace_suite());
    srunner_add_suite(r, engine_suite());
    srunner_add_suite(r, engine_life_suite());
    srunner_add_suite(r, engine_load_suite());
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
