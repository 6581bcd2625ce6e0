#include "memory.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_LEN 512

/* The number after `key` at the beginning of a line of the file; with key "" the file's first number. "max",
 * which cgroup v2 writes for no limit, is no number. */
static size_t read_number(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    size_t value = SIZE_MAX;
    char line[256];
    while (f && value == SIZE_MAX && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key))) continue;
        char *end, *at = line + strlen(key);
        unsigned long long v = strtoull(at, &end, 10);
        if (end != at) value = (size_t)v;
    }
    if (f) fclose(f);
    return value;
}

struct cgroup_files {
    const char *root, *limit, *usage, *reclaimable;
};

/* Room in the cgroup folder root/path and all above it. */
static size_t cgroup_room(const struct cgroup_files *c, const char *path)
{
    char dir[PATH_LEN], file[PATH_LEN + 64];
    snprintf(dir, sizeof dir, "%s", path);
    size_t room = SIZE_MAX;
    for (;;) {
        snprintf(file, sizeof file, "%s%s/%s", c->root, dir, c->limit);
        size_t limit = read_number(file, "");
        snprintf(file, sizeof file, "%s%s/%s", c->root, dir, c->usage);
        size_t used = read_number(file, "");
        snprintf(file, sizeof file, "%s%s/memory.stat", c->root, dir);
        size_t cache = read_number(file, c->reclaimable);
        if (limit != SIZE_MAX && used != SIZE_MAX) {
            if (cache != SIZE_MAX) used = used > cache ? used - cache : 0;
            size_t left = limit > used ? limit - used : 0;
            if (left < room) room = left;
        }
        char *slash = strrchr(dir, '/');
        if (!slash) return room;
        *slash = 0;
    }
}

size_t memory_available(void)
{
    static const struct cgroup_files v2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                           "inactive_file "};
    static const struct cgroup_files v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                           "memory.usage_in_bytes", "total_inactive_file "};
    size_t kib = read_number("/proc/meminfo", "MemAvailable:"),
           room = kib == SIZE_MAX ? SIZE_MAX : kib * 1024;
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[PATH_LEN];
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *v1_path = strstr(line, ":memory:");
        size_t left = SIZE_MAX;
        if (!strncmp(line, "0::", 3)) {
            left = cgroup_room(&v2, line + 3);
        } else if (v1_path) {
            left = cgroup_room(&v1, v1_path + strlen(":memory:"));
        }
        if (left < room) room = left;
    }
    if (f) fclose(f);
    return room;
}
