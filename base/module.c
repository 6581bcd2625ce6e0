#include "module.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PLACES = 2 };

/* The folder of the running binary, without a slash at the end. */
static int own_folder(char path[PATH_MAX], struct err *e)
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (n <= 0) return err_set(e, ERR_IO, "cannot tell where the running binary is: %m");
    path[n] = 0;
    *strrchr(path, '/') = 0;
    return 0;
}

/* Writes the path of the module if it is there; otherwise says where it was looked for. */
static int find(const char *name, char path[PATH_MAX], struct err *e)
{
    char place[MAX_PLACES][PATH_MAX];
    int n_place = 1;
    const char *given = getenv("INFERD_MODULES");
    if (given && *given) {
        snprintf(place[0], PATH_MAX, "%s", given);
    } else {
        char own[PATH_MAX];
        if (own_folder(own, e)) return e ? e->code : ERR_IO;
        snprintf(place[0], PATH_MAX, "%s", own);
        char *last = strrchr(own, '/');
        if (last) *last = 0;
        n_place += snprintf(place[1], PATH_MAX, "%s/lib/inferd", own) < PATH_MAX;
    }
    for (int i = 0; i < n_place; i++) {
        if (snprintf(path, PATH_MAX, "%s/%s.so", place[i], name) < PATH_MAX && !access(path, R_OK)) return 0;
    }
    return n_place == 1
               ? err_set(e, ERR_NOTFOUND, "%s.so is not in %s", name, place[0])
               : err_set(e, ERR_NOTFOUND, "%s.so is neither in %s nor in %s", name, place[0], place[1]);
}

int module_open(const char *name, const char *symbol, int abi, const void **table, struct err *e)
{
    *table = NULL;
    char path[PATH_MAX];
    if (!*name || strchr(name, '/')) return err_set(e, ERR_INVALID, "\"%s\" is no module name", name);
    int status = find(name, path, e);
    if (status) return status;
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) return err_set(e, ERR_UNSUPPORTED, "%s", dlerror()); /* names the file */
    union { /* ISO C has no conversion from a data pointer to a function */
        void *address;
        const void *(*call)(void);
    } entry = {dlsym(module, symbol)};
    if (!entry.address)
        return err_set(e, ERR_UNSUPPORTED, "%s is no module of inferd: it has no %s", path, symbol);
    const int *found = entry.call();
    if (*found != abi)
        return err_set(e, ERR_UNSUPPORTED, "%s is of another build: its interface is %d, not %d", path,
                       *found, abi);
    *table = found;
    return 0;
}
