/* libFuzzer on scheduler/ and kvcache/ together: bytes are operations, tests/unit/scheduler/sim.c is the
 * oracle. */
#include <stdlib.h>
#include "sim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n <= 4096 && sim_run(data, n, NULL)) abort();
    return 0;
}
