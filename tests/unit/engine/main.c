#include <stdlib.h>
#include "fake.h"
#include "log.h"
#include "suites.h"

static int run(SRunner *r)
{
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed;
}

int main(void)
{
    log_setup(LOG_ERROR, LOG_TEXT);
    SRunner *r = srunner_create(sampler_suite());
    srunner_add_suite(r, stop_suite());
    srunner_add_suite(r, pace_suite());
    int failed = run(r);
    for (int draws = 0; draws < 2; draws++) { /* the engine in lockstep, and one step ahead */
        fake_draws = draws;
        r = srunner_create(engine_suite());
        srunner_add_suite(r, engine_life_suite());
        srunner_add_suite(r, engine_load_suite());
        failed += run(r);
    }
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
