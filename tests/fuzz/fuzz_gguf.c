/* GGUF: container, description and tensor table of arbitrary bytes. */
#include <stddef.h>
#include <stdint.h>
#include "gguf.h"
#include "meta.h"
#include "store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf *g;
    struct store *s;
    struct arch a;
    struct kv_layout layout;
    struct err e = {0};
    if (gguf_parse(data, n, &g, &e)) return 0;
    for (int i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        volatile size_t sum = 0;
        for (uint64_t k = 0; k < kv->n; k++)
            sum += kv->elem == GGUF_STRING && kv->str_off ? gguf_array_str(kv, k).n
                                                          : (size_t)gguf_array_int(kv, k);
    }
    if (!describe_gguf(g, &a, &e)) arch_kv_layout(&a, &layout, &e);
    if (!store_open_gguf(g, &s, &e)) store_close(s);
    gguf_close(g);
    return 0;
}
