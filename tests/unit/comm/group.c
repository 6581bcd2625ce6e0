#include "group.h"
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct thread_arg {
    rank_fn *fn;
    struct rank_job *job;
};

static void *rank_main(void *arg)
{
    struct thread_arg *a = arg;
    a->fn(a->job);
    return NULL;
}

void run_group(int size, rank_fn *fn, int arg, struct rank_job *job)
{
    struct comm *comm[COMM_MAX_RANKS];
    pthread_t thread[COMM_MAX_RANKS];
    struct thread_arg a[COMM_MAX_RANKS];
    if (comm_local_open(size, comm, NULL)) abort();
    for (int r = 0; r < size; r++) {
        job[r] = (struct rank_job){.comm = comm[r], .rank = r, .size = size, .arg = arg};
        a[r] = (struct thread_arg){fn, &job[r]};
        if (pthread_create(&thread[r], NULL, rank_main, &a[r])) abort();
    }
    for (int r = 0; r < size; r++) pthread_join(thread[r], NULL);
    for (int r = 0; r < size; r++) comm_close(comm[r]);
}

/* Magnitudes over many powers of two, both signs. */
float sample(int r, size_t i)
{
    uint32_t h = (uint32_t)(i * 2654435761u) ^ ((uint32_t)r * 40503u + 12345u);
    h = (h ^ (h >> 15)) * 2246822519u;
    h ^= h >> 13;
    float size = (float)(1u << (h >> 24) % 24);
    return ((float)(h & 0xffff) / 65536.0f - 0.5f) * size;
}

float sample_sum(int size, size_t i)
{
    float sum = sample(0, i);
    for (int r = 1; r < size; r++) sum += sample(r, i);
    return sum;
}

static unsigned char mark(int from, int to, size_t i)
{
    return (unsigned char)(from * 31 + to * 7 + (int)(i % 251));
}

static int check_bytes(const char *what, const unsigned char *data, int from, int to, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (data[i] != mark(from, to, i))
            return err_set(e, -1, "%s of %zu bytes: byte %zu is wrong", what, n, i);
    return 0;
}

static void set_bytes(unsigned char *data, int from, int to, size_t n)
{
    for (size_t i = 0; i < n; i++) data[i] = mark(from, to, i);
}

static int check_reduce(struct comm *c, size_t n, float *x, float *all, struct err *e)
{
    int size = comm_size(c), status;
    for (size_t i = 0; i < n; i++) x[i] = sample(comm_rank(c), i);
    x[n] = 7;
    if ((status = comm_all_reduce(c, x, n, e))) return status;
    if (x[n] != 7) return err_set(e, -1, "all_reduce of %zu wrote beyond its end", n);
    for (size_t i = 0; i < n; i++) {
        float want = sample_sum(size, i);
        if (memcmp(&x[i], &want, sizeof want))
            return err_set(e, -1, "all_reduce of %zu: element %zu is wrong", n, i);
    }
    if ((status = comm_all_gather(c, x, n * sizeof *x, all, e))) return status;
    for (int r = 0; r < size; r++)
        if (memcmp(all + r * n, x, n * sizeof *x)) return err_set(e, -1, "rank %d has other bits", r);
    return 0;
}

static int check_moves(struct comm *c, size_t n, unsigned char *a, unsigned char *b, struct err *e)
{
    int rank = comm_rank(c), size = comm_size(c), status;
    set_bytes(a + n * rank, rank, 0, n); /* in place */
    if ((status = comm_all_gather(c, a + n * rank, n, a, e))) return status;
    for (int r = 0; r < size; r++)
        if ((status = check_bytes("all_gather", a + n * r, r, 0, n, e))) return status;
    for (int r = 0; r < size; r++) set_bytes(a + n * r, rank, r, n);
    if ((status = comm_all_to_all(c, a, b, n, e))) return status;
    for (int r = 0; r < size; r++)
        if ((status = check_bytes("all_to_all", b + n * r, r, rank, n, e))) return status;
    for (int root = 0; root < size; root++) {
        set_bytes(a, rank, root, n);
        if ((status = comm_broadcast(c, a, n, root, e))) return status;
        if ((status = check_bytes("broadcast", a, root, root, n, e))) return status;
    }
    return comm_barrier(c, e);
}

int check_all_calls(struct comm *c, const size_t *lengths, int n, struct err *e)
{
    int status = 0;
    for (int i = 0; !status && i < n; i++) {
        size_t room = (lengths[i] + 1) * comm_size(c) * sizeof(float);
        void *a = malloc(room), *b = malloc(room);
        status = check_reduce(c, lengths[i], a, b, e);
        if (!status) status = check_moves(c, lengths[i], a, b, e);
        free(a);
        free(b);
    }
    return status;
}
