/* Runs a fuzz target over its corpus: a test that any compiler builds. The file at fault is the last one
 * printed. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "corpus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A copy of exactly n bytes, so that a sanitizer sees a read beyond them. */
static int run(const struct buf *b)
{
    uint8_t *copy = malloc(b->len ? b->len : 1);
    if (!copy) return -1;
    if (b->len) memcpy(copy, b->data, b->len);
    LLVMFuzzerTestOneInput(copy, b->len);
    free(copy);
    return 0;
}

int main(int argc, char **argv)
{
    int n = argc == 2 ? corpus_count(argv[1]) : 0, status = n ? 0 : -1; /* no files would test nothing */
    for (int i = 0; i < n && !status; i++) {
        struct buf b = {0};
        const char *name = corpus_name(argv[1], i);
        puts(name);
        fflush(stdout);
        status = corpus_read(argv[1], name, &b);
        if (!status) status = run(&b);
        buf_free(&b);
    }
    return status ? EXIT_FAILURE : EXIT_SUCCESS;
}
