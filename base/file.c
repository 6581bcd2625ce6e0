#include "file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_regular(const char *path, size_t *size, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st)) {
        err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        err_set(e, ERR_IO, "%s: not a regular file", path);
    } else {
        *size = (size_t)st.st_size;
        return fd;
    }
    close(fd);
    return ERR_IO;
}

int file_map_open(const char *path, struct file_map *m, struct err *e)
{
    *m = (struct file_map){0};
    size_t size = 0;
    int fd = open_regular(path, &size, e);
    if (fd < 0) return fd;
    if (!size) {
        close(fd);
        return err_set(e, ERR_FORMAT, "%s: the file is empty", path);
    }
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    int saved = errno;
    close(fd);
    if (p == MAP_FAILED) return err_set(e, ERR_IO, "%s: mmap: %s", path, strerror(saved));
    m->data = p;
    m->size = size;
    return 0;
}

void file_map_close(struct file_map *m)
{
    if (m->data) munmap((void *)m->data, m->size);
    *m = (struct file_map){0};
}

int file_read(const char *path, size_t max, struct buf *out, struct err *e)
{
    size_t size = 0;
    int fd = open_regular(path, &size, e), status = 0;
    if (fd < 0) return fd;
    if (size > max) {
        status = err_set(e, ERR_FORMAT, "%s: larger than %zu bytes", path, max);
    } else if (buf_reserve(out, size)) {
        status = err_set(e, ERR_NOMEM, "%s: out of memory", path);
    }
    while (!status && size) {
        ssize_t n = read(fd, out->data + out->len, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) status = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        if (n <= 0) break;
        out->len += (size_t)n;
        size -= (size_t)n;
        out->data[out->len] = 0;
    }
    close(fd);
    return status;
}

int file_write(const char *path, const struct buf *text, bool append, struct err *e)
{
    if (text->failed) return err_set(e, ERR_NOMEM, "out of memory");
    FILE *f = fopen(path, append ? "a" : "w");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    bool good = !fseek(f, 0, SEEK_END) && (!append || ftell(f) <= 0 || fputc('\n', f) != EOF);
    good = good && fwrite(text->data, 1, text->len, f) == text->len;
    if (fclose(f)) good = false;
    return good ? 0 : err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
}
