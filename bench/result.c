#include "result.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

double result_percentile(const double *v, int n, double p)
{
    if (!n) return 0;
    double at = p / 100 * (n - 1);
    int i = (int)at;
    return i + 1 < n ? v[i] + (v[i + 1] - v[i]) * (at - i) : v[n - 1];
}

int result_save(const char *path, const struct buf *text, bool append, struct err *e)
{
    if (text->failed) return err_set(e, ERR_NOMEM, "out of memory");
    FILE *f = fopen(path, append ? "a" : "w");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    bool good = !fseek(f, 0, SEEK_END) && (!append || ftell(f) <= 0 || fputc('\n', f) != EOF);
    good = good && fwrite(text->data, 1, text->len, f) == text->len;
    if (fclose(f)) good = false;
    return good ? 0 : err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
}
