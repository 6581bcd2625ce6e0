#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pool.h"

/* CPUs that a cgroup's quota allows, or a large number. v2: cpu.max "QUOTA PERIOD"; v1: two files. */
static int cgroup_quota(void)
{
    long long quota = -1, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1;
        fclose(f);
    } else if ((f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re"))) {
        if (fscanf(f, "%lld", &quota) != 1) quota = -1;
        fclose(f);
        if ((f = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re"))) {
            if (fscanf(f, "%lld", &period) != 1) period = 0;
            fclose(f);
        }
    }
    if (quota <= 0 || period <= 0) return 1 << 20;
    long long n = (quota + period - 1) / period;
    return n < 1 ? 1 : n > 1 << 20 ? 1 << 20 : (int)n;
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
    int quota = cgroup_quota();
    if (n > quota) n = quota;
    return n < 1 ? 1 : n;
}
