#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "json.h"
#include "rng.h"
#include "store_impl.h"

#define MAX_SHARD 1024
#define MAX_INDEX (64u << 20)

uint64_t store_identity(uint64_t others, const char *path)
{
    struct stat st;
    if (stat(path, &st)) return others;
    const uint64_t part[] = {(uint64_t)st.st_dev, (uint64_t)st.st_ino, (uint64_t)st.st_size,
                             (uint64_t)st.st_mtim.tv_sec, (uint64_t)st.st_mtim.tv_nsec};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) others = rng_mix(others + RNG_STEP + part[i]);
    return others;
}

void store_set_identity(struct store *s, uint64_t identity) { s->identity = identity; }

static int store_reserve(struct store *s, int extra, struct err *e)
{
    struct tensor *t = realloc(s->t, ((size_t)s->n + extra + 1) * sizeof *t);
    if (!t) return store_no_memory(e);
    s->t = t;
    return 0;
}

static int store_index(struct store *s, struct err *e)
{
    s->by_name = calloc((size_t)s->n + 1, sizeof(struct tensor *));
    if (!s->by_name) return store_no_memory(e);
    for (int i = 0; i < s->n; i++) {
        s->by_name[i] = &s->t[i];
        s->total += s->t[i].bytes;
    }
    qsort(s->by_name, (size_t)s->n, sizeof *s->by_name, store_by_name);
    for (int i = 1; i < s->n; i++)
        if (!store_by_name(&s->by_name[i - 1], &s->by_name[i]))
            return err_set(e, ERR_FORMAT, "tensor %s is in two files", s->by_name[i]->name);
    return 0;
}

int store_open_gguf(const struct gguf *g, struct store **out, struct err *e)
{
    int n = gguf_n_tensor(g);
    struct store *s = *out = calloc(1, sizeof *s);
    if (!s || store_reserve(s, n, e) || !(s->owned = calloc((size_t)n + 1, sizeof *s->owned))) goto nomem;
    for (int i = 0; i < n; i++) {
        const struct gguf_tensor *g_t = gguf_tensor_at(g, i);
        struct tensor *t = &s->t[s->n];
        if (!(s->owned[i] = strndup(g_t->name.s, g_t->name.n))) goto nomem;
        *t = (struct tensor){.name = s->owned[i],
                             .plain = true,
                             .type = g_t->type,
                             .n_dim = g_t->n_dim,
                             .data = g_t->data,
                             .bytes = g_t->bytes};
        for (int d = 0; d < t->n_dim; d++) t->dim[d] = g_t->dim[t->n_dim - 1 - d];
        s->n++;
    }
    if (!store_index(s, e)) return 0;
    store_close(s);
    *out = NULL;
    return e->code;
nomem:
    store_close(s);
    *out = NULL;
    return store_no_memory(e);
}

static int add_shard(struct store *s, const char *path, struct err *e)
{
    struct safetensors **shard = realloc(s->shard, ((size_t)s->n_shard + 1) * sizeof(struct safetensors *));
    if (!shard) return store_no_memory(e);
    s->shard = shard;
    s->identity = store_identity(s->identity, path);
    if (safetensors_open(path, &shard[s->n_shard], e)) return e->code;
    const struct safetensors *f = shard[s->n_shard++];
    int n = safetensors_count(f);
    if (store_reserve(s, n, e)) return e->code;
    for (int i = 0; i < n; i++) {
        const struct safetensor *x = safetensors_at(f, i);
        struct tensor *t = &s->t[s->n++];
        *t = (struct tensor){.name = x->name,
                             .plain = x->plain,
                             .type = x->type,
                             .n_dim = x->n_dim,
                             .data = x->data,
                             .bytes = x->bytes,
                             .shard = s->n_shard - 1};
        memcpy(t->dim, x->dim, sizeof x->dim);
    }
    return 0;
}

/* A shard is a file of the same folder: no path may lead elsewhere. */
static bool shard_name_ok(const char *f)
{
    size_t n = f ? strlen(f) : 0;
    return n > 12 && n < 200 && !strchr(f, '/') && f[0] != '.' && !strcmp(f + n - 12, ".safetensors");
}

/* Opens each shard of the index once: the files of neighbours in weight_map are mostly equal. */
static int add_index(struct store *s, const char *dir, const cJSON *map, const char **file, struct err *e)
{
    char path[4096];
    const cJSON *j;
    cJSON_ArrayForEach(j, map)
    {
        int i = s->n_shard - 1;
        const char *f = cJSON_GetStringValue(j);
        if (!shard_name_ok(f))
            return err_set(e, ERR_FORMAT, "weight_map: not the name of a shard (tensor %s)", j->string);
        while (i >= 0 && strcmp(file[i], f)) i--;
        if (i >= 0) continue;
        if (s->n_shard == MAX_SHARD)
            return err_set(e, ERR_FORMAT, "weight_map: more than %d shards", MAX_SHARD);
        file[s->n_shard] = f;
        snprintf(path, sizeof path, "%s/%s", dir, f);
        if (add_shard(s, path, e)) return e->code;
    }
    return 0;
}

static int check_index(struct store *s, const cJSON *map, const char **file, struct err *e)
{
    const cJSON *j;
    cJSON_ArrayForEach(j, map)
    {
        const struct tensor *t = store_find(s, j->string);
        const char *f = cJSON_GetStringValue(j);
        if (!t || strcmp(file[t->shard], f))
            return err_set(e, ERR_FORMAT, "weight_map: tensor %s is not in %s", j->string, f);
    }
    return 0;
}

static int open_index(struct store *s, const char *dir, const char *path, struct err *e)
{
    cJSON *root = NULL;
    const char **file = calloc(MAX_SHARD, sizeof *file);
    int rc = file ? json_load(path, MAX_INDEX, &root, e) : store_no_memory(e);
    if (!rc) {
        const cJSON *map = json_get(root, "weight_map");
        if (!cJSON_IsObject(map) || !map->child)
            rc = err_set(e, ERR_FORMAT, "%s: no weight_map", path);
        else if ((rc = add_index(s, dir, map, file, e)) || (rc = store_index(s, e)) ||
                 (rc = check_index(s, map, file, e)))
            if (strncmp(e->msg, dir, strlen(dir))) err_prefix(e, "%s: ", path);
    }
    cJSON_Delete(root);
    free(file);
    return rc;
}

int store_open_folder(const char *dir, struct store **out, struct err *e)
{
    char path[4096], index[4096];
    int rc;
    struct store *s = *out = calloc(1, sizeof *s);
    if (!s) return store_no_memory(e);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", dir);
    if (!access(index, F_OK))
        rc = open_index(s, dir, index, e);
    else if (access(path, F_OK))
        rc = err_set(e, ERR_NOTFOUND,
                     "%s: neither model.safetensors nor model.safetensors.index.json is there", dir);
    else if (!(rc = add_shard(s, path, e)))
        rc = store_index(s, e);
    if (rc) {
        store_close(s);
        *out = NULL;
    }
    return rc;
}

int store_open_dummy(uint64_t seed, enum dtype type, struct store **out, struct err *e)
{
    struct store *s = *out = calloc(1, sizeof *s);
    if (!s) return store_no_memory(e);
    s->dummy = true;
    s->seed = seed;
    s->dummy_type = type;
    return 0;
}

void store_close(struct store *s)
{
    if (!s) return;
    for (int i = 0; s->owned && i < s->n; i++) free(s->owned[i]);
    for (int i = 0; i < s->n_shard; i++) safetensors_close(s->shard[i]);
    gguf_close(s->copy);
    free(s->owned);
    free(s->shard);
    free(s->by_name);
    free(s->t);
    free(s);
}
