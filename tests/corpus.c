#include "corpus.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include "file.h"

static int visible(const struct dirent *d) { return d->d_name[0] != '.'; }

/* The number of files; copies the name of the i-th. */
static int look(const char *area, int i, char *name, size_t n_name)
{
    char path[512];
    struct dirent **d;
    snprintf(path, sizeof path, "%s/%s", CORPUS, area);
    int n = scandir(path, &d, visible, alphasort);
    if (n < 0) return 0;
    if (i >= 0 && i < n) snprintf(name, n_name, "%s", d[i]->d_name);
    for (int k = 0; k < n; k++) free(d[k]);
    free(d);
    return n;
}

int corpus_count(const char *area) { return look(area, -1, NULL, 0); }

const char *corpus_name(const char *area, int i)
{
    static char name[256];
    return i < look(area, i, name, sizeof name) ? name : NULL;
}

int corpus_read(const char *area, const char *name, struct buf *out)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s/%s", CORPUS, area, name);
    return file_read(path, 1 << 24, out, NULL) || out->failed ? -1 : 0;
}
