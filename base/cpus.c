#include "cpus.h"
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pool.h"

#define NO_QUOTA (1 << 20)

static long long read_number(const char *folder, const char *file)
{
    char path[PATH_MAX];
    long long v;
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path) return -1;
    FILE *f = fopen(path, "re");
    if (!f) return -1;
    if (fscanf(f, "%lld", &v) != 1) v = -1; /* "max" too */
    fclose(f);
    return v;
}

/* Of one folder. v2: cpu.max has "QUOTA PERIOD"; v1: two files. */
static int folder_quota(const char *folder)
{
    char path[PATH_MAX];
    long long quota = read_number(folder, "cpu.cfs_quota_us"),
              period = read_number(folder, "cpu.cfs_period_us");
    FILE *f = snprintf(path, sizeof path, "%s/cpu.max", folder) < (int)sizeof path ? fopen(path, "re") : NULL;
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1;
        fclose(f);
    }
    if (quota <= 0 || period <= 0) return NO_QUOTA;
    long long n = quota / period + (quota % period != 0);
    return n < 1 ? 1 : n > NO_QUOTA ? NO_QUOTA : (int)n;
}

int cpus_quota(const char *root, const char *self)
{
    /* A line is "ID:CONTROLLERS:PATH"; v2 has no controllers, v1 names cpu among them. In a container the
     * path may be one of the host's; then the root is what counts. */
    char line[PATH_MAX], folder[PATH_MAX + PATH_MAX];
    int least = NO_QUOTA;
    FILE *f = fopen(self, "re");
    while (f && fgets(line, sizeof line, f)) {
        char *list = strchr(line, ':'), *path = list ? strchr(++list, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        bool v1 = *list;
        if (v1 && !strstr(list, "cpu")) continue;
        snprintf(folder, sizeof folder, "%s%s%s", root, v1 ? "/cpu" : "", path);
        /* A quota binds all below it: up to the root, the least counts. */
        for (char *end; strlen(folder) >= strlen(root); *end = 0) {
            int n = folder_quota(folder);
            least = n < least ? n : least;
            if (!(end = strrchr(folder, '/'))) break;
        }
    }
    if (f) fclose(f);
    return least;
}

/* Is cpu the first of the usable hyper-threads of its core? A second one adds little to kernels that fill the
 * core. */
static int first_of_core(int cpu, const cpu_set_t *usable)
{
    char path[128], list[256];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    if (!f) return 1;
    char *ok = fgets(list, sizeof list, f);
    fclose(f);
    for (char *at = ok; at && *at;) { /* "0,8" or "0-1" */
        char *end;
        long a = strtol(at, &end, 10), b = a;
        if (end == at) break;
        if (*end == '-') b = strtol(end + 1, &end, 10);
        for (long c = a; c <= b && c < cpu; c++)
            if (c >= 0 && c < CPU_SETSIZE && CPU_ISSET((size_t)c, usable)) return 0;
        at = *end == ',' ? end + 1 : end + strcspn(end, ",");
        if (*end == '\n' || !*end) break;
    }
    return 1;
}

int pool_cpus(void)
{
    cpu_set_t set;
    int n = 0;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    for (int c = 0; c < CPU_SETSIZE; c++)
        if (CPU_ISSET((size_t)c, &set)) n += first_of_core(c, &set);
    int quota = cpus_quota("/sys/fs/cgroup", "/proc/self/cgroup");
    if (n > quota) n = quota;
    return n < 1 ? 1 : n;
}
