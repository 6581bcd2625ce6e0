/* Reading golden JSON and judging logits. For tests. */
#pragma once
#include <math.h>
#include <stdint.h>
#include "json.h"

static inline int golden_ids(const cJSON *list, int32_t *out, int max)
{
    const cJSON *x;
    int n = 0;
    cJSON_ArrayForEach(x, list) if (n < max) out[n++] = (int32_t)x->valuedouble;
    return n;
}

static inline double golden_num(const cJSON *obj, const char *key, int i)
{
    return cJSON_GetArrayItem(json_get(obj, key), i)->valuedouble;
}

static inline double log_prob(const float *logits, int n, int id)
{
    double max = logits[0], sum = 0;
    for (int i = 1; i < n; i++) max = fmax(max, logits[i]);
    for (int i = 0; i < n; i++) sum += exp(logits[i] - max);
    return logits[id] - max - log(sum);
}

static inline int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}
