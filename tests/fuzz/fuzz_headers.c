/* Raw bytes to the verdict on a request's head. The verdict must be one of the known ones, point into the
 * bytes, not depend on what follows the head, and never accept an ambiguous framing. */
#include <stdlib.h>
#include <string.h>
#include "head.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n)
{
    static const struct head_limits limits = {100, 32 << 10, 1 << 20};
    static const int known[] = {0, 200, 400, 414, 431, 505};
    struct head h, again;
    struct head_verdict v;
    size_t n_head = 0, n_again = 0;
    int status = head_parse((const char *)data, n, &limits, &h, &n_head), i = 0;
    while (i < 6 && known[i] != status) i++;
    if (i == 6) abort();
    if (status != 200) return 0;
    if (n_head > n || memcmp(data + n_head - 4, "\r\n\r\n", 4)) abort();
    if (head_parse((const char *)data, n_head, &limits, &again, &n_again) != 200 || n_again != n_head)
        abort();
    for (i = 0; i < h.n; i++) {
        const char *end = (const char *)data + n_head;
        if (h.field[i].value + h.field[i].n_value > end || memchr(h.field[i].value, '\n', h.field[i].n_value))
            abort();
    }
    head_check(&h, &limits, &v);
    int te, cl;
    head_find(&h, "transfer-encoding", &te);
    head_find(&h, "content-length", &cl);
    if (v.status == 0 && (te + cl > 1 || v.length < 0 || v.length > 1 << 20 || v.chunked != (te == 1)))
        abort();
    return 0;
}
