/* config.json: whatever is accepted has been checked, and gets a KV layout within its limits. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include "meta.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct arch a;
    struct kv_layout k;
    struct err e = {0};
    cJSON *j;
    if (json_parse((const char *)data, n, JSON_LIMITS_FILE, &j, &e)) return 0;
    if (!describe_hf(j, &a, &e)) {
        if (arch_check(&a, &e) || arch_kv_layout(&a, &k, &e)) abort();
        for (int l = 0; l < a.n_layer; l++)
            if (k.group_of[l] >= k.n_group || k.slot_of[l] >= k.n_slot || k.n_group > KV_LAYOUT_MAX_GROUPS)
                abort();
    }
    cJSON_Delete(j);
    return 0;
}
