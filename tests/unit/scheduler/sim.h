/* A whole serving day in a few hundred bytes: they are read as operations on a scheduler with a KV pool (add,
 * step, cancel, preempt, reset, budget), and everything is checked after each. The engine's part, and the KV
 * memory, are played by a naive model (mem.h). Used by the randomised test and by the fuzzer. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct sim_result {
    uint64_t steps, items, hit_tokens, evictions, preemptions, stuck, finished;
};
/* 0 if nothing was wrong, else 1 and a line on stderr. Adds to *sum, if given. */
int sim_run(const uint8_t *data, size_t n, struct sim_result *sum);
