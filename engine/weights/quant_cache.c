#include "quant_cache.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "log.h"
#include "quant_file.h"

#define PATH_LEN 4096
#define PREFIX   "making-" /* of files that are not complete; their writers hold a lock */

struct cache {
    const struct quant_cache *c;
    struct store *s;
    struct quant_plan plan;
    struct quant_work work;
    char link[PATH_LEN]; /* from the source files' identity to the copy; "" if they have none */
};

static bool make_folder(const char *dir)
{
    char part[PATH_LEN];
    size_t n = strlen(dir);
    if (n >= sizeof part) return errno = ENAMETOOLONG, false;
    for (size_t i = 1; i <= n; i++) {
        if (i < n && dir[i] != '/') continue;
        memcpy(part, dir, i);
        part[i] = 0;
        if (mkdir(part, 0700) && errno != EEXIST) return false;
    }
    return !access(dir, W_OK | X_OK);
}

static void copy_path(const struct cache *k, uint64_t source, char out[PATH_LEN])
{
    snprintf(out, PATH_LEN, "%s/%016" PRIx64 "-%016" PRIx64 ".gguf", k->c->dir, k->plan.key, source);
}

/* ------------------------------------------------------------------------------------------ use a copy */

static bool hex_is(const struct gguf *g, const char *key, uint64_t v)
{
    char want[17];
    struct gguf_str s;
    snprintf(want, sizeof want, "%016" PRIx64, v);
    return gguf_string(g, key, &s) && s.n == 16 && !memcmp(s.s, want, 16);
}

/* Exactly the planned tensors, and the bytes that were written. 1 = good, 0 = not, or an error. */
static int check_copy(struct cache *k, const struct gguf *g, const struct gguf_tensor **found,
                      const void **data, struct err *e)
{
    const struct quant_plan *p = &k->plan;
    uint64_t hash;
    if (!hex_is(g, QUANT_KEY_PLAN, p->key) || gguf_n_tensor(g) != p->n) return 0;
    for (int i = 0; i < p->n; i++) {
        const struct tensor *t = p->t[i];
        const struct gguf_tensor *f = found[i] = gguf_tensor(g, t->name);
        if (!f || f->type != t->as || f->n_dim != 2 || f->dim[0] != t->dim[1] || f->dim[1] != t->dim[0])
            return 0;
        data[i] = f->data;
    }
    int rc = quant_hash_made(&k->work, data, &hash, e);
    return rc ? rc : hex_is(g, QUANT_KEY_CHECKSUM, hash);
}

/* Puts the copy at path in the tensors' place. 1 = done, 0 = there is none, or an error. */
static int use_copy(struct cache *k, const char *path, struct err *e)
{
    struct gguf *g = NULL;
    struct err why = {0};
    int rc = 0, n = k->plan.n;
    if (access(path, F_OK)) return 0;
    const struct gguf_tensor **found = calloc((size_t)n, sizeof *found);
    const void **data = calloc((size_t)n, sizeof *data);
    if (!found || !data)
        rc = store_no_memory(e);
    else if (!gguf_open(path, &g, &why))
        rc = check_copy(k, g, found, data, e);
    if (!rc) log_warn("%s: not a sound copy of the quantised weights; it is made again", path);
    if (rc == 1) {
        for (int i = 0; i < n; i++) store_replace(k->s, k->plan.t[i], found[i]);
        k->s->copy = g;
        g = NULL;
        log_info("quantised weights: %s", path);
    }
    gguf_close(g);
    free(found);
    free(data);
    return rc;
}

/* ----------------------------------------------------------------------------------------- make a copy */

/* Files of writers that were killed: nobody holds their lock. */
static void remove_stale(const char *dir)
{
    char path[PATH_LEN];
    DIR *d = opendir(dir);
    for (struct dirent *x; d && (x = readdir(d));) {
        if (strncmp(x->d_name, PREFIX, strlen(PREFIX))) continue;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, x->d_name) >= sizeof path) continue;
        int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB)) unlink(path);
        if (fd >= 0) close(fd);
    }
    if (d) closedir(d);
}

static int make_copy(struct cache *k, char out[PATH_LEN], struct err *e)
{
    char tmp[PATH_LEN];
    uint64_t source;
    remove_stale(k->c->dir);
    snprintf(tmp, sizeof tmp, "%s/" PREFIX "XXXXXX", k->c->dir);
    int fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", tmp, strerror(errno));
    flock(fd, LOCK_EX | LOCK_NB);
    int rc = quant_write(&k->work, fd, &source, e);
    if (!rc) {
        copy_path(k, source, out);
        if (fsync(fd) || rename(tmp, out)) rc = err_set(e, ERR_IO, "%s: %s", out, strerror(errno));
    }
    if (rc) unlink(tmp);
    close(fd);
    return rc;
}

/* Best effort: without the link the next start reads the source once more. */
static void make_link(const struct cache *k, const char *path)
{
    char tmp[PATH_LEN + 24];
    if (!*k->link) return;
    snprintf(tmp, sizeof tmp, "%s.%ld", k->link, (long)getpid());
    unlink(tmp);
    if (symlink(strrchr(path, '/') + 1, tmp) || rename(tmp, k->link)) unlink(tmp);
}

/* A copy of a model with these names, shapes and types: only then is the source worth hashing. */
static bool any_candidate(const struct cache *k)
{
    char start[24];
    bool found = false;
    DIR *d = opendir(k->c->dir);
    snprintf(start, sizeof start, "%016" PRIx64 "-", k->plan.key);
    for (struct dirent *x; d && !found && (x = readdir(d));)
        found = !strncmp(x->d_name, start, 17) && strstr(x->d_name, ".gguf");
    if (d) closedir(d);
    return found;
}

static int find_or_make(struct cache *k, struct err *e)
{
    char path[PATH_LEN];
    uint64_t source;
    int rc = *k->link ? use_copy(k, k->link, e) : 0;
    if (rc) return rc < 0 ? rc : 0;
    if (any_candidate(k)) {
        if ((rc = quant_hash_source(&k->work, &source, e))) return rc;
        copy_path(k, source, path);
        if ((rc = use_copy(k, path, e)) < 0) return rc;
    }
    if (!rc) {
        if ((rc = make_copy(k, path, e))) return rc;
        if ((rc = use_copy(k, path, e)) < 0) return rc;
        if (!rc) return err_set(e, ERR_IO, "%s: cannot be read back", path);
    }
    make_link(k, path);
    return 0;
}

static void report_kept(const struct store *s)
{
    int kept = 0;
    for (int i = 0; i < s->n; i++) kept += s->t[i].used && dtype_is_quant(s->t[i].type);
    if (kept) log_info("--quantization: %d matrices are quantised in the file and stay as they are", kept);
}

int quant_cache_apply(struct store *s, const struct quant_cache *c, struct err *e)
{
    struct cache k = {.c = c, .s = s};
    struct err own = {0};
    if (!e) e = &own;
    report_kept(s);
    int rc = quant_plan_make(s, &k.plan, e);
    if (rc || !k.plan.n || !c->dir || !*c->dir) goto out;
    k.work = (struct quant_work){&k.plan, c->pool, c->cancel};
    if (s->identity)
        snprintf(k.link, sizeof k.link, "%s/%016" PRIx64 "-file-%016" PRIx64, c->dir, k.plan.key,
                 s->identity);
    if (strlen(c->dir) > PATH_LEN - 128 || !make_folder(c->dir))
        rc = err_set(e, ERR_IO, "%s: %s", c->dir, strerror(errno));
    else
        rc = find_or_make(&k, e);
    if (rc == ERR_IO) { /* the cache only saves time */
        log_warn("quantised weights cannot be kept: %s", e->msg);
        *e = (struct err){0};
        rc = 0;
    }
out:
    quant_plan_free(&k.plan);
    return rc;
}
